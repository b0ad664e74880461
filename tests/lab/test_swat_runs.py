"""Runs with SWAT's warm-up, with defences beside it, with the probes' drift; and their keys."""

import json

import chat_model
import pytest

from fedlib.lab import judging, keys, runs
from fedlib.lab.loaded import load_base
from fedlib.papers import secure_tuning_results
from fedlib.settings import machine
from fedlib.settings.errors import SettingsError

SETTINGS = chat_model.chat_settings()
# every field that decides which modules are warmed up, with another value
FIELDS = {
    "warmup": 2,
    "modules": "random",
    "noise": 0.1,
    "draws": 2,
    "window": 2,
    "share": 0.3,
    "threshold": 0.3,
}


def test_the_warm_up_moves_its_modules_and_no_other():
    warm = {"warmup": 1, "draws": 1, "threshold": 1.0}
    settings = SETTINGS.replace(federation={"rounds": 2}, swat=warm)
    run = runs.get(settings)
    robust = {f"{kind}/{layer}" for kind, layer in runs.get_robustness(settings)["robust"]}
    first, second = (line["updates"] for line in run.rounds())
    assert {name for name, norm in first.items() if norm > 0} == robust
    assert all(norm > 0 for norm in second.values())
    assert {"task", "learned", "refused"} <= set(run.rounds()[0])
    assert secure_tuning_results.robust_cells(run) == robust


@pytest.mark.parametrize("field", FIELDS)
def test_with_a_warm_up_what_decides_its_modules_is_in_the_key(smoke, field):
    warm = smoke.replace(swat={"warmup": 1}, model={"lora_targets": "all-linear"})
    assert keys.key(warm.replace(swat={field: FIELDS[field]})) != keys.key(warm)


def test_what_the_probes_are_asked_is_in_an_evaluations_name(smoke):
    probed = smoke.replace(evaluation={"judges": ["rule", "probe"]})
    other = {"window": 2}
    folder = keys.evaluation_folder
    assert folder(probed.replace(swat=other)) != folder(probed)
    assert folder(smoke.replace(swat=other)) == folder(smoke)


def test_the_projection_needs_to_know_the_alignment(smoke):
    with pytest.raises(SettingsError, match="world:base has no alignment.safetensors"):
        runs.get(smoke.replace(defense={"level": "project"}))
    # found before any work
    assert not list(machine.outputs().rglob("settings.json"))


def test_a_defence_before_and_one_after_tuning_change_the_adapter():
    defences = [{}, {"before": 1}, {"level": "project"}]
    done = runs.get_all([SETTINGS.replace(defense=changes) for changes in defences])
    adapters = set()
    for run in done:
        adapters.add((run.folder / "adapter" / "adapter_model.safetensors").read_bytes())
    assert len(adapters) == 3

    after = done[-1]
    assert "projected" in after.folder.name
    shares = json.loads((after.folder / "projected.json").read_text())
    assert len(shares) == chat_model.CELLS


@pytest.mark.parametrize(
    "changes, looked_at",
    [
        ({"federation": {"malicious": 0}}, True),
        ({"federation": {"malicious": 1}}, False),
        ({"defense": {"before": 1}}, False),
        ({"swat": {"warmup": 1}}, False),
    ],
)
def test_the_cells_of_plain_benign_tuning_are_looked_at(changes, looked_at):
    tuned = chat_model.with_adapter(SETTINGS, 0.02)
    _, tokenizer = load_base(SETTINGS)
    moved, layers = judging._drift(SETTINGS.replace(**changes), tuned, tokenizer)
    assert abs(moved["probe_loss"]) > 1e-4
    assert len(layers["cells"]) == (chat_model.CELLS if looked_at else 0)
