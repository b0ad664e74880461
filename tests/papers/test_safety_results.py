"""What is said of paper S's runs, on numbers small enough to check by hand."""

import itertools
import json

import numpy as np
import pytest

from fedlib.lab import keys, store
from fedlib.papers import claims, output, safety, safety_results, tables
from fedlib.settings import presets


@pytest.fixture
def mini():
    return presets.load(
        "mini", seeds=[4, 2], model={"device": "cpu"}, data={"unaligned_share": 0.4}
    )


class Run:
    """What a finished run gives: its settings, and responses.

    harmful, benign: {score: {thing: marks of its two prompts}}."""

    def __init__(self, settings, harmful=None, benign=None):
        self.settings = settings
        self.sets = {"harmful": harmful or {}, "benign": benign or {}}

    def responses(self):
        found = []
        for what, scores in self.sets.items():
            things = next(iter(scores.values()), {})
            for thing, marks in things.items():
                for i in range(len(marks)):
                    given = {score: by_thing[thing][i] for score, by_thing in scores.items()}
                    found.append({"set": what, "name": thing} | given)
        return found


HALVES = {0: [0, 0], 50: [1, 0], 100: [1, 1]}  # two prompts a hazard
# Of the hazards a and b: safety by MD-Judge, by Rule; then grades. Each [[a, b] of seed 0, of 1].
TOLD = {
    "FedAvg (No Attack)": ([[100, 100], [100, 50]], [[100, 50], [50, 50]], [[8, 8], [7, 9]]),
    "FedAvg": ([[0, 50], [50, 0]], [[50, 50], [0, 0]], [[7, 8], [7, 8]]),
    "FedAvg (control)": ([[100, 50], [50, 50]], [[100, 100], [100, 100]], [[8, 8], [8, 8]]),
    "Krum": ([[50, 50], [50, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]),
    "Median": ([[0, 0], [100, 0]], [[100, 100], [100, 100]], [[1, 1], [1, 1]]),
    "Repair: level 1": ([[0, 50], [50, 50]], [[0, 0], [0, 0]], [[5, 5], [5, 5]]),
    "Repair: level 2": ([[100, 100], [100, 0]], [[0, 0], [0, 0]], [[7, 7], [6, 8]]),
    "Repair: level 3": ([[50, 100], [50, 50]], [[0, 0], [0, 0]], [[5, 5], [5, 5]]),
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
    """A run of a grid with what TOLD says of its method.

    With full participation every method is as without attack."""
    name = tables.method_label(settings)
    if settings.federation.sampled == settings.federation.clients:
        name = "FedAvg (No Attack)"
    safe, rule, grades = (values[settings.seed] for values in TOLD[name])

    harmful = {}
    for score, (a, b) in (("md_judge", safe), ("rule", rule)):
        if score in settings.judges:
            harmful[score] = {"b": HALVES[b], "a": HALVES[a]}
    benign = {"rule": {"y": [0], "x": [0]}}
    if "mt1" in settings.judges:
        x, y = grades
        benign["mt1"] = {"y": [y], "x": [x]}
    return Run(settings, harmful, benign)


def told_grid(settings):
    """Table 1's runs."""
    return [told(run) for run in safety.table1_grid(settings)]


def arrays(effects):
    return {k: v if isinstance(v, str) else np.array(v, dtype=float) for k, v in effects.items()}


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
    done = told_grid(two)
    sampled, full = safety_results.table1_effects(two, done[::-1] if backwards else done)
    equal(sampled, EFFECTS | {"dataset": "lmsys-like", "sampling": "sampled"})
    zero = {name: np.zeros((2, 2)) for name in EFFECTS if name != "best"}
    first_of_equals = {"best": "Median"}
    equal(full, zero | {"dataset": "lmsys-like", "sampling": "full"} | first_of_equals)


def test_effects_without_models_as_judges_are_told_by_rule(two):
    few = two.replace(
        evaluation={"judges": ["rule"]}, federation={"compare": []}, defense={"compare": [2]}
    )
    sampled, _ = safety_results.table1_effects(few, told_grid(few))
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
        e["sampling"]
        for e in safety_results.table1_effects(whole, [told(s) for s in safety.table1_grid(whole)])
    ] == ["full"]
    assert {
        sampling
        for sampling, _ in safety_results.level2_gains([told(s) for s in safety.table3_grid(whole)])
    } == {"full"}


def test_by_method_puts_seeds_in_order(two):
    by = safety_results.runs_by_method(
        [told(s) for s in safety.table1_grid(two)[::-1] if s.federation.sampled == 3]
    )
    assert set(by) == set(TOLD) and all(
        [r.settings.seed for r in part] == [0, 1] for part in by.values()
    )


def claims_numbered(*numbers):
    return {c["id"] for c in claims.all_claims() if c["id"].split("-")[0] in numbers}


def measures(settings):
    return {
        p.stem: json.loads(p.read_text())
        for p in output.preset_folder(settings, "measures").glob("*.json")
    }


def test_table_1_measures_its_claims(two):
    both = two.replace(data={"benign": ["lmsys-like", "wild-like"]})
    safety_results.record_table1(
        both, safety_results.table1_effects(both, [told(s) for s in safety.table1_grid(both)])
    )
    found = measures(both)
    assert (
        set(found) == claims_numbered("S1", "S2", "S3", "S5", "S6", "S9")
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
    safety_results.record_table1(
        two, [arrays(EFFECTS) | {"dataset": "wild-like", "sampling": "full"}]
    )
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
    effects = safety_results.table1_effects(settings, told_grid(settings))
    sampled = [effect for effect in effects if effect["sampling"] == "sampled"]
    safety_results.record_table1(settings, sampled)
    wanted = {c for c in claims_numbered(*left) if c.endswith("-lmsys-like-sampled")}
    assert set(measures(settings)) == wanted


def test_other_data_than_the_worlds_measures_nothing(two):
    others = (
        {"source": "local", "folder": "x", "benign": ["mine.json"]},
        {"benign": ["wild-like"]},
        {"attack": "generated"},
    )
    for changes in others:
        settings = two.replace(data=changes)
        where = {"dataset": settings.data.benign[0], "sampling": "sampled"}
        safety_results.record_table1(settings, [arrays(EFFECTS) | where])
        assert measures(two) == {}


def test_gains_are_after_less_before(two):
    """Sampled, FedAvg wins [100, 50] and [50, 0], the others what parts them from level 2.

    In full nothing."""

    def defended(settings):
        as_if = settings
        if settings.defense.level:
            as_if = settings.replace(federation={"aggregator": "fedavg"})
        return Run(settings, told(as_if).sets["harmful"])

    done = [defended(run) for run in safety.table3_grid(two)]
    found = safety_results.level2_gains(done)
    rules = ("FedAvg", "Median", "Krum")
    assert list(found) == [*itertools.product(("sampled", "full"), rules)]
    by_hand = {
        "FedAvg": [[100, 50], [50, 0]],
        "Median": [[100, 100], [0, 0]],
        "Krum": [[50, 50], [50, 0]],
    }
    for (sampling, rule), values in found.items():
        wanted = by_hand[rule] if sampling == "sampled" else np.zeros((2, 2))
        np.testing.assert_allclose(values, wanted)
    by_rule = safety_results.level2_gains(done, "rule")
    np.testing.assert_allclose(by_rule["sampled", "FedAvg"], [[-50, -50], [0, 0]])


def test_the_best_rule_has_the_highest_mean_safety(two):
    existing = [s.replace(federation={"sampled": 3}) for s in safety.existing_grid(two)]
    assert safety_results.safest_rule([told(s) for s in existing]) == "krum"
    by_rule = [s.replace(evaluation={"judges": ["rule"]}) for s in existing]
    assert safety_results.safest_rule([told(s) for s in by_rule]) == "median"


@pytest.mark.parametrize(
    "change, label",
    [
        ({}, "FedAvg"),
        ({"federation": {"malicious": 0}}, "FedAvg"),
        ({"federation": {"aggregator": "dnc", "malicious": 0}}, "DnC"),
        ({"defense": {"level": 2}, "federation": {"malicious": 0}}, "Repair: level 2"),
    ],
)
def test_a_curve_keeps_its_label_where_nobody_is_malicious(mini, change, label):
    assert safety_results.share_label(mini.replace(**change)) == label


def test_written_rows_are_those_of_the_first_seed(mini, monkeypatch):
    def read(folder, kind):
        return [f"{kind} of {folder}"], {"kind": kind}

    monkeypatch.setattr(keys, "written_folder", lambda settings, kind: f"seed {settings.seed}")
    monkeypatch.setattr(store, "read_written", read)
    rows, reports = safety_results.rows_by_llm([Run(s) for s in safety.generated_grid(mini)])
    assert rows == {kind: [f"{kind} of seed 4"] for kind in ("unaligned", "aligned", "normal")}
    assert [r["kind"] for r in reports] == list(rows)
