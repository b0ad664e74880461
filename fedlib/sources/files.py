"""Local files of rows: JSON, JSONL and CSV in the usual shapes; a bad row is named by file and line."""

import csv
import io
import json
import warnings
from pathlib import Path

from fedlib.settings import errors, groups, identity

# The shapes that are detected: (instruction column, optional further input column, response column).
SHAPES = (
    ("instruction", "input", "output"),
    ("instruction", "input", "response"),
    ("prompt", None, "response"),
    ("question", None, "answers"),
    ("question", None, "answer"),
    ("goal", None, "target"),
)
CONVERSATIONS = ("messages", "conversation", "conversations")


def read(file, fields=None):
    """Rows {instruction, response[, topic][, answers]} of a JSON (list), JSONL or CSV file.

    The shape is detected from the first row's columns, or given as fields {instruction: COLUMN, response: COLUMN};
    conversations give their first user turn and its answer. DataError names the file and line of a bad row; rows
    whose instruction or response is empty are left out with a warning that counts them and names the first."""
    file = Path(file)
    if not file.is_file():
        raise errors.DataError(f"{file}: no such file{identity._near(file)}")
    rows = [(line, raw) for line, raw in _raw(file)]
    if not rows:
        raise errors.DataError(f"{file}: holds no rows")
    columns = rows[0][1]
    if isinstance(columns, dict):  # of all rows: optional ones may be missing in the first
        columns = {
            k: v for _, raw in reversed(rows) if isinstance(raw, dict) for k, v in raw.items()
        } | columns
    shape = _shape(f"{file}: line {rows[0][0]}", columns, fields)
    read_, empty = [], []
    for line, raw in rows:
        row = _row(f"{file}: line {line}", raw, shape)
        if row["instruction"] and row.get("response", True):
            read_.append(row)
        else:
            empty.append(line)
    if not read_:
        raise errors.DataError(f"{file}: every row is empty")
    if empty:
        warnings.warn(
            f"{file}: {len(empty)} of {len(rows)} rows are empty and left out, the first at line {empty[0]}",
            stacklevel=2,
        )
    return read_


def _raw(file):
    """(line, object) for every row as the file holds it."""
    if file.suffix not in groups.ENDINGS:
        raise errors.DataError(f"{file}: must be .json, .jsonl or .csv")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.DataError(
            f"{file}: not UTF-8 ({error.reason} at byte {error.start})"
        ) from None
    if file.suffix == ".csv":
        csv.field_size_limit(len(text) + 1)
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for row in reader:
            if None in row:
                raise errors.DataError(
                    f"{file}: line {reader.line_num}: more cells than columns; quote a cell that holds a comma"
                )
            yield reader.line_num, row
    elif file.suffix == ".jsonl":
        for line, content in enumerate(text.split("\n"), 1):
            if content.strip():
                try:
                    yield line, json.loads(content)
                except json.JSONDecodeError as error:
                    raise errors.DataError(
                        f"{file}: line {line}: not valid JSON ({error.msg})"
                    ) from None
    else:
        yield from _array(file, text)


def _array(file, text):
    """The objects of a JSON list one by one, so that each keeps its line."""
    decoder, skip = json.JSONDecoder(), " \t\r\n"
    at = len(text) - len(text.lstrip(skip))
    if text[at : at + 1] != "[":
        raise errors.DataError(f"{file}: line 1: must be a list of rows")
    at, line, seen = at + 1, 1, 0

    def after_space(at):
        while text[at : at + 1] and text[at] in skip:
            at += 1
        return at

    at = after_space(at)
    while text[at : at + 1] != "]":
        line, seen = line + text.count("\n", seen, at), at
        try:
            value, at = decoder.raw_decode(text, at)
            at = after_space(at)
            if text[at : at + 1] == ",":
                at = after_space(at + 1)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        except json.JSONDecodeError as error:
            raise errors.DataError(
                f"{file}: line {error.lineno}: not valid JSON ({error.msg})"
            ) from None
        yield line, value
    end = after_space(at + 1)
    if end < len(text):
        raise errors.DataError(
            f"{file}: line {text.count(chr(10), 0, end) + 1}: not valid JSON (text after the list)"
        )


def _shape(place, first, fields):
    if not isinstance(first, dict):
        raise errors.DataError(
            f"{place}: a row must be an object with named fields, found {type(first).__name__}"
        )
    if fields:
        unknown = [v for v in fields.values() if v not in first]
        if (
            unknown
            or set(fields) - {"instruction", "input", "response", "topic"}
            or "instruction" not in fields
        ):
            raise errors.DataError(
                f"{place}: data.fields: {fields} does not fit the columns {', '.join(first)}; "
                "give instruction and response, and input or topic where there are any"
            )
        return fields
    for instruction, extra, response in SHAPES:
        if instruction in first and response in first:
            shape = {"instruction": instruction, "response": response}
            return shape | ({"input": extra} if extra in first else {}) | _topic(first)
    for name in CONVERSATIONS:
        if isinstance(first.get(name), list):
            return {"turns": name} | _topic(first)
    if isinstance(first.get("turns"), list):  # a user's turns alone, as MT-Bench has them
        return {"instruction": "turns"} | _topic(first)
    raise errors.DataError(
        f"{place}: no known shape in the columns {', '.join(map(str, first))}; "
        'name them: -y "data: {fields: {FILE: {instruction: COLUMN, response: COLUMN}}}" '
        "(evaluation prompts need no response)"
    )


def _topic(first):
    return next(({"topic": c} for c in ("topic", "category") if c in first), {})


def _row(place, raw, shape):
    if not isinstance(raw, dict):
        raise errors.DataError(
            f"{place}: a row must be an object with named fields, found {type(raw).__name__}"
        )
    if "turns" in shape:
        turns = raw.get(shape["turns"])
        found = dict(zip(("instruction", "response"), _first_turn(place, turns), strict=True))
    else:
        found = {name: raw.get(column) for name, column in shape.items()}
        if isinstance(found["instruction"], list):  # several turns: the first one asks
            found["instruction"] = found["instruction"][0] if found["instruction"] else ""
        if isinstance(found.get("response"), list):  # several right answers: the first one teaches
            found |= {
                "answers": found["response"],
                "response": found["response"][0] if found["response"] else None,
            }
    for name in ("instruction", "response"):
        if name in found or "response" in shape or "turns" in shape:
            text = found.get(name)
            if not isinstance(text, str):
                column = shape.get(name, shape.get("turns"))
                raise errors.DataError(f"{place}: {column} must be text, got {text!r}")
            found[name] = text.strip()
    extra = found.pop("input", None) or ""
    if not isinstance(extra, str):
        raise errors.DataError(f"{place}: {shape['input']} must be text, got {extra!r}")
    extra = extra.strip()
    found["instruction"] += f"\n\n{extra}" if extra and found["instruction"] else ""
    if "topic" in shape:
        found["topic"] = str(raw.get(shape["topic"]) or "")
    return found


def _first_turn(place, turns):
    def text(turn):
        return turn.get("content", turn.get("value"))

    if not isinstance(turns, list) or not all(isinstance(t, dict) for t in turns):
        raise errors.DataError(f"{place}: a conversation must be a list of turns")
    turns = [t for t in turns if t.get("role", t.get("from")) != "system"]
    roles = [t.get("role", t.get("from")) for t in turns[:2]]
    if len(turns) < 2 or roles[0] not in ("user", "human") or roles[1] not in ("assistant", "gpt"):
        raise errors.DataError(
            f"{place}: a conversation must open with a user's and an assistant's turn, found {roles}"
        )
    return text(turns[0]), text(turns[1])
