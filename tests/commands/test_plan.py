"""The plan: what it counts agrees with what is made; it fetches nothing, and says what to do."""

import re

import pytest
import standins

from fedlib.commands import plan, plan_sizes, plan_time
from fedlib.lab import keys, loaded, runs, store
from fedlib.models import adapter, hub
from fedlib.papers import grids
from fedlib.settings import errors, machine, presets
from fedlib.sources import hub_rows

NOTEBOOKS = sorted((machine.ROOT / "notebooks").glob("*.ipynb"))
FIRST = (
    "huggingface.co/meta-llama/Llama-2-7b-hf",
    "huggingface.co/datasets/lmsys/lmsys-chat-1m",
    "huggingface.co/datasets/walledai/AdvBench",
    "md-judge.txt",
    "OPENAI_API_KEY",
)


def said(capsys, preset, *only):
    result = plan.print_plan(preset, *only)
    return result, capsys.readouterr().out


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_the_shipped_presets_are_planned_offline(preset, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(hub, "commit", lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setattr(hub_rows, "rows_file", lambda *_: pytest.fail("a dataset was fetched"))
    (count, _, memory), text = said(capsys, preset)
    settings = presets.load(preset)
    assert count > 70
    assert all(name in text for name in hub_rows.datasets_named(settings))
    assert f"in all {count} runs" in text
    assert "not counted: 30_swat_drift" in text

    if preset == "small":
        # under two hours for Table 1, on a consumer GPU
        _, table1_seconds, _ = plan.print_plan(preset, "10")
        assert table1_seconds < 2 * 3600
        assert memory < 12e9
        assert "gated:" not in text
    else:
        for step in FIRST:
            assert re.search(f"first: .*{re.escape(step)}", text), step
        assert 15e9 < memory < 80e9


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_grid_is_asked_for_by_its_notebook(file):
    """Each notebook that trains is in the plan, with functions that it calls itself."""
    text = file.read_text(encoding="utf-8")
    for function in grids.GRIDS.get(file.stem, ()):
        if not function.__name__.startswith("_"):
            assert f".{function.__name__}(settings)" in text, function.__name__
    assert ("get_all" in text) == (file.stem in grids.GRIDS)


def test_what_is_made_is_no_longer_missing_and_its_speed_is_used(smoke, capsys):
    _, before = said(capsys, "smoke", "12")
    wanted = grids.notebook_runs(presets.load("smoke"), "12_safety_table3")
    count = len(wanted)
    assert re.search(rf"12_safety_table3 +{count} +{count} ", before)
    assert "no run of this base" in before

    runs.get(wanted[0])
    _, after = said(capsys, "smoke", "12")
    assert re.search(rf"12_safety_table3 +{count} +{count - 1} ", after)
    assert "as measured here" in after
    rate, row = plan_time.measured_speed(smoke)
    folder = keys.run_folder(wanted[0])
    lines = store.Run(wanted[0], folder, folder).rounds()
    tokens = sum(line["tokens"] for line in lines)
    assert rate == pytest.approx(tokens / sum(line["seconds"] for line in lines))
    assert 5 < row < smoke.model.max_length

    # what is damaged beside it is left out
    kept = (folder / "settings.json").read_text()
    for number, (made, line) in enumerate([("{", "{}"), ("{}", "{}"), (kept, '{"sampled": 3}')]):
        other = folder.with_name(f"damaged-{number}")
        other.mkdir()
        (other / "settings.json").write_text(made)
        (other / "rounds.jsonl").write_text(f"{line}\n")
    assert plan_time.measured_speed(smoke) == (rate, row)

    # other text has rows of another length
    assert plan_time.measured_speed(smoke, tuple(wanted[0].data.benign)) == (rate, row)
    assert plan_time.measured_speed(smoke, ("other",)) == (None, None)


def test_a_notebook_with_too_few_rows_is_named_and_the_others_counted(capsys, monkeypatch):
    def guess(run):
        if run.federation.clients > 10:
            raise errors.DataError("data.benign: too few rows")
        return 20.0

    monkeypatch.setattr(plan_time, "guessed_row", guess)
    _, text = said(capsys, "smoke", "1")
    assert "not counted: 13_safety_table4: data.benign: too few rows" in text
    assert re.search(r"10_safety_table1 +\d+", text)


@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear", "default"], ids=str)
def test_the_adapters_size_is_counted(smoke, targets, layers):
    settings = smoke.replace(model={"lora_targets": targets, "lora_layers": layers})
    base, _ = loaded.load_base(settings)
    found = plan_sizes.known_models(settings)["model.base"]
    assert found.parameters == pytest.approx(base.num_parameters(), rel=0.01)
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    counted = plan_sizes.adapter_size(settings.model, found.shape)
    assert counted == len(adapter.get_vector(tuned))


@pytest.mark.parametrize("shape", standins.SHAPES)
def test_sizes_are_read_from_any_config(smoke, tmp_path, shape):
    folder = str(standins.checkpoint(tmp_path / shape, shape))
    settings = smoke.replace(model={"base": folder, "lora_targets": "default"})
    found = plan_sizes.known_models(settings)["model.base"]
    assert found.here
    assert (found.shape.hidden, found.shape.mlp, found.shape.layers) == (16, 32, 2)


def test_the_tokens_of_a_run_are_those_that_it_sees(smoke):
    run = runs.get(smoke)
    trained, answered = plan_time.run_tokens(smoke, smoke.model.max_length)
    seen = sum(line["tokens"] for line in run.rounds())
    assert seen < trained == 2 * 3 * 2 * 4 * 96
    assert answered == 16 * 8
    tuned, _ = plan_time.run_tokens(smoke.replace(defense={"level": 1}), 96)
    assert tuned == 1 * 2 * 4 * 96
    projected, _ = plan_time.run_tokens(smoke.replace(defense={"level": "project"}), 96)
    assert projected == 0


def test_layers_below_the_adapter_cost_one_pass_for_each_row(smoke):
    """By hand: a Llama of 10 layers, 2 of them adapted."""
    shape = plan_sizes.Shape(8, 10, 2, 2, 16, 50)
    base = plan_sizes.KnownModel("a", shape.parameters(), shape, gated=False, here=True)
    layer = 4 * 8 * 8 + 3 * 8 * 16
    upper = smoke.replace(model={"lora_layers": 2})
    rows = smoke.federation.clients * smoke.data.rows

    def work(settings, trained):
        return plan_time._training_work(settings, base, trained, 5.0)

    whole = 4 * (10 * layer + 50 * 8)
    assert work(smoke, 1e6) == whole * 1e6
    # few tokens: every row is a new one
    assert work(upper, 10) == (whole - 4 * 8 * layer + 2 * 8 * layer) * 10
    assert work(upper, 1e9) == (whole - 4 * 8 * layer) * 1e9 + 2 * 8 * layer * 5 * rows


def test_a_base_of_unknown_size_is_one_line(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("preset: small\nmodel: {base: someone/unknown}\n")
    with pytest.raises(errors.SettingsError, match="hf download someone/unknown config.json"):
        plan.print_plan(str(own))
