"""What a person is told in one line: two errors, the nearest known name, what is left out."""

import difflib
import functools
import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence

# Where a person's keys are; shorter values are none.
SECRETS = ("HF_TOKEN", "OPENAI_API_KEY", "HUGGING_FACE_HUB_TOKEN", "ANTHROPIC_API_KEY")
SHORTEST_SECRET = 8


def secrets() -> list[str]:
    """The keys and tokens in the environment: they stand in no file, and in no error."""
    found = [os.environ.get(name, "") for name in SECRETS]
    return [secret for secret in found if len(secret) >= SHORTEST_SECRET]


def without_secrets(text: str) -> str:
    """A text in which *** stands in the place of each key or token of the environment."""
    for secret in secrets():
        text = text.replace(secret, "***")
    return text


class OneLine(ValueError):
    """An error whose message is one line that can be printed, whatever it quotes; no secret."""

    def __init__(self, line: str):
        super().__init__("".join(map(_printable, without_secrets(line))))


def _printable(sign: str) -> str:
    return sign if sign.isprintable() else sign.encode("unicode_escape").decode()


class SettingsError(OneLine):
    """A setting that cannot be used; the message is one line."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the line, not the way to it."""
        return [f"SettingsError: {self}"]


class DataError(OneLine):
    """Data that cannot be used; the message names file and line."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the line, not the way to it."""
        return [f"DataError: {self}"]


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error line: the nearest known name, if any is near, and all known ones."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    return f"{suggestion} (known: {', '.join(known)})"


@functools.cache
def say(line: str) -> None:
    """Print a line to stderr, the first time in a process.

    A worker process is silent: the process that started it has said the same."""
    if multiprocessing.parent_process() is None:
        print(line, file=sys.stderr, flush=True)


def one_line(error: BaseException, file: str | None = None) -> str:
    """An exception of any kind in one line: its type, what it says, the file and line.

    file: the one whose line counts, where the error came through it; else where it was raised."""
    said = " ".join(str(error).split())
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if frame.filename == file] or frames
    # a syntax error names its line itself
    if not frames or isinstance(error, SyntaxError):
        return text
    name = frames[-1].filename.replace("\\", "/").rpartition("/")[2]
    return f"{text} ({name}, line {frames[-1].lineno})"
