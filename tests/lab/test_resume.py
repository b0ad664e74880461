"""Killed, spoilt or wanted twice: a run goes on to the same bits, and is made only once."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import yaml
from tiny_runs import (
    ROUNDS,
    SAMPLED,
    TUNES,
    Killed,
    count_calls,
    cut,
    empty,
    flip,
    record,
    start_process,
    stop,
    tiny_settings,
    write_list,
)

from fedlib import callbacks, federation, training
from fedlib.lab import keys, loaded, rounds, runs, steps, store
from fedlib.models import adapter
from fedlib.settings import groups, presets

# Where a run dies, at which call, and how many local trainings are then left.
KILLS = [
    # in the middle of a round: the whole round is made again
    *[(training, "tune", at, TUNES - at // SAMPLED * SAMPLED) for at in range(TUNES)],
    # the rule is asked beforehand whether it can be used with so many clients
    (steps, "aggregate", 0, TUNES),
    # all clients of the round have trained, and nothing is kept
    *[(federation, "aggregate", at, TUNES - at * SAMPLED) for at in range(ROUNDS)],
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

SPOILT = [
    ("adapter/adapter_model.safetensors", flip),
    ("adapter/adapter_config.json", flip),
    ("rounds.jsonl", cut),
    ("rounds.jsonl", os.remove),
    ("settings.json", flip),
    ("adapter", shutil.rmtree),
    ("done.json", os.remove),
    ("done.json", cut),
    ("done.json", empty),
    ("done.json", write_list),
]


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
