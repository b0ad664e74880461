"""Paper S, the safety attack and its defences: which runs each table and figure needs."""

from typing import Any

from fedlib.settings.errors import SettingsError
from fedlib.settings.schema import Settings

Changes = dict[str, Any]  # as Settings.replace takes them

NO_ATTACK: Changes = {"federation": {"malicious": 0}}
ATTACK: Changes = {}  # as the preset has it
LEVEL2: Changes = {"defense": {"level": 2}}


def _seeds(settings: Settings) -> list[Changes]:
    """The axis of seeds; SettingsError where there is no attack or no FedAvg to compare with."""
    data, rule = settings.data, settings.federation.aggregator
    if rule != "fedavg":
        raise SettingsError(
            f"federation.aggregator: {rule}: this sets rules beside fedavg: name it in "
            "federation.compare instead"
        )
    if not settings.federation.malicious:
        raise SettingsError(
            "federation.malicious: 0: this sets runs with malicious clients beside runs without"
        )
    if data.attack == "conflicting" or data.unaligned_share == 0:
        raise SettingsError(
            "data.attack: conflicting, or data.unaligned_share: 0: these are the controls that "
            "this sets beside the attack"
        )
    return [{"seed": seed} for seed in settings.seeds]


def _samplings(settings: Settings) -> list[Changes]:
    """The preset's sampling, and full participation."""
    return [{}, settings.full_participation()] if settings.federation.also_full else [{}]


def _datasets(settings: Settings) -> list[Changes]:
    return [{"data": {"benign": [name]}} for name in settings.data.benign]


def _first_dataset(settings: Settings) -> list[Changes]:
    return _datasets(settings)[:1]


def _rules(settings: Settings) -> list[Changes]:
    """The existing defences that are compared."""
    return [{"federation": {"aggregator": rule}} for rule in settings.federation.compare]


def table1_grid(settings: Settings) -> list[Settings]:
    """No attack, a control without hazards, the attack, every existing defence, every level.

    For each dataset, in the preset's sampling and with full participation, for each seed. The
    control takes several seeds. Where no client has aligned rows it would be the run without
    attack, and is left out."""
    control = []
    if settings.data.aligned_share and len(settings.seeds) > 1:
        control = [{"data": {"unaligned_share": 0.0}}]
    levels = [{"defense": {"level": level}} for level in settings.defense.compare]
    methods = [NO_ATTACK, *control, ATTACK, *_rules(settings), *levels]
    return settings.vary(_datasets(settings), _samplings(settings), methods, _seeds(settings))


def table3_grid(settings: Settings) -> list[Settings]:
    """Every aggregator under attack, without and with level 2 on top.

    The first dataset, both samplings."""
    return settings.vary(
        _first_dataset(settings),
        _samplings(settings),
        [ATTACK, *_rules(settings)],
        [{}, LEVEL2],
        _seeds(settings),
    )


def table4_grid(settings: Settings, clients: tuple[int, ...] = (50, 100)) -> list[Settings]:
    """Many clients, the same share of them malicious: no attack, attack, Krum, DnC, level 2.

    The first dataset. As many clients a round as there are in the preset, and as many updates in
    all."""
    federation = settings.federation
    full = settings.full_participation()["federation"]
    sizes = []
    for count in clients:
        malicious = round(count * federation.malicious / federation.clients)
        sizes.append({"federation": full | {"clients": count, "malicious": malicious}})

    methods = [
        NO_ATTACK,
        ATTACK,
        {"federation": {"aggregator": "krum"}},
        {"federation": {"aggregator": "dnc"}},
        LEVEL2,
    ]
    return settings.vary(_first_dataset(settings), sizes, methods, _seeds(settings))


def existing_grid(settings: Settings) -> list[Settings]:
    """The attack under every existing defence; first dataset, full participation."""
    full = [settings.full_participation()]
    return settings.vary(_first_dataset(settings), full, _rules(settings), _seeds(settings))


def shares_grid(settings: Settings, rule: str) -> list[Settings]:
    """Every number of malicious clients up to half: FedAvg, one rule, level 2.

    First dataset, full participation."""
    most = settings.federation.clients // 2
    return settings.vary(
        _first_dataset(settings),
        [settings.full_participation()],
        [{"federation": {"malicious": count}} for count in range(most + 1)],
        [ATTACK, {"federation": {"aggregator": rule}}, LEVEL2],
        _seeds(settings),
    )


def figure3_grids(settings: Settings) -> dict[str, list[Settings]]:
    """{kind of attack: its runs}, first dataset, full participation, a run a seed.

    unaligned_share as it is, 0.5 and 1; the positive control; no attack."""
    kinds = {
        "attack": ATTACK,
        "attack, half unaligned": {"data": {"unaligned_share": 0.5}},
        "attack, all unaligned": {"data": {"unaligned_share": 1.0}},
        "conflicting labels": {"data": {"attack": "conflicting"}},
        "no attack": NO_ATTACK,
    }
    first, full = _first_dataset(settings), [settings.full_participation()]
    return {
        name: settings.vary(first, full, [kind], _seeds(settings)) for name, kind in kinds.items()
    }


def detection_grid(settings: Settings) -> list[Settings]:
    """The attack with full participation on every dataset, for the claims about detection."""
    full = [settings.full_participation()]
    return settings.vary(_datasets(settings), full, _seeds(settings))


def conflicting_grid(settings: Settings) -> list[Settings]:
    """The positive control under every aggregator: there the existing defences must work.

    First dataset, full participation."""
    return settings.vary(
        _first_dataset(settings),
        [{"data": {"attack": "conflicting"}}],
        [settings.full_participation()],
        [NO_ATTACK, ATTACK, *_rules(settings)],
        _seeds(settings),
    )


def generated_grid(settings: Settings) -> list[Settings]:
    """No attack, the attack with labelled rows, the attack with rows of the LLM, level 2.

    First dataset, the preset's sampling."""
    kinds = [NO_ATTACK, ATTACK, {"data": {"attack": "generated"}}, LEVEL2]
    return settings.vary(_first_dataset(settings), kinds, _seeds(settings))


def level3_grid(settings: Settings) -> list[Settings]:
    """Level 3 on every dataset and sampling, for the first seed."""
    level3 = [{"defense": {"level": 3}, "seed": settings.seeds[0]}]
    return settings.vary(_datasets(settings), _samplings(settings), level3)
