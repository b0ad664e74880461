"""The picture of a paper's claims: each in words, its numbers, and the verdict by shape and word.

`claim_picture` says what stands where. Here all places are in inches, from the upper left."""

import textwrap
from typing import Any

import pandas as pd

from fedlib.papers import claim_picture, claims, output
from fedlib.papers.claim_picture import MARKS, SO_FAR, Claim, Family, Paper
from fedlib.papers.methods import BLUE, GREEN, GREY, LABEL, RED

# What is said of a claim: (shape, colour, whether it is filled). No two differ in colour only.
SIGNS = {
    "holds": ("o", GREEN, True),
    "does not hold": ("X", RED, True),
    "inconclusive": ("s", "#997700", False),
    SO_FAR[True]: ("^", BLUE, True),
    SO_FAR[False]: ("v", BLUE, False),
}
PUBLISHED = {"marker": "D", "color": "white", "mec": "black", "ms": 6, "ls": "none", "zorder": 3}
VARIANT_WORDS = {"sampled": "some clients", "full": "all clients", "asr": "ASR"}

WIDTH = 9.7
WORDS, VARIANT = 0.1, 4.1  # where words begin, where a variant's end
SCALE = (4.2, 6.5)  # from where to where numbers are drawn
PUBLISHED_AT, MEASURED_AT, SAID_AT = 7.1, 8.55, 8.65  # numbers end there, verdicts begin
LANE, LINE = 0.155, 0.15  # the height of a claim, and of a line of words
GAP = 0.22  # between families, where the numbers of a scale stand
HEAD = 0.95  # above the first family
LETTERS = 46  # of a line of words
MOST = {"fontsize": 7.5, "va": "center"}


def claim_forest(verdicts: pd.DataFrame, letter: str) -> Any:
    """A paper's claims (S, B or W) in one picture, a block for those that differ in a variant.

    verdicts: of claims.claim_verdicts. Each block has its own scale, shaded where a claim holds."""
    papers = claim_picture.claim_papers(verdicts[verdicts["paper"] == letter])
    families = [family for paper in papers for family in paper.families]
    blocks = [_block_height(family) for family in families]
    height = HEAD + sum(blocks) + GAP * len(blocks) + 0.1

    # one inch of the figure is one unit of its axes
    fig = output.figure_style().figure(figsize=(WIDTH, height), layout="none")
    axes = fig.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    if not papers:
        axes.text(WORDS, 0.2, f"No claims about paper {letter} with these settings.", **MOST)
        return fig

    _head(axes, papers[0])
    top = HEAD
    for family, block in zip(families, blocks, strict=True):
        _family_block(axes, top, block, family)
        top += block + GAP
    return fig


def _block_height(family: Family) -> float:
    """How tall a family is: as its claims, or as its words where those are more."""
    return max(LANE * len(family.claims), LINE * len(_family_lines(family)))


def _family_lines(family: Family) -> list[str]:
    """A family's words, and what must be measured for its claims to hold."""
    margin = family.claims[0].margin.replace("in [", "within [")
    needed = f"holds if {margin}, in {family.unit}"
    return textwrap.wrap(family.words, LETTERS) + textwrap.wrap(needed, LETTERS)


def _head(axes: Any, paper: Paper) -> None:
    """Above the claims: the paper, how many say what, what the signs mean, the columns' names."""
    counted = ", ".join(f"{one}: {count}" for one, count in paper.counts)
    seeds = {claim.seeds for family in paper.families for claim in family.claims if claim.seeds}
    if seeds == {1}:
        counted += f". {output.ONE_SEED}"
    axes.text(WORDS, 0.18, paper.title, fontsize=10.5, weight="bold", va="center")
    axes.text(WORDS, 0.4, counted, fontsize=8.5, va="center")

    axes.fill_between([], [], color=GREY, alpha=0.25, lw=0, label="where the claim holds")
    axes.plot([], [], label="published", **PUBLISHED)
    said = {one for one, _ in paper.counts}
    for name, (shape, colour, filled) in SIGNS.items():
        face = colour if filled else "white"
        if name in said:
            axes.plot([], [], "-", marker=shape, color=colour, mfc=face, ms=5, label=name)
    place = {"loc": "center left", "bbox_to_anchor": (WORDS - 0.05, 0.62)}
    look = {"fontsize": 7.5, "ncols": 7, "frameon": False, "columnspacing": 1.2, "borderpad": 0}
    axes.legend(**place, **look, bbox_transform=axes.transData)

    heads = {"published": PUBLISHED_AT, "measured [95%]": MEASURED_AT}
    for text, at in heads.items():
        axes.text(at, HEAD - 0.11, text, ha="right", weight="bold", **MOST)
    axes.text(SAID_AT, HEAD - 0.11, "verdict", weight="bold", **MOST)


def _family_block(axes: Any, top: float, block: float, family: Family) -> None:
    """Claims that differ in a variant only: their words, their scale, and a lane a claim."""
    for number, line in enumerate(_family_lines(family)):
        look = {"color": GREY} if line.startswith("holds if") else {}
        axes.text(WORDS, top + LINE * (number + 0.5), line, **MOST, **look)

    bottom = top + block
    start, end = (_across(percent) for percent in family.zone)
    axes.fill_betweenx([top, bottom], *SCALE, color="#F1F3F6", lw=0)
    axes.fill_betweenx([top, bottom], start, end, color=GREY, alpha=0.25, lw=0)
    for percent, text in family.ticks:
        at = _across(percent)
        axes.plot([at, at], [top, bottom], color=GREY, ls=":", lw=1)
        axes.text(at, bottom + 0.07, text, fontsize=6.5, color=GREY, ha="center", va="center")

    lane = block / len(family.claims)
    for place, claim in enumerate(family.claims):
        _claim_lane(axes, top + lane * (place + 0.5), claim)


def _claim_lane(axes: Any, y: float, claim: Claim) -> None:
    """One claim: its variant, its numbers as signs and in figures, and what they say."""
    parts = claim.variant.split(", ")
    variant = ", ".join(VARIANT_WORDS.get(part) or LABEL.get(part, part) for part in parts)
    axes.text(VARIANT, y, variant, ha="right", **MOST)
    if claim.diamond is not None:
        axes.plot(_across(claim.diamond), y, **PUBLISHED)
    if claim.interval is not None and claim.dot is not None:
        shape, colour, filled = SIGNS[claim.said]
        ends = [_across(percent) for percent in claim.interval]
        axes.plot(ends, [y, y], color=colour, lw=2, solid_capstyle="butt")
        face = colour if filled else "white"
        axes.plot(_across(claim.dot), y, shape, color=face, mec=colour, ms=5, zorder=4)

    axes.text(PUBLISHED_AT, y, claim.published or "–", ha="right", **MOST)
    axes.text(MEASURED_AT, y, claim.measured or "–", ha="right", **MOST)
    axes.text(SAID_AT, y, f"{MARKS[claim.said]} {claim.said}", **MOST)


def _across(percent: float) -> float:
    """Where a place of the scale, in percent, lies on the figure."""
    left, right = SCALE
    return left + percent / 100 * (right - left)


def claims_said(verdicts: pd.DataFrame, letter: str) -> list[str]:
    """What a paper's verdicts come to: how many say what, and in words those that do not hold.

    verdicts: of claims.claim_verdicts; letter: S, B or W. Nothing where it has no claims."""
    papers = claim_picture.claim_papers(verdicts[verdicts["paper"] == letter])
    if not papers:
        return []
    paper = papers[0]
    total = sum(count for _, count in paper.counts)
    counted = ", ".join(f"{one}: {count}" for one, count in paper.counts)
    said = [f"The claims of paper {letter} are {total}. {counted[0].upper()}{counted[1:]}."]

    # how many claims of each family are outside their margin
    outside = []
    for family in paper.families:
        found = [one.said in ("does not hold", SO_FAR[False]) for one in family.claims]
        if any(found):
            outside.append(f"- {family.words}: {sum(found)} of {len(found)} outside the margin.")
    if outside:
        said.append("Measured otherwise than claimed:\n\n" + "\n".join(outside))
    elif any(one != "not run" for one, _ in paper.counts):
        said.append("None of those measured is outside its margin.")
    if any(one in claim_picture.PRELIMINARY for one, _ in paper.counts):
        said.append(f"A verdict takes {claims.ENOUGH_SEEDS} seeds.")
    return said
