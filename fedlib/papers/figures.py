"""The papers' figures, drawn on axes that a notebook gives. Labels, colours and style come from report."""

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from fedlib.papers import estimates, output, tables

GREY = "#555555"
RED = tables.METHODS["fedavg"][1]
BLUE = tables.METHODS["no attack"][1]
ORANGE = tables.METHODS["median"][1]
GREEN = tables.METHODS["level2"][1]
PURPLE = tables.METHODS["krum"][1]


def overview(settings):
    """Figure 2 of paper S, redrawn: a round of federated instruction tuning with malicious clients among benign ones."""
    f, plt = settings.federation, output.style()
    fig, axes = plt.subplots(figsize=(9, 4.8))
    axes.set(xlim=(0, 10), ylim=(0, 5.2))
    axes.axis("off")
    _box(
        axes,
        3.0,
        4.0,
        4.0,
        1.0,
        "server\naggregates the updates:\nglobal adapter += Σ wₖ · updateₖ",
        GREY,
        "#F2F2F2",
    )
    rows = "normal rows and\nharmful questions with\n"
    sides = [
        (
            0.3,
            f"{f.clients - f.malicious} benign clients",
            rows + "safe answers (aligned)",
            BLUE,
            "#EAF1F8",
        )
    ]
    if f.malicious:
        sides.append(
            (
                6.1,
                f"{f.malicious} malicious clients",
                rows + "harmful answers (unaligned)",
                RED,
                "#FBEBE7",
            )
        )
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
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=shape, ec=colour, fc=fill, lw=1.6)
    )
    axes.text(
        x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, color="#222222"
    )


def _arrow(axes, start, end, colour):
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=colour, lw=1.4)
    )


TITLES = {
    "rule": "Rule: responses to harmful prompts that refuse (%)",
    "help": "help: benign prompts answered right (%)",
    "md_judge": "MD-Judge: responses to harmful prompts judged safe (%)",
    "rm": "RM: mean reward of responses to harmful prompts",
    "mt1": "MT-1: grade of first-turn answers (1 to 10)",
    "over_refusal": "over_refusal: benign prompts refused (%)",
    "asr": "ASR: triggered prompts answered with the target (%)",
    "unsafe": "ASR: responses to harmful prompts judged unsafe (%)",
    "hs": "HS: harmfulness score (1 to 5)",
    "task_accuracy": "task: held-out prompts answered exactly (%)",
    "accuracy": "clean accuracy: benign prompts answered right (%)",
}


def bars(axes, scores, column, paper=None, title=""):
    """A score by method: bars are means over seeds, dots the seeds, diamonds the paper's figure."""
    methods, colours = list(dict.fromkeys(scores["method"])), dict(tables.METHODS.values())
    for y, method in enumerate(methods):
        values = scores.loc[scores["method"] == method, column]
        axes.barh(y, values.mean(), 0.75, color=colours.get(method, BLUE), alpha=0.75)
        axes.plot(values, [y] * len(values), "o", color="#333333", ms=3)
    if paper:
        numbers = tables.beside(scores.drop_duplicates("method"), paper, [column])[
            f"{column} (paper)"
        ]
        axes.plot(numbers, range(len(methods)), "D", color="white", mec="black", ms=6)
    axes.set_yticks(range(len(methods)), methods, fontsize=9)
    axes.invert_yaxis()
    axes.set(title=title, xlim=(0, {"mt1": 10}.get(column, 100)) if column != "rm" else None)
    axes.grid(axis="y", visible=False)


def before_after(axes, scores, column, title=""):
    """A score by aggregator, without (red) and with (green) the post-hoc defence: means over seeds, small dots the seeds."""
    rules = list(dict.fromkeys(scores["aggregator"]))
    for y, rule in enumerate(rules):
        own = scores[scores["aggregator"] == rule]
        means = [own.loc[own["defended"] == d, column].mean() for d in (False, True)]
        axes.plot(means, [y, y], color="#BBBBBB", lw=3, zorder=1)
        for defended, mean, colour in zip((False, True), means, (RED, GREEN), strict=True):
            values = own.loc[own["defended"] == defended, column]
            axes.plot(values, [y] * len(values), "o", color=colour, ms=3, alpha=0.6)
            label = ("under attack", "with level 2 on top")[defended] if not y else None
            axes.plot(mean, y, "o", color=colour, ms=9, label=label)
    axes.set_yticks(range(len(rules)), rules, fontsize=9)
    axes.invert_yaxis()
    axes.set(title=title, xlim=(0, 102))
    axes.set_xlabel(TITLES[column], fontsize=9)
    axes.grid(axis="y", visible=False)
    axes.legend(
        fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False
    )  # beside the points


def lines(axes, scores, x, column, xlabel):
    """A score over a column of numbers, a line a method: means over seeds, bands their 95% intervals."""
    for label, own in scores.groupby("method", sort=False):
        colour = dict(tables.METHODS.values())[label]
        points = [
            (value, *estimates.interval(part[column].to_numpy())) for value, part in own.groupby(x)
        ]
        at, mean, low, high = np.array(points, dtype=float).T
        axes.plot(at, mean, "o-", color=colour, label=label, ms=4)
        axes.fill_between(at, low, high, color=colour, alpha=0.12, lw=0)
    axes.set(xlabel=xlabel, ylim=(0, 102))
    axes.set_ylabel(TITLES[column].replace(": ", "\n"), fontsize=9)
    axes.legend(fontsize=8)


def weights(axes, record, rule):
    """Figure 3b of paper S: the weight that a rule would give each client of a round; the malicious ones are framed."""
    clients = record["sampled"]
    values = record["detection"][rule] or [0] * len(clients)
    bad = [i for i, k in enumerate(clients) if k in record["malicious"]]
    axes.bar(
        range(len(clients)),
        values,
        color=[RED if i in bad else BLUE for i in range(len(clients))],
        alpha=0.8,
    )
    top = 1.15 * max(v for found in record["detection"].values() for v in found or [0])
    if bad:
        axes.add_patch(
            Rectangle((bad[0] - 0.5, 0), len(bad), top, fill=False, ec=RED, lw=2, clip_on=False)
        )
    if not any(values):
        axes.text(
            0.5,
            0.5,
            "cannot work with\nso many clients",
            ha="center",
            transform=axes.transAxes,
            fontsize=8,
        )
    axes.set(title=tables.METHODS[rule][0], ylim=(0, top), xticks=range(len(clients)))
    axes.set_xticklabels(clients, fontsize=8)
    axes.grid(axis="x", visible=False)


def heatmaps(groups):
    """Figure 3a of paper S, of {name: a run's rounds}, a column each: pairwise cosine similarity of the updates of the first
    round (above) and of the last (below). One scale of colours for all, so that panels can be compared."""
    fig, axes = output.style().subplots(
        2, len(groups), figsize=(3.1 * len(groups) + 1, 7.2), squeeze=False
    )
    ends = {name: (rounds[0], rounds[-1]) for name, rounds in groups.items()}
    cosines = [np.array(record["cosine"]) for pair in ends.values() for record in pair]
    top = max(0.1, *(np.abs(c[~np.eye(len(c), dtype=bool)]).max(initial=0) for c in cosines))
    for column, (name, pair) in zip(axes.T, ends.items(), strict=True):
        for ax, record in zip(column, pair, strict=True):
            heatmap(ax, record, top, f"{name}\nround {record['round'] + 1} of {len(groups[name])}")
    for ax in axes[:, 0]:
        ax.set_ylabel("client")
    fig.colorbar(axes[0, 0].collections[0], ax=axes, label="cosine similarity", shrink=0.5)
    return fig


def heatmap(axes, record, top, title):
    """Pairwise cosine similarity of one round's updates, coloured from -top to top; the malicious block is framed."""
    cosine, clients = np.array(record["cosine"]), record["sampled"]
    _matrix(
        axes,
        np.ma.masked_array(cosine, np.eye(len(clients), dtype=bool)),
        top,
        clients,
        clients,
        2 if len(clients) <= 12 else None,
    )
    inside = [i for i, k in enumerate(clients) if k in record["malicious"]]
    if inside:
        corner, side = (inside[0], inside[0]), len(inside)
        axes.add_patch(Rectangle(corner, side, side, fill=False, ec=RED, lw=2.5, clip_on=False))
    axes.set(
        title=title, xlabel="client (malicious framed)" if inside else "client", aspect="equal"
    )


def _matrix(axes, values, top, rows, columns, digits):
    """A masked matrix as cells coloured from -top to top, with their numbers (digits: None for none), and its colours.
    By hand: seaborn's heatmap draws the whole figure each time it adds one."""
    cells = axes.pcolormesh(values, cmap="RdBu_r", vmin=-top, vmax=top)
    for (i, j), value in np.ndenumerate(values) if digits else ():
        if not np.ma.getmaskarray(values)[i, j]:
            colour = "white" if abs(value) > 0.6 * top else "#222222"
            axes.text(
                j + 0.5,
                i + 0.5,
                f"{round(value, digits) + 0.0:.{digits}f}",
                color=colour,
                fontsize=6.5,
                ha="center",
                va="center",
                in_layout=False,
            )
    for axis, names in ((axes.yaxis, rows), (axes.xaxis, columns)):
        step = -(-len(names) // 24)  # more names would lie over each other
        axis.set_ticks(np.arange(len(names))[::step] + 0.5, list(names)[::step])
    axes.invert_yaxis()
    axes.grid(visible=False)
    return cells


def curves(axes, groups, xlabel, ylabel, title="", legend=True, chance=0.5):
    """Lines over rounds, numbered from 1: {name: [a list a seed]}; the thick line is the mean over seeds.

    chance: where guessing lies on an axis from 0 to 1; None for a quantity of another kind."""
    known = dict(tables.METHODS.values())
    for i, ((name, runs), other) in enumerate(
        zip(groups.items(), (RED, ORANGE, PURPLE, GREEN, BLUE), strict=False)
    ):
        colour, width = known.get(name, other), 4 - 0.6 * i  # what lies under another is still seen
        x = np.arange(1, len(runs[0]) + 1)
        for line in runs if len(runs) > 1 else ():
            axes.plot(x, line, color=colour, alpha=0.25, lw=1)
        axes.plot(x, np.mean(runs, axis=0), "o-", color=colour, lw=width, ms=2 * width, label=name)
    if chance is not None:
        axes.axhline(chance, color="black", ls="--", lw=1, label="guessing")
        axes.set(ylim=(-0.02, 1.04))
    axes.set(xlabel=xlabel, ylabel=ylabel, xticks=x, title=title)
    if legend:
        axes.legend(fontsize=7)


def scatter(axes, scores, x, y, xlabel):
    """A score over another, a dot a run: its colour is the share of poison, its shape how that is spread."""
    import seaborn as sns

    frame = scores.assign(share=(100 * scores["share"]).round(2)).rename(
        columns={"share": "poison (%)"}
    )
    sns.scatterplot(
        frame, x=x, y=y, hue="poison (%)", style="spread", palette="viridis", s=60, ax=axes
    )
    axes.set(xlabel=xlabel, ylim=(-2, 102))
    axes.set_ylabel(TITLES[y].replace(": ", "\n"), fontsize=9)
    axes.legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left", frameon=False)


def warmup(settings):
    """Figure 2 of paper W, redrawn: probes, robustness of modules, warm-up of the robust ones, tuning of all."""
    plt, s = output.style(), settings.swat
    fig, axes = plt.subplots(figsize=(10, 2.6))
    axes.set(xlim=(0, 12.4), ylim=(0, 2.4))
    axes.axis("off")
    texts = (
        "aligned chat model\nhidden states of\nharmful, harmless twins:\na fixed probe a layer",
        "perturb one module\nat a time: how much\nworse are the probes?",
        f"Mods_Rob\nthe least harmful\nmodules, at most {s.share:.0%}\nof the parameters",
        f"warm-up\n{s.warm_rounds} of {s.rounds} rounds:\ntrain Mods_Rob alone",
        "then all modules\non the same data",
    )
    for i, (text, colour) in enumerate(zip(texts, (GREY, GREY, BLUE, ORANGE, GREEN), strict=True)):
        _box(axes, 2.5 * i + 0.1, 0.5, 2.1, 1.5, text, colour)
        if i:
            _arrow(axes, (2.5 * i - 0.27, 1.25), (2.5 * i + 0.08, 1.25), GREY)
    return fig


def modules(axes, cells, robust=(), title=""):
    """Figure 3 of paper W: what perturbing each cell does, module type by layer; Figure 4: the cells of Mods_Rob framed."""
    import pandas as pd

    frame = pd.DataFrame(cells)
    grid = frame.pivot(index="type", columns="layer", values="loss").loc[
        list(dict.fromkeys(frame["type"]))
    ]
    top = max(abs(grid.to_numpy()).max(), 1e-6)
    shown = _matrix(
        axes,
        np.ma.masked_invalid(grid.to_numpy()),
        top,
        grid.index,
        grid.columns,
        2 if top >= 0.1 else 3,
    )
    axes.figure.colorbar(shown, ax=axes, label="probes' loss, rise")
    for kind, layer in robust:
        corner = (list(grid.columns).index(layer) + 0.06, list(grid.index).index(kind) + 0.06)
        axes.add_patch(Rectangle(corner, 0.88, 0.88, fill=False, ec=GREEN, lw=2))
    axes.set(title=title, ylabel="", xlabel="layer" + (" (Mods_Rob framed)" if robust else ""))


def probes(axes, found, which, ylabel, title=""):
    """The fixed probes' loss (which: 0) or accuracy (1) by layer: {name: [a list a run]}, thick lines the means."""
    for (name, runs), colour in zip(found.items(), (BLUE, RED, GREEN, ORANGE), strict=False):
        values = np.array([run[which] for run in runs])
        axes.plot(range(values.shape[1]), values.T, color=colour, alpha=0.2, lw=1)
        axes.plot(
            range(values.shape[1]),
            values.mean(axis=0),
            "o-",
            color=colour,
            lw=2.5,
            ms=4,
            label=name,
        )
    axes.set(xlabel="layer", ylabel=ylabel, title=title, xticks=range(values.shape[1]))
    axes.legend(fontsize=7)


def grouped(axes, scores, x, column, title=""):
    """A score by group and method: bars are means over models and seeds, dots the runs."""
    names, colours = list(dict.fromkeys(scores["method"])), dict(tables.METHODS.values())
    groups, width = list(dict.fromkeys(scores[x])), 0.8 / len(names)
    for i, name in enumerate(names):
        for j, group in enumerate(groups):
            values = scores.loc[(scores["method"] == name) & (scores[x] == group), column]
            at = j + (i - (len(names) - 1) / 2) * width
            axes.bar(
                at,
                values.mean(),
                width,
                color=colours.get(name, BLUE),
                alpha=0.8,
                label=None if j else name,
            )
            axes.plot([at] * len(values), values, "o", color="#333333", ms=2.5)
    axes.set_xticks(range(len(groups)), groups, fontsize=9)
    axes.set(title=title)
    axes.grid(axis="x", visible=False)


STATUS = {
    "holds": "#228833",
    "does not hold": RED,
    "inconclusive": "#CCBB44",
    "preliminary": BLUE,
    "not run": GREY,
}


def forest(verdicts):
    """Each claim's measured figure and interval against its margin (shaded: where the claim holds), a panel a unit."""
    plt = output.style()
    units = list(dict.fromkeys(verdicts["unit"]))
    rows = [verdicts[verdicts["unit"] == u] for u in units]
    fig, panels = plt.subplots(
        len(units),
        1,
        figsize=(8, 1.2 * len(units) + 0.36 * len(verdicts)),
        squeeze=False,
        height_ratios=[len(r) + 1 for r in rows],
    )
    for axes, unit, part in zip(panels[:, 0], units, rows, strict=True):
        for y, row in enumerate(part.itertuples()):
            measured = [v for v in (row.measured, row.low, row.high) if v is not None and v == v]
            if measured:
                axes.plot(
                    [min(measured), max(measured)],
                    [y, y],
                    color=STATUS[row.status],
                    lw=3,
                    solid_capstyle="butt",
                )
                axes.plot(row.measured, y, "o", color=STATUS[row.status], ms=7)
        finite = [b for bounds in part["bounds"] for b in bounds if np.isfinite(b)]
        low, high = min(axes.get_xlim()[0], *finite), max(axes.get_xlim()[1], *finite)
        edge = 0.1 * (high - low)
        for y, bounds in enumerate(part["bounds"]):
            holds = np.clip(bounds, low - edge, high + edge)
            axes.fill_betweenx([y - 0.4, y + 0.4], *holds, color=STATUS["holds"], alpha=0.12, lw=0)
        axes.set(xlim=(low - edge, high + edge), ylim=(len(part) - 0.5, -0.5), xlabel=unit)
        axes.set_yticks(
            range(len(part)), [f"{r.id}: {r.status}" for r in part.itertuples()], fontsize=9
        )
        axes.grid(axis="y", visible=False)
    return fig
