"""Texts of settings that no file could have, that lead elsewhere, or that should be kept secret."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BeforeValidator

from fedlib.settings import errors

# What file systems take: bytes of a name, characters of a path.
LONGEST_NAME, LONGEST_PATH = 255, 4000
# How keys of the hub and of OpenAI look.
SECRET = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{20,}")


def _no_yes_or_no(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"defense.level: {value} is none; write the number or the name")
    return value


# On a field that takes 0 or 1: yes and no would pass for them.
NUMBER = BeforeValidator(_no_yes_or_no)


def unwritable(content: Any) -> str | None:
    """Which text of settings cannot stand in a file, or is a name that no file can have."""
    for field, text in _texts(content):
        try:
            long = max(map(len, text.encode().split(b"/")))
        except UnicodeEncodeError:
            return f"{field}: holds half of a character (a lone surrogate)"
        control = next((sign for sign in text if sign < " " or sign == "\x7f"), None)
        is_name = not field.startswith("data.fields")
        if is_name and control:
            return f"{field}: {text[:60]!r}: a name must not hold {control!r}"
        if is_name and (long > LONGEST_NAME or len(text) > LONGEST_PATH):
            return f"{field}: the name {text[:40]!r}... is longer than a file's may be"
    return None


def secret(content: Any) -> str | None:
    """Which text of settings holds a key or token; they go to disk, into records and notebooks."""
    known = errors.secrets()
    for field, text in _texts(content):
        if SECRET.search(text) or any(secret in text for secret in known):
            return (
                f"{field}: holds what looks like a key or token, and settings are written to disk: "
                f"set it in the environment ({' or '.join(errors.SECRETS[:2])})"
            )
    return None


def _texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """(field, text) for every text among values by group."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(name, field)
            yield from _texts(inner, f"{field}.{name}" if field else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, field)
