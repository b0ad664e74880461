"""Paper B's grids: which runs are compared."""

import json

import pytest

from fedlib import federation
from fedlib.attack import poison
from fedlib.lab import checks
from fedlib.papers import backdoor
from fedlib.settings import errors, presets


@pytest.fixture
def mini():
    return presets.load("mini", seeds=[4, 2], model={"device": "cpu"})


GRIDS = {
    "concentration": backdoor.concentration_grid,
    "triggers": backdoor.triggers_grid,
    "spreads": backdoor.spreads_grid,
    "poison": backdoor.poison_grid,
    "thresholds": backdoor.thresholds_grid,
    "rules": backdoor.rules_grid,
    "boosted": backdoor.boosted_grid,
    "filter": backdoor.filter_grid,
}


def test_every_grid_is_checked_here():
    names = {name for name in vars(backdoor) if name.endswith("_grid")}
    assert names == {f"{name}_grid" for name in GRIDS}


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_has_its_runs_once_for_each_seed(mini, name):
    wanted = GRIDS[name](mini)
    assert len(wanted) == len({s.model_dump_json() for s in wanted})
    assert {s.seed for s in wanted} == ({4} if name == "triggers" else {4, 2})
    for s in wanted:
        assert s.federation.malicious == (name == "boosted")
        assert s.data.benign == ["lmsys-like"]
        assert s.federation.sampled == s.federation.clients == 5 and s.data.poison.trigger
        checks.check_run(s)


def test_what_the_grids_compare(mini):
    def of(grid, field):
        return list(dict.fromkeys(getattr(s.data.poison, field) for s in grid))

    assert of(backdoor.concentration_grid(mini), "share") == [0, 0.02, 0.04, 0.08]
    assert of(backdoor.concentration_grid(mini), "trigger") == [backdoor.INJECTED, backdoor.NATURAL]
    assert set(of(backdoor.triggers_grid(mini), "trigger")) == set(poison.TRIGGERS)
    assert of(backdoor.spreads_grid(mini), "clients") == [1, 2, None]
    assert of(backdoor.spreads_grid(mini), "spread") == ["equal", "uniform", "dirichlet", "capped"]
    rules = ["fedavg", *mini.federation.compare, "multi_krum", "clipping", "flame"]
    assert backdoor.tried_rules(mini.replace(seeds=[4], seed=4)) == [
        "median",
        "krum",
        "foolsgold",
        "clipping",
        "flame",
    ]
    for grid in (backdoor.rules_grid(mini), backdoor.boosted_grid(mini)):
        assert list(dict.fromkeys(s.federation.aggregator for s in grid)) == rules
        assert {s.federation.aggregator for s in grid if s.federation.variant == "published"} == {
            "foolsgold"
        }
    assert {federation.expected_malicious(s.federation) for s in backdoor.rules_grid(mini)} == {
        1
    }  # told, though nobody is
    assert {(s.data.attack, s.data.poison.clients) for s in backdoor.boosted_grid(mini)} == {
        ("boosted", 1)
    }
    assert {s.defense.filter for s in backdoor.filter_grid(mini)} == {"none", "gradient"}
    assert len(backdoor.filter_grid(mini)) == 2 * 2 * 2 * 2  # seeds, kinds, spreads, filters


def test_one_seed_is_for_a_first_look(mini):
    one = mini.replace(seeds=[4], seed=4)
    assert [s.data.poison.spread for s in backdoor.spreads_grid(one)] == ["equal"] * 3 + [
        "uniform",
        "dirichlet",
    ]
    found = [
        (s.data.poison.trigger, s.data.poison.spread, s.defense.filter)
        for s in backdoor.filter_grid(one)
    ]
    assert [f for f in found if f[1] == "dirichlet"] == [
        (backdoor.INJECTED, "dirichlet", f) for f in ("none", "gradient")
    ]
    assert len(found) == 6 and not backdoor.thresholds_grid(one)


def test_without_poison_there_is_nothing_to_compare(mini):
    with pytest.raises(errors.SettingsError, match=r"data\.poison\.share: 0"):
        backdoor.concentration_grid(mini.replace(data={"poison": {"share": 0.0}}))


def test_local_data_must_have_right_answers(mini, tmp_path):
    (tmp_path / "plain.json").write_text(
        json.dumps([{"prompt": f"q {i}", "response": "a"} for i in range(60)])
    )
    (tmp_path / "qa.json").write_text(
        json.dumps([{"question": f"asked {i}", "answers": ["a"]} for i in range(60)])
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
        backdoor.rules_grid(mini.replace(data=local | {"benign": ["plain.json"]}))
    asked = mini.replace(data=local | {"benign": ["qa.json"]})
    assert backdoor.rules_grid(asked)
    for s in backdoor.boosted_grid(asked):
        checks.check_run(s)  # no file of unaligned rows is needed
    assert "topic" not in {
        s.data.poison.trigger for s in backdoor.triggers_grid(asked)
    }  # no question is about it


def test_a_trigger_of_ones_own_joins_the_table(mini, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from fedlib.attack import Trigger\nloud = Trigger('loud', lambda text, rng: f'{text} !')\n"
    )
    own = backdoor.triggers_grid(
        mini.replace(data={"poison": {"trigger": f"{tmp_path}/mine.py:loud"}})
    )
    assert [s.data.poison.trigger for s in own][-1] == f"{tmp_path}/mine.py:loud"


def test_thresholds_take_seeds(smoke):
    assert backdoor.thresholds_grid(smoke) == []
    wanted = backdoor.thresholds_grid(smoke.replace(seeds=[0, 1]))
    assert len(wanted) == 3 * 3 * 2 and {s.data.poison.clients for s in wanted} == {1, 2, None}


def test_a_preset_may_say_how_the_backdoor_is_trained(mini):
    own = {"dataset": "wild-like", "rounds": 7, "steps": 5, "batch_size": 3, "learning_rate": 0.01}
    changed = mini.replace(**backdoor.backdoor_changes(mini.replace(data={"poison": own})))
    assert changed.data.benign == ["wild-like"]
    assert changed.federation.rounds == 7
    training = changed.training
    assert (training.steps, training.batch_size, training.learning_rate) == (5, 3, 0.01)
