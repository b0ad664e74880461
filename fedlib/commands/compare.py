"""`fedlib compare`: a person's own claims beside those that results/ keeps."""

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedlib.papers import claims
from fedlib.settings import machine
from fedlib.settings.errors import DataError, SettingsError, nearest

KEPT = machine.ROOT / "results"
# Presets without kept results of their own, and whose they are set beside.
BESIDE = {"mini": "claims", "real-full": "real"}
NUMBERS = ("measured", "low", "high")
# What is said of a claim, in the order of the summary.
AGREES = "agrees"
DIFFERS = "differs"
OPEN = "cannot be said"
NOT_RUN = "not run by you"
WIDTH = 140  # of the table, at least, so that a claim is one line

Claim = Mapping[str, Any]  # a row of claims.csv, its numbers as floats or None


def compare_claims(preset: str, kept: Path = KEPT) -> None:
    """Print a row a claim: what results/ has, what outputs/<preset> has, whether they agree.

    preset: a folder of the outputs (a preset's name, or <preset>+<key>). Intervals that overlap
    agree. Without an interval in results/, the mean must lie in the own interval; without a mean,
    the own mean must lie on the verdict's side of the margin.
    SettingsError where there is nothing to compare; DataError where a claims.csv is damaged."""
    mine = machine.outputs() / preset / "claims.csv"
    if not mine.exists():
        raise SettingsError(f"compare: {_what_is_missing(preset, mine)}")
    theirs = kept / _beside(preset, kept) / "claims.csv"

    own, published = _read(mine), _read(theirs)
    told = [(claim, *_compared(published[claim], own.get(claim))) for claim in published]
    measured = [row for row in told if row[1] != NOT_RUN and _is_there(published[row[0]])]

    console = Console(width=max(Console().width, WIDTH))
    console.print(_origin(preset, theirs), highlight=False)
    if measured:
        console.print(_table(measured, published, own))
    for line in _summary(told, published, own):
        console.print(line, highlight=False, soft_wrap=True)


def _what_is_missing(preset: str, mine: Path) -> str:
    """Why there are no own claims, and what makes them."""
    made = sorted(file.parent.name for file in machine.outputs().glob("*/claims.csv"))
    makes = f"`fedlib reproduce --preset {preset}` makes them, with notebook 90 at its end"
    if made:
        return f"no claims in {mine}{nearest(preset, made)}; {makes}"
    return f"no claims in {mine}; {makes}"


def _beside(preset: str, kept: Path) -> str:
    """The folder of results/ that a preset's claims are set beside."""
    there = sorted(file.parent.name for file in kept.glob("*/claims.csv"))
    plain = preset.partition("+")[0]
    name = plain if plain in there else BESIDE.get(plain, "")
    if name in there:
        return name
    raise SettingsError(
        f"compare: results/ keeps nothing to set {preset} beside (there are: {', '.join(there)})"
    )


def _read(file: Path) -> dict[str, Claim]:
    """{id: row} of a claims.csv; DataError, with file and line, where it is damaged."""
    try:
        with open(file, newline="", encoding="utf-8") as opened:
            reader = csv.DictReader(opened)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read ({error})") from None

    found: dict[str, Claim] = {}
    for line, row in rows:
        missing = [name for name in ("id", *NUMBERS, "seeds", "status") if row.get(name) is None]
        if missing:
            raise DataError(f"{file}: line {line}: no {missing[0]}; run notebook 90 again")
        if row["id"] in found:
            raise DataError(f"{file}: line {line}: {row['id']} stands twice")
        numbers = {name: _number(row[name], f"{file}: line {line}: {name}") for name in NUMBERS}
        found[row["id"]] = {**row, **numbers}
    if not found:
        raise DataError(f"{file}: holds no claims; run notebook 90 again")
    return found


def _number(text: str, place: str) -> float | None:
    """A cell's number; None where it is empty."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{place}: must be a number, got {text!r}") from None
    if not math.isfinite(value):
        raise DataError(f"{place}: must be a finite number, got {text!r}")
    return value


def _is_there(claim: Claim) -> bool:
    return claim["status"] != "not run"


def _compared(theirs: Claim, mine: Claim | None) -> tuple[str, str]:
    """(agrees, differs, cannot be said or not run by you; the reason in words)."""
    if mine is None or mine["measured"] is None:
        return NOT_RUN, ""
    if not _is_there(theirs):
        return OPEN, "not measured in results/"

    # 1. two intervals
    if None not in (theirs["low"], theirs["high"], mine["low"], mine["high"]):
        if mine["low"] > theirs["high"] or mine["high"] < theirs["low"]:
            return DIFFERS, "the intervals do not meet"
        inside = theirs["low"] <= mine["measured"] <= theirs["high"]
        return AGREES, "your mean lies in the interval" if inside else "the intervals overlap"

    # 2. one interval and the other side's mean
    for interval, mean, words in (
        (theirs, mine, "your mean lies {} the interval"),
        (mine, theirs, "its mean lies {} your interval"),
    ):
        if None not in (interval["low"], interval["high"], mean["measured"]):
            inside = interval["low"] <= mean["measured"] <= interval["high"]
            return (AGREES if inside else DIFFERS), words.format("in" if inside else "outside")

    # 3. a verdict only
    return _by_verdict(theirs, mine)


def _by_verdict(theirs: Claim, mine: Claim) -> tuple[str, str]:
    """The same for a claim whose kept result is a verdict without numbers."""
    if theirs["status"] not in ("holds", "does not hold"):
        return OPEN, f"no interval kept; the verdict is {theirs['status']}"
    every = claims.all_claims() + claims.all_claims("claims_real.yaml")
    known = {claim["id"]: claim for claim in every}
    point = {"low": mine["measured"], "high": mine["measured"], "seeds": claims.ENOUGH_SEEDS}
    same = claims.verdict(known[theirs["id"]], point) == theirs["status"]
    side = "the same" if same else "the other"
    return (AGREES if same else DIFFERS), f"no interval kept; {side} side of the margin"


def _origin(preset: str, theirs: Path) -> str:
    """Where the kept numbers come from, in one line."""
    about = json.loads((theirs.parent / "about.json").read_text(encoding="utf-8"))
    changed = "; settings were changed, so differences are no surprise" if "+" in preset else ""
    return (
        f"outputs/{preset} beside results/{theirs.parent.name} "
        f"(commit {about['commit']}; {about['machine']}){changed}"
    )


def _table(
    rows: Sequence[tuple[str, str, str]], published: Mapping[str, Claim], own: Mapping[str, Claim]
) -> Table:
    grid = Table(box=None)
    for heading in ("claim", "margin", "results/", "yours", "", "because"):
        grid.add_column(heading, no_wrap=True)
    colours = {AGREES: "green", DIFFERS: "red", OPEN: "yellow"}
    for claim, said, why in rows:
        theirs, mine = published[claim], own[claim]
        shown = f"[{colours[said]}]{said}[/]"
        grid.add_row(claim, theirs["margin"], _shown(theirs), _shown(mine), shown, why)
    return grid


def _shown(claim: Claim) -> str:
    """A claim's mean and interval, or its verdict where no number was kept."""
    if claim["measured"] is None:
        return claim["status"]
    text = f"{claim['measured']:.3g}"
    if claim["low"] is not None:
        text += rf" \[{claim['low']:.3g}, {claim['high']:.3g}]"
    return text


def _summary(
    told: Sequence[tuple[str, str, str]], published: Mapping[str, Claim], own: Mapping[str, Claim]
) -> list[str]:
    """How many claims agree and differ, and every claim that the table leaves out."""
    counts = Counter(said for _, said, _ in told)
    total = ", ".join(f"{counts[said]} {said}" for said in (AGREES, DIFFERS, OPEN, NOT_RUN))
    lines = [f"{len(told)} claims: {total}"]

    both = sum(1 for claim, said, _ in told if said == NOT_RUN and not _is_there(published[claim]))
    if both:
        lines.append(f"of those not run by you, {both} are not in results/ either")
    beyond = [
        claim for claim, said, _ in told if said != NOT_RUN and not _is_there(published[claim])
    ]
    if beyond:
        lines.append(f"yours, but not measured in results/: {', '.join(beyond)}")
    unknown = [claim for claim in own if claim not in published]
    if unknown:
        lines.append(f"yours, but no claim of results/: {', '.join(unknown)}")

    seeds = {float(row["seeds"]) for row in own.values() if row["seeds"]}
    if seeds and min(seeds) < claims.ENOUGH_SEEDS:
        lines.append(
            f"you have {min(seeds):g} seed(s): a first look; verdicts take {claims.ENOUGH_SEEDS}"
        )
    return lines
