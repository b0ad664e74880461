"""The lab: finds a run by its settings, or makes it, and hands its records over.

`keys` says where each thing lies, `store` keeps and reads it, `runs` has what is missing made in worker
processes; these need no torch. `steps`, `loaded`, `judging` and `pretraining` do the work: they fetch
rows, prompts and models, and hand values to the core. This room may import everything except papers and
commands.
"""
