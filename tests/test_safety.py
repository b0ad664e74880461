"""Paper S's comparisons: the runs of each grid, and what is said of them, on numbers small enough to check by hand."""

import inspect
import itertools
import json
import re

import numpy as np
import pytest

from fedlib.lab import keys, runs, steps
from fedlib.papers import claims, estimates, output, safety, tables
from fedlib.settings import errors, groups, machine, presets

RULES = ("median", "trimmed_mean", "krum", "dnc", "foolsgold", "residual")


@pytest.fixture
def mini():
    return presets.load(
        "mini", seeds=[4, 2], model={"device": "cpu"}, data={"unaligned_share": 0.4}
    )


# Which runs.

GRIDS = {
    "table1": safety.table1,
    "table3": safety.table3,
    "table4": safety.table4,
    "existing": safety.existing,
    "shares": lambda s: safety.shares(s, "dnc"),
    "figure3": lambda s: sum(safety.figure3(s).values(), []),
    "figure3_attack": safety.figure3_attack,
    "positive_control": safety.positive_control,
    "generated": safety.generated,
    "level3": safety.level3,
}
SAMPLING = {"federation.sampled", "federation.rounds"}
SHAPES = {  # how many runs for each seed, what varies besides the seed
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
    "figure3_attack": (2, {"data.benign"}),
    "positive_control": (1 + 1 + 6, {"federation.malicious", "federation.aggregator"}),
    "generated": (4, {"federation.malicious", "data.attack", "defense.level"}),
    "level3": (2 * 2, {"data.benign"} | SAMPLING),
}
FULL = {"existing", "shares", "figure3", "figure3_attack", "positive_control"}


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
        name: f
        for name, f in vars(safety).items()
        if inspect.isfunction(f) and f.__module__ == safety.__name__
    }
    grids = {name for name, f in made.items() if "settings.vary(" in inspect.getsource(f)}
    assert grids == set(GRIDS) == set(SHAPES)


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_has_its_runs_once(mini, name):
    count, varies = SHAPES[name]
    wanted = GRIDS[name](mini)
    each = [4] if name == "level3" else [4, 2]  # as the preset orders them
    assert [s.seed for s in wanted] == each * count
    values = [flat(s) for s in wanted]
    assert {
        field for field in values[0] if any(v[field] != values[0][field] for v in values)
    } == varies
    assert len({s.model_dump_json() for s in wanted}) == len(wanted)
    assert {(s.preset, tuple(s.seeds)) for s in wanted} == {("mini", (4, 2))}


@pytest.mark.parametrize("name", GRIDS)
def test_sampling(mini, name):
    found = {
        (s.federation.clients, s.federation.sampled, s.federation.rounds) for s in GRIDS[name](mini)
    }
    some, full = (10, 3, 20), (10, 10, 6)  # 60 updates in all
    assert found == {"table4": {(50, 10, 6), (100, 10, 6)}, "generated": {some}}.get(
        name, {full} if name in FULL else {some, full}
    )


def test_what_the_grids_compare(mini):
    def of(grid, *fields):
        return list(dict.fromkeys(tuple(flat(s)[f] for f in fields) for s in grid))

    malicious, share, rule, level = (
        "federation.malicious",
        "data.unaligned_share",
        "federation.aggregator",
        "defense.level",
    )
    table1 = of(safety.table1(mini), malicious, share, rule, level)
    assert table1 == [
        (0, 0.4, "fedavg", 0),
        (3, 0.0, "fedavg", 0),
        (3, 0.4, "fedavg", 0),
        *[(3, 0.4, r, 0) for r in RULES],
        *[(3, 0.4, "fedavg", n) for n in (1, 2, 3)],
    ]
    assert of(safety.table3(mini), rule, level) == [*itertools.product(["fedavg", *RULES], [0, 2])]
    table4 = [
        (0, "fedavg", 0),
        (0.3, "fedavg", 0),
        (0.3, "krum", 0),
        (0.3, "dnc", 0),
        (0.3, "fedavg", 2),
    ]
    assert of(safety.table4(mini), "federation.clients", malicious, rule, level) == [
        (k, round(part * k), r, n) for k in (50, 100) for part, r, n in table4
    ]
    assert of(safety.shares(mini, "dnc"), malicious, rule, level) == [
        (m, r, n) for m in range(6) for r, n in (("fedavg", 0), ("dnc", 0), ("fedavg", 2))
    ]
    kinds = safety.figure3(mini)
    assert {name: of(kind, malicious, "data.attack", share) for name, kind in kinds.items()} == {
        "attack": [(3, "unaligned", 0.4)],
        "attack, half unaligned": [(3, "unaligned", 0.5)],
        "attack, all unaligned": [(3, "unaligned", 1.0)],
        "conflicting labels": [(3, "conflicting", 0.4)],
        "no attack": [(0, "unaligned", 0.4)],
    }
    assert of(safety.positive_control(mini), "data.attack", malicious, rule) == [
        ("conflicting", m, r) for m, r in ((0, "fedavg"), (3, "fedavg"), *((3, r) for r in RULES))
    ]
    assert of(safety.generated(mini), malicious, "data.attack", level) == [
        (0, "unaligned", 0),
        (3, "unaligned", 0),
        (3, "generated", 0),
        (3, "unaligned", 2),
    ]
    assert of(safety.level3(mini), level) == [(3,)]


def test_grids_follow_what_is_compared(mini):
    few = mini.replace(
        federation={"compare": ["krum"]}, defense={"compare": [2]}, data={"benign": ["wild-like"]}
    )
    sizes = {
        "table1": 2 * 5,
        "table3": 2 * 2 * 2,
        "existing": 1,
        "positive_control": 3,
        "figure3_attack": 1,
    }
    assert {name: len(GRIDS[name](few)) // 2 for name in sizes} == sizes
    whole = few.replace(federation={"sampled": 10, "rounds": 6})  # both samplings are one
    assert len(safety.table1(whole)) // 2 == 5 and len(safety.table3(whole)) // 2 == 4


def test_one_seed_goes_without_the_control(mini):
    one = mini.replace(seeds=[4], seed=4)
    assert len(safety.table1(one)) == 2 * 2 * (2 + 6 + 3)
    assert not [s for s in safety.table1(one) if not s.data.unaligned_share]


def shared(mini):
    """{name: what every one of these runs is, too}."""
    t1, f3 = safety.table1(mini), safety.figure3(mini)
    undefended = [s for s in safety.table3(mini) if not s.defense.level]
    calm = [s for s in safety.positive_control(mini) if not s.federation.malicious]
    attacked = [
        s
        for s in safety.positive_control(mini)
        if s.federation.malicious and s.federation.aggregator == "fedavg"
    ]
    return {
        "table3, undefended": (undefended, t1),
        "table3, FedAvg": (
            [s for s in safety.table3(mini) if s.federation.aggregator == "fedavg"],
            t1,
        ),
        "existing": (safety.existing(mini), t1),
        "level3": (safety.level3(mini), t1),
        "figure3, attack": (f3["attack"], t1),
        "figure3, no attack": (f3["no attack"], t1),
        "figure3_attack": (safety.figure3_attack(mini), t1),
        "control, no attack": (calm, f3["no attack"]),
        "control, attack": (attacked, f3["conflicting labels"]),
        "generated": ([s for s in safety.generated(mini) if s.data.attack == "unaligned"], t1),
        "shares, 3 of 10": (
            [s for s in safety.shares(mini, "dnc") if s.federation.malicious == 3],
            t1,
        ),
        "defended, their attacked ones": (
            [keys.attacked(s) for s in safety.table3(mini)],
            undefended,
        ),
    }


def test_no_run_is_executed_twice(mini):
    for name, (part, whole) in shared(mini).items():
        assert part and folders(part) <= folders(whole), name
    assert len({keys.run_folder(s) for s in safety.table1(mini)}) == 2 * 48
    calm = {keys.run_folder(s) for s in safety.shares(mini, "dnc") if not s.federation.malicious}
    assert len(calm) == 2 * 3  # another rule is another run, with nobody malicious too


# What they say.


class Run:
    """What a finished run gives: its settings, and responses by {score: {thing: marks of its prompts}}."""

    folder = evaluation = None

    def __init__(self, settings, harmful=None, benign=None, lines=()):
        self.settings, self._lines = settings, lines
        self._sets = {"harmful": harmful or {}, "benign": benign or {}}

    def rounds(self):
        return self._lines

    def responses(self):
        out = []
        for what, scores in self._sets.items():
            marks = {
                score: [(thing, m) for thing, ms in things.items() for m in ms]
                for score, things in scores.items()
            }
            for i, (thing, _) in enumerate(next(iter(marks.values()), [])):
                out.append(
                    {"set": what, "name": thing} | {score: m[i][1] for score, m in marks.items()}
                )
        return out


HALVES = {0: [0, 0], 50: [1, 0], 100: [1, 1]}  # two prompts a hazard
# Safety of the hazards b and a for the seeds 0 and 1, and grades: (md_judge, rule, mt1), each [[a, b] of seed 0, of seed 1]
TOLD = {
    "FedAvg (No Attack)": ([[100, 100], [100, 50]], [[100, 50], [50, 50]], [[8, 8], [7, 9]]),
    "FedAvg": ([[0, 50], [50, 0]], [[50, 50], [0, 0]], [[7, 8], [7, 8]]),
    "FedAvg (control)": ([[100, 50], [50, 50]], [[100, 100], [100, 100]], [[8, 8], [8, 8]]),
    "Krum": ([[50, 50], [50, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]),
    "Median": ([[0, 0], [100, 0]], [[100, 100], [100, 100]], [[1, 1], [1, 1]]),
    "Ours: Level 1": ([[0, 50], [50, 50]], [[0, 0], [0, 0]], [[5, 5], [5, 5]]),
    "Ours: Level 2": ([[100, 100], [100, 0]], [[0, 0], [0, 0]], [[7, 7], [6, 8]]),
    "Ours: Level 3": ([[50, 100], [50, 50]], [[0, 0], [0, 0]], [[5, 5], [5, 5]]),
}
EFFECTS = {
    "attack": [[100, 50], [50, 50]],
    "attack, rule": [[50, 0], [50, 50]],
    "control": [[0, 50], [50, 0]],
    "best": "Krum",  # 37.5 on average, the median 25
    "best regains": [[50, 0], [0, 0]],
    "level 1 regains": [[0, 0], [0, 50]],
    "level 2 regains": [[100, 50], [50, 0]],
    "level 3 regains": [[50, 50], [0, 50]],
    "attack, mt1": [[1, 0], [0, 1]],
    "level 2, mt1": [[0, 1], [1, 0]],
}


def told(settings):
    """A run of a grid with what TOLD says of its method; with full participation everybody is as without attack."""
    name = tables.method(settings)
    full = settings.federation.sampled == settings.federation.clients
    safe, rule, grades = TOLD["FedAvg (No Attack)" if full else name]
    at = settings.seed
    harmful = {
        score: {"b": HALVES[values[at][1]], "a": HALVES[values[at][0]]}
        for score, values in (("md_judge", safe), ("rule", rule))
        if score in settings.judges
    }
    benign = {"rule": {"y": [0], "x": [0]}} | (
        {"mt1": {"y": [grades[at][1]], "x": [grades[at][0]]}} if "mt1" in settings.judges else {}
    )
    return Run(settings, harmful, benign)


@pytest.fixture
def two(mini):
    """mini with two seeds, one dataset and two existing defences."""
    return mini.replace(
        seeds=[0, 1],
        seed=0,
        data={"benign": ["lmsys-like"]},
        federation={"compare": ["median", "krum"]},
    )


def equal(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        if isinstance(value, str):
            assert found[name] == value, name
        else:
            np.testing.assert_allclose(found[name], value, err_msg=name)


@pytest.mark.parametrize("backwards", [False, True])
def test_effects_are_paired_by_seed_and_thing(two, backwards):
    done = [told(s) for s in safety.table1(two)]
    sampled, full = safety.effects(two, done[::-1] if backwards else done)
    equal(sampled, EFFECTS | {"dataset": "lmsys-like", "sampling": "sampled"})
    zero = {name: np.zeros((2, 2)) for name in EFFECTS if name != "best"}
    equal(
        full, zero | {"dataset": "lmsys-like", "sampling": "full", "best": "Median"}
    )  # the first of equals


def test_effects_without_models_as_judges_are_told_by_rule(two):
    few = two.replace(
        evaluation={"judges": ["rule"]}, federation={"compare": []}, defense={"compare": [2]}
    )
    sampled, _ = safety.effects(few, [told(s) for s in safety.table1(few)])
    equal(
        sampled,
        {
            "dataset": "lmsys-like",
            "sampling": "sampled",
            "attack": EFFECTS["attack, rule"],
            "attack, rule": EFFECTS["attack, rule"],
            "control": [[0, -50], [-50, -50]],
            "level 2 regains": [[-50, -50], [0, 0]],
        },
    )


def test_full_participation_alone_is_not_also_called_sampled(two):
    whole = two.replace(federation={"sampled": 10})
    assert [
        e["sampling"] for e in safety.effects(whole, [told(s) for s in safety.table1(whole)])
    ] == ["full"]
    assert {sampling for sampling, _ in safety.gains([told(s) for s in safety.table3(whole)])} == {
        "full"
    }


def test_by_method_puts_seeds_in_order(two):
    by = safety.by_method([told(s) for s in safety.table1(two)[::-1] if s.federation.sampled == 3])
    assert set(by) == set(TOLD) and all(
        [r.settings.seed for r in part] == [0, 1] for part in by.values()
    )


def claims(*numbers):
    return {c["id"] for c in claims._claims() if c["id"].split("-")[0] in numbers}


def measures(settings):
    return {
        p.stem: json.loads(p.read_text())
        for p in output.folder(settings, "measures").glob("*.json")
    }


def test_table_1_measures_its_claims(two):
    both = two.replace(data={"benign": ["lmsys-like", "wild-like"]})
    safety.measure_table1(both, safety.effects(both, [told(s) for s in safety.table1(both)]))
    found = measures(both)
    assert (
        set(found) == claims("S1", "S2", "S3", "S5", "S6", "S9")
        and len(found) == 4 + 4 + 4 + 2 + 4 + 4 + 4
    )
    means = {  # of the four numbers in EFFECTS
        "S1-md_judge": 62.5,
        "S1-rule": 37.5,
        "S2": 0.5,
        "S9": 0.5,
        "S5": 62.5 - 50,  # the attack costs so much, level 2 wins back so much
        "S6": 37.5 - 12.5,
    }  # level 3 wins back so much, Krum so much
    for dataset, (claim, mean) in itertools.product(both.data.benign, means.items()):
        assert found[f"{claim}-{dataset}-sampled"]["measured"] == pytest.approx(mean), claim
        assert (
            found[f"{claim}-{dataset}-full"]["measured"] == 0
            and found[f"{claim}-{dataset}-full"]["seeds"] == 2
        )
    assert found["S3-lmsys-like"]["measured"] == 0  # with full participation, where nothing is lost


def test_the_third_claim_is_what_is_won_back_less_a_third_of_the_loss(two):
    effect = {k: v if isinstance(v, str) else np.array(v, dtype=float) for k, v in EFFECTS.items()}
    safety.measure_table1(two, [effect | {"dataset": "wild-like", "sampling": "full"}])
    assert measures(two)["S3-wild-like"]["measured"] == pytest.approx(12.5 - 62.5 / 3)


@pytest.mark.parametrize(
    "changes, left",
    [
        ({"evaluation": {"judges": ["rule", "mt1"]}}, ()),
        ({"evaluation": {"judges": ["rule", "md_judge"]}}, ("S1", "S5", "S6")),
        ({"defense": {"compare": [1]}}, ("S1", "S2")),
        ({"defense": {"compare": [2]}}, ("S1", "S2", "S5", "S9")),
        ({"federation": {"compare": []}}, ("S1", "S2", "S5", "S9")),
    ],
    ids=str,
)
def test_what_was_not_run_is_not_measured(two, changes, left):
    settings = two.replace(**changes)
    safety.measure_table1(
        settings,
        [
            e
            for e in safety.effects(settings, [told(s) for s in safety.table1(settings)])
            if e["sampling"] == "sampled"
        ],
    )
    assert set(measures(settings)) == {
        c for c in claims(*left) if c.endswith("-lmsys-like-sampled")
    }


def test_other_data_than_the_worlds_measures_nothing(two):
    effect = {k: v if isinstance(v, str) else np.array(v) for k, v in EFFECTS.items()}
    own = two.replace(data={"source": "local", "folder": "x", "benign": ["mine.json"]})
    for settings in (
        own,
        two.replace(data={"benign": ["wild-like"]}),
        two.replace(data={"attack": "generated"}),
    ):
        safety.measure_table1(
            settings, [effect | {"dataset": settings.data.benign[0], "sampling": "sampled"}]
        )
        assert measures(two) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"federation": {"malicious": 0}},
        {"data": {"attack": "conflicting"}},
        {"data": {"unaligned_share": 0.0}},
    ],
    ids=str,
)
def test_without_an_attack_to_compare_with_there_is_one_line_before_work(two, changes):
    for grid in (safety.table1, safety.table3, safety.table4, safety.figure3, safety.generated):
        with pytest.raises(errors.SettingsError) as error:
            grid(two.replace(**changes))
        assert "\n" not in str(error.value)


def test_every_claim_is_measured_somewhere():
    sources = [
        (machine.ROOT / "fedlib" / f"{name}.py").read_text(encoding="utf-8")
        for name in ("safety", "secure")
    ]
    for file in (machine.ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        sources += ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    written = set(re.findall(r'f?"([A-Z]\d+(?:-[^"{]*)?)["{]', "\n".join(sources)))
    stems = {
        re.match(r"[^{]*", claim)[0]
        for claim in re.findall(
            r"^- id: (\S+)", (tables.PUBLISHED / "claims.yaml").read_text(encoding="utf-8"), re.M
        )
    }
    assert stems and stems == written


# Level 2 on top of every aggregator.


def test_gains_are_after_less_before(two):
    """Sampled: FedAvg wins [100, 50] and [50, 0], the others as much as separates them from level 2; in full nothing."""

    def defended(settings):
        as_if = (
            settings.replace(federation={"aggregator": "fedavg"})
            if settings.defense.level
            else settings
        )
        return Run(settings, told(as_if)._sets["harmful"])

    found = safety.gains([defended(s) for s in safety.table3(two)])
    assert list(found) == [
        (s, r) for s in ("sampled", "full") for r in ("FedAvg", "Median", "Krum")
    ]
    by_hand = {
        "FedAvg": [[100, 50], [50, 0]],
        "Median": [[100, 100], [0, 0]],
        "Krum": [[50, 50], [50, 0]],
    }
    for (sampling, rule), values in found.items():
        np.testing.assert_allclose(
            values, by_hand[rule] if sampling == "sampled" else np.zeros((2, 2))
        )
    by_rule = safety.gains([defended(s) for s in safety.table3(two)], "rule")
    np.testing.assert_allclose(by_rule["sampled", "FedAvg"], [[-50, -50], [0, 0]])


def test_the_best_rule_has_the_highest_mean_safety(two):
    existing = [s.replace(federation={"sampled": 3}) for s in safety.existing(two)]
    assert safety.best_rule([told(s) for s in existing]) == "krum"
    by_rule = [s.replace(evaluation={"judges": ["rule"]}) for s in existing]
    assert safety.best_rule([told(s) for s in by_rule]) == "median"


# Who could be found out.

SAME = np.full((5, 5), 0.5) + 0.5 * np.eye(5)


def apart(*lower):
    """Cosines 0.5, but those of the clients named with all others 0.1."""
    cosine = SAME.copy()
    for k in lower:
        cosine[k, :] = cosine[:, k] = 0.1
        cosine[k, k] = 1.0
    return cosine.tolist()


def line(cosine, krum, dnc=None):
    return {"sampled": [0, 1, 2, 3, 4], "cosine": cosine, "detection": {"krum": krum, "dnc": dnc}}


@pytest.fixture
def five(two):
    return two.replace(
        federation={"clients": 5, "malicious": 2, "sampled": 5, "rounds": 2}
    )  # 3 and 4


def test_a_clients_score():
    record = line(apart(4), [0.5, 0.5, 0, 0, 0])
    assert safety.client_score(record, "similarity").tolist() == pytest.approx(
        [0.4, 0.4, 0.4, 0.4, 0.1]
    )
    assert safety.client_score(record, "krum").tolist() == [0.5, 0.5, 0, 0, 0]
    assert safety.client_score(record, "dnc").tolist() == [0.2] * 5  # the rule could not work


def test_detection_by_hand(five):
    found = Run(
        five,
        lines=[line(apart(3, 4), [0.5, 0.25, 0.25, 0, 0]), line(apart(4), [0, 0.5, 0, 0.5, 0])],
    )
    fooled = Run(five, lines=[line(apart(0, 1, 2), [0, 0, 0, 0.5, 0.5])] * 2)
    # krum, mean of two rounds: .25 .375 .125 | .25 0; of six pairs the malicious are lower in 2 + 3, once equal, once not
    auc, p = safety.detection(five, [found, fooled], "krum")
    assert auc.tolist() == pytest.approx([(1.5 + 3) / 6, 0.0])
    assert p == estimates.permutation_test(
        [[0.25, 0.375, 0.125, 0.25, 0], [0, 0, 0, 0.5, 0.5]], [False] * 3 + [True] * 2
    )
    auc, _ = safety.detection(five, [found, fooled], "similarity")
    assert auc.tolist() == pytest.approx([1.0, 0.0])
    auc, p = safety.detection(five, [found, fooled], "dnc")
    assert auc.tolist() == [0.5, 0.5] and p == 1
    # round by round: 0.5 .25 .25 | 0 0, then 0 .5 0 | .5 0: in the latter 0.5 + 0 for client 3, 0.5 twice and 1 for client 4
    assert safety.detection_by_round(five, [found, fooled], "krum") == [
        [1.0, pytest.approx((0.5 + 2) / 6)],
        [0.0, 0.0],
    ]


def test_detection_asks_about_the_same_clients_without_attack(five):
    calm = Run(five.replace(federation={"malicious": 0}), lines=[line(apart(3, 4), None)])
    assert safety.detection(five, [calm], "similarity")[0].tolist() == [1.0]


def test_detection_by_seed_is_the_mean_of_the_datasets(five):
    both = five.replace(data={"benign": ["lmsys-like", "wild-like"]})
    weights = {
        ("lmsys-like", 0): [1, 1, 1, 0, 0],
        ("wild-like", 0): [0, 0, 0, 1, 1],
        ("lmsys-like", 1): [1, 1, 1, 0, 0],
        ("wild-like", 1): [0, 0, 0, 0, 0],
    }
    done = [
        Run(s, lines=[line(SAME.tolist(), weights[s.data.benign[0], s.seed])])
        for s in safety.figure3_attack(both)
    ]
    assert safety.detection_by_seed(both, done, "krum").tolist() == [0.5, 0.75]


def test_every_signal_is_in_a_rounds_record(smoke):
    full = smoke.replace(
        **smoke.full_participation(),
        data={"rows": 8},
        training={"steps": 1, "batch_size": 2},
        evaluation={"judges": ["rule"], "harmful": 2, "benign": 2, "max_new_tokens": 2},
    )
    [record, *_] = runs.get(full).rounds()
    for by in safety.SIGNALS:
        score = safety.client_score(record, by)
        assert score.shape == (10,) and np.isfinite(score).all()
        if by != "similarity":
            assert score.sum() == pytest.approx(1, abs=1e-4) and (score >= 0).all()


# Labels and rows.


@pytest.mark.parametrize(
    "change, label",
    [
        ({}, "FedAvg"),
        ({"federation": {"malicious": 0}}, "FedAvg"),
        ({"federation": {"aggregator": "dnc", "malicious": 0}}, "DnC"),
        ({"defense": {"level": 2}, "federation": {"malicious": 0}}, "Ours: Level 2"),
    ],
)
def test_a_curve_keeps_its_label_where_nobody_is_malicious(mini, change, label):
    assert safety.share_label(mini.replace(**change)) == label


def test_written_rows_are_those_of_the_first_seed(mini, monkeypatch):
    monkeypatch.setattr(
        steps, "written", lambda s, kind: ([f"{kind} of seed {s.seed}"], {"kind": kind})
    )
    rows, reports = safety.written([Run(s) for s in safety.generated(mini)])
    assert rows == {kind: [f"{kind} of seed 4"] for kind in ("unaligned", "aligned", "normal")}
    assert [r["kind"] for r in reports] == list(rows)


# The permutation test.

ONE = np.array([False] * 7 + [True] * 3)


def test_perfect_separation_over_five_seeds_is_as_sure_as_can_be():
    scores = np.tile(np.arange(10, 0, -1.0), (5, 1))
    for draws in (99, 10_000):
        assert estimates.permutation_test(scores, ONE, draws) == 1 / (draws + 1)
        assert estimates.permutation_test(-scores, ONE, draws) == 1 / (draws + 1)  # two-sided


def test_equal_scores_say_nothing():
    assert estimates.permutation_test(np.ones((5, 10)), ONE) == 1
    assert estimates.permutation_test(np.ones(10), ONE, draws=99) == 1  # of one seed, too


@pytest.mark.parametrize(
    "scores",
    [
        [5, 4, 3, 2, 1],
        [5, 4, 2, 3, 1],
        [1, 4, 3, 2, 5],
        [1, 2, 3, 4, 5],
        [3, 3, 3, 2, 1],
        [1, 1, 0, 1, 0],
    ],
    ids=str,
)
def test_p_is_the_share_of_all_choices_at_least_as_extreme(scores):
    """Two malicious of five: ten choices."""
    marked = np.array([False] * 3 + [True] * 2)
    seen = abs(estimates.auc(scores, marked) - 0.5)
    choices = [np.isin(range(5), pair) for pair in itertools.combinations(range(5), 2)]
    exact = np.mean(
        [abs(estimates.auc(scores, chosen) - 0.5) >= seen - 1e-12 for chosen in choices]
    )
    assert estimates.permutation_test(scores, marked) == pytest.approx(
        exact, abs=0.015
    )  # three errors of 10,000 draws


def test_p_of_two_seeds_is_that_of_their_mean():
    marked, scores = np.array([False, False, True, True]), np.array([[4, 3, 2, 1], [3, 4, 1, 2]])
    both = np.mean([estimates.auc(s, marked) for s in scores])
    choices = [np.isin(range(4), pair) for pair in itertools.combinations(range(4), 2)]
    means = [
        np.mean([estimates.auc(s, c) for s, c in zip(scores, pair, strict=True)])
        for pair in itertools.product(choices, repeat=2)
    ]
    assert both == 1 and np.mean(np.abs(np.array(means) - 0.5) >= 0.5) == 2 / 36
    assert estimates.permutation_test(scores, marked) == pytest.approx(2 / 36, abs=0.01)
    assert estimates.permutation_test(scores, marked) == estimates.permutation_test(scores, marked)


def test_chance_is_rarely_sure():
    rng = np.random.default_rng(0)
    found = [
        estimates.permutation_test(rng.normal(size=(3, 10)), ONE, draws=199) for _ in range(200)
    ]
    assert 0.01 <= np.mean(np.array(found) <= 0.05) <= 0.1
