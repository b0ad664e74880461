"""Bars, lines and points of scores, on axes that a notebook gives."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedlib.papers import estimates, output, tables
from fedlib.papers.methods import (
    BLUE,
    COLOUR,
    GREEN,
    LABEL,
    ORANGE,
    OWN_COLOURS,
    PURPLE,
    RED,
)

TITLES = {
    "rule": "Rule: responses to harmful prompts that refuse (%)",
    "refusal": "refusal: responses to harmful prompts that refuse (%)",
    "help": "help: benign prompts answered right (%)",
    "md_judge": "MD-Judge: responses to harmful prompts judged safe (%)",
    "rm": "RM: mean reward of responses to harmful prompts",
    "mt1": "MT-1: grade of first-turn answers (1 to 10)",
    "strongreject": "StrongREJECT: mean score of responses to harmful prompts (0 to 1)",
    "over_refusal": "over_refusal: benign prompts refused (%)",
    "asr": "ASR: triggered prompts answered with the target (%)",
    "unsafe": "ASR: responses to harmful prompts judged unsafe (%)",
    "hs": "HS: harmfulness score (1 to 5)",
    "task_accuracy": "task: held-out prompts answered exactly (%)",
    "accuracy": "clean accuracy: benign prompts answered right (%)",
}

MARKERS = "osD^vP"  # of lines, in turn: they differ without colour too
# Rows that are not ordinary, by their label.
ROW_COLOUR = {"aligned": GREEN, "poisoned": ORANGE, "conflicting": PURPLE, "unaligned": RED}
MOST_TOPICS = 6  # with a shade of their own
MOST_BARS = 40  # that make a figure taller


def draw_frame(
    axes: Any,
    corner: tuple[float, float],
    size: tuple[float, float],
    colour: str,
    width: float = 2,
    **more: Any,
) -> None:
    """A frame around something that must be seen."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(corner, *size, fill=False, ec=colour, lw=width, **more))


def _with_direction(column: str) -> str:
    """What a score is, and which way is good, for an axis."""
    return f"{TITLES[column]}\n{tables.BETTER[column]}"


def score_bars(
    axes: Any, scores: pd.DataFrame, column: str, paper: str | None = None, title: str = ""
) -> None:
    """A score by method: bars are means over seeds, dots the seeds, diamonds the paper's figure.

    scores: of tables.score_table; paper: the name of a published table."""
    methods = list(dict.fromkeys(scores["method"]))
    for y, method in enumerate(methods):
        values = scores.loc[scores["method"] == method, column]
        axes.barh(y, values.mean(), 0.75, color=COLOUR.get(method, BLUE), alpha=0.75)
        axes.plot(values, [y] * len(values), "o", color="#333333", ms=3)
    if paper:
        first = scores.drop_duplicates("method")
        numbers = tables.beside_published(first, paper, [column])[f"{column} (paper)"]
        axes.plot(numbers, range(len(methods)), "D", color="white", mec="black", ms=6)

    _name_rows(axes, methods)
    # a reward has no scale that is known beforehand
    limits = None if column == "rm" else (0, {"mt1": 10}.get(column, 100))
    axes.set(title=title, xlim=limits)
    axes.set_xlabel(tables.BETTER.get(column, ""), fontsize=9)
    axes.grid(axis="y", visible=False)


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    """Names down the y axis, the first on top."""
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()


def before_after(axes: Any, scores: pd.DataFrame, column: str, title: str = "") -> None:
    """A score by aggregator, without (red) and with (green) the post-hoc defence.

    Large dots are means over seeds, small ones the seeds."""
    rules = list(dict.fromkeys(scores["aggregator"]))
    sides = ((RED, "under attack"), (GREEN, "with level 2 on top"))
    for y, rule in enumerate(rules):
        own = scores[scores["aggregator"] == rule]
        without = own.loc[~own["defended"], column]
        defended = own.loc[own["defended"], column]
        means = [without.mean(), defended.mean()]
        axes.plot(means, [y, y], color="#BBBBBB", lw=3, zorder=1)

        parts = (without, defended)
        for values, mean, (colour, label) in zip(parts, means, sides, strict=True):
            axes.plot(values, [y] * len(values), "o", color=colour, ms=3, alpha=0.6)
            once = label if y == 0 else None
            axes.plot(mean, y, "o", color=colour, ms=9, label=once)

    _name_rows(axes, rules)
    axes.set(title=title, xlim=(0, 102))
    axes.set_xlabel(_with_direction(column), fontsize=9)
    axes.grid(axis="y", visible=False)
    # below the axes, so that it lies over no point
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.28), "ncols": 2}
    axes.legend(fontsize=8, frameon=False, **below)


def grouped_bars(axes: Any, scores: pd.DataFrame, x: str, column: str, title: str = "") -> None:
    """A score by group and method: bars are means over models and seeds, dots the runs."""
    names = list(dict.fromkeys(scores["method"]))
    groups = list(dict.fromkeys(scores[x]))
    width = 0.8 / len(names)
    middle = (len(names) - 1) / 2
    for i, name in enumerate(names):
        colour = COLOUR.get(name, BLUE)
        own = scores[scores["method"] == name]
        for j, group in enumerate(groups):
            values = own.loc[own[x] == group, column]
            at = j + (i - middle) * width
            once = None if j else name
            axes.bar(at, values.mean(), width, color=colour, alpha=0.8, label=once)
            axes.plot([at] * len(values), values, "o", color="#333333", ms=2.5)
    axes.set_xticks(range(len(groups)), groups, fontsize=9)
    axes.set(title=title)
    axes.grid(axis="x", visible=False)


def weight_bars(axes: Any, record: dict, rule: str) -> None:
    """Figure 3b of paper S: the weight that a rule would give each client of a round.

    The malicious clients are red and framed."""
    clients, detection = record["sampled"], record["detection"]
    places = range(len(clients))
    values = detection[rule] or [0] * len(clients)
    bad = [i for i in places if clients[i] in record["malicious"]]
    colours = [RED if i in bad else BLUE for i in places]
    axes.bar(places, values, color=colours, alpha=0.8)

    # one height for all rules of the round
    highest = [max(weights) for weights in detection.values() if weights]
    top = 1.15 * max(highest, default=0)
    if bad:
        draw_frame(axes, (bad[0] - 0.5, 0), (len(bad), top), RED, clip_on=False)
    if not any(values):
        said = "cannot work with\nso many clients"
        axes.text(0.5, 0.5, said, ha="center", transform=axes.transAxes, fontsize=8)
    axes.set(title=LABEL[rule], ylim=(0, top), xticks=places)
    axes.set_xticklabels(clients, fontsize=8)
    axes.grid(axis="x", visible=False)


def score_lines(axes: Any, scores: pd.DataFrame, x: str, column: str, xlabel: str) -> None:
    """A score over a column of numbers, a line a method: means over seeds, bands 95% intervals."""
    for place, (label, own) in enumerate(scores.groupby("method", sort=False)):
        points = []
        for value, part in own.groupby(x):
            points.append((value, *estimates.interval(list(part[column]))))
        at, mean, low, high = np.array(points, dtype=float).T
        colour = COLOUR[str(label)]
        marker = MARKERS[place % len(MARKERS)]
        axes.plot(at, mean, marker + "-", color=colour, label=label, ms=5)
        axes.fill_between(at, low, high, color=colour, alpha=0.12, lw=0)
    axes.set(xlabel=xlabel, ylim=(0, 102))
    axes.set_ylabel(_with_direction(column).replace(": ", "\n"), fontsize=9)
    axes.legend(fontsize=8)


def round_curves(
    axes: Any,
    kinds: dict[str, list[list[float]]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    legend: bool = True,
    chance: float | None = 0.5,
) -> None:
    """Lines over rounds, numbered from 1: {name: [a list a seed]}.

    Thick lines are means over seeds, thin ones the seeds where there are several.
    chance: where guessing lies on an axis from 0 to 1; None for a quantity of another kind."""
    others = (RED, ORANGE, PURPLE, GREEN, BLUE)
    rounds = np.arange(0)
    for i, ((name, runs), other) in enumerate(zip(kinds.items(), others, strict=False)):
        colour = COLOUR.get(name, other)
        width = 4 - 0.6 * i  # what lies under another is still seen
        rounds = np.arange(1, len(runs[0]) + 1)
        for line in runs if len(runs) > 1 else ():
            axes.plot(rounds, line, color=colour, alpha=0.25, lw=1)
        mean = np.mean(runs, axis=0)
        axes.plot(rounds, mean, MARKERS[i] + "-", color=colour, lw=width, ms=2 * width, label=name)
    if chance is not None:
        axes.axhline(chance, color="black", ls="--", lw=1, label="guessing")
        axes.set(ylim=(-0.02, 1.04))
    axes.set(xlabel=xlabel, ylabel=ylabel, xticks=rounds, title=title)
    if legend:
        axes.legend(fontsize=7)


def loss_curve(axes: Any, runs: Sequence[list[dict]], method: str, marker: str) -> None:
    """How much is refused over the task's loss, a line from the first round to the last.

    runs: the rounds of each, of which the mean is drawn; method: whose colour and label it has;
    marker: one of MARKERS."""
    frame = pd.concat(pd.DataFrame(lines)[["round", "task", "refused"]] for lines in runs)
    mean = frame.groupby("round").mean()
    label = LABEL[method]
    axes.plot(-mean["task"], mean["refused"], marker + "-", color=COLOUR[label], label=label)


def probe_lines(
    axes: Any, kinds: dict[str, list], which: int, ylabel: str, title: str = ""
) -> None:
    """The fixed probes' loss (which: 0) or accuracy (1) by layer: {name: [a list a run]}.

    Thin lines are runs, thick ones their means. In order: before tuning (black), then as elsewhere
    without attack (blue) and with it (red)."""
    colours = (COLOUR[LABEL["untuned"]], BLUE, RED, ORANGE)
    for place, ((name, runs), colour) in enumerate(zip(kinds.items(), colours, strict=False)):
        values = np.array([run[which] for run in runs])
        width = 3.6 - 0.8 * place  # what lies under another is still seen
        layers = range(values.shape[1])
        axes.plot(layers, values.T, color=colour, alpha=0.2, lw=1)
        style = {"color": colour, "lw": width, "ms": 2 * width, "label": name}
        axes.plot(layers, values.mean(axis=0), MARKERS[place] + "-", **style)
        axes.set(xticks=layers)
    axes.set(xlabel="layer", ylabel=ylabel, title=title)
    axes.legend(fontsize=7)


def poison_scatter(axes: Any, scores: pd.DataFrame, x: str, y: str, xlabel: str) -> None:
    """A score over another, a dot a run: coloured by share of poison, shaped by who holds it.

    scores: of backdoor_results.backdoor_scores."""
    import seaborn as sns

    share = (100 * scores["share"]).round(2)
    holders = scores["spread"] + ", " + scores["holders"].astype(str)
    frame = scores.assign(share=share, holders=holders)
    frame = frame.rename(columns={"share": "poison (%)", "holders": "spread, clients with poison"})
    # dots may lie on each other: they can be seen through, and have an edge
    look = {"palette": "viridis", "s": 70, "alpha": 0.75, "edgecolor": "black"}
    shape = "spread, clients with poison"
    sns.scatterplot(frame, x=x, y=y, hue="poison (%)", style=shape, ax=axes, **look)
    axes.set(xlabel=xlabel, ylim=(-2, 102))
    axes.set_ylabel(_with_direction(y).replace(": ", "\n"), fontsize=9)
    axes.legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left", frameon=False)


def rows_held(rows: Mapping[Any, Sequence[dict]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How many rows of which kind each client has: ordinary rows by topic, all others by label.

    rows: {client: rows}, as `lab.client_data` gives them. Two tables with a row a client, the most
    frequent kind first. Of many topics the rarest are one column, which says how many they are."""
    ordinary, others = {}, {}
    for client, own in rows.items():
        topics = [row.get("topic") or "normal" for row in own if row["label"] == "normal"]
        ordinary[client] = pd.Series(topics, dtype=object).value_counts()
        labels = [row["label"] for row in own if row["label"] != "normal"]
        others[client] = pd.Series(labels, dtype=object).value_counts()

    found = []
    for part in (ordinary, others):
        counts = pd.DataFrame(part).T.reindex(list(rows)).fillna(0).astype(int)
        found.append(counts[counts.sum().sort_values(ascending=False, kind="stable").index])
    topics, labels = found
    rare = list(topics.columns[MOST_TOPICS:])
    if len(rare) > 1:
        together = topics[rare].sum(axis=1).rename(f"{len(rare)} more topics")
        topics = topics.drop(columns=rare).join(together)
    return topics, labels


def holdings(rows: Mapping[Any, Sequence[dict]], malicious: Collection[Any] = ()) -> Any:
    """Who holds what: a bar a client, in shades of blue by topic, in colours by label; a figure.

    rows: {client: rows}, as `lab.client_data` gives them. Malicious clients are framed."""
    import seaborn as sns

    topics, labels = rows_held(rows)
    shades = sns.color_palette("Blues_r", len(topics.columns) + 2)[: len(topics.columns)]
    further = iter(OWN_COLOURS * len(labels.columns))
    colours = [*shades, *(ROW_COLOUR.get(str(label)) or next(further) for label in labels)]
    counts = topics.join(labels)

    size = (8, 1.1 + 0.28 * min(len(counts), MOST_BARS))
    fig, axes = output.figure_style().subplots(figsize=size)
    left = np.zeros(len(counts))
    for (kind, held), colour in zip(counts.items(), colours, strict=True):
        look = {"color": colour, "edgecolor": "white", "lw": 0.6}
        axes.barh(range(len(counts)), held, 0.8, left=left, label=kind, **look)
        left += held.to_numpy()

    bad = [i for i, client in enumerate(counts.index) if client in malicious]
    if bad:
        height = bad[-1] - bad[0] + 1
        draw_frame(axes, (0, bad[0] - 0.5), (left.max(), height), RED, clip_on=False)
    step = -(-len(counts) // MOST_BARS)
    axes.set_yticks(range(len(counts))[::step], counts.index[::step], fontsize=9)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="rows", ylabel="client (malicious framed)" if bad else "client")
    axes.set(xlim=(0, left.max() * 1.01), ylim=(len(counts) - 0.4, -0.6))
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig
