"""What a check says of a student's answer: right, not yet, or nothing yet; with a hint if wrong.

A check never raises for what a student wrote, whatever it is: it says what is wrong with it. A hint
says in which way the answer is wrong, not what the answer is."""

import functools
import html
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RIGHT, WRONG, MISSING = "right", "not yet", "not answered yet"
COLOURS = {RIGHT: "#228833", WRONG: "#CC6677", MISSING: "#777777"}


@dataclass(frozen=True)
class Verdict:
    """What a check found: state (RIGHT, WRONG or MISSING) and a sentence; a notebook shows both."""

    state: str
    said: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.said}" if self.said else self.state

    __repr__ = __str__

    def _repr_html_(self) -> str:
        look = f"border-left: 6px solid {COLOURS[self.state]}; padding: 4px 10px"
        return f'<div style="{look}"><b>{self.state}</b> {html.escape(self.said)}</div>'


def right(said: str = "") -> Verdict:
    """The answer is right; a sentence on what follows from it."""
    return Verdict(RIGHT, said)


def wrong(said: str) -> Verdict:
    """The answer is not right; what is wrong with it."""
    return Verdict(WRONG, said)


def never_raises(check: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """A check that tells of an answer which it cannot even read, in place of stopping."""

    @functools.wraps(check)
    def checked(*arguments: Any) -> Verdict:
        try:
            return check(*arguments)
        except Exception as error:
            return wrong(f"This answer cannot be read ({type(error).__name__}: {error}).")

    return checked


def missing(answer: Any) -> Verdict | None:
    """A verdict where nothing was answered: None, ..., an empty text or list; else None."""
    empty = answer is None or answer is ...
    empty = empty or (isinstance(answer, (str, list, tuple, set, dict)) and not answer)
    if empty:
        return Verdict(MISSING, "Put your answer in place of the dots, and run both cells.")
    return None


def check_number(
    answer: Any, wanted: float, tolerance: float, mistakes: Sequence[tuple[float, str]] = ()
) -> Verdict:
    """Whether a number is what is wanted. mistakes: (value, hint) of the usual wrong ways."""
    if found := missing(answer):
        return found
    number = as_number(answer)
    if number is None:
        return wrong(f"This should be one number; it is {_kind(answer)}.")
    if abs(number - wanted) <= tolerance:
        return right()
    for value, hint in mistakes:
        if abs(number - value) <= tolerance:
            return wrong(hint)
    side = "large" if number > wanted else "small"
    return wrong(f"Too {side}.")


def as_number(answer: Any) -> float | None:
    """A finite number as a float; None for anything else (True and False are no numbers)."""
    if isinstance(answer, (bool, np.bool_)):
        return None
    if isinstance(answer, (int, float, np.integer, np.floating)) and math.isfinite(answer):
        return float(answer)
    return None


def check_names(
    answer: Any, wanted: Collection[str], allowed: Collection[str], too_many: str, too_few: str
) -> Verdict:
    """Whether a list of names is what is wanted, in any order.

    allowed: all names that there are. too_many, too_few: the hints where one is wrongly there, or
    is missing."""
    if found := missing(answer):
        return found
    if isinstance(answer, str) or not isinstance(answer, (list, tuple, set)):
        return wrong(f'This should be a list of names, such as ["{min(allowed)}"].')
    given = {one.strip().lower() if isinstance(one, str) else one for one in answer}
    known = {name.lower(): name for name in allowed}
    strange = [one for one in given if not isinstance(one, str) or one not in known]
    if strange:
        return wrong(f"{strange[0]!r} is none of: {', '.join(sorted(allowed))}.")
    named = {known[one] for one in given}
    if named - set(wanted):
        return wrong(too_many)
    if set(wanted) - named:
        return wrong(too_few)
    return right()


def check_choice(answer: Any, wanted: str, hints: dict[str, str]) -> Verdict:
    """Whether the one right name was chosen. hints: {another name: why it is not the one}."""
    if found := missing(answer):
        return found
    choices = sorted([wanted, *hints])
    given = answer.strip().lower() if isinstance(answer, str) else answer
    if given == wanted:
        return right()
    if given in hints:
        return wrong(hints[given])
    return wrong(f"Choose one of: {', '.join(choices)}.")


def attempt(function: Callable, *arguments: Any) -> tuple[Any, Verdict | None]:
    """(what a student's function gives, None), or (None, what to tell where it fails)."""
    try:
        return function(*arguments), None
    except Exception as error:
        return None, wrong(f"It stops with {type(error).__name__}: {error}.")


def not_a_function(answer: Any) -> Verdict | None:
    """A verdict where a student's function is no function, else None."""
    if found := missing(answer):
        return found
    if not callable(answer):
        return wrong(f"This should be a function; it is {_kind(answer)}.")
    return None


def _kind(answer: Any) -> str:
    return f"{type(answer).__name__}: {str(answer)[:40]}"
