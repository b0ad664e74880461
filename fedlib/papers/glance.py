"""The three papers at a glance: a few runs of each, all of them among those of other notebooks."""

from fedlib.papers import backdoor, safety, secure_tuning
from fedlib.settings.errors import DataError, SettingsError
from fedlib.settings.schema import Settings

RULES = ("krum", "foolsgold")  # they stand for the existing defences
ONE_RULE = "median"  # against the backdoor
WAYS = ("robust", "fragile")  # the warm-up of paper W, and one control


def safety_runs(settings: Settings) -> list[Settings]:
    """Of notebook 10: no attack, the attack, two existing defences, level 2.

    The first dataset, in the preset's sampling."""
    compared = [rule for rule in RULES if rule in settings.federation.compare]
    few = settings.replace(
        data={"benign": settings.data.benign[:1]},
        federation={"compare": compared, "also_full": False},
        defense={"compare": [2]},
    )
    return safety.table1_grid(few)


def backdoor_runs(settings: Settings) -> list[Settings]:
    """Of notebooks 20 and 22: both triggers without poison and with all of it; of the injected one
    also one rule, and the filter of rows."""
    ends = (0, settings.data.poison.share)
    grid = [run for run in backdoor.concentration_grid(settings) if run.data.poison.share in ends]
    for run in backdoor.rules_grid(settings):
        if run.data.poison.trigger == backdoor.INJECTED and run.federation.aggregator == ONE_RULE:
            grid.append(run)
    for run in backdoor.filter_grid(settings):
        poison = run.data.poison
        even = poison.trigger == backdoor.INJECTED and poison.spread == "equal"
        if even and run.defense.filter != "none":
            grid.append(run)
    return grid


def tuning_runs(settings: Settings) -> list[Settings]:
    """Of notebook 32: the first model and task, its rows only: untuned, plain, SWAT, a control."""
    model = secure_tuning.tuned_models(settings)[0]
    every = secure_tuning.untuned_grid(settings) + secure_tuning.tuning_grid(settings)
    task = every[0].data.benign
    return [
        run
        for run in every
        if run.model.base == model
        and run.data.benign == task
        and not run.federation.malicious
        and (not run.swat.warmup or run.swat.modules in WAYS)
    ]


PAPERS = (safety_runs, backdoor_runs, tuning_runs)


def all_runs(settings: Settings) -> list[Settings]:
    """The runs of all three papers, without those of a paper that these settings cannot make."""
    found = []
    for paper_runs in PAPERS:
        try:
            found += paper_runs(settings)
        except (SettingsError, DataError):
            continue  # its own cell says why
    return found
