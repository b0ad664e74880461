"""Killed, spoilt or wanted twice: a run goes on to the same bits, and is made only once."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import yaml
from damages import cut, empty, flip, write_list
from tiny_runs import (
    ROUNDS,
    SAMPLED,
    TUNES,
    Killed,
    count_calls,
    record,
    run_files,
    start_process,
    stop,
    tiny_settings,
)

from fedlib import callbacks, federation, training
from fedlib.judges import panel
from fedlib.lab import keys, loaded, rounds, runs, steps, store
from fedlib.lab.store import intact
from fedlib.models import adapter
from fedlib.settings import groups, presets

# Where a run dies, at which call, and how many local trainings are then left.
KILLS = [
    # in the middle of a round: the whole round is made again
    *[(training, "tune", at, TUNES - at // SAMPLED * SAMPLED) for at in range(TUNES)],
    # the rule is asked beforehand whether it can be used with so many clients
    (federation, "aggregate", 0, TUNES),
    # all clients of the round have trained, and nothing is kept
    *[(federation, "aggregate", at + 1, TUNES - at * SAMPLED) for at in range(ROUNDS)],
    # what other rules would do is looked at before the round is kept
    (callbacks, "aggregate", 0, TUNES),
    # the round's line is written, its adapter is not
    *[(rounds, "save_file", at, TUNES - at * SAMPLED) for at in range(ROUNDS)],
    # 0: settings.json, 1 and 2: the adapters of two rounds
    (os, "replace", 2, TUNES - SAMPLED),
    # all rounds are done
    (loaded, "save_adapter", 0, 0),
    (adapter, "write_adapter", 0, 0),
    # all except done.json
    (store, "_write_sealed", 1, 0),
]

DAMAGES = [cut, empty, flip, os.remove]
SPOILT = [("adapter", shutil.rmtree), ("done.json", write_list)]
SPOILT += [("adapter/adapter_model.safetensors", damage) for damage in DAMAGES]


@pytest.fixture
def tiny(smoke):
    return tiny_settings(smoke)


@pytest.fixture
def calls(monkeypatch):
    return count_calls(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The record of an uninterrupted run of `tiny`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_OUTPUTS", str(tmp_path_factory.mktemp("whole")))
        patch.setenv("FEDLIB_JOBS", "0")
        data = {"benign": ["lmsys-like"], "unaligned_share": 0.5}
        smoke = presets.load("smoke", data=data, model={"device": "cpu"})
        return record(runs.get(tiny_settings(smoke)).folder)


# --- kills


@pytest.mark.parametrize("module, name, at, left", KILLS, ids=[f"{k[1]}-{k[2]}" for k in KILLS])
def test_a_killed_run_goes_on_to_the_same_result(
    tiny, calls, monkeypatch, whole, module, name, at, left
):
    with monkeypatch.context() as patch:
        stop(patch, module, name, at)
        with pytest.raises(Killed):
            runs.get(tiny)
    folder = keys.run_folder(tiny)
    assert not store.intact(folder)
    calls["tune"].clear()
    assert record(runs.get(tiny).folder) == whole
    assert store.intact(folder)
    assert len(calls["tune"]) == left


def test_a_run_killed_twice_and_a_cut_line_change_nothing(tiny, monkeypatch, whole):
    for at in (3, 2):
        with monkeypatch.context() as patch:
            stop(patch, training, "tune", at)
            with pytest.raises(Killed):
                runs.get(tiny)
        with open(keys.run_folder(tiny) / "rounds.jsonl", "a") as file:
            file.write('{"round": ')
    assert record(runs.get(tiny).folder) == whole


def test_foolsgold_resumes_with_its_history(tiny, monkeypatch):
    gold = tiny.replace(federation={"aggregator": "foolsgold", "variant": "paper", "sampled": 3})
    made = record(runs.get(gold).folder)
    shutil.rmtree(keys.run_folder(gold))
    with monkeypatch.context() as patch:
        stop(patch, training, "tune", 7)
        with pytest.raises(Killed):
            runs.get(gold)
    assert record(runs.get(gold).folder) == made


def test_a_process_that_is_really_killed(tiny, tmp_path, monkeypatch):
    settings = tiny.replace(federation={"rounds": 40})
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(include={*groups.GROUPS})))
    folder = keys.run_folder(settings)
    running = start_process(["-m", "fedlib", "run", str(file)], jobs=1)
    while running.poll() is None and not (folder / "checkpoint.safetensors").exists():
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    # This waits for its worker too, which must end: not go on unseen, nor wait for work for ever.
    try:
        said = running.communicate(timeout=120)[0]
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        raise
    assert running.returncode == -signal.SIGKILL, said
    assert not store.intact(folder)
    assert len((folder / "rounds.jsonl").read_text().splitlines()) < 40

    resumed = record(runs.get(settings).folder)
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(tmp_path / "whole"))
    assert record(runs.get(settings).folder) == resumed


# --- two at once

COUNTED = """
import sys
from fedlib.lab import runs, steps
from fedlib.settings.schema import Settings

made = steps.run_federation

def counted(settings, folder):
    with open(sys.argv[2], "a") as file:
        file.write("executed\\n")
    made(settings, folder)

steps.run_federation = counted
print(runs.get(Settings.model_validate_json(sys.argv[1])).scores())
"""


def test_two_processes_that_want_the_same_run_make_it_once(tiny, tmp_path, whole):
    given = ["-c", COUNTED, tiny.model_dump_json(), str(tmp_path / "count")]
    both = [start_process(given) for _ in range(2)]
    said = [running.communicate()[0] for running in both]
    assert said[0] == said[1]
    assert said[0].startswith("{'rule'"), said
    assert (tmp_path / "count").read_text() == "executed\n"
    assert record(keys.run_folder(tiny)) == whole
    assert store.is_there(tiny)


def test_a_run_that_another_process_is_making_is_busy_or_waited_for(tiny):
    """Without waiting it is Busy: a worker then takes another run first."""
    folder = keys.run_folder(tiny)

    def make(settings, place):
        with pytest.raises(store.Busy):
            store.ensure(settings, place, steps.run_federation, wait=False)
        (place / "made.txt").write_text("once")

    store.ensure(tiny, folder, make)
    assert store.intact(folder)
    assert json.loads((folder / "settings.json").read_text())["code_version"]


# --- spoilt files


@pytest.mark.parametrize("name, spoil", SPOILT, ids=[f"{n}-{s.__name__}" for n, s in SPOILT])
def test_a_spoilt_run_is_noticed_and_made_again(tiny, calls, whole, name, spoil):
    run = runs.get(tiny)
    spoil(run.folder / name)
    assert not store.intact(run.folder)
    again = runs.get(tiny)
    assert len(calls["run_federation"]) == 2
    assert record(again.folder) == whole
    assert again.scores()["harmful_prompts"] == 2
    # a run's seal is about the run only
    shutil.rmtree(again.evaluation)
    assert store.intact(again.folder)


# --- every file, damaged in every way

SEALED = ["settings.json", "rounds.jsonl", "done.json"]
SEALED += ["adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
JUDGED = ["settings.json", "responses.jsonl", "scores.json", "done.json"]
# What a run leaves that was killed in its last round, in its defence, in its evaluation. Together:
# files that a resume does not need.
UNFINISHED = [
    ("run", ["settings.json", "rounds.jsonl"]),
    ("run", ["checkpoint.safetensors"]),
    ("defence", ["settings.json", "data.json", "data.jsonl", "rounds.jsonl"]),
    ("defence", ["data.partial"]),
    ("defence", ["checkpoint.safetensors"]),
    ("evaluation", ["settings.json", "harmful.partial"]),
    ("evaluation", ["harmful-rule.partial"]),
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """{whole, run, defence, evaluation}: outputs of a run that is whole, or was killed there."""
    found = {"whole": tmp_path_factory.mktemp("finished")}
    kills = {
        "run": (training, "tune", TUNES - 1),
        "defence": (training, "tune", TUNES + 1),
        "evaluation": (panel, "summed", 0),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_JOBS", "0")
        patch.setenv("FEDLIB_OUTPUTS", str(found["whole"]))
        settings = defended()
        runs.get(settings)
        for kind, (module, name, at) in kills.items():
            found[kind] = tmp_path_factory.mktemp(kind)
            patch.setenv("FEDLIB_OUTPUTS", str(found[kind]))
            with patch.context() as dying, pytest.raises(Killed):
                stop(dying, module, name, at)
                runs.get(settings)
    return found


def defended():
    data = {"benign": ["lmsys-like"], "unaligned_share": 0.5}
    smoke = presets.load("smoke", data=data, model={"device": "cpu"})
    return tiny_settings(smoke, defense={"level": 1, "rounds": 2, "rows": 8})


def place(settings, kind):
    folders = {
        "run": keys.run_folder(keys.attacked(settings)),
        "defence": keys.run_folder(settings),
    }
    return folders.get(kind) or keys.evaluation_folder(settings)


def everything(settings):
    """What a defended run and its evaluation leave."""
    made = [record(place(settings, kind)) for kind in ("run", "defence")]
    judged = keys.evaluation_folder(settings)
    return made, {name: (judged / name).read_bytes() for name in JUDGED}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_no_damage_to_a_finished_run_goes_unnoticed(stores, store, damage):
    shutil.copytree(stores["whole"], store, dirs_exist_ok=True)
    settings = defended()
    folders = {"run": SEALED, "defence": [*SEALED, "data.json", "data.jsonl"], "evaluation": JUDGED}
    for kind, names in folders.items():
        folder = place(settings, kind)
        there = {str(file.relative_to(folder)) for file in run_files(folder)}
        assert there == set(names)
        for name in names:
            before = (folder / name).read_bytes()
            damage(folder / name)
            assert not intact(folder), name
            (folder / name).write_bytes(before)
            assert intact(folder)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("kind, names", UNFINISHED, ids=lambda part: part[-1])
def test_unfinished_work_with_a_damaged_file_ends_as_if_it_had_none(
    stores, store, monkeypatch, capsys, kind, names, damage
):
    settings = defended()
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(stores["whole"]))
    whole = everything(settings)
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(store))
    shutil.copytree(stores[kind], store, dirs_exist_ok=True)

    for name in names:
        damage(place(settings, kind) / name)
    runs.get(settings)
    assert everything(settings) == whole
    # what can only be made again is spoken of
    spoken = name.endswith((".safetensors", ".partial")) and damage is not os.remove
    assert ("is damaged" in capsys.readouterr().err) == spoken
