"""Judges of responses: prompts and responses in, a score for each response out.

`refusals` and `rules` need no model; `classifiers` ask a guard and a reward model; `words` asks language
models that answer in words; `panel` is the table of all by name. This room imports models and settings.
"""
