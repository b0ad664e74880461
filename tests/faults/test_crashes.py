"""Killed at any moment, on a full disk, in a read-only folder: what is finished stays, the rest
goes on to the same bits.

FEDLIB_FAULTS=200 kills so often; by default a few times."""

import errno
import functools
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

import dying
import pytest
import tally
from conftest import smoke_settings
from damages import cut, empty, flip

from fedlib.lab import keys, store
from fedlib.papers import output
from fedlib.settings import machine
from fedlib.settings.errors import SettingsError

KILLS = int(os.environ.get("FEDLIB_FAULTS", "8"))
DAMAGE = {cut: "cut off", empty: "emptied", flip: "one bit", os.remove: "removed"}
PATIENCE = 300  # seconds until a process that hangs fails a test


def tiny(**changes):
    """A run of a fraction of a second, attacked and then defended, with dropout's draws to keep."""
    small = smoke_settings(
        model={"device": "cpu", "lora_dropout": 0.1},
        data={"rows": 8},
        training={"steps": 1, "batch_size": 2},
        federation={"rounds": 3, "sampled": 2},
        defense={"level": 1, "rounds": 2, "rows": 8},
        evaluation={"harmful": 2, "benign": 2, "max_new_tokens": 2},
    )
    return small.replace(**changes)


def ended(process):
    """The exit code of a process; it fails the test where there is none."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        pytest.fail("a process hangs")
    return process.exitcode


class Whole(NamedTuple):
    """An uninterrupted run: its outputs, their digest, its changes of the store, its seconds."""

    outputs: Path
    digest: dict
    changes: int
    seconds: float


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run leaves, and how it went; a second one leaves the same."""
    first, outputs = (tmp_path_factory.mktemp("whole") / name for name in ("first", "outputs"))
    assert ended(dying.start(first, [tiny()])) == 0
    began = time.monotonic()
    assert ended(dying.start(outputs, [tiny()])) == 0
    seconds = time.monotonic() - began
    found = dying.digest(outputs)
    assert len(found) > 10 and dying.digest(first) == found
    changes = int(dying.said_file(outputs).read_text())
    return Whole(first, found, changes, seconds)


# --- killed


def killed(outputs, die_at, seconds, draws):
    """Start a run and kill it: ahead of a change of the store, or after so many seconds.

    Returns whether it was killed before it was done."""
    process = dying.start(outputs, [tiny()], die_at)
    if not die_at:
        time.sleep(draws.uniform(0, seconds))
        process.kill()
    return ended(process) == -signal.SIGKILL


@pytest.mark.parametrize("way", ["by the clock", "at a change of the store"])
def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(whole, tmp_path, way):
    """One to three kills in a row, each at its own random moment; then it is left to finish."""
    draws = random.Random(way)
    done = hit = 0
    while hit < KILLS // 2:
        outputs = tmp_path / str(done)
        for _ in range(draws.randint(1, 3)):
            die_at = draws.randint(1, whole.changes) if way == "at a change of the store" else 0
            died = killed(outputs, die_at, whole.seconds, draws)
            tally.count(f"a run killed {way}", died)
            hit += died
        assert ended(dying.start(outputs, [tiny()])) == 0, dying.said_file(outputs).read_text()
        assert dying.digest(outputs) == whole.digest
        done += 1
        # the clock may strike when all is done, and a change may not come any more
        assert done < 10 * KILLS, "hardly a kill hits"


def test_the_lock_of_a_dead_process_is_taken_over(whole, tmp_path, monkeypatch):
    """It dies with the lock held; without waiting, the next one gets it at once."""
    tally.count("the lock of a dead process")
    outputs = tmp_path / "outputs"
    assert killed(outputs, whole.changes // 5, 0, None)
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(outputs))
    folder = keys.run_folder(keys.attacked(tiny()))
    assert (store.locks() / f"runs.{folder.name}").exists()
    assert (folder / "settings.json").exists() and not store.intact(folder)
    store.ensure(tiny(), folder, lambda settings, place: None, wait=False)
    assert store.intact(folder)


# --- damaged


@pytest.mark.parametrize("damage", [cut, empty, flip, os.remove])
def test_a_damaged_file_of_a_finished_run_is_noticed_and_made_again(whole, tmp_path, damage):
    """Each of its files, or where few faults are asked for a few of them.

    The attacked run that it started from is read no more."""
    folder = keys.run_folder(tiny()).name
    names = [name for name in whole.digest if name.startswith(folder)]
    chosen = random.Random(damage.__name__).sample(names, min(len(names), KILLS // 4))
    for number, name in enumerate(chosen):
        tally.count(f"a file of a finished run damaged ({DAMAGE[damage]})")
        outputs = tmp_path / str(number)
        shutil.copytree(whole.outputs, outputs)
        damage(outputs / "runs" / name)
        assert ended(dying.start(outputs, [tiny()])) == 0, dying.said_file(outputs).read_text()
        assert dying.digest(outputs) == whole.digest, name


# --- no room


@pytest.mark.parametrize("size", [500, 2000, 20000])
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_later(whole, tmp_path, size):
    """The limit is on a file's length: EFBIG, an error of the same kind as ENOSPC."""
    tally.count("a full disk")
    outputs = tmp_path / "outputs"
    full = functools.partial(dying.allow_bytes, size)
    assert ended(dying.start(outputs, [tiny()], before=full)) == 2
    said = dying.said_file(outputs).read_text()
    assert said.count("\n") == 1
    assert said.startswith(f"outputs: {outputs}/runs/") and ": File too large; what is" in said
    assert ended(dying.start(outputs, [tiny()])) == 0
    assert dying.digest(outputs) == whole.digest


@pytest.fixture
def closed():
    """close(folder): nothing can be made in it; open again at the end."""
    folders = []

    def close(folder):
        folders.append(folder)
        folder.chmod(0o555)

    yield close
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.parametrize("place", ["", "runs", "runs/.locks"])
def test_a_read_only_folder_is_one_line_and_its_runs_are_read(whole, tmp_path, closed, place):
    tally.count("a read-only folder")
    outputs = tmp_path / "outputs"
    shutil.copytree(whole.outputs, outputs)
    before = dying.digest(outputs)
    closed(outputs / place)
    if not place:
        closed(outputs / "runs")
        closed(outputs / "runs" / ".locks")

    # a finished run needs no more than reading
    without = dying.give_up_capabilities
    assert ended(dying.start(outputs, [tiny()], before=without)) == 0
    dying.said_file(outputs).unlink()

    assert ended(dying.start(outputs, [tiny(seed=1)], before=without)) == 2
    said = dying.said_file(outputs).read_text()
    assert said.count("\n") == 1
    assert re.match(rf"outputs: {outputs}/runs/\S+: (Permission denied|it cannot be)", said)
    assert "FEDLIB_OUTPUTS names another folder" in said
    assert dying.digest(outputs) == before


def test_a_folder_that_can_hold_nothing_at_all(tmp_path, closed):
    tally.count("a read-only folder")
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    closed(outputs)
    process = dying.start(outputs, [tiny()], before=dying.give_up_capabilities)
    assert ended(process) == 2
    said = dying.said_file(outputs).read_text()
    assert said.startswith(f"outputs: {outputs}/runs/.locks: Permission denied; FEDLIB_OUTPUTS")


# --- what counts as no room


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device"),
        (OSError(errno.EROFS, "x"), "Read-only file system"),
        (OSError(errno.EDQUOT, "x"), "quota exceeded"),
        # as the libraries written in Rust say it
        (RuntimeError("I/O error: No space (os error 28)"), "No space left on device"),
        # neither is about writing the outputs
        (PermissionError(errno.EACCES, "x", "elsewhere/rows.csv"), ""),
        (FileNotFoundError(errno.ENOENT, "x", "outputs"), ""),
        (RuntimeError("error 28"), ""),
    ],
)
def test_only_what_cannot_be_written_is_taken_for_that(store, error, said):
    with pytest.raises(SettingsError if said else type(error)) as raised:
        with machine.writing(store / "x"):
            raise error
    assert not said or str(raised.value).startswith(f"outputs: {store / 'x'}: ")
    assert said in str(raised.value)


def test_a_figure_on_a_full_disk_is_one_line_too():
    file = machine.made_folder(machine.outputs()) / "table.md"
    with pytest.raises(SettingsError, match="/table.md: No space left on device; what is"):
        output.save(file, lambda partial: Path("/dev/full").write_text("text"))
