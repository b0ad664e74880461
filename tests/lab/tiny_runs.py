"""Helpers of the lab's tests: runs of a fraction of a second, what they leave, and how they die."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedlib import training
from fedlib.lab import judging, pretraining, steps
from fedlib.settings import groups, machine
from fedlib.settings.schema import Settings

ROUNDS, SAMPLED = 3, 2
TUNES = ROUNDS * SAMPLED  # local trainings of a tiny run
EXPENSIVE = (
    (steps, "run_federation"),
    (training, "tune"),
    (judging, "evaluate"),
    (pretraining, "train_scratch"),
)


def tiny_settings(settings: Settings, **changes: Any) -> Settings:
    """A run of a fraction of a second; with dropout, so that a resume has draws to keep."""
    tiny = settings.replace(
        model={"lora_dropout": 0.1},
        data={"rows": 8},
        training={"steps": 1, "batch_size": 2},
        federation={"rounds": ROUNDS, "sampled": SAMPLED},
        evaluation={"harmful": 2, "benign": 2, "max_new_tokens": 2},
    )
    return tiny.replace(**changes)


def changed(group: Any, dotted: str, value: Any) -> Any:
    """The settings with one field changed, unchecked: a key is asked for, not a run."""
    name, _, rest = dotted.partition(".")
    inner = changed(getattr(group, name), rest, value) if rest else value
    return group.model_copy(update={name: inner})


def leaves(group: groups.Group, prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields."""
    for name in type(group).model_fields:
        value = getattr(group, name)
        if isinstance(value, groups.Group):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


# --- everything from local files

ROWS = ("one", "two", "safe", "bad", "worse", "asked", "asked too")


def local_settings(folder: Path, smoke: Settings) -> Settings:
    """Settings that take everything from files in folder, the base too: every field has a meaning.

    A copy of the files lies beside them, in moved/."""
    files = folder / "files"
    files.mkdir()
    for name in ROWS:
        lines = [f"{name}.csv {i},answer {i},topic {i % 4}\n" for i in range(50)]
        (files / f"{name}.csv").write_text("".join(["prompt,response,topic\n", *lines]))
    pairs = "".join(f"bad {i},good {i}\n" for i in range(9))
    (files / "twins.csv").write_text(f"malicious,benign\n{pairs}")
    shutil.copytree(files, folder / "moved")

    scratch = {"files": ["one.csv"], "hidden": 16, "layers": 1, "heads": 2, "mlp": 16}
    scratch |= {"vocabulary": 300, "steps": 2, "batch_size": 2}
    data = {"source": "local", "folder": str(files), "benign": ["one.csv"]}
    data |= {"aligned": "safe.csv", "unaligned": "bad.csv", "harmful": "asked.csv"}
    data |= {"rows": 4, "partition": "dirichlet"}
    base = {"base": "scratch", "template": "alpaca", "dtype": "float32", "max_length": 200}
    return tiny_settings(smoke).replace(
        model=base | {"scratch": scratch},
        data=data,
        swat={"pairs": "twins.csv"},
        evaluation={"judges": ["rule"]},
    )


# --- what was called, and what a run leaves


def count_calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """{name: an entry for each call} of the EXPENSIVE functions."""
    return {name: _counted(monkeypatch, module, name) for module, name in EXPENSIVE}


def _counted(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list:
    real, made = getattr(module, name), []

    def counted(*given: Any, **named: Any) -> Any:
        made.append(name)
        return real(*given, **named)

    monkeypatch.setattr(module, name, counted)
    return made


def run_files(folder: Path) -> list[Path]:
    """A run's files, without those of its evaluations."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if "eval-" not in str(file.relative_to(folder))]


def record(folder: Path) -> tuple[set, dict, list]:
    """All that a run leaves: its files' names, its adapter's bytes, its rounds without seconds."""
    files = {str(file.relative_to(folder)) for file in run_files(folder)}
    adapter = {file.name: file.read_bytes() for file in (folder / "adapter").iterdir()}
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    rounds = [{**json.loads(line), "seconds": None} for line in lines]
    return files, adapter, rounds


def snapshot(folder: Path) -> dict[Path, tuple]:
    """The bytes of a run's files and when they were written."""
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in run_files(folder)}


# --- how it dies


class Killed(BaseException):
    """Not an Exception, so that nothing catches it on its way."""


def stop(patch: pytest.MonkeyPatch, module: Any, name: str, at: int) -> None:
    """Raise Killed at a function's call number `at` (0: the first)."""
    real, made = getattr(module, name), []

    def fatal(*given: Any, **named: Any) -> Any:
        if len(made) == at:
            raise Killed
        made.append(name)
        return real(*given, **named)

    patch.setattr(module, name, fatal)


def start_process(arguments: list[str], jobs: int = 0) -> subprocess.Popen:
    """A Python process with the test's outputs folder, in a process group of its own."""
    here = {"FEDLIB_OUTPUTS": str(machine.outputs()), "FEDLIB_JOBS": str(jobs)}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | here | {"OMP_NUM_THREADS": "1"},
        cwd=machine.ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
