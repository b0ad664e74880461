"""What a row of a file asks beside its instruction: a context, a system's words, earlier turns.

Columns that hold them are found by their names, as the columns of `files.SHAPES` are, or named in
data.fields. No torch.
"""

import json
from collections.abc import Mapping
from typing import Any

from fedlib.settings.errors import DataError

# Our names, and the columns that are taken for them, the first one found.
COLUMNS = {
    "context": ("context",),
    "system": ("system", "system_prompt"),
    "history": ("history",),
}
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
SYSTEM_ROLES = ("system", "developer")


def detected(columns: Mapping) -> dict[str, str]:
    """The column for each of our names {[context][, system][, history]} that there is one for."""
    found = {}
    for name, known in COLUMNS.items():
        there = [column for column in known if column in columns]
        if there:
            found[name] = there[0]
    return found


def added_text(place: str, column: str, cell: Any) -> str:
    """A cell that may be empty: a text, or a list of texts, which stand a blank line apart.

    DataError if it is anything else."""
    if isinstance(cell, list) and all(isinstance(text, str) for text in cell):
        cell = "\n\n".join(text.strip() for text in cell)
    if cell is not None and not isinstance(cell, str):
        raise DataError(f"{place}: {column} must be text, got {cell!r}")
    return (cell or "").strip()


def turns_before(
    place: str, cells: Mapping[str, Any], shape: Mapping[str, str], rules: list
) -> list[dict]:
    """The turns {role, content} before a row's question: one of the system's, then the history.

    cells: by our names; rules: the texts of a conversation's own system turns."""
    texts = [added_text(place, shape.get("system", "system"), cells.get("system"))]
    texts += [added_text(place, "a system turn", text) for text in rules]
    system = "\n\n".join(text for text in texts if text)
    turns = [{"role": "system", "content": system}] if system else []
    return turns + _history(place, shape.get("history", "history"), cells.get("history"))


def _history(place: str, column: str, cell: Any) -> list[dict]:
    """A history as turns: pairs [question, answer], or turns {role, content}; in CSV as JSON."""
    given = cell
    if isinstance(cell, str) and cell.strip():
        try:
            given = json.loads(cell)
        except json.JSONDecodeError:
            pass  # it is named below
    if not given or (isinstance(given, str) and not given.strip()):
        return []

    turns: list[dict] = []
    for entry in given if isinstance(given, list) else [None]:
        said = _said(entry)
        if said is None:
            raise DataError(
                f"{place}: {column} must be a list of pairs [question, answer], got {cell!r}"
            )
        turns += [{"role": role, "content": text.strip()} for role, text in said]
    return turns


def _said(entry: Any) -> list[tuple[str, str]] | None:
    """(role, text) of an entry of a history; None if it is neither a pair nor a turn."""
    said: list[tuple[Any, Any]] = []
    if isinstance(entry, list) and len(entry) == 2:
        said = list(zip(("user", "assistant"), entry, strict=True))
    if isinstance(entry, dict):
        role, text = role_and_text(entry)
        said = [(ROLES.get(role), text)]
    found = [(role, text) for role, text in said if role and isinstance(text, str)]
    return found if found and len(found) == len(said) else None


def role_and_text(turn: Mapping) -> tuple[Any, Any]:
    """Who says what in a turn, in the two usual ways to write one: role and content, from and
    value."""
    return turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))


def first_exchange(place: str, turns: Any) -> tuple[list, Any, Any]:
    """(texts of the system turns before it, what the user asks first, the assistant's answer)."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(f"{place}: a conversation must be a list of turns")
    rules, said = [], []
    for role, text in map(role_and_text, turns):
        if len(said) == 2:
            break
        if role in SYSTEM_ROLES:
            rules.append(text)
        else:
            said.append((role, text))

    roles = [role for role, _ in said]
    if [ROLES.get(role) for role in roles] != ["user", "assistant"]:
        raise DataError(
            f"{place}: a conversation must open with a user's and an assistant's turn, "
            f"found {roles}"
        )
    return rules, said[0][1], said[1][1]
