"""Seeds for every random choice, and what tells whether two things are the same."""

import functools
import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any

from fedlib.settings import errors

# Raise it when a result changes for the same settings: runs made before are then left unread.
CODE_VERSION = 3


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the purpose that the names tell; no two purposes share a random stream."""
    purpose = json.dumps([seed, *names]).encode()
    first_bytes = hashlib.sha256(purpose).digest()[:8]
    return int.from_bytes(first_bytes) >> 1


def digest(value: Any) -> str:
    """12 hex digits of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=2**17)
def plain(text: str) -> str:
    """The form in which two texts are the same: whatever their case, spaces, Unicode normal form,
    invisible characters, and punctuation at the end."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    seen = "".join(sign for sign in folded if unicodedata.category(sign) != "Cf")
    words = " ".join(seen.split())
    end = len(words)
    while end and unicodedata.category(words[end - 1])[0] in "PZ":
        end -= 1
    # of punctuation only, all of it counts
    return words[:end] or words


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes, as hex digits; DataError where there is no such file."""
    if not file.is_file():
        raise errors.DataError(f"{file}: no such file{nearest_file(file)}")
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def nearest_file(file: Path) -> str:
    """The end of an error line: the folder's file that is named most like this one."""
    if file.is_dir():
        return " (it is a folder)"
    names = sorted(there.name for there in file.parent.glob("*")) if file.parent.is_dir() else []
    if not names:
        return f" (nor the folder {file.parent})"
    return errors.nearest(file.name, names)
