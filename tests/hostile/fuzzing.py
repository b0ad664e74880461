"""What the tests of hostile input share: how often hypothesis tries, and what an error must be.

FEDLIB_FUZZ sets how many inputs each property gets; `make test` gives it few."""

import functools
import os
from collections.abc import Callable
from typing import Any

import pytest
import tally

from fedlib.settings.errors import DataError, SettingsError

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")

EXAMPLES = int(os.environ.get("FEDLIB_FUZZ", "0"))
LONGEST = 1500  # characters of an error's line


def fuzzed(examples: int, kind: str) -> Any:
    """A property gets so many inputs, the same ones each time.

    kind: what they are, for the tally."""
    options = hypothesis.settings(
        max_examples=EXAMPLES or examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    def decorate(test: Any) -> Any:
        inner = test.hypothesis.inner_test

        @functools.wraps(inner)
        def counted(*given: Any, **named: Any) -> Any:
            tally.count(f"fuzzed: {kind}")
            return inner(*given, **named)

        test.hypothesis.inner_test = counted
        return options(test)

    return decorate


def tried(call: Callable[[], Any]) -> Any:
    """What a call returns, or None where it ends in one clear line; any other error passes."""
    try:
        return call()
    except (SettingsError, DataError) as error:
        line = str(error)
        assert line and "\n" not in line and len(line) < LONGEST, line
        return None
