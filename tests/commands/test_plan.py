"""The plan: what it counts agrees with what is made; it fetches nothing, and says what to do first."""

import re

import pytest
import standins

from fedlib.commands import plan
from fedlib.lab import keys, loaded, runs, store
from fedlib.models import adapter, hub
from fedlib.papers import grids
from fedlib.settings import errors, machine, presets
from fedlib.sources import hub_rows


def said(capsys, preset, *only):
    result = plan.plan(preset, *only)
    return result, capsys.readouterr().out


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_the_shipped_presets_are_planned_offline(preset, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(hub, "commit", lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setattr(hub_rows, "rows_file", lambda *_: pytest.fail("a dataset was fetched"))
    (count, seconds, memory), text = said(capsys, preset)
    settings = presets.load(preset)
    assert count > 70 and all(checked in text for checked in hub_rows.datasets_named(settings))
    assert f"in all {count} runs" in text and "not counted: 30_swat_drift" in text
    if preset == "small":  # under two hours for Table 1, on a consumer GPU
        table1 = plan.plan(preset, "10")
        assert table1[1] < 2 * 3600 and memory < 12e9 and "gated:" not in text
    else:
        for todo in (
            "huggingface.co/meta-llama/Llama-2-7b-hf",
            "huggingface.co/datasets/lmsys/lmsys-chat-1m",
            "huggingface.co/datasets/walledai/AdvBench",
            "md-judge.txt",
            "OPENAI_API_KEY",
        ):
            assert re.search(f"first: .*{re.escape(todo)}", text), todo
        assert 15e9 < memory < 80e9


def test_every_grid_is_asked_for_by_its_notebook():
    """Each notebook that trains is in the plan, with functions that it calls itself."""
    for path in sorted((machine.ROOT / "notebooks").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        for function in [
            f for f in grids.GRIDS.get(path.stem, ()) if not f.__name__.startswith("_")
        ]:
            assert f".{function.__name__}(settings)" in text, (path.stem, function.__name__)
        assert ("get_all" in text) == (path.stem in grids.GRIDS)


def test_what_is_made_is_no_longer_missing_and_its_speed_is_used(smoke, capsys, monkeypatch):
    _, before = said(capsys, "smoke", "12")
    wanted = grids.notebook_runs(presets.load("smoke"), "12_safety_table3")
    assert (
        re.search(rf"12_safety_table3 +{len(wanted)} +{len(wanted)} ", before)
        and "no run of this base" in before
    )
    runs.get(wanted[0])
    _, after = said(capsys, "smoke", "12")
    assert (
        re.search(rf"12_safety_table3 +{len(wanted)} +{len(wanted) - 1} ", after)
        and "as measured here" in after
    )
    rate, row = plan.measured(smoke)
    lines = store.Run(wanted[0], keys.run_folder(wanted[0]), None).rounds()
    assert rate == pytest.approx(sum(x["tokens"] for x in lines) / sum(x["seconds"] for x in lines))
    assert 5 < row < smoke.model.max_length


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear", "default"], ids=str)
def test_the_adapters_size_is_counted(smoke, targets):
    settings = smoke.replace(model={"lora_targets": targets})
    base, _ = loaded.load_base(settings)
    found = plan.models(settings)["model.base"]
    assert found["parameters"] == pytest.approx(base.num_parameters(), rel=0.01)
    assert plan.adapter_size(settings, found["shape"]) == len(
        adapter.get_vector(adapter.attach_lora(base, settings.model, settings.seed))
    )


@pytest.mark.parametrize("shape", standins.SHAPES)
def test_sizes_are_read_from_any_config(smoke, tmp_path, shape):
    settings = smoke.replace(
        model={"base": str(standins.checkpoint(tmp_path / shape, shape)), "lora_targets": "default"}
    )
    found = plan.models(settings)["model.base"]
    assert (
        found["here"]
        and found["shape"]["hidden"] == 16
        and found["shape"]["mlp"] == 32
        and found["shape"]["layers"] == 2
    )


def test_the_tokens_of_a_run_are_those_that_it_sees(smoke):
    run = runs.get(smoke)
    trained, answered = plan.tokens(smoke, smoke.model.max_length)
    assert (
        sum(line["tokens"] for line in run.rounds()) < trained == 2 * 3 * 2 * 4 * 96
        and answered == 16 * 8
    )
    defended = plan.tokens(smoke.replace(defense={"level": 1}), 96)
    assert (
        defended[0] == 1 * 2 * 4 * 96
        and plan.tokens(smoke.replace(defense={"level": "project"}), 96)[0] == 0
    )


def test_a_base_of_unknown_size_is_one_line(tmp_path, monkeypatch):
    own = tmp_path / "own.yaml"
    own.write_text("preset: small\nmodel: {base: someone/unknown}\n")
    with pytest.raises(errors.SettingsError, match="hf download someone/unknown config.json"):
        plan.plan(str(own))
