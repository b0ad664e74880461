"""TODO: what this room is for."""

import hashlib
import json

from fedlib.settings import errors

CODE_VERSION = (
    3  # raise it when a result changes for the same settings: old runs are then left alone
)


def derive(seed, *names):
    """A 63-bit seed of its own for each purpose, so that no two random choices share a stream."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, *names]).encode()).digest()[:8]) >> 1


def digest(value):
    """12 hex digits of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _near(file):
    names = sorted(p.name for p in file.parent.glob("*")) if file.parent.is_dir() else []
    return errors.nearest(file.name, names) if names else f" (nor the folder {file.parent})"


def file_digest(file):
    """SHA-256 of a file's bytes, as hex digits."""
    if not file.is_file():
        raise errors.DataError(f"{file}: no such file{_near(file)}")
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
