"""The rows of files and of the hub's datasets: read once, less what is kept for evaluation.

Whatever asks what an evaluation prompt asks is in no pool of rows for training."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedlib.settings import errors, identity, machine
from fedlib.settings.errors import DataError
from fedlib.settings.schema import Settings
from fedlib.sources import files, hub_rows
from fedlib.sources.files import Reading

State = tuple[int, int] | None  # what tells whether a file has changed
FILES_KEPT = 64  # so many files stay read in a process
Fields = tuple[tuple[str, str], ...]  # pairs of our name and the file's column

# Columns that tell safe prompts from others, and how.
SAFE_PROMPTS: dict[str, Callable[[str], bool]] = {
    "label": lambda label: label == "safe",
    "type": lambda kind: not kind.startswith("contrast"),
}


class Pools:
    """The rows that settings name, for training and for evaluation, and what was said of them."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.said: dict[str, None] = {}
        self.left: dict[str, int] = {}  # how many rows of a file ask what an evaluation asks
        self._asked: frozenset[str] | None = None

    def file(self, name: str) -> Path:
        """The file of a dataset: one of the folder, or that of the rows taken from the hub."""
        if hub_rows.is_dataset(self.settings, name):
            return hub_rows.rows_file(self.settings, name)
        if not machine.is_inside(name):
            raise DataError(
                f"data: {name}: leads out of data.folder, {self.folder()}: name the folder that "
                "holds it, and the file in it"
            )
        return self.folder() / name

    def folder(self) -> Path:
        """data.folder; DataError where it is not named."""
        folder = self.settings.data.folder
        if folder is None:
            raise DataError("data.folder: name the folder of your files")
        return machine.path(folder)

    def read(self, name: str) -> list[dict]:
        """A dataset's rows; what is not used of it is said."""
        found = self._reading(name)
        if found.note:
            self.say(found.note)
        return found.rows

    def _reading(self, name: str) -> Reading:
        data, file = self.settings.data, self.file(name)
        if hub_rows.is_dataset(self.settings, name):
            return _rows_taken(file, _state(file))
        fields = tuple(data.fields.get(name, {}).items())
        stop, group = data.bad_rows == "stop", data.group if name in data.benign else None
        return _rows_read(file, name, fields, stop, data.bad_share, group, _state(file))

    def say(self, line: str) -> None:
        """Say a line once, and keep it for the run's record."""
        errors.say(line)
        self.said[line] = None

    def content(self, name: str) -> list[str]:
        """A digest of a dataset's file, and the parts of its prompts beside what is usual."""
        return [_digest(self.file(name)), *self._reading(name).parts]

    def left_out(self, name: str, ordinary: bool) -> list[str]:
        """A digest of the rows that `trained` leaves out; nothing where there are none."""
        data, own = self.settings.data, self.settings.defense
        # what is asked is in these files; which of them serve for training decides by name
        read = [*data.benign, data.harmful, data.questions, data.over_refusal, name]
        states = [[one, _state(self.file(one))] for one in read if one]
        names = [own.aligned, own.normal, self.settings.evaluation.harmful]
        decided_by = [data.model_dump(), names, states]
        return _left_out(_SamePools(identity.digest(decided_by), self), name, ordinary)

    def asked_in(self, name: str, ordinary: bool) -> list[dict]:
        """The rows of a file that `trained` leaves out."""
        return [row for row in self._whole(name, ordinary) if self._is_asked(row)]

    def halves(self, name: str | None) -> tuple[list[dict], list[dict]]:
        """A file's rows for training and for evaluation: by a fixed draw, disjoint halves where the
        file serves for both."""
        data, own = self.settings.data, self.settings.defense
        if name is None:
            raise DataError("data: a file or dataset that these settings need is not named")
        rows = self.read(name)
        trained_on = (*data.benign, data.aligned, data.unaligned, own.aligned, own.normal)
        if name != data.harmful or name not in trained_on:
            return rows, rows
        order = np.random.default_rng(0).permutation(len(rows))
        middle = len(rows) // 2
        return picked(rows, order[:middle]), picked(rows, order[middle:])

    def normal(self, name: str | None) -> tuple[list[dict], list[dict]]:
        """A file's rows for training, and the tenth of them that is kept for evaluation."""
        rows = self.halves(name)[0]
        order = np.random.default_rng(0).permutation(len(rows))
        held = max(1, len(rows) // 10)
        return picked(rows, order[held:]), picked(rows, order[:held])

    def trained(self, name: str | None, ordinary: bool) -> list[dict]:
        """A file's rows for training: those that ask nothing that an evaluation prompt asks.

        ordinary: whether they serve for normal rows, of which a tenth is kept for evaluation."""
        pool = self._whole(name, ordinary)
        rows = [row for row in pool if not self._is_asked(row)]
        if len(rows) < len(pool):
            self.left[str(name)] = left = len(pool) - len(rows)
            self.say(
                f"data: {name}: {left} of {len(pool)} rows for training ask what an evaluation "
                "prompt asks, and are left out"
            )
        if pool and "response" not in pool[0]:
            raise DataError(f"data.fields: {name} needs a response column too: clients train on it")
        return rows

    def safe(self, name: str) -> list[dict]:
        """Every row of a file such as XSTest's that its labels call safe.

        Without labels all are; in the benchmark's first form the types of unsafe prompts begin
        with contrast. DataError where none is safe."""
        file, given = self.folder() / name, self.settings.data.fields.get(name, {})
        for column, is_safe in SAFE_PROMPTS.items():
            try:
                rows = files.read(file, {"instruction": "prompt"} | given | {"topic": column})
            except DataError:  # no such column; what else is wrong, the last reading says
                continue
            safe = [row for row in rows if is_safe(row["topic"].strip().lower())]
            if not safe:
                raise DataError(
                    f"data.over_refusal: {file}: no prompt has the {column} of a safe one"
                )
            return safe
        return self.read(name)

    def _whole(self, name: str | None, ordinary: bool) -> list[dict]:
        """A file's rows less those that are kept for evaluation, whatever they ask."""
        return self.normal(name)[0] if ordinary else self.halves(name)[0]

    def _is_asked(self, row: dict) -> bool:
        """Whether an evaluation prompt asks what a row asks, however it is written."""
        if self._asked is None:
            self._asked = frozenset(_plain_prompt(row) for row in self._evaluation_rows())
        return _plain_prompt(row) in self._asked

    def _evaluation_rows(self) -> list[dict]:
        """Rows whose instructions are asked in an evaluation, or kept for it."""
        data = self.settings.data
        rows = [row for name in data.benign for row in self.normal(name)[1]]
        if data.questions:
            rows += self.read(data.questions)
        if data.over_refusal:
            rows += self.safe(data.over_refusal)
        if data.harmful:
            trained, asked = self.halves(data.harmful)
            # of a file that is not trained on, only so many are asked
            rows += asked[: self.settings.evaluation.harmful] if asked is trained else asked
        return rows


@dataclass(frozen=True)
class _SamePools:
    """Pools that are the same where all that decides them is: settings and the files' states."""

    decided_by: str
    pools: Pools = field(compare=False)


@functools.lru_cache(maxsize=512)
def _left_out(same: _SamePools, name: str, ordinary: bool) -> list[str]:
    left = same.pools.asked_in(name, ordinary)
    return [identity.digest(left)] if left else []


def picked(rows: Sequence[dict], places: np.ndarray) -> list[dict]:
    """The rows at these places, in their order."""
    return [rows[place] for place in places]


def _plain_prompt(row: dict) -> str:
    """What a row asks, with the user's and assistant's turns before, in the form in which prompts
    are compared."""
    turns = [turn["content"] for turn in row.get("before", ()) if turn["role"] != "system"]
    return "\n".join(map(identity.plain, [*turns, row["instruction"]]))


def _state(file: Path) -> State:
    """What tells whether a file has changed: its size and time."""
    if not file.is_file():
        return None
    state = file.stat()
    return state.st_size, state.st_mtime_ns


def _digest(file: Path) -> str:
    return _digested(file, _state(file))


@functools.lru_cache(maxsize=FILES_KEPT)
def _digested(file: Path, _state: State) -> str:
    return identity.file_digest(file)


@functools.lru_cache(maxsize=FILES_KEPT)
def _rows_read(
    file: Path,
    name: str,
    fields: Fields,
    stop: bool,
    share: float,
    group: str | None,
    _state: State,
) -> Reading:
    """What a file holds. _state: a file that has changed is read anew."""
    return files.reading(file, dict(fields), name=name, stop=stop, share=share, group=group)


@functools.lru_cache(maxsize=FILES_KEPT)
def _rows_taken(file: Path, _state: State) -> Reading:
    """Rows taken from the hub: they are in our shape already, and all that they hold is in them."""
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return Reading(rows, hub_rows.note(file), ())
