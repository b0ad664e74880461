"""Drawings of the papers' methods, in the numbers of the settings, and of one round's updates."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from fedlib.papers import output
from fedlib.papers.methods import BLUE, GREEN, GREY, ORANGE, RED
from fedlib.settings.schema import Settings


def safety_overview(settings: Settings) -> Any:
    """Figure 2 of paper S, redrawn: a round with malicious clients among benign ones."""
    federation = settings.federation
    fig, axes = _canvas((9, 4.8), (10, 5.2))
    server = "server\naggregates the updates:\nglobal adapter += Σ wₖ · updateₖ"
    _box(axes, (3.0, 4.0), (4.0, 1.0), server, GREY, "#F2F2F2")

    # each side: where, who, their rows, colours
    rows = "normal rows and\nharmful questions with\n"
    benign = f"{federation.clients - federation.malicious} benign clients"
    sides = [(0.3, benign, rows + "safe answers (aligned)", BLUE, "#EAF1F8")]
    if federation.malicious:
        malicious = f"{federation.malicious} malicious clients"
        sides.append((6.1, malicious, rows + "harmful answers (unaligned)", RED, "#FBEBE7"))

    for x, name, own_rows, colour, fill in sides:
        tuning = f"{name}\ntune LoRA: same loss, same optimiser"
        _box(axes, (x, 1.75), (3.6, 0.8), tuning, colour, fill)
        _box(axes, (x, 0.15), (3.6, 1.05), own_rows, colour)
        _arrow(axes, (x + 1.8, 1.22), (x + 1.8, 1.73), colour)
        # the global adapter comes down, the update goes up
        middle = 4.0 if x < 3 else 6.0
        _arrow(axes, (middle - 0.35, 3.98), (x + 1.5, 2.6), GREY)
        _arrow(axes, (x + 2.1, 2.6), (middle + 0.25, 3.98), colour)

    note = (
        f"each round\n{federation.sampled} of {federation.clients} clients are sampled;\n"
        "only adapters travel,\ndata stay at home"
    )
    axes.text(5, 3.25, note, ha="center", va="center", fontsize=9, color=GREY)
    return fig


def warmup_overview(settings: Settings) -> Any:
    """Figure 2 of paper W, redrawn: probes, robustness of modules, warm-up, tuning of all."""
    swat = settings.swat
    fig, axes = _canvas((10, 2.6), (12.4, 2.4))
    steps = (
        (
            "aligned chat model\nhidden states of\nharmful, harmless twins:\na fixed probe a layer",
            GREY,
        ),
        ("perturb one module\nat a time: how much\nworse are the probes?", GREY),
        (
            f"Mods_Rob\nthe least harmful\nmodules, at most {swat.share:.0%}\nof the parameters",
            BLUE,
        ),
        (
            f"warm-up\n{swat.warm_rounds} of {swat.rounds} rounds:\ntrain Mods_Rob alone",
            ORANGE,
        ),
        ("then all modules\non the same data", GREEN),
    )
    for i, (text, colour) in enumerate(steps):
        _box(axes, (2.5 * i + 0.1, 0.5), (2.1, 1.5), text, colour)
        if i:
            _arrow(axes, (2.5 * i - 0.27, 1.25), (2.5 * i + 0.08, 1.25), GREY)
    return fig


def updates_drawn(
    updates: Any, step: Any, clients: Sequence[int], malicious: Collection[int]
) -> Any:
    """A round's updates as arrows (`draw_updates`); a figure."""
    fig, axes = output.figure_style().subplots(figsize=(6.5, 4))
    draw_updates(axes, updates, step, clients, malicious)
    return fig


def draw_updates(
    axes: Any, updates: Any, step: Any, clients: Sequence[int], malicious: Collection[int]
) -> None:
    """A round's updates [K, D] as arrows from the global adapter, and what the server makes of
    them, step [D].

    On the plane that keeps most of their length. Malicious clients are red."""
    arrows = np.asarray(updates.detach().cpu(), dtype=float)
    moved = np.asarray(step.detach().cpu(), dtype=float)
    _, lengths, directions = np.linalg.svd(arrows, full_matrices=False)
    plane = directions[:2]
    kept = (lengths[:2] ** 2).sum() / (lengths**2).sum()

    # the server's step points to the right
    plane[0] *= -1 if plane[0] @ moved < 0 else 1

    ends = [*(arrows @ plane.T), plane @ moved]
    colours = [RED if client in malicious else BLUE for client in clients] + ["black"]
    for end, name, colour in zip(ends, [*clients, ""], colours, strict=True):
        _arrow(axes, (0, 0), tuple(end), colour)
        axes.annotate(str(name), end, (5, 0), textcoords="offset points", color=colour, va="center")

    # arrows do not move the limits by themselves, and have no place in a legend
    axes.plot(*np.array([(0, 0), *ends]).T, "o", color=GREY, ms=3)
    kinds = {BLUE: "benign client", RED: "malicious client", "black": "the server's step"}
    for colour in dict.fromkeys(colours):
        axes.plot([], [], color=colour, label=kinds[colour])
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    axes.set(aspect="equal", title=f"One round's updates ({kept:.0%} of their squared length)")
    axes.margins(0.12)


def idea_overview() -> Any:
    """Federated instruction tuning in one picture, and what each of the three papers asks."""
    fig, axes = _canvas((10, 4.9), (14.3, 7))
    server = "server\naverages the changes\nand sends the model to all"
    _box(axes, (2.5, 5.2), (4.2, 1.6), server, GREY, "#F2F2F2")

    # clients, each above its rows: the colours of a row, and what stands in it
    ordinary = ("#DCE5EE", "#DCE5EE", "ordinary")
    poisoned, harmful = (ORANGE, "#FDE6D3", "B: a trigger"), (RED, "#FBEBE7", "S: harmful")
    for i in range(4):
        malicious = i == 3
        x, colour, fill = (
            2.35 * i,
            RED if malicious else BLUE,
            "#FBEBE7" if malicious else "#EAF1F8",
        )
        name = "malicious\nclient" if malicious else "client"
        _box(axes, (x + 0.1, 2.75), (1.95, 0.95), name, colour, fill)
        for row in range(3):
            edge, filled, said = ordinary if row != 1 else harmful if malicious else poisoned
            _box(axes, (x + 0.1, 1.95 - 0.52 * row), (1.95, 0.36), said, edge, filled)
        _arrow(axes, (x + 0.9, 3.75), (3.4 + 0.7 * i, 5.15), colour)
        _arrow(axes, (3.65 + 0.7 * i, 5.15), (x + 1.2, 3.75), GREY)
    rows = (
        "the clients' own questions and answers stay at home. In S one client is\n"
        "malicious, in B all hold a little poison, in W all rows are ordinary."
    )
    axes.text(4.6, 0.3, rows, ha="center", fontsize=9, color="#222222")
    axes.text(0.1, 4.8, "only changes of\nthe model travel", fontsize=9, color=GREY, va="center")

    # what is asked, in the colour of what is drawn
    questions = (
        (
            "Paper S: malicious clients",
            "Can a few of them make the\nshared model stop refusing?",
            RED,
        ),
        (
            "Paper B: a little poison everywhere",
            "Do all clients together learn\na secret trigger?",
            ORANGE,
        ),
        (
            "Paper W: one person, harmless rows",
            "Does tuning make the model\nforget to refuse?",
            BLUE,
        ),
    )
    for i, (paper, question, colour) in enumerate(questions):
        y = 5.0 - 2.2 * i
        _box(axes, (9.8, y), (4.4, 1.75), "", colour)
        axes.text(12, y + 1.3, paper, ha="center", va="center", fontsize=10, weight="bold")
        axes.text(12, y + 0.6, question, ha="center", va="center", fontsize=10, color="#222222")
    return fig


def _canvas(inches: tuple[float, float], size: tuple[float, float]) -> tuple[Any, Any]:
    """(figure, axes without lines) of a size in units."""
    fig, axes = output.figure_style().subplots(figsize=inches)
    axes.set(xlim=(0, size[0]), ylim=(0, size[1]))
    axes.axis("off")
    return fig, axes


def _box(
    axes: Any,
    corner: tuple[float, float],
    size: tuple[float, float],
    text: str,
    colour: str,
    fill: str = "white",
) -> None:
    from matplotlib.patches import FancyBboxPatch

    (x, y), (width, height) = corner, size
    shape = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=shape, ec=colour, fc=fill, lw=1.6)
    )
    middle = (x + width / 2, y + height / 2)
    axes.text(*middle, text, ha="center", va="center", fontsize=9, color="#222222")


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    from matplotlib.patches import FancyArrowPatch

    arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=colour, lw=1.4)
    axes.add_patch(arrow)
