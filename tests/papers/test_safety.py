"""Paper S's grids: which runs each has, and which of them are the same."""

import inspect
import itertools

import pytest

from fedlib.lab import keys
from fedlib.papers import safety
from fedlib.settings import errors, groups, presets

RULES = ("median", "trimmed_mean", "krum", "dnc", "foolsgold", "residual")


@pytest.fixture
def mini():
    return presets.load(
        "mini", seeds=[4, 2], model={"device": "cpu"}, data={"unaligned_share": 0.4}
    )


GRIDS = {
    "table1": safety.table1_grid,
    "table3": safety.table3_grid,
    "table4": safety.table4_grid,
    "existing": safety.existing_grid,
    "shares": lambda s: safety.shares_grid(s, "dnc"),
    "figure3": lambda s: sum(safety.figure3_grids(s).values(), []),
    "detection": safety.detection_grid,
    "conflicting": safety.conflicting_grid,
    "generated": safety.generated_grid,
    "level3": safety.level3_grid,
}
SAMPLING = {"federation.sampled", "federation.rounds"}
# How many runs for each seed, what varies besides the seed.
SHAPES = {
    "table1": (
        2 * 2 * (3 + 6 + 3),
        {
            "data.benign",
            "federation.malicious",
            "data.unaligned_share",
            "federation.aggregator",
            "defense.level",
        }
        | SAMPLING,
    ),
    "table3": (2 * 7 * 2, {"federation.aggregator", "defense.level"} | SAMPLING),
    "table4": (
        2 * 5,
        {"federation.clients", "federation.malicious", "federation.aggregator", "defense.level"},
    ),
    "existing": (6, {"federation.aggregator"}),
    "shares": (6 * 3, {"federation.malicious", "federation.aggregator", "defense.level"}),
    "figure3": (5, {"data.unaligned_share", "data.attack", "federation.malicious"}),
    "detection": (2, {"data.benign"}),
    "conflicting": (1 + 1 + 6, {"federation.malicious", "federation.aggregator"}),
    "generated": (4, {"federation.malicious", "data.attack", "defense.level"}),
    "level3": (2 * 2, {"data.benign"} | SAMPLING),
}
FULL = {"existing", "shares", "figure3", "detection", "conflicting"}


def flat(settings):
    return {
        f"{group}.{name}": value
        for group in groups.GROUPS
        for name, value in getattr(settings, group)
    }


def folders(wanted):
    return {keys.evaluation_folder(s) for s in wanted}


def test_every_grid_is_checked_here():
    made = {
        name
        for name, function in vars(safety).items()
        if inspect.isfunction(function) and "settings.vary(" in inspect.getsource(function)
    }
    assert {name.partition("_grid")[0] for name in made} == set(GRIDS) == set(SHAPES)


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_has_its_runs_once(mini, name):
    count, varies = SHAPES[name]
    wanted = GRIDS[name](mini)
    each = [4] if name == "level3" else [4, 2]  # as the preset orders them
    assert [s.seed for s in wanted] == each * count
    values = [flat(s) for s in wanted]
    first = values[0]
    assert {field for field in first if any(v[field] != first[field] for v in values)} == varies
    assert len({s.model_dump_json() for s in wanted}) == len(wanted)
    assert {(s.preset, tuple(s.seeds)) for s in wanted} == {(mini.preset, (4, 2))}


@pytest.mark.parametrize("name", GRIDS)
def test_sampling(mini, name):
    federations = [run.federation for run in GRIDS[name](mini)]
    found = {(f.clients, f.sampled, f.rounds) for f in federations}
    some, full = (10, 3, 20), (10, 10, 6)  # 60 updates in all
    usual = {full} if name in FULL else {some, full}
    special = {"table4": {(50, 10, 6), (100, 10, 6)}, "generated": {some}}
    assert found == special.get(name, usual)


MALICIOUS, SHARE, ATTACK = "federation.malicious", "data.unaligned_share", "data.attack"
RULE, LEVEL = "federation.aggregator", "defense.level"


def of(grid, *fields):
    """The values of these fields in a grid, each combination once, in their order."""
    return list(dict.fromkeys(tuple(flat(run)[field] for field in fields) for run in grid))


def test_what_table_1_compares(mini):
    table1 = of(safety.table1_grid(mini), MALICIOUS, SHARE, RULE, LEVEL)
    assert table1 == [
        (0, 0.4, "fedavg", 0),
        (3, 0.0, "fedavg", 0),
        (3, 0.4, "fedavg", 0),
        *[(3, 0.4, r, 0) for r in RULES],
        *[(3, 0.4, "fedavg", n) for n in (1, 2, 3)],
    ]


def test_what_table_3_compares(mini):
    both = itertools.product(["fedavg", *RULES], [0, 2])
    assert of(safety.table3_grid(mini), RULE, LEVEL) == [*both]


def test_what_table_4_compares(mini):
    table4 = [
        (0, "fedavg", 0),
        (0.3, "fedavg", 0),
        (0.3, "krum", 0),
        (0.3, "dnc", 0),
        (0.3, "fedavg", 2),
    ]
    wanted = [(k, round(part * k), rule, n) for k in (50, 100) for part, rule, n in table4]
    found = of(safety.table4_grid(mini), "federation.clients", MALICIOUS, RULE, LEVEL)
    assert found == wanted


def test_every_number_of_malicious_clients(mini):
    methods = (("fedavg", 0), ("dnc", 0), ("fedavg", 2))
    wanted = [(count, *method) for count in range(6) for method in methods]
    assert of(safety.shares_grid(mini, "dnc"), MALICIOUS, RULE, LEVEL) == wanted


def test_what_figure_3_compares(mini):
    kinds = safety.figure3_grids(mini)
    found = {name: of(kind, MALICIOUS, ATTACK, SHARE) for name, kind in kinds.items()}
    assert found == {
        "attack": [(3, "unaligned", 0.4)],
        "attack, half unaligned": [(3, "unaligned", 0.5)],
        "attack, all unaligned": [(3, "unaligned", 1.0)],
        "conflicting labels": [(3, "conflicting", 0.4)],
        "no attack": [(0, "unaligned", 0.4)],
    }


def test_what_the_control_compares(mini):
    methods = [(0, "fedavg"), (3, "fedavg"), *((3, rule) for rule in RULES)]
    found = of(safety.conflicting_grid(mini), ATTACK, MALICIOUS, RULE)
    assert found == [("conflicting", *method) for method in methods]


def test_what_is_compared_of_generated_rows(mini):
    assert of(safety.generated_grid(mini), MALICIOUS, ATTACK, LEVEL) == [
        (0, "unaligned", 0),
        (3, "unaligned", 0),
        (3, "generated", 0),
        (3, "unaligned", 2),
    ]
    assert of(safety.level3_grid(mini), LEVEL) == [(3,)]


def test_grids_follow_what_is_compared(mini):
    few = mini.replace(
        federation={"compare": ["krum"]}, defense={"compare": [2]}, data={"benign": ["wild-like"]}
    )
    sizes = {
        "table1": 2 * 5,
        "table3": 2 * 2 * 2,
        "existing": 1,
        "conflicting": 3,
        "detection": 1,
    }
    assert {name: len(GRIDS[name](few)) // 2 for name in sizes} == sizes
    whole = few.replace(federation={"sampled": 10, "rounds": 6})  # both samplings are one
    assert len(safety.table1_grid(whole)) // 2 == 5 and len(safety.table3_grid(whole)) // 2 == 4


def test_one_seed_goes_without_the_control(mini):
    one = mini.replace(seeds=[4], seed=4)
    assert len(safety.table1_grid(one)) == 2 * 2 * (2 + 6 + 3)
    assert not [s for s in safety.table1_grid(one) if not s.data.unaligned_share]


def shared(mini):
    """{name: (runs, other runs among which they are)}."""
    t1, f3 = safety.table1_grid(mini), safety.figure3_grids(mini)
    table3, control = safety.table3_grid(mini), safety.conflicting_grid(mini)
    shares = safety.shares_grid(mini, "dnc")
    undefended = [s for s in table3 if not s.defense.level]
    plain = [s for s in table3 if s.federation.aggregator == "fedavg"]
    calm = [s for s in control if not s.federation.malicious]
    attacked = [s for s in control if s.federation.malicious]
    attacked = [s for s in attacked if s.federation.aggregator == "fedavg"]
    labelled = [s for s in safety.generated_grid(mini) if s.data.attack == "unaligned"]
    return {
        "table3, undefended": (undefended, t1),
        "table3, FedAvg": (plain, t1),
        "existing": (safety.existing_grid(mini), t1),
        "level3": (safety.level3_grid(mini), t1),
        "figure3, attack": (f3["attack"], t1),
        "figure3, no attack": (f3["no attack"], t1),
        "detection": (safety.detection_grid(mini), t1),
        "control, no attack": (calm, f3["no attack"]),
        "control, attack": (attacked, f3["conflicting labels"]),
        "generated": (labelled, t1),
        "shares, 3 of 10": ([s for s in shares if s.federation.malicious == 3], t1),
        "defended, their attacked ones": ([keys.attacked(s) for s in table3], undefended),
    }


def test_no_run_is_executed_twice(mini):
    for name, (part, whole) in shared(mini).items():
        assert part and folders(part) <= folders(whole), name
    assert len({keys.run_folder(s) for s in safety.table1_grid(mini)}) == 2 * 48
    shares = safety.shares_grid(mini, "dnc")
    calm = {keys.run_folder(s) for s in shares if not s.federation.malicious}
    assert len(calm) == 2 * 3  # another rule is another run, with nobody malicious too


@pytest.mark.parametrize(
    "changes",
    [
        {"federation": {"malicious": 0}},
        {"data": {"attack": "conflicting"}},
        {"data": {"unaligned_share": 0.0}},
    ],
    ids=str,
)
def test_without_an_attack_to_compare_with_there_is_one_line_before_work(mini, changes):
    for grid in (
        safety.table1_grid,
        safety.table3_grid,
        safety.table4_grid,
        safety.figure3_grids,
        safety.generated_grid,
    ):
        with pytest.raises(errors.SettingsError) as error:
            grid(mini.replace(**changes))
        assert "\n" not in str(error.value)
