"""What the post-hoc defence leaves: another adapter, a line a round, a report; and its resume."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from fedlib import synthesis, training
from fedlib.lab import runs, steps, store
from fedlib.settings import identity, presets

LEVELS = (1, 2, 3)
HALVES = ("aligned", "normal")
ROUNDS = 3


def at(settings, level):
    return settings.replace(defense={"level": level})


def digests(folder):
    """{file: (digest, when it was written)} of all files in a folder."""
    found = {}
    for file in folder.rglob("*"):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            found[name] = (identity.file_digest(file), file.stat().st_mtime_ns)
    return found


def adapter(run):
    return load_file(run.folder / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """({level: Run} at preset smoke, 0 the attacked one; that one's files before and after)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_OUTPUTS", str(tmp_path_factory.mktemp("defended")))
        patch.setenv("FEDLIB_JOBS", "0")
        settings = presets.load("smoke", model={"device": "cpu"}, defense={"rounds": ROUNDS})
        done = {0: runs.get(settings)}
        before = digests(done[0].folder)
        for level in LEVELS:
            done[level] = runs.get(at(settings, level))
        yield done, before, digests(done[0].folder)


@pytest.fixture
def defended(made):
    return made[0]


def test_the_attacked_run_is_left_as_it_was(made):
    done, before, after = made
    assert before == after
    assert "adapter/adapter_model.safetensors" in before
    assert len({run.folder for run in done.values()}) == 4
    for level in LEVELS:
        assert f"-level{level}-" in done[level].folder.name


@pytest.mark.parametrize("level", LEVELS)
def test_the_adapter_is_another_than_the_attacked_one(defended, level):
    own = adapter(defended[level])
    assert all(value.isfinite().all() for value in own.values())
    for other in {0, *LEVELS} - {level}:
        theirs = adapter(defended[other])
        assert set(own) == set(theirs)
        assert any(not torch.equal(own[name], theirs[name]) for name in own)


@pytest.mark.parametrize("level", LEVELS)
def test_each_round_has_its_line_and_the_rate_a_cosine_from_the_start(defended, level):
    lines, options = defended[level].rounds(), defended[level].settings.training
    assert [line["round"] for line in lines] == [*range(ROUNDS)]
    # and not where the federation's cosine has ended
    assert lines[0]["learning_rate"] == options.learning_rate
    for round_, line in enumerate(lines):
        share = (1 + math.cos(math.pi * round_ / ROUNDS)) / 2
        rate = share * options.learning_rate + (1 - share) * options.learning_rate_min
        assert line["learning_rate"] == pytest.approx(rate)
        assert len(line["losses"]) == options.steps
        assert line["tokens"] > 0
        assert line["dropped"] == 0


@pytest.mark.parametrize("level", LEVELS)
def test_the_report_agrees_with_the_rows(defended, level):
    run = defended[level]
    rows = store.read_lines(run.folder / "data.jsonl")
    labels = [row["label"] for row in rows]
    assert labels.count("aligned") == labels.count("normal") == 10
    assert all(row["instruction"] and row["response"] for row in rows)

    report = run.defense_data()
    assert report["rows"] == len(rows) == 20
    kinds = [written["kind"] for written in report["written"]]
    assert kinds == ([] if level == 1 else list(HALVES))
    for written in report["written"]:
        dropped = sum(written[reason] for reason in synthesis.REASONS)
        assert written["asked"] == 40 == written["kept"] + dropped
        assert written["kept"] >= 10
        assert written["refused"] == 0


@pytest.mark.parametrize("level", LEVELS)
def test_a_defended_run_is_evaluated_like_any_other(defended, level):
    attacked, run = defended[0], defended[level]
    assert set(run.scores()) == set(attacked.scores())
    assert store.intact(run.folder)
    asked = [[said["prompt"] for said in one.responses()] for one in (attacked, run)]
    assert asked[0] == asked[1]


@pytest.mark.parametrize("level, dies", [(1, 2), (3, 0)])
def test_a_killed_defence_goes_on_to_the_same_result(defended, monkeypatch, level, dies):
    run, real, calls = defended[level], training.tune, []
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(run.folder.parent.parent))
    sealed, weights = digests(run.folder), adapter(run)
    (run.folder / "done.json").unlink()

    def fatal(*given):
        if len(calls) == dies:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(training, "tune", fatal)
        with pytest.raises(KeyboardInterrupt):
            runs.get(run.settings)
    assert not store.intact(run.folder)

    def counted(*given):
        calls.append(1)
        return real(*given)

    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(training, "tune", counted)
        patch.setattr(steps, "defense_rows", lambda *_: pytest.fail("the rows were there"))
        again = runs.get(run.settings)
    # the rounds that were finished are not made again
    assert len(calls) == run.settings.defense.rounds - dies
    assert store.intact(again.folder)
    assert set(digests(again.folder)) == set(sealed)
    for name, value in adapter(again).items():
        assert torch.equal(value, weights[name])


def test_rows_are_written_once_for_two_aggregators(smoke, monkeypatch):
    real, asked = synthesis.write_rows, []

    def counted(*given):
        asked.append(given[2])
        return real(*given)

    monkeypatch.setattr(synthesis, "write_rows", counted)
    tiny = at(smoke, 2).replace(
        data={"rows": 8, "generated": 20},
        training={"steps": 1, "batch_size": 2},
        evaluation={"judges": ["rule"], "harmful": 2, "benign": 2, "max_new_tokens": 2},
    )
    first, second = runs.get_all([tiny, tiny.replace(federation={"aggregator": "krum"})])
    assert asked == list(HALVES)
    assert first.folder != second.folder
    rows = [(run.folder / "data.jsonl").read_bytes() for run in (first, second)]
    assert rows[0] == rows[1]


def test_the_report_is_the_one_that_was_written(defended, monkeypatch):
    run = defended[2]
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(run.folder.parent.parent))
    reports = []
    for kind in HALVES:
        folder = steps.keys.written_folder(run.settings, kind)
        reports.append(store.read_written(folder, kind)[1])
    assert json.loads((run.folder / "data.json").read_text())["written"] == reports
