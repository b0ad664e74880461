"""Runs with clients whose updates cannot be used: the record names them, and the rest goes on."""

import json

import pytest
from tiny_runs import ROUNDS, record, tiny_settings

from fedlib import federation, training
from fedlib.lab import keys, runs, store
from fedlib.models import adapter
from fedlib.settings.errors import SettingsError


def spoil(monkeypatch, fails):
    """Local training number i gives NaN where fails[i] is nan, and raises where it is an error."""
    real, made = training.tune, []

    def tune(tuned, *given):
        losses, tokens = real(tuned, *given)
        fault = fails.get(len(made))
        made.append(fault)
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            adapter.set_vector(tuned, adapter.get_vector(tuned) * fault)
            losses = [fault for _ in losses]
        return losses, tokens

    monkeypatch.setattr(training, "tune", tune)
    return made


@pytest.fixture
def tiny(smoke):
    return tiny_settings(smoke, evaluation={"judges": ["rule"]})


def test_the_record_names_the_client_and_the_run_is_finished(tiny, monkeypatch, capsys):
    spoil(monkeypatch, {2: float("nan"), 5: OSError("disk full")})
    run = runs.get(tiny)
    lines = (run.folder / "rounds.jsonl").read_text()
    assert "NaN," not in lines and "NaN]" not in lines  # which no JSON has

    first, second, third = map(json.loads, lines.splitlines())
    assert "left_out" not in first
    sampled = [federation.sample_clients(10, 2, 0, index) for index in range(ROUNDS)]
    bad, good = sampled[1]
    assert second["sampled"] == [good]
    assert list(second["left_out"]) == [str(bad)]
    assert second["left_out"][str(bad)].startswith("its update holds NaN (")
    assert list(second["losses"]) == [str(good)]
    assert second["weights"] == [1.0] and len(second["norms"]) == 1
    good, bad = sampled[2]
    assert third["sampled"] == [good]
    assert "training failed: OSError: disk full (test_left_out.py" in third["left_out"][str(bad)]

    # a line says so, once
    [told] = capsys.readouterr().err.splitlines()
    first, second = sorted([sampled[1][0], bad])
    assert told.startswith(f"{run.folder.name}: left out: client {first} in 1 of 3 rounds (its ")
    assert f"; client {second} in 1 of 3 rounds (its " in told
    assert set(runs.get(tiny).left_out()) == {first, second}
    assert capsys.readouterr().err == ""


def test_a_defended_run_says_it_of_the_run_that_it_starts_from(tiny, monkeypatch, capsys):
    spoil(monkeypatch, {2: float("nan")})
    level1 = {"level": 1, "rows": 4, "rounds": 1}
    run = runs.get(tiny.replace(defense=level1))
    assert run.left_out() == {}
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(f"{keys.run_folder(tiny).name}: left out: client ")


def test_a_run_that_stopped_goes_on_with_fewer_clients(tiny, monkeypatch):
    """min_clients is in no key: what was kept of the run that stopped is taken up."""
    strict = tiny.replace(federation={"min_clients": 2})
    nan = float("nan")
    spoil(monkeypatch, {2: nan})
    with pytest.raises(SettingsError, match=r"^federation\.min_clients: round 2 of 3: .*: its upd"):
        runs.get(strict)
    assert len((keys.run_folder(strict) / "rounds.jsonl").read_text().splitlines()) == 1

    made = spoil(monkeypatch, {0: nan})
    again = record(runs.get(tiny).folder)
    assert len(made) == 4  # the first round is there

    store.shutil.rmtree(keys.run_folder(tiny))
    spoil(monkeypatch, {2: nan})
    assert record(runs.get(tiny).folder) == again


def test_without_faults_the_record_is_as_it_was(tiny):
    strict, lenient = (tiny.replace(federation={"min_clients": least}) for least in (2, 1))
    first = record(runs.get(strict).folder)
    assert all("left_out" not in line for line in first[2])
    assert keys.run_folder(strict) == keys.run_folder(lenient) == keys.run_folder(tiny)
