"""Settings: a preset's chain of YAML files and a notebook's groups become one frozen, checked value.

`groups` holds the fields, `schema` the whole, `presets` reads files; `machine` says where outputs go and
which device is there, `identity` makes seeds and digests. This room imports no other, and no torch.
"""
