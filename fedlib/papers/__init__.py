"""The three papers: which runs each notebook needs, and what their records say. No torch, no training.

`safety` (S), `backdoor` (B) and `secure_tuning` (W) hold the comparisons, `grids` names them by
notebook; `tables`, `figures`, `estimates`, `claims` and `output` show them. This room imports the lab,
sources and what is below.
"""
