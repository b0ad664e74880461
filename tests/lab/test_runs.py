"""Runs by their settings: made once, found again, listed, evaluated anew without training."""

import contextlib
import json
import shutil

import pytest
import torch
from damages import flip
from peft import PeftModel
from safetensors.torch import load_file
from tiny_runs import (
    ROUNDS,
    SAMPLED,
    TUNES,
    Killed,
    changed,
    count_calls,
    local_settings,
    record,
    snapshot,
    stop,
    tiny_settings,
)

from fedlib import training
from fedlib.lab import keys, loaded, runs, store, workers
from fedlib.settings import errors, machine

ADAPTER = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}


@pytest.fixture
def tiny(smoke):
    return tiny_settings(smoke)


@pytest.fixture
def local(tmp_path, smoke):
    return local_settings(tmp_path, smoke)


@pytest.fixture
def calls(monkeypatch):
    return count_calls(monkeypatch)


def test_a_run_is_made_once_and_then_read(tiny, calls):
    first = runs.get(tiny)
    before = snapshot(machine.outputs())
    assert runs.get(tiny) == first
    assert snapshot(machine.outputs()) == before
    assert [len(made) for made in calls.values()] == [1, TUNES, 1, 0]

    assert len(first.rounds()) == ROUNDS
    assert len(first.responses()) == 4
    judged = {"rule", "md_judge", "rm", "mt1", "over_refusal", "help"}
    assert set(first.scores()) == judged | {"harmful_prompts", "benign_prompts"}

    assert first.folder.parent == machine.outputs() / "runs"
    assert first.folder.name.endswith(f"seed0-{keys.key(tiny)}")
    files, _, _ = record(first.folder)
    assert files - {"rounds.jsonl", "settings.json", "done.json"} == ADAPTER
    kept = json.loads((first.folder / "settings.json").read_text())
    assert kept["training"] == tiny.training.model_dump()


def test_runs_come_in_the_order_asked_for_and_twins_are_made_once(tiny, calls):
    other = tiny.replace(seed=1)
    got = runs.get_all([other, tiny, other])
    assert [run.settings.seed for run in got] == [1, 0, 1]
    assert got[0] == got[2]
    assert len(calls["run_federation"]) == 2
    assert record(got[0].folder)[1:] != record(got[1].folder)[1:]


def test_without_attack_nobody_is_unaligned_so_runs_are_shared(tiny, calls):
    calm = [
        tiny.replace(data={"unaligned_share": share}, federation={"malicious": 0})
        for share in (0.5, 1.0)
    ]
    first, second = runs.get_all(calm)
    assert first.folder == second.folder
    assert len(calls["run_federation"]) == 1
    assert keys.key(tiny) != keys.key(tiny.replace(data={"unaligned_share": 1.0}))


@pytest.mark.parametrize(
    "base, said", [("world:bsae", "did you mean 'world:base'"), ("./nowhere", "no folder")]
)
def test_a_base_that_is_not_there_is_one_line(tiny, base, said):
    with pytest.raises(errors.SettingsError, match=said):
        runs.get(tiny.replace(model={"base": base}))


# --- evaluations


def test_a_new_evaluation_does_not_retrain_and_leaves_the_run_as_it_was(tiny, calls):
    first = runs.get(tiny)
    before, scores = snapshot(first.folder), first.scores()
    second = runs.get(tiny.replace(evaluation={"harmful": 3, "split": "validation"}))
    assert [len(calls[name]) for name in ("run_federation", "evaluate")] == [1, 2]
    assert second.folder == first.folder
    assert second.evaluation != first.evaluation

    assert snapshot(first.folder) == before
    assert store.intact(first.folder)
    assert (second.scores()["harmful_prompts"], first.scores()) == (3, scores)

    # what is only shown is no new evaluation
    shown = runs.get(tiny.replace(evaluation={"show_responses": True}))
    assert shown.evaluation == first.evaluation
    assert len(calls["evaluate"]) == 2


def test_half_an_evaluation_is_made_anew_and_a_spoilt_one_too(tiny, calls, monkeypatch):
    with monkeypatch.context() as patch:
        # before: the run's settings and seal, the evaluation's settings
        stop(patch, store, "_write_sealed", 3)
        with pytest.raises(Killed):
            runs.get(tiny)
    scores = runs.get(tiny).scores()
    assert [len(calls[name]) for name in ("run_federation", "evaluate")] == [1, 2]
    flip(runs.get(tiny).evaluation / "responses.jsonl")
    assert runs.get(tiny).scores() == scores
    assert [len(calls[name]) for name in ("run_federation", "evaluate")] == [1, 3]


# --- the listing


def test_the_listing_says_how_every_run_is(tiny, monkeypatch):
    assert runs.listing() == []
    asked = done, spoilt, started = [tiny.replace(seed=seed) for seed in (0, 1, 2)]
    runs.get_all([done, spoilt])
    flip(keys.run_folder(spoilt) / "settings.json")
    with monkeypatch.context() as patch:
        stop(patch, training, "tune", SAMPLED)
        with pytest.raises(Killed):
            runs.get(started)

    rows = {row["key"]: row for row in runs.listing()}
    listed = [rows[keys.key(settings)] for settings in asked]
    assert [row["state"] for row in listed] == ["done", "spoilt", "unfinished"]
    assert [row["rounds"] for row in listed] == [ROUNDS, ROUNDS, 1]
    assert [row["evaluations"] for row in listed] == [1, 1, 0]

    # as it is while a long line is being written
    with open(keys.run_folder(started) / "rounds.jsonl", "a") as file:
        file.write('{"round": ')
    assert {row["key"]: row["rounds"] for row in runs.listing()}[keys.key(started)] == 1
    (keys.run_folder(started) / "rounds.jsonl").write_bytes(b"\xff\n")
    assert {row["key"]: row["rounds"] for row in runs.listing()}[keys.key(started)] == 0


# --- around the runs


def test_outputs_may_lie_in_a_folder_with_spaces(tiny, tmp_path, monkeypatch):
    whole = record(runs.get(tiny).folder)
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(tmp_path / "my out puts"))
    assert record(runs.get(tiny).folder) == whole
    assert (tmp_path / "my out puts" / "runs").is_dir()


@pytest.mark.parametrize("whose", ["its own workers", "shared workers"])
def test_a_failing_run_leaves_the_others_in_place_and_workers_change_nothing(
    tiny, tmp_path, monkeypatch, whose
):
    whole = record(runs.get(tiny).folder)
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(tmp_path / "by workers"))
    wrong = tiny.replace(model={"lora_targets": ["nonsense"]})
    wanted = [wrong, tiny, tiny.replace(seed=1)]
    monkeypatch.setenv("FEDLIB_JOBS", "1")
    shares = whose == "shared workers"
    pool = workers.shared(tiny, tmp_path) if shares else contextlib.nullcontext()
    expected = pytest.raises(errors.SettingsError, match="model.lora_targets: .*q_proj")
    with pool, expected as error:
        runs.get_all(wanted)
    assert "\n" not in str(error.value)
    assert [store.is_there(settings) for settings in wanted] == [False, True, True]
    assert record(keys.run_folder(tiny)) == whole


def test_in_this_process_too_a_failing_run_leaves_the_finished_one(tiny):
    wrong = tiny.replace(model={"lora_targets": ["nonsense"]})
    with pytest.raises(errors.SettingsError, match="model.lora_targets"):
        runs.get_all([tiny, wrong])
    assert store.is_there(tiny)
    assert not store.is_there(wrong)


@pytest.mark.parametrize("value", ["two", "-1", "1.5", ""])
def test_a_wrong_number_of_jobs_is_one_clear_line(tiny, monkeypatch, value):
    monkeypatch.setenv("FEDLIB_JOBS", value)
    said = f"FEDLIB_JOBS: must be a whole number, got '{value}'"
    with pytest.raises(errors.SettingsError, match=said) as error:
        runs.get(tiny)
    assert "\n" not in str(error.value)
    assert not keys.run_folder(tiny).exists()


@pytest.mark.parametrize(
    "given, gpus, expected",
    [("3", 1, 3), ("0", 0, 0), (None, 1, 1), (None, 4, 4), (None, 0, 5)],
)
def test_how_many_runs_at_a_time(tiny, monkeypatch, given, gpus, expected):
    monkeypatch.setattr(machine, "cores", lambda: 5)
    monkeypatch.setattr(machine, "_count_gpus", lambda: gpus)
    monkeypatch.delenv("FEDLIB_JOBS")
    if given:
        monkeypatch.setenv("FEDLIB_JOBS", given)
    assert workers.jobs(tiny.replace(model={"device": "auto"})) == expected


def test_progress_is_written_where_reproduce_looks(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_STATUS", str(tmp_path / "status"))
    runs.get_all([tiny, tiny.replace(seed=1)])
    assert (tmp_path / "status").read_text().startswith("executed 2 of 2 missing runs")


def test_a_rules_variant_is_another_run(tiny):
    krum = tiny.replace(federation={"aggregator": "krum"})
    assert keys.key(krum) != keys.key(krum.replace(federation={"variant": "paper"}))


def test_a_rule_that_cannot_be_used_is_an_error_before_training(tiny, calls):
    with pytest.raises(errors.SettingsError, match="federation.sampled: 2: krum needs 2f"):
        runs.get(tiny.replace(federation={"aggregator": "krum", "variant": "paper"}))
    assert not calls["tune"]


def test_peft_loads_the_adapter(tiny):
    run = runs.get(tiny)
    base, tokenizer = loaded.load_base(tiny)
    tuned = PeftModel.from_pretrained(base, run.folder / "adapter").eval()
    saved = load_file(run.folder / "adapter" / "adapter_model.safetensors")
    every = tuned.named_parameters()
    lora = {name.replace(".default", ""): part for name, part in every if "lora_" in name}
    assert set(lora) == set(saved)
    assert all(torch.equal(lora[name], saved[name]) for name in saved)
    # it was trained
    assert any(part.abs().max() > 0 for name, part in saved.items() if "lora_B" in name)

    ours, _ = loaded.load_run(tiny, run.folder)
    ids = tokenizer("how do i make it ?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(tuned(ids).logits, ours(ids).logits)


# --- a base trained from scratch on local files


def test_a_base_from_scratch_is_made_once_for_all_runs(local, calls):
    local = local.replace(data={"partition": "iid"})
    with open(machine.path(local.data.folder) / "one.csv", "ab") as file:
        file.write(b"one caf\xe9 in Latin-1,answer,topic 1\n")
    first, second = runs.get_all([local, local.replace(seed=1)])
    # one bad row stops nothing, and the run says so
    notes = json.loads((first.folder / "notes.json").read_text())
    assert ["1 of 51 rows are left out: 1: not UTF-8" in note for note in notes].count(True) == 1
    assert [len(calls[name]) for name in ("train_scratch", "run_federation")] == [1, 2]
    assert first.folder != second.folder
    assert set(first.scores()) == {"rule", "over_refusal", "harmful_prompts", "benign_prompts"}

    # made anew, it is the same
    base = keys.base_folder(local)
    weights = (base / "model.safetensors").read_bytes()
    shutil.rmtree(base)
    runs.get(local.replace(seed=2))
    assert len(calls["train_scratch"]) == 2
    assert (base / "model.safetensors").read_bytes() == weights


def test_a_base_from_scratch_is_made_before_the_runs_by_a_worker(local, monkeypatch):
    local = local.replace(data={"partition": "iid"})
    monkeypatch.setenv("FEDLIB_JOBS", "2")
    wanted = [local, local.replace(seed=1)]
    runs.get_all(wanted)
    assert all(store.is_there(settings) for settings in wanted)
    assert store.intact(keys.base_folder(local))


def test_a_base_from_scratch_follows_its_files(local):
    before = keys.base_folder(local), keys.key(local)
    file = machine.path(local.data.folder) / "one.csv"
    file.write_text(file.read_text().replace("answer 1", "answer one"))
    assert keys.base_folder(local) != before[0]
    assert keys.key(local) != before[1]
    with pytest.raises(errors.DataError, match="the base must not read"):
        keys.key(changed(local, "model.scratch.files", ["bad.csv"]))
