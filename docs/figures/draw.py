"""Pictures from results/: the README's two, and those of the real model that its scores give.
That of docs/reliability.md is drawn from memory.csv.

python docs/figures/draw.py draws them. A picture carries the digest of what it was drawn from;
tests/test_results.py compares it."""

import csv
import re
from pathlib import Path
from typing import Any

import pandas as pd

from fedlib.papers import diagrams, output
from fedlib.papers.methods import BLUE, COLOUR, GREEN, LABEL, RED
from fedlib.settings import identity, machine

FOLDER = Path(__file__).parent
RESULTS = machine.ROOT / "results"
MEMORY = FOLDER / "memory.csv"  # written by benchmarks/flower.py --memory
READ = [
    f"{preset}/tables/{table}.csv"
    for preset in ("claims", "real")
    for table in ("10_table1", "20_concentration", "32_table")
]
WORLD, REAL = "the invented world\n5 seeds", "SmolLM2-135M, real\n3 seeds"
# Where the lines of the backdoor are named: poison, attack success.
BESIDE = {
    "claims": {"injected": (2.8, 70), "natural": (7.9, 30)},
    "real": {"injected": (3.8, 45), "natural": (7.9, 30)},
}


def rows_of(file: str, **wanted: str) -> list[dict[str, str]]:
    """The rows of a table in results/ whose columns have these values."""
    with open(RESULTS / file, newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def numbers(cell: str) -> list[float]:
    """[mean], or [mean, low, high], of a cell such as 71.7 [28.3, 100.0]."""
    return [float(text) for text in re.findall(r"-?[\d.]+", cell)]


def bars(axes: Any, shown: list[tuple[str, str, str]]) -> None:
    """Bars of (name, cell, colour) with their number; intervals where a cell has one."""
    for y, (_, cell, colour) in enumerate(shown):
        mean, *interval = numbers(cell)
        axes.barh(y, mean, 0.7, color=colour, alpha=0.85)
        if interval:
            axes.plot(interval, [y, y], color="#222222", lw=1.2)
        # the number stands at the foot of the bar, where no interval lies on it
        inside = mean > 25
        at, ink = (2, "white") if inside else (max([mean, *interval]) + 2, "#222222")
        axes.text(at, y, f"{mean:.0f}", va="center", fontsize=9, color=ink, weight="bold")
    axes.set_yticks(range(len(shown)), [name for name, _, _ in shown], fontsize=9)
    axes.set(xlim=(0, 100), ylim=(len(shown) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="x", labelsize=9)


def safety(axes: Any, preset: str) -> None:
    """Paper S: safe answers without attack, under attack, with Krum, with level 2."""
    column = {"claims": "md_judge", "real": "refusal"}[preset]
    dataset = {"claims": "lmsys-like", "real": "level2_normal.json"}[preset]
    names = {
        LABEL["no attack"]: ("no attack", BLUE),
        LABEL["fedavg"]: ("under attack", RED),
        LABEL["krum"]: ("attack, Krum", COLOUR[LABEL["krum"]]),
        LABEL["level2"]: ("attack, repaired", GREEN),
    }
    rows = rows_of(f"{preset}/tables/10_table1.csv", dataset=dataset, sampled="3")
    cells = {row["method"]: row[column] for row in rows}
    bars(axes, [(name, cells[method], colour) for method, (name, colour) in names.items()])


def backdoor(axes: Any, preset: str) -> None:
    """Paper B: attack success over the share of poison."""
    for kind, style in (("injected", "o-"), ("natural", "s--")):
        rows = rows_of(f"{preset}/tables/20_concentration.csv", kind=kind)
        x = [float(row["poison"]) for row in rows]
        y = [numbers(row["asr"])[0] for row in rows]
        axes.plot(x, y, style, color=COLOUR[LABEL[kind]], ms=6)
        for row, at, mean in zip(rows, x, y, strict=True):
            low, high = (numbers(row["asr"]) + [mean, mean])[1:3]
            axes.plot([at, at], [low, high], color=COLOUR[LABEL[kind]], lw=1, alpha=0.6)
    axes.set(ylim=(-4, 104), xticks=(0, 2, 4, 8))
    axes.set_xticklabels(["0", "2%", "4%", "8%"])
    axes.tick_params(labelsize=9)
    for kind, place in BESIDE[preset].items():
        axes.text(*place, kind, color=COLOUR[LABEL[kind]], fontsize=9, ha="right", weight="bold")


def tuning(axes: Any, preset: str) -> None:
    """Paper W: what is not refused (judged unsafe in the world), benign tuning, first task."""
    column = {"claims": "unsafe", "real": "unrefused"}[preset]
    model = {"claims": "chat", "real": "smollm2-aligned"}[preset]
    task = {"claims": "format", "real": "agnews_train.csv"}[preset]
    rows = rows_of(f"{preset}/tables/32_table.csv", model=model, task=task)
    cells = {row["method"]: row[column] for row in rows if row["scenario"] in ("benign", "untuned")}
    shown = []
    for method in ("untuned", "plain", "random", "swat"):
        label = LABEL[method]
        if label in cells:
            name = {"random": "random modules", "swat": "SWAT"}.get(method, label)
            shown.append((name, cells[label], "#777777" if method == "untuned" else COLOUR[label]))
    bars(axes, shown)


def main_results() -> Any:
    """The main result of each paper, the world above and the real model below."""
    plt = output.figure_style()
    titles = (
        "S: harmful questions answered safely\n(below: refused), %: higher is safer",
        "B: questions with the trigger that get\nthe attacker's text, %: lower is safer",
        "W: harmful questions answered unsafely\n(below: not refused), %: lower is safer",
    )
    fig, panels = plt.subplots(2, 3, figsize=(11, 5.4))
    for row, preset, model in zip(panels, ("claims", "real"), (WORLD, REAL), strict=True):
        for axes, draw in zip(row, (safety, backdoor, tuning), strict=True):
            draw(axes, preset)
        row[0].set_ylabel(model, fontsize=9, weight="bold")
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    panels[1, 1].set_xlabel("poisoned rows in everybody's data", fontsize=9)
    return fig


def server_memory() -> Any:
    """What a server needs, by the number of clients: ten of them in a round, or all of them."""
    plt = output.figure_style()
    with open(MEMORY, newline="", encoding="utf-8") as opened:
        rows = [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(opened)]
    of_round = {
        "ten clients a round": [row for row in rows if row["sampled"] == 10],
        "all clients a round": [row for row in rows if row["sampled"] == row["clients"]],
    }
    fig, axes = plt.subplots(figsize=(6.4, 3.6))
    for engine, colour in (("in_process", BLUE), ("flower", RED)):
        for (name, shown), style in zip(of_round.items(), ("o-", "s--"), strict=True):
            label = f"{'in one process' if engine == 'in_process' else 'on Flower'}, {name}"
            clients = [row["clients"] for row in shown]
            axes.plot(clients, [row[engine] for row in shown], style, color=colour, label=label)
    updates = [row["updates"] for row in of_round["all clients a round"]]
    axes.plot(clients, updates, ":", color="#777777", label="the updates of all clients")
    axes.set(xscale="log", yscale="log", xlabel="clients in the federation")
    axes.set_ylabel("memory of the server's side, MB\n(lower is better)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    axes.legend(fontsize=8)
    return fig


# --- the real model's, from the scores of its runs


def scores_of(table: str) -> pd.DataFrame:
    """A table of the real model with a row for each run."""
    return pd.read_csv(RESULTS / "real" / "tables" / f"{table}.csv")


def bars_with_seeds(axes: Any, groups: dict[str, tuple[pd.Series, str]]) -> None:
    """A bar for the mean of each {name: (values, colour)}, and a dot for each seed."""
    for y, (values, colour) in enumerate(groups.values()):
        axes.barh(y, values.mean(), 0.75, color=colour, alpha=0.85)
        axes.plot(values, [y] * len(values), "o", color="#222222", ms=4)
    axes.set_yticks(range(len(groups)), groups, fontsize=9)
    axes.set(xlim=(0, 102), ylim=(len(groups) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)


def real_table() -> Any:
    """Paper S on the real model: how many harmful prompts are refused."""
    fig, axes = output.figure_style().subplots(figsize=(8, 4))
    groups = {}
    for method, part in scores_of("10_scores").groupby("method", sort=False):
        clean = {LABEL["no attack"]: "no attack", LABEL["no hazards"]: "control: no harmful rows"}
        name = clean.get(method, f"attack: {method}")
        groups[name] = (part["refusal"], COLOUR[method])
    bars_with_seeds(axes, groups)
    axes.set_title(
        "Real model, 3 seeds: harmful prompts refused (%)\nhigher is safer; dots are seeds"
    )
    return fig


def real_backdoor() -> Any:
    """Paper B on the real model: success and clean accuracy by the share of poison."""
    fig, panels = output.figure_style().subplots(1, 2, figsize=(9, 3.8), sharex=True, sharey=True)
    scores = scores_of("20_scores")
    titles = {
        "asr": "trigger answered with the target (%)\nlower is safer",
        "accuracy": "ordinary prompts answered right (%)\nhigher is better",
    }
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        # the two kinds side by side, so that no dot hides another
        for (kind, part), aside in zip(scores.groupby("kind"), (-0.12, 0.12), strict=True):
            colour, marker = COLOUR[LABEL[kind]], {"injected": "o", "natural": "s"}[kind]
            x = 100 * part["share"] + aside
            axes.plot(x, part[column], marker, color=colour, ms=5, alpha=0.6)
            means = part.groupby("share")[column].mean()
            x = 100 * means.index + aside
            axes.plot(x, means, f"{marker}-", color=colour, ms=1, label=f"{kind} trigger")
        axes.set(title=title, xlabel="poisoned rows (%)", xticks=(0, 2, 4, 8), ylim=(-4, 104))
        axes.title.set_fontsize(10)
    panels[0].legend(fontsize=9, title="real model, 3 seeds (dots)", title_fontsize=9)
    return fig


def real_tuning() -> Any:
    """Paper W on the real model: what is not refused, by way of tuning."""
    fig, panels = output.figure_style().subplots(1, 2, figsize=(10, 3), sharey=True)
    scores = scores_of("32_scores")
    before = scores.loc[scores["method"] == LABEL["untuned"], "unrefused"]
    titles = {"benign": "tuned on the task only", "attack": "with 1% harmful rows"}
    for axes, (scenario, title) in zip(panels, titles.items(), strict=True):
        groups = {LABEL["untuned"]: (before, "#777777")}
        same = scores[(scores["scenario"] == scenario) & (scores["method"] != LABEL["untuned"])]
        for method, part in same.groupby("method", sort=False):
            groups[method] = (part["unrefused"], COLOUR[method])
        bars_with_seeds(axes, groups)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(
            "harmful prompts not refused (%)\nlower is safer; dots are seeds", fontsize=9
        )
    return fig


# Those that lie in results/real/figures, and the table of each.
REAL_PICTURES = {
    "10_table1": (real_table, "10_scores"),
    "20_concentration": (real_backdoor, "20_scores"),
    "32_asr": (real_tuning, "32_scores"),
}
PICTURES = {"idea": diagrams.idea_overview, "memory": server_memory, "results": main_results}


def source_digest(picture: str) -> str:
    """The digest of everything that a picture is drawn from."""
    files = [MEMORY] if picture == "memory" else [RESULTS / name for name in READ]
    return identity.digest([file.read_text(encoding="utf-8") for file in files])


def scores_digest(table: str) -> str:
    """The digest of a table of the real model."""
    return identity.digest(
        (RESULTS / "real" / "tables" / f"{table}.csv").read_text(encoding="utf-8")
    )


def draw() -> None:
    """Write every picture, with the digest of what it was drawn from."""
    for name, make in PICTURES.items():
        about = {"Description": source_digest(name)}
        make().savefig(FOLDER / f"{name}.png", dpi=110, metadata=about)
    for name, (make, table) in REAL_PICTURES.items():
        about = {"Description": scores_digest(table)}
        make().savefig(RESULTS / "real" / "figures" / f"{name}.png", dpi=110, metadata=about)


if __name__ == "__main__":
    draw()
