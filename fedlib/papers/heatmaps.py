"""Heat maps: how alike clients' updates are, and what perturbing each module does."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedlib.papers import output
from fedlib.papers.charts import draw_frame
from fedlib.papers.methods import GREEN, RED

WIDENED = 30  # the part of a scale around zero that is drawn as wide as the rest
MOST_NAMES = 24  # along an axis; more would lie over each other
MOST_NUMBERS = 12  # clients whose cosines are also written as numbers


def similarity_figure(kinds: dict[str, list[dict]]) -> Any:
    """Figure 3a of paper S, of {name: a run's rounds}, a column each.

    Pairwise cosine similarity of the updates of the first round (above) and of the last (below).
    One scale of colours for all, so that panels can be compared."""
    size = (3.1 * len(kinds) + 1, 7.2)
    fig, axes = output.figure_style().subplots(2, len(kinds), figsize=size, squeeze=False)
    ends = {name: (rounds[0], rounds[-1]) for name, rounds in kinds.items()}
    top = max(0.1, *(_largest(record) for pair in ends.values() for record in pair))

    for column, (name, pair) in zip(axes.T, ends.items(), strict=True):
        for ax, record in zip(column, pair, strict=True):
            title = f"{name}\nround {record['round'] + 1} of {len(kinds[name])}"
            similarity_map(ax, record, top, title)
    for ax in axes[:, 0]:
        ax.set_ylabel("client")
    fig.colorbar(axes[0, 0].collections[0], ax=axes, label="cosine similarity", shrink=0.5)
    return fig


def _largest(record: dict) -> float:
    """The largest cosine of two clients, whatever its sign."""
    cosine = np.array(record["cosine"])
    others = ~np.eye(len(cosine), dtype=bool)
    return np.abs(cosine[others]).max(initial=0)


def similarity_map(axes: Any, record: dict, top: float, title: str) -> None:
    """Pairwise cosine similarity of one round's updates, coloured from -top to top.

    The malicious block is framed."""
    from matplotlib.colors import Normalize

    clients = record["sampled"]
    cosine = np.ma.masked_array(record["cosine"], np.eye(len(clients), dtype=bool))
    write = _two_decimals if len(clients) <= MOST_NUMBERS else None
    _cells(axes, cosine, Normalize(-top, top), clients, clients, write)

    inside = [i for i, client in enumerate(clients) if client in record["malicious"]]
    if inside:
        corner, side = (inside[0], inside[0]), len(inside)
        draw_frame(axes, corner, (side, side), RED, width=2.5, clip_on=False)
    label = "client (malicious framed)" if inside else "client"
    axes.set(title=title, xlabel=label, aspect="equal")


def module_map(
    axes: Any, cells: Any, robust: Sequence[tuple[str, int]] = (), title: str = ""
) -> None:
    """Figure 3 of paper W: what perturbing each cell does, module type by layer.

    The scale of colours is wide around zero, so that small rises are told apart too. cells: rows
    of {type, layer, loss}. Figure 4: the cells of Mods_Rob (robust) are framed."""
    from matplotlib.colors import AsinhNorm

    frame = pd.DataFrame(cells)
    types = list(dict.fromkeys(frame["type"]))
    grid = frame.pivot(index="type", columns="layer", values="loss").loc[types]
    layers: list[Any] = list(grid.columns)
    losses = np.array(grid, dtype=float)
    top = max(abs(losses).max(), 1e-6)
    scale = AsinhNorm(linear_width=top / WIDENED, vmin=-top, vmax=top)

    shown = _cells(axes, np.ma.masked_invalid(losses), scale, types, layers, _short)
    bar = axes.figure.colorbar(shown, ax=axes, label="probes' loss, rise\nlower is better")
    ends = [-top, -top / WIDENED, 0, top / WIDENED, top]
    bar.set_ticks(ends, labels=[_short(end) for end in ends])
    bar.minorticks_off()
    for kind, layer in robust:
        corner = (layers.index(layer) + 0.06, types.index(kind) + 0.06)
        draw_frame(axes, corner, (0.88, 0.88), GREEN)
    axes.set(title=title, ylabel="", xlabel="layer" + (" (Mods_Rob framed)" if robust else ""))


def _cells(
    axes: Any,
    values: np.ma.MaskedArray,
    scale: Any,
    rows: Sequence,
    columns: Sequence,
    write: Callable[[float], str] | None,
) -> Any:
    """A masked matrix as coloured cells; returns what a colour bar needs.

    scale: matplotlib's Normalize. write: the number in each cell; None for no numbers. Drawn by
    hand, as seaborn's heat map draws the whole figure each time it adds one."""
    cells = axes.pcolormesh(values, cmap="RdBu_r", norm=scale)
    if write is not None:
        _numbers(axes, values, scale, write)
    for axis, names in ((axes.yaxis, rows), (axes.xaxis, columns)):
        step = -(-len(names) // MOST_NAMES)
        axis.set_ticks(np.arange(len(names))[::step] + 0.5, list(names)[::step])
    axes.invert_yaxis()
    axes.grid(visible=False)
    return cells


def _two_decimals(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # + 0.0: never -0.00


def _short(value: float) -> str:
    """Two digits that count: 0.21, 0.0042; what is nothing to see, 0."""
    return f"{value:.2g}" if abs(value) >= 1e-4 else "0"


def _numbers(
    axes: Any, values: np.ma.MaskedArray, scale: Any, write: Callable[[float], str]
) -> None:
    """Write each cell's number, white on dark colours."""
    hidden = np.ma.getmaskarray(values)
    for (i, j), value in np.ndenumerate(values):
        if hidden[i, j]:
            continue
        dark = abs(float(scale(value)) - 0.5) > 0.3
        axes.text(
            j + 0.5,
            i + 0.5,
            write(value),
            color="white" if dark else "#222222",
            fontsize=6.5,
            ha="center",
            va="center",
            in_layout=False,
        )
