"""One picture of all claims: each in words, what was published, what is measured, the verdict.

Here is what it shows and where; claim_charts and the page draw it."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fedlib.papers import claims

TITLES = {
    "S": "Paper S: a safety attack, and its repair",
    "B": "Paper B: a backdoor from a little poison in many hands",
    "W": "Paper W: what tuning forgets, and a warm-up against it",
}
SO_FAR = {True: "inside so far", False: "outside so far"}  # of a claim with too few seeds
ORDER = ("holds", "does not hold", "inconclusive", *SO_FAR.values(), "not run")
MARKS = dict(zip(ORDER, ("✓", "✗", "≈", "✓", "✗", "–"), strict=True))
PRELIMINARY = tuple(SO_FAR.values())
EDGE = 0.06  # of the picture's width, left free on both sides


@dataclass(frozen=True)
class Claim:
    """One claim: its code, which variant of its family, its numbers, and what they say.

    interval, dot, diamond: where they are drawn, in percent of the picture's width."""

    id: str
    variant: str
    notebook: str
    published: str
    measured: str
    margin: str
    seeds: int
    said: str
    interval: tuple[float, float] | None
    dot: float | None
    diamond: float | None


@dataclass(frozen=True)
class Family:
    """Claims that differ in a variant only: in words, with the zone in which they hold.

    zone: (from, to) in percent; ticks: (percent, text); counts: how many say what."""

    words: str
    unit: str
    metric: str
    claims: Sequence[Claim]
    zone: tuple[float, float]
    ticks: Sequence[tuple[float, str]]
    counts: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Paper:
    """A paper's claims."""

    title: str
    families: Sequence[Family]
    counts: Sequence[tuple[str, int]]


def claim_papers(verdicts: pd.DataFrame) -> list[Paper]:
    """The verdicts by paper and family, in their order; verdicts: of claims.claim_verdicts."""
    families: dict[tuple[str, str], list[dict]] = {}
    for row in verdicts.to_dict("records"):
        families.setdefault((row["paper"], row["family"]), []).append(row)

    papers = []
    for letter, title in TITLES.items():
        made = [_family(rows) for (paper, _), rows in families.items() if paper == letter]
        if made:
            said = [claim.said for family in made for claim in family.claims]
            papers.append(Paper(title, made, count_said(said)))
    return papers


def count_said(said: Iterable[str]) -> list[tuple[str, int]]:
    """[(what is said, how often)] in a fixed order, what nobody says left out."""
    counted = Counter(said)
    return [(one, counted[one]) for one in ORDER if counted[one]]


def _family(rows: Sequence[dict[str, Any]]) -> Family:
    low, high = _scale(rows)

    def place(value: float) -> float:
        """Where a value lies, in percent; what is infinite lies on the edge."""
        share = (min(max(value, low), high) - low) / (high - low)
        return round(100 * share, 2)

    made = [_claim(row, place) for row in rows]
    first = rows[0]
    bounds = first["bounds"]
    numbers = [bound for bound in bounds if math.isfinite(bound)]
    # a zero shows where nothing changes, if there is room for it
    if all(abs(place(0) - place(number)) > 15 for number in numbers) and low <= 0 <= high:
        numbers.append(0)
    return Family(
        words=first["family"],
        unit=first["unit"],
        metric=first["metric"],
        claims=made,
        zone=(place(bounds[0]), place(bounds[1])),
        ticks=[(place(number), f"{number:g}") for number in sorted(numbers)],
        counts=count_said(claim.said for claim in made),
    )


def _scale(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(low, high) of a picture in which all that is known of these claims can be seen."""
    known = [bound for row in rows for bound in row["bounds"] if math.isfinite(bound)]
    for row in rows:
        known += [row[name] for name in ("published", "measured", "low", "high") if _is(row[name])]
    known += claims.BOUNDS.get(rows[0]["unit"], (0,))
    low, high = min(known), max(known)
    edge = EDGE * (high - low) or 1.0
    return low - edge, high + edge


def _claim(row: dict[str, Any], place: Callable[[float], float]) -> Claim:
    there = [row[name] for name in ("measured", "low", "high") if _is(row[name])]
    return Claim(
        id=row["id"],
        variant=row["variant"],
        notebook=claims.notebook_of(row["id"]),
        published=_number(row["published"]),
        measured=_interval(row),
        margin=row["margin"].replace(">=", "at least").replace("<=", "at most"),
        seeds=int(row["seeds"]) if _is(row["seeds"]) else 0,
        said=_said(row),
        interval=(place(min(there)), place(max(there))) if there else None,
        dot=place(row["measured"]) if _is(row["measured"]) else None,
        diamond=place(row["published"]) if _is(row["published"]) else None,
    )


def _said(row: dict[str, Any]) -> str:
    """The verdict; of a preliminary one, on which side the number lies."""
    if row["status"] != "preliminary":
        return row["status"]
    low, high = row["bounds"]
    return SO_FAR[bool(low <= row["measured"] <= high)]


def _interval(row: dict[str, Any]) -> str:
    """A number with its interval, where there is one."""
    text = _number(row["measured"])
    if text and _is(row["low"]) and row["low"] < row["high"]:
        text += f" [{_number(row['low'])}, {_number(row['high'])}]"
    return text


def _is(value: Any) -> bool:
    """Whether there is a number."""
    return value is not None and math.isfinite(value)


def _number(value: Any) -> str:
    if not _is(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
