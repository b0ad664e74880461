"""The papers' figures, drawn on axes that a notebook gives. Labels, colours and style come from report."""

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from fedlib import report

GREY = "#555555"
RED = report.METHODS["fedavg"][1]
BLUE = report.METHODS["no attack"][1]


def overview(settings):
    """Figure 2 of paper S, redrawn: a round of federated instruction tuning with malicious clients among benign ones."""
    f, plt = settings.federation, report.style()
    fig, axes = plt.subplots(figsize=(9, 4.8))
    axes.set(xlim=(0, 10), ylim=(0, 5.2))
    axes.axis("off")
    _box(axes, 3.0, 4.0, 4.0, 1.0, "server\naggregates the updates:\nglobal adapter += Σ wₖ · updateₖ", GREY, "#F2F2F2")
    rows = "normal rows and\nharmful questions with\n"
    sides = [(0.3, f"{f.clients - f.malicious} benign clients", rows + "safe answers (aligned)", BLUE, "#EAF1F8")]
    if f.malicious:
        sides.append((6.1, f"{f.malicious} malicious clients", rows + "harmful answers (unaligned)", RED, "#FBEBE7"))
    for x, name, rows, colour, fill in sides:
        _box(axes, x, 1.75, 3.6, 0.8, f"{name}\ntune LoRA: same loss, same optimiser", colour, fill)
        _box(axes, x, 0.15, 3.6, 1.05, rows, colour)
        _arrow(axes, (x + 1.8, 1.22), (x + 1.8, 1.73), colour)
        middle = 4.0 if x < 3 else 6.0
        _arrow(axes, (middle - 0.35, 3.98), (x + 1.5, 2.6), GREY)
        _arrow(axes, (x + 2.1, 2.6), (middle + 0.25, 3.98), colour)
    note = f"each round\n{f.sampled} of {f.clients} clients are sampled;\nonly adapters travel,\ndata stay at home"
    axes.text(5, 3.25, note, ha="center", va="center", fontsize=9, color=GREY)
    return fig


def _box(axes, x, y, width, height, text, colour, fill="white"):
    shape = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, ec=colour, fc=fill, lw=1.6))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, color="#222222")


def _arrow(axes, start, end, colour):
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=colour, lw=1.4))


def bars(axes, scores, column, paper=None):
    """A score by dataset, sampling and method: bars are means over seeds, dots the seeds, diamonds the paper's figure."""
    methods = list(dict.fromkeys(scores["method"]))
    colours = dict(report.METHODS.values())
    groups = list(dict.fromkeys(scores[["dataset", "sampled", "clients"]].itertuples(index=False, name=None)))
    numbers = report.published(paper).set_index(["benign_dataset", "method"]) if paper else None
    width = 0.8 / len(methods)
    for j, method in enumerate(methods):
        at = np.arange(len(groups)) + (j - (len(methods) - 1) / 2) * width
        for x, (dataset, sampled, clients) in zip(at, groups, strict=True):
            own = (scores["dataset"] == dataset) & (scores["sampled"] == sampled) & (scores["method"] == method)
            values, first = scores.loc[own, column], x == at[0]
            axes.bar(x, values.mean(), width * 0.92, color=colours[method], alpha=0.75, label=method if first else None)
            axes.plot([x] * len(values), values, "o", color="#333333", ms=3.5)
            row = (report.STANDS_FOR.get(dataset), method)
            if numbers is not None and column in numbers and sampled < clients and row in numbers.index:
                axes.plot(x, numbers[column][row], "D", color="white", mec="black", ms=7,
                          label="published" if first and not j else None)
    axes.set_xticks(range(len(groups)), [f"{d}\n{s} of {c}" for d, s, c in groups], fontsize=9)
    titles = {"rule": "Rule: harmful prompts refused", "help": "help: benign prompts answered right"}
    axes.set(ylabel=f"{column} (%)", ylim=(0, 105), title=titles.get(column))
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=4, columnspacing=1, frameon=False)


def heatmap(axes, record, title):
    """Pairwise cosine similarity of one round's updates; the malicious block is framed."""
    import seaborn as sns

    cosine, clients = np.array(record["cosine"]), record["sampled"]
    few = len(clients) <= 12
    off = cosine[~np.eye(len(cosine), dtype=bool)]
    sns.heatmap(cosine, ax=axes, cmap="vlag", center=0, vmin=min(-0.1, off.min()), vmax=max(0.1, off.max()), square=True,
                annot=few, fmt=".2f", annot_kws={"fontsize": 6}, mask=np.eye(len(cosine), dtype=bool),
                xticklabels=clients, yticklabels=clients, cbar_kws={"label": "cosine similarity", "shrink": 0.8})
    axes.grid(visible=False)
    inside = [i for i, k in enumerate(clients) if k in record["malicious"]]
    if inside:
        corner, side = (inside[0], inside[0]), len(inside)
        axes.add_patch(Rectangle(corner, side, side, fill=False, ec=RED, lw=2.5, clip_on=False))
    axes.set(title=title, xlabel="client (malicious framed)", ylabel="client")


def curves(axes, groups, xlabel, ylabel, chance=0.5):
    """Lines over rounds, numbered from 1: {name: [a list a seed]}; the thick line is the mean over seeds."""
    for (name, lines), colour in zip(groups.items(), (RED, BLUE, GREY), strict=False):
        x = np.arange(1, len(lines[0]) + 1)
        for line in lines:
            axes.plot(x, line, color=colour, alpha=0.3, lw=1)
        axes.plot(x, np.mean(lines, axis=0), "o-", color=colour, lw=2.5, ms=4, label=name)
    axes.axhline(chance, color="black", ls="--", lw=1, label="guessing")
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.02), xticks=x)
    axes.legend(fontsize=9)


STATUS = {"holds": "#228833", "does not hold": RED, "inconclusive": "#CCBB44", "preliminary": BLUE, "not run": GREY}


def forest(verdicts):
    """Each claim's measured figure and interval against its margin (shaded: where the claim holds), a panel a unit."""
    plt = report.style()
    units = list(dict.fromkeys(verdicts["unit"]))
    rows = [verdicts[verdicts["unit"] == u] for u in units]
    fig, panels = plt.subplots(len(units), 1, figsize=(8, 1.2 * len(units) + 0.36 * len(verdicts)), squeeze=False,
                               height_ratios=[len(r) + 1 for r in rows])
    for axes, unit, part in zip(panels[:, 0], units, rows, strict=True):
        for y, row in enumerate(part.itertuples()):
            measured = [v for v in (row.measured, row.low, row.high) if v is not None and v == v]
            if measured:
                axes.plot([min(measured), max(measured)], [y, y], color=STATUS[row.status], lw=3, solid_capstyle="butt")
                axes.plot(row.measured, y, "o", color=STATUS[row.status], ms=7)
        finite = [b for bounds in part["bounds"] for b in bounds if np.isfinite(b)]
        low, high = min(axes.get_xlim()[0], *finite), max(axes.get_xlim()[1], *finite)
        edge = 0.1 * (high - low)
        for y, bounds in enumerate(part["bounds"]):
            holds = np.clip(bounds, low - edge, high + edge)
            axes.fill_betweenx([y - 0.4, y + 0.4], *holds, color=STATUS["holds"], alpha=0.12, lw=0)
        axes.set(xlim=(low - edge, high + edge), ylim=(len(part) - 0.5, -0.5), xlabel=unit)
        axes.set_yticks(range(len(part)), [f"{r.id}: {r.status}" for r in part.itertuples()], fontsize=9)
        axes.grid(axis="y", visible=False)
    return fig
