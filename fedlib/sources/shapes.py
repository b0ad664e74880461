"""From a file's columns to rows of ours: the shapes that are detected, or columns named by hand."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fedlib.settings.errors import DataError

# The shapes that are detected: (instruction column, response column).
SHAPES = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("question", "answers"),
    ("question", "answer"),
    ("goal", "target"),
)
# Columns that belong to what is asked, and the only instruction column that each goes with.
INPUTS = {"input": "instruction", "context": None}
# Columns that hold a whole conversation.
CONVERSATIONS = ("messages", "conversation", "conversations")
# Columns that tell a row's topic, the first one found.
TOPICS = ("topic", "category")
# Columns of what stands before the question, by our names: a system turn; turns as pairs (asked,
# answered).
BEFORE = {"system": ("system", "system_prompt"), "history": ("history",)}
# What data.fields may name a column for, and what else it may say of a file.
FIELDS = {"instruction", "response", "topic", *INPUTS, *BEFORE}
DIRECTIVES = {"answers", "only"}

COLUMN = re.compile(r"\{([^{}]+)\}")  # in a text that the cells are put into
SYSTEM, USER, ASSISTANT = ("system", "developer"), ("user", "human"), ("assistant", "gpt")


class BadRow(ValueError):
    """A row that cannot be used; the message says why, without the row's text."""


# --- which column is what -----------------------------------------------------------------------


def columns_of(rows: Iterable[Any]) -> dict[str, Any]:
    """All columns, each with a value of one row, the first that has one: an optional column may
    be missing or empty in the first row."""
    columns: dict[str, Any] = {}
    for raw in rows:
        if isinstance(raw, dict):
            for name, value in raw.items():
                if columns.get(name) is None:
                    columns[name] = value
    return columns


def find_shape(
    place: str, name: str, columns: Mapping[str, Any], fields: Mapping[str, str]
) -> dict[str, str]:
    """The column for each of our names: {instruction[, input, context][, response][, topic]
    [, system][, history]}, or {turns, ...} for conversations.

    place: the start of an error line; name: the file or dataset as settings name it. DataError
    where no shape is known, or where data.fields names columns that are not there."""
    if fields:
        return _named_shape(place, columns, fields)

    topic = next(({"topic": name} for name in TOPICS if name in columns), {})
    before = {
        ours: next(name for name in known if name in columns)
        for ours, known in BEFORE.items()
        if set(known) & set(columns)
    }
    for instruction, response in SHAPES:
        if instruction in columns and response in columns:
            shape = {"instruction": instruction, "response": response}
            for extra, goes_with in INPUTS.items():
                if extra in columns and goes_with in (None, instruction):
                    shape[extra] = extra
            return shape | topic | before
    for turns in CONVERSATIONS:
        if isinstance(columns.get(turns), list):
            return {"turns": turns} | topic | before

    # only the user's turns, as MT-Bench has them
    if isinstance(columns.get("turns"), list):
        return {"instruction": "turns"} | topic

    seen = ", ".join(map(shown, columns))
    raise DataError(
        f"{place}: no known shape in the columns {seen}; name them: "
        f'-y "data: {{fields: {{{_quoted(name)}: {_guessed(columns)}}}}}" '
        "(evaluation prompts need no response)"
    )


def _guessed(columns: Mapping[str, Any]) -> str:
    """The line that names the columns, as far as it can be guessed: the first two of text."""
    texts = [name for name, value in columns.items() if isinstance(value, str) and name]
    first = _quoted(texts[0]) if texts else "COLUMN"
    second = _quoted(texts[1]) if len(texts) > 1 else "COLUMN"
    return f"{{instruction: {first}, response: {second}}}"


def _quoted(name: str) -> str:
    """A name as YAML takes it."""
    return name if re.fullmatch(r"[\w./-]+", name) else f"'{shown(name)}'"


def _named_shape(place: str, columns: Mapping, fields: Mapping[str, str]) -> dict[str, str]:
    """The shape that a person has given in data.fields."""
    shape = {name: column for name, column in fields.items() if name not in DIRECTIVES}
    problems = [
        _no_column(column, columns) for column in used_columns(shape) if column not in columns
    ]
    unknown = sorted(set(fields) - FIELDS - DIRECTIVES)
    problems += [f"no field {name!r} (known: {', '.join(sorted(FIELDS))})" for name in unknown]
    if "instruction" not in fields:
        problems.append("instruction is missing")
    if problems:
        raise DataError(
            f"{place}: data.fields does not fit the columns {', '.join(map(shown, columns))}: "
            f"{'; '.join(problems)}"
        )
    return shape


def _no_column(column: str, columns: Mapping) -> str:
    close = difflib.get_close_matches(column, list(columns), n=1, cutoff=0.5)
    return f"no column {column!r}" + (f", did you mean {close[0]!r}?" if close else "")


def used_columns(shape: Mapping[str, str]) -> list[str]:
    """The columns that a shape takes cells from."""
    return [name for text in shape.values() for name in COLUMN.findall(text) or [text]]


def shown(name: Any) -> str:
    """A column's name as it can be printed, whatever is in it."""
    return str(name)[:60].encode("utf-8", "backslashreplace").decode()


# --- a row --------------------------------------------------------------------------------------


def row_of(raw: Any, shape: Mapping[str, str], worded: Mapping[str, str]) -> dict:
    """A row of ours from one of the file's: {instruction[, response][, topic][, answers]
    [, before]}; BadRow where it cannot be used.

    before: the turns {role, content} that stand before the question.
    worded: how the cells of a column of classes are worded; empty for any other response."""
    if not isinstance(raw, dict):
        raise BadRow(f"a row must be an object with named fields, found {_kind(raw)}")
    if "turns" in shape:
        found = _conversation(raw.get(shape["turns"]))
    else:
        found = _cells(raw, shape)
    # a class may be written as a number
    if worded and isinstance(found.get("response"), int):
        found["response"] = str(found["response"])

    for name in ("instruction", "response"):
        if name in found:
            found[name] = _full_text(found[name], shape.get(name, shape.get("turns", name)))
    if worded:
        found |= _right_answer(shape["response"], found["response"], worded)

    # a further input or a context belongs to what is asked
    for name in INPUTS:
        extra = _joined(raw.get(shape[name]), shape[name]) if name in shape else ""
        if extra:
            found["instruction"] += f"\n\n{extra}"

    before = _before(raw, shape, found.pop("system", ""))
    if before:
        found["before"] = before
    if "topic" in shape:
        found["topic"] = str(raw.get(shape["topic"]) or "")
    _must_be_writable(found)
    return found


def group_of(raw: Mapping, column: str) -> str:
    """A row's cell of the column by which rows are shared out; BadRow where it is empty."""
    cell = raw.get(column)
    if cell is None or not str(cell).strip():
        raise BadRow(f"{shown(column)} is empty, by which rows are shared out")
    if isinstance(cell, list | dict):
        raise BadRow(f"{shown(column)} is {_kind(cell)}, by which no rows can be shared out")
    return str(cell).strip()


def goes_on(raw: Any, shape: Mapping[str, str]) -> bool:
    """Whether a row has turns after the first question and answer."""
    if "turns" in shape:
        said = [role for role, _ in _said(raw[shape["turns"]]) if role not in SYSTEM]
        return len(said) > 2
    asked = raw.get(shape["instruction"])
    return isinstance(asked, list) and len(asked) > 1


def _cells(raw: Mapping, shape: Mapping[str, str]) -> dict:
    """The cells of question and answer; of a list the first element counts."""
    found = {name: _cell(raw, shape[name]) for name in ("instruction", "response") if name in shape}
    turns, answers = found["instruction"], found.get("response")
    # several turns: the first one asks
    if isinstance(turns, list):
        found["instruction"] = turns[0] if turns else ""
    # answers with their places in the context, as SQuAD has them
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        answers = answers["text"]
    # several right answers: the first one is trained on, all are kept
    if isinstance(answers, list):
        found["answers"] = [_text(answer, shape["response"]) for answer in answers]
        found["response"] = answers[0] if answers else None
    return found


def _cell(raw: Mapping, column: str) -> Any:
    """A row's cell of a column, or a text with its cells put in."""
    if not COLUMN.search(column):
        return raw.get(column)
    return COLUMN.sub(lambda match: str(raw.get(match[1], "")).strip(), column)


def _full_text(value: Any, column: str) -> str:
    text = _text(value, column)
    if not text:
        raise BadRow(f"{shown(column)} is empty")
    return text


def _text(value: Any, column: str) -> str:
    """A cell's text without space around it; what is missing or null is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"{shown(column)} must be text, got {_kind(value)}")
    return value.strip()


def _joined(value: Any, column: str) -> str:
    """A cell's text, or the texts of a list, an empty line between them."""
    parts = value if isinstance(value, list) else [value]
    return "\n\n".join(filter(None, (_text(part, column) for part in parts)))


def _right_answer(column: str, cell: str, worded: Mapping[str, str]) -> dict:
    if cell not in worded:
        raise BadRow(f"{shown(column)} is none of the classes {', '.join(worded)}")
    return {"response": worded[cell], "answers": [worded[cell]]}


def _kind(value: Any) -> str:
    """What a value is, without showing it."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    kinds |= {list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def _must_be_writable(row: dict) -> None:
    """BadRow where a text holds half of a character, or bytes that are no UTF-8."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        # decoding keeps bytes that are no UTF-8 in this range
        if 0xDC80 <= code <= 0xDCFF:
            raise BadRow("not UTF-8: save the file as UTF-8 (is it Latin-1?)") from None
        raise BadRow("holds half of a character (a lone surrogate)") from None


# --- what was said before -----------------------------------------------------------------------


def _conversation(turns: Any) -> dict:
    """What the user asks first in a conversation, the answer to it, and a system turn before."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow("a conversation must be a list of turns")
    system: list[str] = []
    said: list[tuple[Any, Any]] = []
    for role, content in _said(turns):
        # a system turn counts up to the answer
        if role in SYSTEM and len(said) < 2:
            system.append(_text(content, "the system turn"))
        elif role not in SYSTEM:
            said.append((role, content))

    roles = [shown(role) for role, _ in said[:2]]
    if len(roles) < 2 or roles[0] not in USER or roles[1] not in ASSISTANT:
        raise BadRow(
            f"a conversation must open with a user's and an assistant's turn, found {roles}"
        )
    found = {"instruction": said[0][1], "response": said[1][1]}
    return found | {"system": "\n\n".join(filter(None, system))}


def _said(turns: list[dict]) -> list[tuple[Any, Any]]:
    """(role, content) of each turn, in the two usual ways to write it: role and content, from and
    value. Of content in parts of text these are put together."""
    said = []
    for turn in turns:
        content = turn.get("content", turn.get("value"))
        if isinstance(content, list) and all(
            isinstance(part, dict) and part.get("type") == "text" for part in content
        ):
            content = "".join(str(part.get("text") or "") for part in content)
        said.append((turn.get("role", turn.get("from")), content))
    return said


def _before(raw: Mapping, shape: Mapping[str, str], opening: str) -> list[dict]:
    """The turns {role, content} that stand before a row's question: the system's, then its history.

    opening: the system turn of a conversation."""
    system = _text(raw.get(shape["system"]), shape["system"]) if "system" in shape else ""
    whole = "\n\n".join(filter(None, [system, opening]))
    turns = [{"role": "system", "content": whole}] if whole else []

    return turns + (
        _history(raw.get(shape["history"]), shape["history"]) if "history" in shape else []
    )


def _history(cell: Any, column: str) -> list[dict]:
    """A history as turns: of pairs (asked, answered), or of turns; in CSV they stand as JSON."""
    given = cell
    if isinstance(cell, str):
        try:
            given = json.loads(cell) if cell.strip() else []
        except ValueError:
            given = None
    wrong = BadRow(f"{shown(column)} must be a list of pairs (asked, answered)")
    if cell is not None and not isinstance(given, list):
        raise wrong

    said: list[tuple[Any, Any]] = []
    for entry in given or []:
        if isinstance(entry, list) and len(entry) == 2:
            said += zip((USER[0], ASSISTANT[0]), entry, strict=True)
        elif isinstance(entry, dict):
            said += _said([entry])
        else:
            raise wrong
    roles = {name: known[0] for known in (USER, ASSISTANT) for name in known}
    if not all(role in roles and isinstance(content, str) for role, content in said):
        raise wrong
    return [{"role": roles[role], "content": content.strip()} for role, content in said]
