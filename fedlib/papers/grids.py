"""TODO: what this room is for."""

import itertools

from fedlib.papers import backdoor, safety, secure_tuning

# The runs that each notebook asks for; with one seed 13 asks for its first table alone.
GRIDS = {
    "10_safety_table1": (safety.table1,),
    "11_safety_figure3": (
        lambda s: itertools.chain(*safety.figure3(s).values()),
        safety.figure3_attack,
        safety.positive_control,
    ),
    "12_safety_table3": (safety.table3,),
    "13_safety_table4": (
        safety.table4,
        lambda s: (
            [*safety.existing(s), *safety.shares(s, "krum")]
            if len(s.seeds) > 1 and s.federation.compare
            else []
        ),
    ),
    "14_safety_data": (safety.generated, safety.level3),
    "20_backdoor_concentration": (backdoor.grid, backdoor.triggers),
    "21_backdoor_bsnr": (backdoor.grid, backdoor.thresholds),
    "22_backdoor_defenses": (backdoor.defences, backdoor.positive_control, backdoor.filtered),
    "30_swat_drift": (secure_tuning.untuned, secure_tuning.table),
    "31_swat_modules": (secure_tuning.table,),
    "32_swat_table": (secure_tuning.untuned, secure_tuning.table),
    "33_swat_updates": (secure_tuning.table,),
    "34_swat_composition": (secure_tuning.composition, secure_tuning.federated),
}


def grid(settings, notebook):
    """The runs that a notebook asks for, each once; SettingsError or DataError where it cannot work with these settings."""
    out = []
    for part in GRIDS[notebook]:
        out += [s for s in part(settings) if s not in out]
    return out
