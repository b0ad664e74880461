"""The run store: folders made once under a lock, sealed with their digests, read. No torch.

A folder without a fitting done.json is not there: it is made, or made again."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedlib.lab import keys
from fedlib.settings import identity, machine
from fedlib.settings.errors import DataError, SettingsError
from fedlib.settings.schema import Settings

CHECKPOINT = "checkpoint.safetensors"  # what a run of several rounds goes on from


@dataclass(frozen=True)
class Run:
    """A finished run and its evaluation, read from their folders."""

    settings: Settings
    folder: Path
    evaluation: Path

    def defense_data(self) -> dict:
        """What a defended run was tuned on: {rows, written}.

        written: what was asked for, kept and dropped of each kind."""
        return _json(self.folder / "data.json")

    def filtered(self) -> dict:
        """What defense.filter found: recall, precision, F1 (%).

        And the rows of each label that it took out."""
        return _json(self.folder / "filter.json")

    def rounds(self) -> list[dict]:
        """A dict a round: sampled, losses, weights, norms, cosine, seconds, tokens.

        Clients whose updates could not be used are not in sampled, but in left_out: {client:
        why}. A round that used all updates has no left_out."""
        return read_lines(self.folder / "rounds.jsonl")

    def left_out(self) -> dict[int, list[str]]:
        """{client: why, once for each round that could not use its update}."""
        found: dict[int, list[str]] = {}
        for line in self.rounds():
            for client, why in line.get("left_out", {}).items():
                found.setdefault(int(client), []).append(why)
        return dict(sorted(found.items()))

    def scores(self) -> dict[str, float]:
        """{rule, over_refusal, help, ...} in percent, and the numbers of prompts."""
        return _json(self.evaluation / "scores.json")

    def probes(self) -> dict:
        """What the judge probe found: {before, after, cells} (`swat.probes.drift`)."""
        return _json(self.evaluation / "probes.json")

    def responses(self) -> list[dict]:
        """Every evaluation prompt with its response and each judge's score.

        They are shown through `examples.example_responses` only."""
        return read_lines(self.evaluation / "responses.jsonl")


class Busy(Exception):
    """Another process is making this very thing."""


def intact(folder: Path) -> bool:
    """Whether a folder is finished: its done.json is there and every file has the digest in it."""
    try:
        sealed = _json(folder / "done.json")
        names = sealed.get("files") if isinstance(sealed, dict) else None
        if not isinstance(names, dict):
            return False
        # a name that leads out of the folder is none of its files
        inside = all(machine.is_inside(name) for name in names)
        return inside and all(
            identity.file_digest(folder / n) == wanted for n, wanted in names.items()
        )
    except (OSError, ValueError, RecursionError):
        return False


def check_unchanged(folder: Path, now: Path) -> None:
    """SettingsError where a thing's folder has another name now: what it is made of has changed."""
    if folder != now:
        raise SettingsError(
            f"{folder.name}: a file that the settings name changed while this was being made: ask "
            "for it again"
        )


def is_there(settings: Settings) -> bool:
    """Whether a run and its evaluation are finished."""
    return intact(keys.run_folder(settings)) and intact(keys.evaluation_folder(settings))


def read_written(folder: Path, kind: str) -> tuple[list[dict], dict]:
    """(rows, report) of a kind that a language model wrote; DataError where they are not there."""
    if not intact(folder):
        raise DataError(
            f"{folder}: the {kind} rows are not written yet: make the run that needs them"
        )
    return read_lines(folder / f"{kind}.jsonl"), _json(folder / f"{kind}.json")


def read_robustness(folder: Path) -> dict:
    """What was found about a model's modules; DataError where nothing is there."""
    if not intact(folder):
        raise DataError(
            f"{folder}: the modules' robustness is not there yet: make the run that needs it"
        )
    return _json(folder / "robustness.json")


def ensure(
    settings: Settings, folder: Path, make: Callable[[Settings, Path], None], wait: bool = True
) -> None:
    """Have make(settings, folder) fill a folder once, whoever else wants it too.

    Under its lock, sealed with done.json at the end. Busy if another process is at it, and wait is
    False."""
    if intact(folder):
        # a process may have died right after it sealed the folder
        with suppress(OSError):
            (folder / CHECKPOINT).unlink()
        return
    with machine.writing(folder), _lock(folder, wait):
        if intact(folder):
            return
        if (folder / "done.json").exists():  # spoilt: start again
            shutil.rmtree(folder, ignore_errors=True)
        machine.made_folder(folder)
        plain = settings.model_dump() | {"code_version": identity.CODE_VERSION}
        _write_sealed(folder / "settings.json", plain)
        make(settings, folder)
        _seal(folder)


def _lock(folder: Path, wait: bool) -> AbstractContextManager:
    """A folder's lock, held; Busy if another process holds it, and not wait.

    The lock of a process that died, however it died, is free."""
    lock = FileLock(locks() / f"{folder.parent.name}.{folder.name}")
    try:
        return lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise Busy(folder) from None


def locks() -> Path:
    """The folder of the store's locks, made where it is missing, or SettingsError."""
    return machine.made_folder(machine.outputs() / "runs" / ".locks")


def _seal(folder: Path) -> None:
    """Write done.json: the digests of all files except evaluations and what a resume needs."""
    digests = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        passing = file.name.startswith("checkpoint.") or file.suffix == ".partial"
        if file.is_file() and not passing and not name.parts[0].startswith("eval-"):
            digests[str(name)] = identity.file_digest(file)
    _write_sealed(folder / "done.json", {"files": digests})
    (folder / CHECKPOINT).unlink(missing_ok=True)  # only now is it of no more use


def _write_sealed(file: Path, value: dict) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, file)


def resumable(file: Path, make: Callable[[], Any]) -> Any:
    """What a file of unfinished work holds, as JSON; made first where it is missing or damaged.

    It stands there with its digest. A line says where a file is damaged."""
    if file.exists():
        try:
            found = _json(file)
            if found["digest"] == identity.digest(found["value"]):
                return found["value"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        print(f"{file} is damaged: its content is made again", file=sys.stderr)
    value = json.loads(json.dumps(make()))
    unfinished = file.with_suffix(".partial.partial")
    sealed = {"digest": identity.digest(value), "value": value}
    unfinished.write_text(json.dumps(sealed), encoding="utf-8")
    os.replace(unfinished, file)
    return value


def _json(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def read_lines(file: Path) -> list[dict]:
    """The values of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_json(file: Path, value: Any) -> None:
    """Write a value as JSON."""
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_lines(file: Path, values: Sequence[dict]) -> None:
    """Write values as JSON, a line each."""
    file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
