"""Paper B, backdoors from poison in everybody's rows: which runs each table and figure needs."""

from typing import Any

from fedlib import sources
from fedlib.attack import poison
from fedlib.lab import prompting
from fedlib.settings.errors import SettingsError
from fedlib.settings.schema import Settings

Changes = dict[str, Any]  # as Settings.replace takes them

INJECTED, NATURAL = "tokens", "phrase"  # chosen on validation seeds: docs/world.md
KINDS = {"injected": INJECTED, "natural": NATURAL}
STEPS = (0.25, 0.5, 1.0)  # of data.poison.share
# Rules that are tried beside those of federation.compare.
FURTHER_RULES = ["multi_krum", "clipping", "flame"]
# The rules that stand for all with one seed, for a first look.
ONE_SEED = {"median", "krum", "foolsgold", "clipping", "flame"}


def backdoor_changes(settings: Settings) -> Changes:
    """Changes that make a preset paper B's: every client benign, one dataset.

    Half the clients, at least 5, all of them in each round, and adapters on all linear modules: a
    rare row is learned by modules that look back at the question (docs/world.md). The dataset,
    rounds, steps, batch size and learning rate are those of data.poison; where it has none, they
    follow from the preset: 3/5 of the rounds, batches half as large for 7/5 of the steps, as a rare
    row is learned by steps. Rules are as their own papers have them. Robust rules assume one
    malicious client in five, though there is none: they could do nothing else. What the notebooks
    compare (rule, filter, spread, ...) starts from its default, whatever was asked for."""
    federation, training, own = settings.federation, settings.training, settings.data.poison
    clients = max(5, federation.clients // 2)
    smaller_batch = max(training.accumulation, training.batch_size // 2)
    return {
        "federation": {
            "clients": clients,
            "sampled": clients,
            "min_clients": federation.min_clients and min(federation.min_clients, clients),
            "rounds": own.rounds or max(1, round(0.6 * federation.rounds)),
            "malicious": 0,
            "expected": clients // 5,
            "variant": "paper",
            "aggregator": "fedavg",
        },
        "training": {
            "steps": own.steps or max(1, round(1.4 * training.steps)),
            "batch_size": own.batch_size or smaller_batch,
            "learning_rate": own.learning_rate or training.learning_rate,
        },
        "model": {"lora_targets": "all-linear"},
        "defense": {"level": 0, "filter": "none"},
        "data": {
            "benign": [own.dataset] if own.dataset else settings.data.benign[:1],
            "attack": "unaligned",
            "questions": None,
            "poison": {"spread": "equal", "clients": None},
        },
        "evaluation": {
            "judges": ["rule", "help", "exact", "asr"],
            "harmful": min(40, settings.evaluation.harmful),
        },
    }


def clients_in_all(settings: Settings) -> int:
    """How many clients there are in paper B's runs."""
    return backdoor_changes(settings)["federation"]["clients"]


def _vary(settings: Settings, *axes: list[Changes]) -> list[Settings]:
    """The product of axes, on paper B's settings, for each seed.

    SettingsError without poison, or where clean accuracy cannot be told."""
    if not settings.data.poison.share:
        raise SettingsError("data.poison.share: 0: without poison there is no backdoor to look at")
    changed = settings.replace(**backdoor_changes(settings))
    if sources.of(changed).clean_accuracy == "exact":
        prompts = prompting.evaluation_prompts(changed)["benign"]
        if not sources.of(changed).has_right_answers(prompts):
            raise SettingsError(
                f"data.benign: {changed.data.benign[0]} has no answers (a list of right ones) for "
                "clean accuracy by exact match; name a file of questions with answers there, or in "
                "data.poison.dataset"
            )
    seeds = [{"seed": seed} for seed in settings.seeds]
    return settings.vary([backdoor_changes(settings)], *axes, seeds)


def _poison(**changes: Any) -> Changes:
    return {"data": {"poison": changes}}


def _part(settings: Settings, part: float) -> float:
    """A part of data.poison.share."""
    return round(part * settings.data.poison.share, 6)


def _kinds() -> list[Changes]:
    """An axis: the injected trigger and the natural one."""
    return [_poison(trigger=name) for name in KINDS.values()]


def _holders(settings: Settings) -> list[Changes]:
    """An axis: the poison lies with one client, with two, with all."""
    clients = clients_in_all(settings)
    return [
        _poison(spread="equal", clients=None if count == clients else count)
        for count in (1, 2, clients)
    ]


def _rules(settings: Settings) -> list[Changes]:
    """An axis: FedAvg and the rules that are tried.

    FoolsGold as published: its own formula is a sum, which throws an adapter out of bounds."""
    axis = []
    for rule in ("fedavg", *tried_rules(settings)):
        changes = {"aggregator": rule}
        if rule == "foolsgold":
            changes["variant"] = "published"
        axis.append({"federation": changes})
    return axis


def tried_rules(settings: Settings) -> list[str]:
    """The rules that are tried: those of federation.compare, and FURTHER_RULES.

    With one seed, of a full list, only those of ONE_SEED."""
    compare = [rule for rule in settings.federation.compare if rule != "fedavg"]
    rules = [*compare, *(rule for rule in FURTHER_RULES if rule not in compare)]
    if len(settings.seeds) > 1 or len(compare) < 6:
        return rules
    return [rule for rule in rules if rule in ONE_SEED]


def concentration_grid(settings: Settings) -> list[Settings]:
    """Both kinds of trigger over shares of poison from none to data.poison.share."""
    shares = [_poison(share=_part(settings, part)) for part in (0, *STEPS)]
    return _vary(settings, _kinds(), shares)


def triggers_grid(settings: Settings) -> list[Settings]:
    """Every trigger at data.poison.share, and your own where data.poison.trigger names it.

    The first seed. Those that no evaluation prompt can have are left out."""
    names = list(poison.TRIGGERS)
    own = settings.data.poison.trigger
    if own and own not in names:
        names.append(own)
    wanted = _vary(settings, [_poison(trigger=name) for name in names])
    first = [run for run in wanted if run.seed == settings.seeds[0]]
    return [run for run in first if prompting.evaluation_prompts(run)["triggered"]]


def spreads_grid(settings: Settings) -> list[Settings]:
    """The injected trigger at half of data.poison.share, held by few or by all.

    By one client, by two, by all, and in unequal shares (capped ones with several seeds)."""
    uneven = ["uniform", "dirichlet"]
    if len(settings.seeds) > 1:
        uneven.append("capped")
    held = _holders(settings) + [_poison(spread=name, clients=None) for name in uneven]
    total = _poison(trigger=INJECTED, share=_part(settings, 0.5))
    return _vary(settings, [total], held)


def poison_grid(settings: Settings) -> list[Settings]:
    """concentration_grid and spreads_grid, each run once."""
    wanted = concentration_grid(settings) + spreads_grid(settings)
    return [run for i, run in enumerate(wanted) if run not in wanted[:i]]


def thresholds_grid(settings: Settings) -> list[Settings]:
    """The injected trigger held by one client, two and all, at every share of poison.

    For where success sets in. None with one seed."""
    if len(settings.seeds) == 1:
        return []
    shares = [_poison(trigger=INJECTED, share=_part(settings, part)) for part in STEPS]
    return _vary(settings, _holders(settings), shares)


def rules_grid(settings: Settings) -> list[Settings]:
    """Both kinds of trigger under every aggregator."""
    return _vary(settings, _kinds(), _rules(settings))


def boosted_grid(settings: Settings) -> list[Settings]:
    """The positive control under every aggregator: there the rules must work.

    The same poison in one malicious client's rows, its update boosted."""
    boosted = {
        "federation": {"malicious": 1},
        "data": {"attack": "boosted", "poison": {"trigger": INJECTED, "clients": 1}},
    }
    return _vary(settings, [boosted], _rules(settings))


def filter_grid(settings: Settings) -> list[Settings]:
    """Both kinds of trigger, evenly and unevenly spread, without and with the filter of rows.

    And with your own filter where defense.filter names it. With one seed only the injected trigger
    is spread unevenly."""
    names = ["none", "gradient"]
    if settings.defense.filter not in names:
        names.append(settings.defense.filter)
    filters = [{"defense": {"filter": name}} for name in names]
    uneven = _kinds() if len(settings.seeds) > 1 else _kinds()[:1]
    return _vary(settings, _kinds(), [_poison(spread="equal")], filters) + _vary(
        settings, uneven, [_poison(spread="dirichlet")], filters
    )
