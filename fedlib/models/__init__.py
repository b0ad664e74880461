"""Models: where they lie, how they are loaded, their adapter, the texts they read and write.

`hub` and `checkpoints` say where a model lies and what identifies it; `templates` holds the texts
that models are given. These three need no torch; `loading`, `adapter` and `generation` do. This
room imports settings only.
"""
