"""What is made of paper B's runs: scores, correlations, where success sets in."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fedlib import attack
from fedlib.lab import runs
from fedlib.papers import backdoor, backdoor_results, tables
from fedlib.settings import presets


@pytest.fixture
def mini():
    return presets.load("mini", seeds=[4, 2], model={"device": "cpu"})


def frame(**columns):
    return pd.DataFrame({"seed": 0, "spread": "equal"} | columns)


def test_rising_is_a_rank_correlation_a_seed():
    up = frame(share=0.02, holders=[1, 2, 3], asr=[0.0, 10.0, 90.0])
    down = up.assign(seed=1, asr=[90.0, 10.0, 0.0])
    flat = up.assign(seed=2, asr=0.0)  # no rise is evidence too
    rises = backdoor_results.rise_with_holders(pd.concat([up, down, flat]), "asr")
    assert rises == pytest.approx([1, -1, 0])


def test_onsets_are_where_success_passes_half():
    """Two seeds. Held by all, 50% lies midway between 2 and 4%, and at the first share.

    Held by one client, success never reaches it."""
    scores = frame(
        seed=[0, 0, 1, 1, 0, 1],
        holders=[5, 5, 5, 5, 1, 1],
        share=[0.02, 0.04, 0.02, 0.04, 0.04, 0.04],
        bsnr=[1.0, 4.0, 3.0, 9.0, 8.0, 8.0],
        asr=[0.0, 100.0, 60.0, 100.0, 10.0, 30.0],
    )
    one, all_ = backdoor_results.success_onsets(scores).to_dict("records")
    assert (one["held by"], one["that reach it"], one["BSNR there"]) == (1, 0, "")
    assert one["success at the largest share (%)"].startswith("20.0")
    assert (all_["seeds"], all_["that reach it"]) == (2, 2)
    assert all_["BSNR there"].startswith("2.50")  # of 2 and 3
    assert all_["share there (%)"].startswith("2.5")  # of 3 and 2


def test_foretold_plainly_and_given_the_share():
    scores = frame(
        share=[0, 0.1, 0.1, 0.2, 0.2],
        bsnr=[0, 1.0, 2.0, 3.0, 4.0],
        asr=[0, 20.0, 10.0, 40.0, 30.0],
    )
    plain, given = backdoor_results.bsnr_correlations(scores)
    assert plain == pytest.approx([0.6]) and given[0] < 0  # within a share it goes the other way
    assert backdoor_results.bsnr_correlations(scores.assign(asr=1.0)) == ([], [])


def small(settings, **changes):
    """Paper B's settings with few rows, and with changes."""
    few = {"rows": 60, "poison": {"trigger": "tokens"}}
    changed = settings.replace(**backdoor.backdoor_changes(settings)).replace(data=few)
    return changed.replace(**changes)


def test_scores_of_a_run(smoke):
    done = runs.get_all([small(smoke), small(smoke, data={"poison": {"share": 0.0}})])
    scores = backdoor_results.backdoor_scores(done)
    first, none = (row for _, row in scores.iterrows())
    assert (first["kind"], first["share"]) == ("injected", 0.08)
    assert (first["holders"], first["filter"]) == (5, "none")
    assert first["bsnr"] == done[0].rounds()[0]["bsnr"]
    assert none["bsnr"] == 0 and none["holders"] == 0 and first["target"] < 0
    assert {"asr", "false_trigger", "accuracy"} <= set(scores)
    for line in done[0].rounds():
        assert 0 <= line["greedy"] <= 100
        assert -1 <= line["alignment"] <= 1
        assert 0 <= line["cancellation"] <= 1
        assert line["poisoned"] == pytest.approx([5 / 60] * 5, abs=1e-4)  # 4.8 rows are 5
    triggered = [r for r in done[0].responses() if r["set"] == "triggered"]
    assert len(triggered) == 8
    assert backdoor_results.attack_success(done[:1]).shape[0] == 1
    assert backdoor_results.accuracy_lost(done[1:], done[:1]).shape[0] == 1
    json.dumps(done[0].rounds(), allow_nan=False)


def test_a_boosted_update_counts_as_often_as_there_are_clients(smoke):
    boosted = {"attack": "boosted", "poison": {"clients": 1}}
    control = small(smoke, federation={"malicious": 1}, data=boosted)
    factors = [attack.boost(control.federation, "boosted", client) for client in range(5)]
    assert factors == [1, 1, 1, 1, 5]
    line = runs.get(control).rounds()[0]
    assert line["malicious"] == [4] and line["norms"][4] > 3 * max(line["norms"][:4])
    assert line["poisoned"][:4] == [0, 0, 0, 0] and line["poisoned"][4] == pytest.approx(0.4)


def test_the_best_rule_is_the_one_that_lowers_success_without_losing_accuracy(monkeypatch, mini):
    success = {"fedavg": 90, "krum": 10, "median": 40}
    cost = {"krum": 20, "median": 1}

    def rule(runs):
        return runs[0].settings.federation.aggregator

    def attack_success(runs):
        return np.array([[success.get(rule(runs), 80)]])

    def accuracy_lost(_, after):
        return np.array([[cost.get(rule(after), 0)]])

    monkeypatch.setattr(backdoor_results, "attack_success", attack_success)
    monkeypatch.setattr(backdoor_results, "accuracy_lost", accuracy_lost)
    grid = [run for run in backdoor.rules_grid(mini) if run.seed == 4]
    injected = [run for run in grid if run.data.poison.trigger == "tokens"]
    done = [SimpleNamespace(settings=settings) for settings in injected]
    assert backdoor_results.strongest_rule(done) == "median"
    assert backdoor_results.short_of_half(done, "median").tolist() == [[-5.0]]
    assert backdoor_results.stopped_by(done, "median").tolist() == [[5.0]]
    assert backdoor_results.stopped_by(done, "krum").tolist() == [[-45.0]]  # it costs too much
    fedavg = tables.select_runs(done, aggregator="fedavg")
    assert backdoor_results.strongest_rule(fedavg) is None
