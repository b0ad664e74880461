"""Local files of rows: JSON, JSONL and CSV in the usual shapes; errors name file and line."""

import csv
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedlib.judges.refusals import refuses
from fedlib.settings import identity
from fedlib.settings.errors import DataError
from fedlib.sources import turns, xstest

# The shapes that are detected: (instruction column, further input column, response column).
SHAPES = (
    ("instruction", "input", "output"),
    ("instruction", "input", "response"),
    ("prompt", None, "response"),
    ("question", None, "answers"),
    ("question", None, "answer"),
    ("goal", None, "target"),
)
# Columns that hold a whole conversation.
CONVERSATIONS = ("messages", "conversation", "conversations")
# Columns that tell a row's topic, the first one found.
TOPICS = ("topic", "category")
# What data.fields may name a column for, and what else it may say of a file.
FIELDS = {"instruction", "input", "response", "topic", *turns.COLUMNS}
DIRECTIVES = {"answers", "only"}
SPLITS = ("fit", "validation", "evaluation")  # of pairs
OPENING = 200  # characters of a response in which it refuses, if it does

COLUMN = re.compile(r"\{([^{}]+)\}")  # in a text that the cells are put into
SPACE = re.compile(r"[ \t\r\n]*")  # between the parts of JSON


def read(file: str | Path, fields: Mapping[str, str] | None = None) -> list[dict]:
    """Rows {instruction, response[, topic][, answers][, before]} of a JSON, JSONL or CSV file.

    The shape is detected from the columns, or given as fields {instruction: COLUMN, response:
    COLUMN[, input, context, system, history, topic: COLUMN]}. An input and a context follow the
    instruction; before: the turns {role, content} of the system and the history. An instruction
    with {COLUMN} in it is a text that the cells are put into. Further, answers: "0 = negative,
    1 = positive" says how the cells of a column of classes are worded, which are then the right
    answers; only: refusals, or answers, keeps the rows whose response refuses, or does not. A
    conversation gives its first user turn and the answer to it, with the system turns before.
    DataError names the file and line of a bad row. Rows whose instruction or response is empty are
    left out; a warning counts them and names the first one."""
    file = Path(file)
    if not file.is_file():
        raise DataError(f"{file}: no such file{identity.nearest_file(file)}")
    numbered = list(_numbered_rows(file))
    if not numbered:
        raise DataError(f"{file}: holds no rows")
    shape = _shape(f"{file}: line {numbered[0][0]}", _columns(numbered), fields)

    worded = _worded_answers(file, fields or {})
    if set(fields or {}) & DIRECTIVES and "response" not in shape:
        raise DataError(f"{file}: data.fields: answers and only need the column of the response")
    # keep the rows that say something
    rows, empty = [], []
    for line, raw in numbered:
        row = _row(f"{file}: line {line}", raw, shape, worded)
        if worded:
            row |= _right_answer(f"{file}: line {line}", row["response"], worded)
        if row["instruction"] and row.get("response", True):
            rows.append(row)
        else:
            empty.append(line)

    if not rows:
        raise DataError(f"{file}: every row is empty")
    if empty:
        warnings.warn(
            f"{file}: {len(empty)} of {len(numbered)} rows are empty and left out, "
            f"the first at line {empty[0]}",
            stacklevel=2,
        )
    return _only(file, rows, (fields or {}).get("only"))


def _only(file: Path, rows: list[dict], which: str | None) -> list[dict]:
    """The rows whose response refuses, or does not, where data.fields asks for these only."""
    if which is None:
        return rows
    if which not in ("refusals", "answers"):
        raise DataError(f"{file}: data.fields: only: must be refusals or answers, got {which!r}")
    refusing = which == "refusals"
    kept = [row for row in rows if refuses(row["response"][:OPENING]) == refusing]
    if not kept:
        raise DataError(f"{file}: data.fields: only: {which}: no row is left")
    return kept


def _worded_answers(file: Path, fields: Mapping[str, str]) -> dict[str, str]:
    """{cell: how it is worded} that data.fields gives for a column of classes."""
    if "answers" not in fields:
        return {}
    pairs = [pair.partition("=") for pair in fields["answers"].split(",")]
    if not all(sign and cell.strip() and text.strip() for cell, sign, text in pairs):
        given = fields["answers"]
        raise DataError(f'{file}: data.fields: answers: must be "CELL = WORDS, ...", got {given!r}')
    return {cell.strip(): text.strip() for cell, _, text in pairs}


def _right_answer(place: str, cell: str, worded: Mapping[str, str]) -> dict:
    if cell not in worded:
        raise DataError(f"{place}: {cell!r} is none of the classes {', '.join(worded)}")
    return {"response": worded[cell], "answers": [worded[cell]]}


def columns(file: Path) -> set[str]:
    """The names of all columns that a file's rows have."""
    return {name for _, raw in _numbered_rows(file) if isinstance(raw, dict) for name in raw}


def read_pairs(file: str | Path) -> dict[str, list[tuple[str, str]]]:
    """{fit, validation, evaluation: (malicious, benign) instructions alike in wording}.

    A file with columns malicious and benign: its rows are dealt out in turn. A file as XSTest's,
    with prompt, label (safe or unsafe) and focus: as `xstest.paired` says. DataError for any other
    file, and where a split would be empty."""
    file = Path(file)
    if not file.is_file():
        raise DataError(f"{file}: no such file{identity.nearest_file(file)}")
    numbered = list(_numbered_rows(file))
    columns = _columns(numbered) if numbered else {}
    if {"prompt", "label", "focus"} <= set(columns):
        found = xstest.paired([_contrast_prompt(file, line, raw) for line, raw in numbered])
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


def _contrast_prompt(file: Path, line: int, raw: Any) -> dict[str, str]:
    """A row of a file as XSTest's, every column as text; DataError for another label."""
    _must_be_object(f"{file}: line {line}", raw)
    label = raw.get("label")
    if label not in ("safe", "unsafe"):
        raise DataError(f"{file}: line {line}: label must be safe or unsafe, got {label!r}")
    given = {name: str(raw.get(name) or "") for name in ("prompt", "label", "focus", "type", "id")}
    return given | {"id": given["id"] or str(line)}


# --- rows as the file holds them --------------------------------------------------------------


def _numbered_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """(line, object) for every row as the file holds it."""
    if file.suffix not in READERS:
        raise DataError(f"{file}: must be .json, .jsonl or .csv")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"{error.reason} at byte {error.start}"
        raise DataError(f"{file}: not UTF-8 ({problem})") from None
    yield from READERS[file.suffix](file, text)


def _csv_rows(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(max(len(text) + 1, csv.field_size_limit()))
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        # the csv module collects cells without a column under None
        if None in row:
            raise DataError(
                f"{file}: line {reader.line_num}: more cells than columns; "
                "quote a cell that holds a comma"
            )
        yield reader.line_num, row


def _jsonl_rows(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}: line {line}: not valid JSON ({error.msg})") from None
        yield line, row


def _json_rows(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The objects of a JSON list one by one, so that the line of each is known."""
    at = _after_space(text, 0)
    if text[at : at + 1] != "[":
        raise DataError(f"{file}: line 1: must be a list of rows")
    at = _after_space(text, at + 1)

    line, counted = 1, 0
    while text[at : at + 1] != "]":
        line += text.count("\n", counted, at)
        counted = at
        row, at = _json_value(file, text, at)
        yield line, row

    end = _after_space(text, at + 1)
    if end < len(text):
        line = text.count("\n", 0, end) + 1
        raise DataError(f"{file}: line {line}: not valid JSON (text after the list)")


def _json_value(file: Path, text: str, at: int) -> tuple[Any, int]:
    """The value of a JSON list that starts here, and where the next one or the list's end is."""
    try:
        value, at = json.JSONDecoder().raw_decode(text, at)
        at = _after_space(text, at)
        following = text[at : at + 1]
        if following == ",":
            return value, _after_space(text, at + 1)
        if following != "]":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: line {error.lineno}: not valid JSON ({error.msg})") from None
    return value, at


def _after_space(text: str, at: int) -> int:
    """The place of the first character from here on that is no space."""
    found = SPACE.match(text, at)
    return found.end() if found else at


READERS = {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _jsonl_rows}


# --- from columns to rows ---------------------------------------------------------------------


def _columns(numbered: list[tuple[int, Any]]) -> Any:
    """All rows' columns, each with the value of the first row that has it: an optional column may
    be missing in the first row. Where the first row is no object, that row."""
    first = numbered[0][1]
    if not isinstance(first, dict):
        return first
    columns: dict = {}
    for _, raw in reversed(numbered):
        if isinstance(raw, dict):
            columns |= raw
    return columns


def _shape(place: str, columns: Any, fields: Mapping[str, str] | None) -> dict[str, str]:
    """The column for each of our names, {instruction[, input][, response][, topic]}, or that of
    the conversations, {turns[, topic]}."""
    _must_be_object(place, columns)
    if fields:
        return _named_shape(place, columns, fields)

    further = next(({"topic": name} for name in TOPICS if name in columns), {})
    further |= turns.detected(columns)
    for instruction, extra, response in SHAPES:
        if instruction in columns and response in columns:
            shape = {"instruction": instruction, "response": response}
            if extra and extra in columns:
                shape["input"] = extra
            return shape | further
    for name in CONVERSATIONS:
        if isinstance(columns.get(name), list):
            return {"turns": name} | further

    # only the user's turns, as MT-Bench has them
    if isinstance(columns.get("turns"), list):
        return {"instruction": "turns"} | further

    raise DataError(
        f"{place}: no known shape in the columns {', '.join(map(str, columns))}; "
        'name them: -y "data: {fields: {FILE: {instruction: COLUMN, response: COLUMN}}}" '
        "(evaluation prompts need no response)"
    )


def _named_shape(place: str, columns: Mapping, fields: Mapping[str, str]) -> dict[str, str]:
    """The shape that a person has given in data.fields."""
    shape = {name: column for name, column in fields.items() if name not in DIRECTIVES}
    named = [name for text in shape.values() for name in _columns_in(text)]
    missing = [column for column in named if column not in columns]
    unknown = set(fields) - FIELDS - DIRECTIVES
    if missing or unknown or "instruction" not in fields:
        raise DataError(
            f"{place}: data.fields: {fields} does not fit the columns {', '.join(columns)}; "
            "give instruction and response, and input or topic where there are any"
        )
    return shape


def _columns_in(text: str) -> list[str]:
    """The columns that a value of data.fields names: itself, or those in braces."""
    return COLUMN.findall(text) or [text]


def _row(
    place: str, raw: Any, shape: Mapping[str, str], worded: Mapping[str, str] | None = None
) -> dict:
    """A row of ours from one of the file's."""
    _must_be_object(place, raw)
    found, rules = _cells(raw, shape), []
    if "turns" in shape:
        rules, question, answer = turns.first_exchange(place, found.pop("turns"))
        found |= {"instruction": question, "response": answer}
    # a class may be written as a number
    if worded and isinstance(found.get("response"), int):
        found["response"] = str(found["response"])

    for name in ("instruction", "response"):
        if name not in found:
            continue
        text = found[name]
        if not isinstance(text, str):
            column = shape.get(name, shape.get("turns"))
            raise DataError(f"{place}: {column} must be text, got {text!r}")
        found[name] = text.strip()

    # a further input or context belongs to what is asked, and what was said before it
    for name in ("input", "context"):
        extra = turns.added_text(place, shape.get(name, name), found.pop(name, None))
        if extra and found["instruction"]:
            found["instruction"] += f"\n\n{extra}"
    cells = {name: found.pop(name, None) for name in ("system", "history")}
    before = turns.turns_before(place, cells, shape, rules)
    if before:
        found["before"] = before

    if "topic" in shape:
        found["topic"] = str(raw.get(shape["topic"]) or "")
    return found


def _cells(raw: Mapping, shape: Mapping[str, str]) -> dict:
    """The cells of a row by our names; of a list the first element counts."""
    found = {name: _cell(raw, column) for name, column in shape.items()}
    asked, answers = found.get("instruction"), found.get("response")
    # several turns: the first one asks
    if isinstance(asked, list):
        found["instruction"] = asked[0] if asked else ""
    # several right answers: the first one is trained on, all are kept
    if isinstance(answers, list):
        found["answers"] = answers
        found["response"] = answers[0] if answers else None
    return found


def _cell(raw: Mapping, column: str) -> Any:
    """A row's cell of a column, or a text with its cells put in."""
    if not COLUMN.search(column):
        return raw.get(column)
    return COLUMN.sub(lambda match: str(raw.get(match[1], "")).strip(), column)


def _must_be_object(place: str, raw: Any) -> None:
    if not isinstance(raw, dict):
        kind = type(raw).__name__
        raise DataError(f"{place}: a row must be an object with named fields, found {kind}")
