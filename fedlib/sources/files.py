"""Local files of rows, in the usual shapes and formats; faults are named by file and line.

A row that cannot be used is left out and counted; what is left out is said in one line a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fedlib.judges.refusals import refuses
from fedlib.settings import errors
from fedlib.settings.errors import DataError
from fedlib.sources import formats, shapes, xstest
from fedlib.sources.shapes import BadRow

SPLITS = ("fit", "validation", "evaluation")  # of pairs
OPENING = 200  # characters of a response in which it refuses, if it does
FEW = 10  # so many bad rows are left out of any file, however short
BAD_SHARE = 0.1  # of a file's rows; data.bad_share, where settings do not say
LINES_NAMED = 3  # of the rows that are left out for one reason
TOO_MANY = "that is more than data.bad_share: mend the rows, or raise it"


class Reading(NamedTuple):
    """What was read of a file.

    rows: {instruction, response[, topic][, answers][, before][, group]}.
    note: one line on what is not used of the file, or None.
    parts: what a prompt has beside instruction and input: before (turns), context.
    bad: how many rows are left out, since they cannot be used."""

    rows: list[dict]
    note: str | None
    parts: tuple[str, ...] = ()
    bad: int = 0


@dataclass
class Skipped:
    """The rows of a file that are left out: counts and lines by reason; never a row's text.

    place: the start of a line about the file; unit: line or row; stop: whether the first bad row
    is an error; share: of all rows, so many may be left out."""

    place: str
    unit: str = "line"
    stop: bool = False
    share: float = BAD_SHARE
    lines: dict[str, list[int]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many rows are left out."""
        return sum(map(len, self.lines.values()))

    def add(self, line: int, reason: str) -> None:
        """Leave out a row; DataError where none may be left out."""
        if self.stop:
            raise DataError(
                f"{self.place}: {self.unit} {line}: {reason} (data.bad_rows: skip leaves it out)"
            )
        self.lines.setdefault(reason, []).append(line)

    def check(self, total: int) -> None:
        """DataError where nothing is left of a file's rows, or where too many are left out."""
        if not self.count:
            return
        line, reason = min((lines[0], reason) for reason, lines in self.lines.items())
        first = f"{self.unit} {line}: {reason}"
        if self.count == total:
            raise DataError(f"{self.place}: {first}; not one of {total} rows can be used")
        if too_many(self.count, total, self.share):
            raise DataError(
                f"{self.place}: {self.count} of {total} rows cannot be used, the first at {first}; "
                f"{TOO_MANY}"
            )

    def said(self, total: int) -> str | None:
        """How many rows are left out, why, and where the first ones are."""
        if not self.lines:
            return None
        ordered = sorted(self.lines.items(), key=lambda one: -len(one[1]))
        reasons = [f"{len(lines)}: {reason} ({self._where(lines)})" for reason, lines in ordered]
        return f"{self.count} of {total} rows are left out: {', '.join(reasons)}"

    def _where(self, lines: list[int]) -> str:
        more = ", ..." if len(lines) > LINES_NAMED else ""
        return f"{self.unit} {', '.join(map(str, lines[:LINES_NAMED]))}{more}"


def too_many(bad: int, total: int, share: float) -> bool:
    """Whether so many rows of a file may not be left out: more than a share of it, and than FEW."""
    return bad > max(FEW, share * total)


def read(file: str | Path, fields: Mapping[str, str] | None = None) -> list[dict]:
    """The rows of a file, as `reading` reads them; what is not used is said on stderr."""
    found = reading(file, fields)
    if found.note:
        errors.say(found.note)
    return found.rows


def reading(
    file: str | Path,
    fields: Mapping[str, str] | None = None,
    *,
    name: str | None = None,
    place: str | None = None,
    stop: bool = False,
    share: float = BAD_SHARE,
    group: str | None = None,
) -> Reading:
    """The `Reading` of a JSON (list), JSONL, CSV or Parquet file; text may be packed by gzip.

    The shape is detected from the columns, or given as fields {instruction: COLUMN, response:
    COLUMN[, input: COLUMN][, topic: COLUMN][, system: COLUMN][, history: COLUMN]}. An instruction
    with {COLUMN} in it is a text that the cells are put into. Further, answers: "0 = negative,
    1 = positive" says how the cells of a column of classes are worded, which are then the right
    answers; only: refusals, or answers, keeps the rows whose response refuses, or does not. A
    conversation gives its first user turn and the answer to it.

    name: the file as settings name it; place: what to call it in place of its path. A bad row is
    left out, as `Skipped` says, and an error with stop. group: a column whose cell each row keeps,
    under that name. DataError where the file cannot be used."""
    file, fields = Path(file), fields or {}
    unit = "row" if place else formats.unit(file)
    place = place or str(file)
    numbered = formats.numbered_rows(file)
    skipped = Skipped(place, unit, stop, share)

    columns = shapes.columns_of(raw for _, raw in numbered)
    if not columns:
        _raise_first(numbered, skipped)
    first = f"{place}: {skipped.unit} {numbered[0][0]}"
    shape = shapes.find_shape(first, name or file.name, columns, fields)
    worded = _worded_answers(place, fields)
    if set(fields) & shapes.DIRECTIVES and "response" not in shape:
        raise DataError(f"{place}: data.fields: answers and only need the column of the response")
    if group and group not in columns:
        raise DataError(
            f"{place}: data.partition: by: no column {group!r}"
            f"{errors.nearest(group, list(map(shapes.shown, columns)))}"
        )

    used = _used_rows(numbered, shape, worded, group, skipped)
    rows = [row for row, _ in used]
    kept = _only(place, rows, fields.get("only"))
    further = sum(shapes.goes_on(raw, shape) for _, raw in used)
    said = [skipped.said(len(numbered)), _goes_on(further), _unused(columns, shape, group)]
    said.append(_kept_only(rows, kept, fields))

    parts = ["before"] if any("before" in row for row in rows) else []
    parts += ["context"] if any(raw.get(shape.get("context")) for _, raw in used) else []
    return Reading(kept, note_of(place, said), tuple(parts), skipped.count)


def _used_rows(
    numbered: list[tuple[int, Any]],
    shape: Mapping[str, str],
    worded: Mapping[str, str],
    group: str | None,
    skipped: Skipped,
) -> list[tuple[dict, dict]]:
    """(our row, the file's) for every row that can be used; the others are added to skipped."""
    used = []
    for line, raw in numbered:
        try:
            used.append((_used_row(raw, shape, worded, group), raw))
        except BadRow as error:
            skipped.add(line, str(error))
    skipped.check(len(numbered))
    return used


def _used_row(
    raw: Any, shape: Mapping[str, str], worded: Mapping[str, str], group: str | None
) -> dict:
    """A row of ours, with the cell of the column `group`; BadRow where it cannot be used."""
    if isinstance(raw, formats.Unreadable):
        raise BadRow(raw.reason)
    row = shapes.row_of(raw, shape, worded)
    if group:
        row["group"] = shapes.group_of(raw, group)
    return row


def _raise_first(numbered: list[tuple[int, Any]], skipped: Skipped) -> None:
    """The error of a file in which no row is an object with columns."""
    for line, raw in numbered:
        try:
            _used_row(raw, {"instruction": "instruction"}, {}, None)
        except BadRow as error:
            skipped.add(line, str(error))
    skipped.check(len(numbered))


# --- what is said of a file -------------------------------------------------------------------


def note_of(place: str, said: list[str | None]) -> str | None:
    """One line of all there is to say, or None."""
    parts = [part for part in said if part]
    return f"{place}: {'; '.join(parts)}" if parts else None


def _goes_on(further: int) -> str | None:
    if not further:
        return None
    rows = "1 row goes" if further == 1 else f"{further} rows go"
    return f"{rows} on after the first question and answer, which is not used"


def _unused(columns: Mapping[str, Any], shape: Mapping[str, str], group: str | None) -> str | None:
    used = {*shapes.used_columns(shape), group}
    left = [shapes.shown(name) for name in columns if name and name not in used]
    return f"columns that are not used: {', '.join(left)}" if left else None


def _kept_only(rows: list[dict], kept: list[dict], fields: Mapping[str, str]) -> str | None:
    if "only" not in fields:
        return None
    return f"only {fields['only']}: {len(kept)} of {len(rows)} rows"


# --- what data.fields says beside columns -----------------------------------------------------


def _only(place: str, rows: list[dict], which: str | None) -> list[dict]:
    """The rows whose response refuses, or does not, where data.fields asks for these only."""
    if which is None:
        return rows
    if which not in ("refusals", "answers"):
        raise DataError(f"{place}: data.fields: only: must be refusals or answers, got {which!r}")
    refusing = which == "refusals"
    kept = [row for row in rows if refuses(row["response"][:OPENING]) == refusing]
    if not kept:
        raise DataError(f"{place}: data.fields: only: {which}: no row is left")
    return kept


def _worded_answers(place: str, fields: Mapping[str, str]) -> dict[str, str]:
    """{cell: how it is worded} that data.fields gives for a column of classes."""
    if "answers" not in fields:
        return {}
    pairs = [pair.partition("=") for pair in fields["answers"].split(",")]
    if not all(sign and cell.strip() and text.strip() for cell, sign, text in pairs):
        given = fields["answers"]
        raise DataError(
            f'{place}: data.fields: answers: must be "CELL = WORDS, ...", got {given!r}'
        )
    return {cell.strip(): text.strip() for cell, _, text in pairs}


# --- pairs ------------------------------------------------------------------------------------


def read_pairs(file: str | Path) -> dict[str, list[tuple[str, str]]]:
    """{fit, validation, evaluation: (malicious, benign) instructions alike in wording}.

    A file with columns malicious and benign: its rows are dealt out in turn. A file as XSTest's,
    with prompt, label (safe or unsafe) and focus: as `xstest.paired` says. A bad row is left out;
    what is not used is said. DataError for any other file, and where a split would be empty."""
    file = Path(file)
    numbered = formats.numbered_rows(file)
    if {"prompt", "label", "focus"} <= set(shapes.columns_of(raw for _, raw in numbered)):
        found = _contrast_pairs(file, numbered)
    else:
        rows = read(file, {"instruction": "malicious", "response": "benign"})
        pairs = [(row["instruction"], row["response"]) for row in rows]
        found = {split: pairs[i :: len(SPLITS)] for i, split in enumerate(SPLITS)}
    if not all(found.values()):
        raise DataError(
            f"{file}: too few pairs: it takes three at least, for {', '.join(SPLITS)}, "
            f"got {sum(map(len, found.values()))}"
        )
    return found


def _contrast_pairs(file: Path, numbered: list[tuple[int, Any]]) -> dict:
    """The pairs of a file as XSTest's; one line says what is not used of it."""
    skipped = Skipped(str(file), formats.unit(file))
    prompts = []
    for line, raw in numbered:
        try:
            prompts.append(_contrast_prompt(line, raw))
        except BadRow as error:
            skipped.add(line, str(error))
    skipped.check(len(numbered))

    # prompts without a focus word, or more of one kind than of the other, have no twin
    found = xstest.paired(prompts)
    alone = len(prompts) - 2 * sum(map(len, found.values()))
    said = f"{alone} of {len(numbered)} prompts have no twin and are not used" if alone else None
    note = note_of(str(file), [skipped.said(len(numbered)), said])
    if note:
        errors.say(note)
    return found


def _contrast_prompt(line: int, raw: Any) -> dict[str, str]:
    """A row of a file as XSTest's: {prompt, label, focus, type, id}, all of them text."""
    if isinstance(raw, formats.Unreadable):
        raise BadRow(raw.reason)
    row = shapes.row_of(raw, {"instruction": "prompt"}, {})
    if raw.get("label") not in ("safe", "unsafe"):
        raise BadRow("label must be safe or unsafe")
    given = {name: str(raw.get(name) or "") for name in ("label", "focus", "type", "id")}
    return given | {"prompt": row["instruction"], "id": given["id"] or str(line)}
