"""The three papers: which runs each notebook needs, and what their records say. No torch.

`safety` (paper S), `backdoor` (B) and `secure_tuning` (W) hold the grids of runs, `grids` names
them by notebook, and `safety_results`, `backdoor_results` and `secure_tuning_results` say what the
runs show. `tables`, `examples`, `charts`, `heatmaps` and `diagrams` show it, in the labels and
colours of `methods`; `estimates` has the statistics, `claims` the verdicts, `output` the files.
Nothing here trains: everything is made from records. This room imports the lab, sources and what
is below.
"""
