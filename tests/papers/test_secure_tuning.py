"""Paper W: its grids of runs, and how rounds of tuning are compared."""

from types import SimpleNamespace

import pytest

from fedlib.papers import secure_tuning, secure_tuning_results
from fedlib.settings import presets
from fedlib.settings.errors import SettingsError

PLAIN = [
    {"task": -2.0, "updates": {"q/0": 3.0, "k/0": 4.0}},
    {"task": -1.0, "updates": {"q/0": 6.0, "k/0": 8.0}},
]
OWN = [{"task": -1.5, "updates": {"q/0": 4.5, "k/0": 1.0}}]


def fake_run(lines):
    settings = SimpleNamespace(model=SimpleNamespace(base="a"), seed=0)
    return SimpleNamespace(settings=settings, rounds=lambda: lines)


def norm_of_q(line):
    return line["updates"]["q/0"]


def test_rounds_are_compared_where_the_task_is_as_likely():
    plain, own = fake_run(PLAIN), fake_run(OWN)
    between = secure_tuning_results.at_equal_loss(own, plain, norm_of_q)
    assert between == pytest.approx(4.5)
    beyond_its_last_round = secure_tuning_results.at_equal_loss(plain, own, norm_of_q)
    assert beyond_its_last_round == 4.5


def test_the_norm_over_cells_and_over_all_others():
    assert secure_tuning_results.update_norm(PLAIN[0], {"q/0"}) == 4
    assert secure_tuning_results.update_norm(PLAIN[0], {"q/0"}, True) == 3


def test_how_much_less_swat_moves_outside_mods_rob(monkeypatch):
    monkeypatch.setattr(secure_tuning_results, "robust_cells", lambda run: {"k/0"})
    plain, own = fake_run(PLAIN), fake_run(OWN)
    groups = {("benign", method): [plain] for method in ("plain", "random", "fragile")}
    groups["benign", "swat"] = [own]
    found = secure_tuning_results.moved_less(groups)
    assert found["plain"] == pytest.approx([0.0])
    assert found["random"] == pytest.approx([25.0])


def test_the_grids_say_what_they_are(smoke):
    table = secure_tuning.tuning_grid(smoke)
    assert len(table) == 2 * 2 * 4
    methods = {secure_tuning_results.tuning_method(settings) for settings in table}
    assert methods == set(secure_tuning.WARMUPS)
    assert {settings.federation.malicious for settings in table} == {0, 1}
    assert {settings.federation.clients for settings in table} == {1}
    assert len(secure_tuning.untuned_grid(smoke)) == 2

    both = secure_tuning.composition_grid(smoke)
    assert len(both) == 2 * 3 * 4
    defences = {secure_tuning_results.added_defence(settings) for settings in both}
    assert defences == set(secure_tuning.DEFENCES)


def test_the_models_are_one_with_one_seed():
    """With several seeds all of swat.models are tuned."""
    settings = presets.load("smoke")
    assert secure_tuning.tuned_models(settings) == ["world:chat"]
    several = settings.replace(seeds=[0, 1])
    assert secure_tuning.tuned_models(several) == ["world:chat", "world:chat-deep"]


def test_benign_clients_of_a_federation_warm_up():
    calm, *_, warm = secure_tuning.federated_grid(presets.load("mini"))
    assert 0 < warm.swat.warmup < warm.federation.rounds
    assert not calm.federation.malicious


def test_paper_w_tunes_all_layers_at_a_rate_for_all(smoke):
    upper = smoke.replace(model={"lora_layers": 2}, training={"learning_rate": 0.123})
    for run in secure_tuning.tuning_grid(upper) + secure_tuning.federated_grid(upper):
        assert run.model.lora_layers is None
        assert run.training.learning_rate == upper.swat.learning_rate
    for run in secure_tuning.federated_grid(upper.replace(model={"lora_layers": None})):
        assert run.training.learning_rate == 0.123


def test_own_data_needs_own_models(smoke):
    local = smoke.replace(data={"source": "local", "folder": "/"})
    with pytest.raises(SettingsError, match="with data.source: local name your chat models"):
        secure_tuning.tuning_grid(local)


def test_one_task_of_the_world_may_be_named(smoke):
    one = smoke.replace(swat={"tasks": ["skill"]})
    assert {run.data.benign[0] for run in secure_tuning.tuning_grid(one)} == {"skill"}
    with pytest.raises(SettingsError, match="swat.tasks: no task 'skil'.*skill"):
        secure_tuning.tuning_grid(smoke.replace(swat={"tasks": ["skil"]}))


def test_what_the_probe_found_is_named_as_a_change(smoke):
    (settings,) = smoke.vary([secure_tuning.tuning_changes(smoke)], [{"seed": 0}])
    scores = {"probe_loss": 1.5, "probe_accuracy": 6.0}
    run = SimpleNamespace(settings=settings, scores=lambda: scores, responses=list)
    (row,) = secure_tuning_results.tuning_scores([run]).to_dict("records")
    assert (row["probe_loss_rise"], row["probe_accuracy_lost"]) == (1.5, 6.0)
    assert "probe_loss" not in row
