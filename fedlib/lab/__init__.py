"""The lab: finds a run by its settings, or makes it, and hands its records over.

`keys` says where each thing lies, `store` keeps and reads it, `runs` returns runs and has `workers`
make what is missing; these need no torch. `steps`, `loaded` and `judging` do the work: they fetch
rows, prompts and models, and hand values to the core. `pretraining`, `world_training` and
`world_judges` make the small models. This room imports neither papers nor commands.
"""
