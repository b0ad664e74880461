"""Models: where they lie, how they are loaded, their adapter, their prompts' format, their answers.

`hub` and `checkpoints` say where a model lies and what identifies it; `templates` holds the texts that
models are given; these three need no torch. `loading`, `adapter` and `generation` do. This room imports
settings only.
"""
