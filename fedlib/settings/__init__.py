"""Settings: a preset's YAML files and a notebook's groups become one frozen, checked value.

`groups` holds the fields, `schema` the whole of them, and `presets` reads the files. `machine` says
where outputs go and which device is there; `identity` makes seeds and digests; `own_methods` finds
what a person has written; `errors` are the two that a person's input can cause. This room imports
no other room, and no torch.
"""
