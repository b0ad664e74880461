"""A bound on time, memory and output for a program that is not ours: a chat template. No torch."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedlib.settings.errors import SettingsError

SECONDS = 10
MEMORY = 2**28  # bytes beside what the process has already
TIMES, ADDED = 20, 1_000_000  # so many times what a template was given, and so many characters
STATE = Path("/proc/self/statm")  # how many pages this process has


class _Exceeded(Exception):
    """Something took too long."""


@contextlib.contextmanager
def bounded(what: str) -> Iterator[None]:
    """SettingsError where what is done here takes more than SECONDS or MEMORY.

    what: the beginning of the line. Time is bounded in a process's main thread, memory on Linux."""
    try:
        with _alarm(SECONDS), _less_memory(MEMORY):
            yield
        return
    except MemoryError:
        problem = f"it takes more than {MEMORY // 2**20:,} MB of memory"
    except _Exceeded:
        problem = f"it takes more than {SECONDS:g} seconds"
    raise _refused(what, problem)


def check_length(what: str, text: str, turns: Sequence[dict]) -> None:
    """SettingsError where a text is longer than turns {content} can make it."""
    given = sum(len(str(turn["content"])) for turn in turns)
    if len(text) > ADDED + TIMES * given:
        raise _refused(what, f"it makes {len(text):,} characters of {given:,}")


def _refused(what: str, problem: str) -> SettingsError:
    return SettingsError(f"{what} cannot be used: {problem}; mend it in its tokenizer")


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    # Windows has no such signal
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise _Exceeded

    before = signal.signal(signal.SIGALRM, ring)
    left = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _less_memory(memory: int) -> Iterator[None]:
    if not STATE.is_file():
        yield
        return
    import resource  # which Windows does not have

    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(STATE.read_text().split()[0])
    wanted = pages * resource.getpagesize() + memory
    limits = [limit for limit in (wanted, *before) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
