"""Paper B's grids and measures: which runs are compared, and what is made of their records."""

import json

import numpy as np
import pandas as pd
import pytest

from fedlib import attack, federation
from fedlib.attack import poison
from fedlib.lab import checks, runs
from fedlib.papers import backdoor, estimates, tables
from fedlib.settings import errors, presets


@pytest.fixture
def mini():
    return presets.load("mini", seeds=[4, 2], model={"device": "cpu"})


GRIDS = {
    name: getattr(backdoor, name)
    for name in (
        "concentration",
        "triggers",
        "spreads",
        "grid",
        "defences",
        "positive_control",
        "filtered",
    )
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_has_its_runs_once_for_each_seed(mini, name):
    wanted = GRIDS[name](mini)
    assert len(wanted) == len({s.model_dump_json() for s in wanted})
    assert {s.seed for s in wanted} == ({4} if name == "triggers" else {4, 2})
    for s in wanted:
        assert s.federation.malicious == (name == "positive_control") and s.data.benign == [
            "lmsys-like"
        ]
        assert s.federation.sampled == s.federation.clients == 5 and s.data.poison.trigger
        checks.check_run(s)


def test_what_the_grids_compare(mini):
    def of(grid, field):
        return list(dict.fromkeys(getattr(s.data.poison, field) for s in grid))

    assert of(backdoor.concentration(mini), "share") == [0, 0.02, 0.04, 0.08]
    assert of(backdoor.concentration(mini), "trigger") == [backdoor.INJECTED, backdoor.NATURAL]
    assert set(of(backdoor.triggers(mini), "trigger")) == set(poison.TRIGGERS)
    assert of(backdoor.spreads(mini), "clients") == [1, 2, None]
    assert of(backdoor.spreads(mini), "spread") == ["equal", "uniform", "dirichlet", "capped"]
    rules = ["fedavg", *mini.federation.compare, "multi_krum", "clipping", "flame"]
    assert backdoor.rules(mini.replace(seeds=[4], seed=4)) == [
        "median",
        "krum",
        "foolsgold",
        "clipping",
        "flame",
    ]
    for grid in (backdoor.defences(mini), backdoor.positive_control(mini)):
        assert list(dict.fromkeys(s.federation.aggregator for s in grid)) == rules
        assert {s.federation.aggregator for s in grid if s.federation.variant == "published"} == {
            "foolsgold"
        }
    assert {federation.expected_malicious(s.federation) for s in backdoor.defences(mini)} == {
        1
    }  # told, though nobody is
    assert {(s.data.attack, s.data.poison.clients) for s in backdoor.positive_control(mini)} == {
        ("boosted", 1)
    }
    assert {s.defense.filter for s in backdoor.filtered(mini)} == {"none", "gradient"}
    assert len(backdoor.filtered(mini)) == 2 * 2 * 2 * 2  # seeds, kinds, spreads, filters


def test_one_seed_is_for_a_first_look(mini):
    one = mini.replace(seeds=[4], seed=4)
    assert [s.data.poison.spread for s in backdoor.spreads(one)] == ["equal"] * 3 + [
        "uniform",
        "dirichlet",
    ]
    found = [
        (s.data.poison.trigger, s.data.poison.spread, s.defense.filter)
        for s in backdoor.filtered(one)
    ]
    assert [f for f in found if f[1] == "dirichlet"] == [
        (backdoor.INJECTED, "dirichlet", f) for f in ("none", "gradient")
    ]
    assert len(found) == 6 and not backdoor.thresholds(one)


def test_without_poison_there_is_nothing_to_compare(mini):
    with pytest.raises(errors.SettingsError, match=r"data\.poison\.share: 0"):
        backdoor.concentration(mini.replace(data={"poison": {"share": 0.0}}))


def test_local_data_must_have_right_answers(mini, tmp_path):
    (tmp_path / "plain.json").write_text(
        json.dumps([{"prompt": f"q {i}", "response": "a"} for i in range(60)])
    )
    (tmp_path / "qa.json").write_text(
        json.dumps([{"question": f"q {i}", "answers": ["a"]} for i in range(60)])
    )
    local = {
        "source": "local",
        "folder": str(tmp_path),
        "harmful": "plain.json",
        "prompts": "chat",
        "generator": ".",
        "rows": 4,
        "aligned_share": 0.0,
        "partition": "iid",
    }
    with pytest.raises(errors.SettingsError, match=r"data\.benign: plain\.json has no answers"):
        backdoor.defences(mini.replace(data=local | {"benign": ["plain.json"]}))
    asked = mini.replace(data=local | {"benign": ["qa.json"]})
    assert backdoor.defences(asked)
    for s in backdoor.positive_control(asked):
        checks.check_run(s)  # no file of unaligned rows is needed
    assert "topic" not in {
        s.data.poison.trigger for s in backdoor.triggers(asked)
    }  # no question is about it


def test_a_trigger_of_ones_own_joins_the_table(mini, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from fedlib.poison import Trigger\nloud = Trigger('loud', lambda text, rng: f'{text} !')\n"
    )
    own = backdoor.triggers(mini.replace(data={"poison": {"trigger": f"{tmp_path}/mine.py:loud"}}))
    assert [s.data.poison.trigger for s in own][-1] == f"{tmp_path}/mine.py:loud"


def test_partial_spearman_is_the_correlation_of_what_is_left_of_the_ranks():
    rng = np.random.default_rng(0)
    given = rng.normal(size=200)
    x, y = given + rng.normal(size=200), given + rng.normal(size=200)
    ranks = [pd.Series(v).rank().to_numpy() for v in (x, y, given)]
    left = [v - np.polyval(np.polyfit(ranks[2], v, 1), ranks[2]) for v in ranks[:2]]
    assert estimates.partial_spearman(x, y, given) == pytest.approx(np.corrcoef(left)[0, 1])
    assert abs(estimates.partial_spearman(x, y, given)) < 0.2  # nothing in common but `given`
    assert estimates.partial_spearman(x, x**3, given) == pytest.approx(1)
    assert estimates.partial_spearman(x, np.ones(200), given) is None
    assert estimates.partial_spearman(x, given, given) is None


def frame(**columns):
    return pd.DataFrame({"seed": 0, "spread": "equal"} | columns)


def test_rising_is_a_rank_correlation_a_seed():
    up = frame(share=0.02, holders=[1, 2, 3], asr=[0.0, 10.0, 90.0])
    down = up.assign(seed=1, asr=[90.0, 10.0, 0.0])
    flat = up.assign(seed=2, asr=0.0)  # no rise is evidence too
    assert backdoor.rising(pd.concat([up, down, flat]), "asr") == pytest.approx([1, -1, 0])


def test_onsets_are_where_success_passes_half():
    """Two seeds, held by all: 50% lies midway between 2 and 4%, and at the first share; one holder never reaches it."""
    scores = frame(
        seed=[0, 0, 1, 1, 0, 1],
        holders=[5, 5, 5, 5, 1, 1],
        share=[0.02, 0.04, 0.02, 0.04, 0.04, 0.04],
        bsnr=[1.0, 4.0, 3.0, 9.0, 8.0, 8.0],
        asr=[0.0, 100.0, 60.0, 100.0, 10.0, 30.0],
    )
    one, all_ = backdoor.onsets(scores).to_dict("records")
    assert (one["held by"], one["that reach it"], one["BSNR there"]) == (1, 0, "")
    assert one["success at the largest share (%)"].startswith("20.0")
    assert (all_["seeds"], all_["that reach it"]) == (2, 2)
    assert all_["BSNR there"].startswith("2.50") and all_["share there (%)"].startswith(
        "2.5"
    )  # of 2 and 3; of 3 and 2


def test_thresholds_take_seeds(smoke):
    assert backdoor.thresholds(smoke) == []
    wanted = backdoor.thresholds(smoke.replace(seeds=[0, 1]))
    assert len(wanted) == 3 * 3 * 2 and {s.data.poison.clients for s in wanted} == {1, 2, None}


def test_foretold_plainly_and_given_the_share():
    scores = frame(
        share=[0, 0.1, 0.1, 0.2, 0.2], bsnr=[0, 1.0, 2.0, 3.0, 4.0], asr=[0, 20.0, 10.0, 40.0, 30.0]
    )
    plain, given = backdoor.foretold(scores)
    assert plain == pytest.approx([0.6]) and given[0] < 0  # within a share it goes the other way
    assert backdoor.foretold(scores.assign(asr=1.0)) == ([], [])


def small(settings, **changes):
    return (
        settings.replace(**backdoor.federation(settings))
        .replace(data={"rows": 60, "poison": {"trigger": "tokens"}})
        .replace(**changes)
    )


def test_scores_of_a_run(smoke):
    done = runs.get_all([small(smoke), small(smoke, data={"poison": {"share": 0.0}})])
    scores = backdoor.scores(done)
    first, none = (row for _, row in scores.iterrows())
    assert (first["kind"], first["share"], first["holders"], first["filter"]) == (
        "injected",
        0.08,
        5,
        "none",
    )
    assert first["bsnr"] == done[0].rounds()[0]["bsnr"]
    assert none["bsnr"] == 0 and none["holders"] == 0 and first["target"] < 0
    assert {"asr", "false_trigger", "accuracy"} <= set(scores)
    for line in done[0].rounds():
        assert (
            0 <= line["greedy"] <= 100
            and -1 <= line["alignment"] <= 1
            and 0 <= line["cancellation"] <= 1
        )
        assert line["poisoned"] == pytest.approx([5 / 60] * 5, abs=1e-4)  # 4.8 rows are 5
    triggered = [r for r in done[0].responses() if r["set"] == "triggered"]
    assert len(triggered) == 8 and backdoor.asr(done[:1]).shape[0] == 1
    assert backdoor.lost(done[1:], done[:1]).shape[0] == 1
    json.dumps(done[0].rounds(), allow_nan=False)


def test_a_boosted_update_counts_as_often_as_there_are_clients(smoke):
    control = small(
        smoke, federation={"malicious": 1}, data={"attack": "boosted", "poison": {"clients": 1}}
    )
    assert [attack.boost(control, k) for k in range(5)] == [1, 1, 1, 1, 5]
    line = runs.get(control).rounds()[0]
    assert line["malicious"] == [4] and line["norms"][4] > 3 * max(line["norms"][:4])
    assert line["poisoned"][:4] == [0, 0, 0, 0] and line["poisoned"][4] == pytest.approx(0.4)


def test_the_best_rule_is_the_one_that_lowers_success_without_losing_accuracy(monkeypatch, mini):
    made = [s for s in backdoor.defences(mini) if s.data.poison.trigger == "tokens" and s.seed == 4]
    success = {"fedavg": 90, "krum": 10, "median": 40}
    cost = {"krum": 20, "median": 1}

    class Run:
        def __init__(self, settings):
            self.settings = settings

    monkeypatch.setattr(
        backdoor,
        "asr",
        lambda own: np.array([[success.get(own[0].settings.federation.aggregator, 80)]]),
    )
    monkeypatch.setattr(
        backdoor,
        "lost",
        lambda a, b: np.array([[cost.get(b[0].settings.federation.aggregator, 0)]]),
    )
    done = [Run(s) for s in made]
    assert backdoor.best_rule(done) == "median"
    assert backdoor.stopped(done, "median").tolist() == [[5.0]]
    assert backdoor.stopped(done, "krum").tolist() == [[-45.0]]  # it costs too much
    assert backdoor.best_rule(tables.select(done, aggregator="fedavg")) is None
