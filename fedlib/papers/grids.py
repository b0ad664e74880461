"""The runs that each notebook asks for: `fedlib plan` counts them before anything is trained."""

from collections.abc import Callable

from fedlib.papers import backdoor, glance, safety, secure_tuning
from fedlib.settings.schema import Settings


def _figure3(settings: Settings) -> list[Settings]:
    return [run for runs in safety.figure3_grids(settings).values() for run in runs]


def _more_malicious(settings: Settings) -> list[Settings]:
    """The last part of notebook 13; with one seed, or no rule to compare, it is left out.

    Which rule does best is not known before: Krum stands for it."""
    if len(settings.seeds) == 1 or not settings.federation.compare:
        return []
    return [*safety.existing_grid(settings), *safety.shares_grid(settings, "krum")]


GRIDS: dict[str, tuple[Callable[[Settings], list[Settings]], ...]] = {
    "01_three_papers": glance.PAPERS,
    "10_safety_table1": (safety.table1_grid,),
    "11_safety_figure3": (_figure3, safety.detection_grid, safety.conflicting_grid),
    "12_safety_table3": (safety.table3_grid,),
    "13_safety_table4": (safety.table4_grid, _more_malicious),
    "14_safety_data": (safety.generated_grid, safety.level3_grid),
    "20_backdoor_concentration": (
        backdoor.concentration_grid,
        backdoor.spreads_grid,
        backdoor.triggers_grid,
    ),
    "21_backdoor_bsnr": (backdoor.poison_grid, backdoor.thresholds_grid),
    "22_backdoor_defenses": (backdoor.rules_grid, backdoor.boosted_grid, backdoor.filter_grid),
    "30_swat_drift": (secure_tuning.untuned_grid, secure_tuning.tuning_grid),
    "31_swat_modules": (secure_tuning.tuning_grid,),
    "32_swat_table": (secure_tuning.untuned_grid, secure_tuning.tuning_grid),
    "33_swat_updates": (secure_tuning.tuning_grid,),
    "34_swat_composition": (secure_tuning.composition_grid, secure_tuning.federated_grid),
}


def notebook_runs(settings: Settings, notebook: str) -> list[Settings]:
    """The runs that a notebook asks for, each once.

    SettingsError or DataError where it cannot work with these settings."""
    wanted: list[Settings] = []
    for grid in GRIDS[notebook]:
        wanted += [run for run in grid(settings) if run not in wanted]
    return wanted
