"""How many faults of each kind were tried: `make faults` prints it, in one process."""

import os
from collections import Counter
from collections.abc import Collection

ASKED = bool(os.environ.get("FEDLIB_FAULTS") or os.environ.get("FEDLIB_FUZZ"))
TRIED: Counter[str] = Counter()
_KIND_OF: dict[str, set[str]] = {}  # {test: the kinds that it tried}


def count(kind: str, times: int = 1) -> None:
    """Faults of a kind are being tried by the test that is running."""
    TRIED[kind] += times
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
    _KIND_OF.setdefault(test, set()).add(kind)


def table(failed: Collection[str]) -> list[str]:
    """Lines of a Markdown table. failed: the tests in which something was lost."""
    lost = Counter(kind for test in failed for kind in _KIND_OF.get(test, ()))
    lines = ["| fault | tried | lost |", "|---|---|---|"]
    lines += [f"| {kind} | {tried:,} | {lost[kind]} |" for kind, tried in TRIED.items()]
    return [*lines, f"| all | {TRIED.total():,} | {lost.total()} |"]
