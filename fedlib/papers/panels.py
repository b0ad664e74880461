"""Whole figures of the notebooks: which panels stand where. `charts` draws a panel."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fedlib.lab.store import Run
from fedlib.papers import backdoor, charts, heatmaps, output, safety_results, secure_tuning
from fedlib.papers import secure_tuning_results as results
from fedlib.papers.methods import LABEL
from fedlib.settings.schema import Settings


def _grid(rows: int, columns: int, size: tuple[float, float], **more: Any) -> Any:
    """(figure, axes [rows, columns]) with panels of a size, in inches."""
    whole = (size[0] * columns, size[1] * rows)
    return output.figure_style().subplots(rows, columns, figsize=whole, squeeze=False, **more)


# --- paper S


def score_panels(scores: pd.DataFrame, score: str, paper: str) -> Any:
    """A score by method: a row of panels a dataset, a panel a sampling.

    scores: of tables.score_table; paper: the published table beside it."""
    datasets = list(dict.fromkeys(scores["dataset"]))
    samplings = sorted(set(scores["sampled"]))
    fig, axes = _grid(len(datasets), len(samplings), (9 / len(samplings), 3.6), sharex=True)
    for row, name in zip(axes, datasets, strict=True):
        for ax, sampled in zip(row, samplings, strict=True):
            part = scores[(scores["dataset"] == name) & (scores["sampled"] == sampled)]
            clients = scores["clients"].iloc[0]
            charts.score_bars(ax, part, score, paper, f"{name}, {sampled} of {clients}")
    fig.suptitle(charts.TITLES[score])
    return fig


def size_panels(scores: pd.DataFrame, score: str) -> Any:
    """A score by method, a panel a number of clients."""
    sizes = sorted(set(scores["clients"]))
    fig, axes = _grid(1, len(sizes), (5, 3), sharex=True)
    for ax, clients in zip(axes[0], sizes, strict=True):
        part = scores[scores["clients"] == clients]
        charts.score_bars(ax, part, score, title=f"{clients} clients")
    fig.suptitle(charts.TITLES[score])
    return fig


def before_after_panels(scores: pd.DataFrame, score: str) -> Any:
    """A score without and with level 2 by aggregator, a panel a sampling."""
    samplings = sorted(set(scores["sampled"]))
    fig, axes = _grid(1, len(samplings), (5, 3.8))
    for ax, sampled in zip(axes[0], samplings, strict=True):
        part = scores[scores["sampled"] == sampled]
        title = f"{sampled} of {part['clients'].iloc[0]} clients a round"
        charts.before_after(ax, part, score, title)
    return fig


def weight_panels(kinds: Mapping[str, Sequence[dict]], rules: Sequence[str]) -> Any:
    """Figure 3b of paper S, from the last round: a row a kind of attack, a column a rule.

    kinds: {name: a run's rounds}."""
    fig, axes = _grid(len(kinds), len(rules), (3, 2.2))
    for row, (name, rounds) in zip(axes, kinds.items(), strict=True):
        for ax, rule in zip(row, rules, strict=True):
            charts.weight_bars(ax, rounds[-1], rule)
        row[0].set_ylabel(name.replace(", ", ",\n") + "\n\nweight", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("client (malicious framed)", fontsize=9)
    return fig


def detection_panels(settings: Settings, kinds: Mapping[str, Sequence[Run]]) -> Any:
    """The AUC by round of calling low-scored clients malicious, a panel a score.

    kinds: {name: its runs}."""
    signals = safety_results.SIGNALS
    fig, axes = _grid(1, len(signals), (3.1, 3.2), sharey=True)
    for ax, by in zip(axes[0], signals, strict=True):
        curves = {
            name: safety_results.detection_by_round(settings, same, by)
            for name, same in kinds.items()
        }
        charts.round_curves(ax, curves, "round", "AUC", by, legend=by == "similarity")
    return fig


def bars(
    scores: pd.DataFrame,
    score: str,
    label: str = "",
    size: tuple[float, float] = (7, 3.6),
    title: str = "",
) -> Any:
    """One panel of charts.score_bars; label: of the rows; title: the score's, unless given."""
    fig, axes = _grid(1, 1, size)
    charts.score_bars(axes[0, 0], scores, score, title=title or charts.TITLES[score])
    axes[0, 0].set_ylabel(label)
    return fig


def lines(scores: pd.DataFrame, columns: Sequence[str], x: str, xlabel: str) -> Any:
    """charts.score_lines over x, a panel a score."""
    fig, axes = _grid(1, len(columns), (5 if len(columns) > 1 else 7, 4))
    for ax, column in zip(axes[0], columns, strict=True):
        charts.score_lines(ax, scores, x, column, xlabel)
    return fig


# --- paper B


def bsnr_by_round(runs_by_share: Mapping[str, Sequence[Run]]) -> Any:
    """BSNR and how much of the target is written greedily, by round, a line a share of poison."""
    fig, axes = _grid(1, 2, (5, 4))
    panels = (("bsnr", "BSNR"), ("greedy", "target written greedily (%)\nlower is safer"))
    for ax, (column, label) in zip(axes[0], panels, strict=True):
        drawn = {
            name: [[line.get(column, 0) for line in run.rounds()] for run in part]
            for name, part in runs_by_share.items()
        }
        charts.round_curves(ax, drawn, "round", label, chance=None)
    axes[0, 0].set_yscale("log")
    return fig


def success_over_bsnr(poisoned: pd.DataFrame) -> Any:
    """ASR over the BSNR before the first round, a sign a spread of the poison."""
    fig, axes = _grid(1, 1, (7, 4))
    charts.poison_scatter(axes[0, 0], poisoned, "bsnr", "asr", "BSNR before the first round")
    return fig


def defence_panels(scores: Mapping[str, pd.DataFrame]) -> Any:
    """ASR by aggregator: a panel an attack, the positive control the last.

    scores: {attack: of backdoor_scores}."""
    fig, axes = _grid(1, len(scores), (13 / len(scores), 4.2), sharey=True)
    for ax, (kind, frame) in zip(axes[0], scores.items(), strict=True):
        title = kind if kind in backdoor.KINDS else f"control: {kind}"
        charts.score_bars(ax, frame.assign(method=frame["aggregator"]), "asr", title=title)
    fig.suptitle(charts.TITLES["asr"])
    return fig


# --- paper W


def _cells(names: Sequence[str], tasks: Sequence[str]) -> list[tuple[str, str]]:
    """(a model's label, task) of each panel, models down and tasks across."""
    return [(secure_tuning.model_label(name), task) for name in names for task in tasks]


def probe_losses(names: Sequence[str], plain: Sequence[Run]) -> dict[str, dict[str, list]]:
    """{panel: {line: the probes' (losses by layer, accuracies) of each run}}.

    The first line is before tuning."""
    panels: dict[str, dict[str, list]] = {}
    for label, task in _cells(names, results.tasks_of(plain)):
        same = results.tuned_as(plain, task=task, model=label)
        drawn = {"before tuning": [run.probes()["before"] for run in same]}
        for scenario in secure_tuning.SCENARIOS:
            part = results.tuned_as(same, scenario=scenario)
            drawn[f"after, {scenario}"] = [run.probes()["after"] for run in part]
        panels[f"{label}, task {task}"] = drawn
    return panels


def drift_by_layer(panels: Mapping[str, dict[str, list]], columns: int) -> Any:
    """The probes' loss by layer before and after tuning, of probe_losses."""
    fig, axes = _grid(len(panels) // columns, columns, (10 / columns, 3.4))
    for ax, (title, drawn) in zip(axes.flat, panels.items(), strict=True):
        charts.probe_lines(ax, drawn, 0, "probes' log loss\nlower is better", title)
        ax.set_ylim(bottom=0)
    return fig


def module_maps(found: Mapping[str, Mapping[str, Any]], titles: Sequence[str], columns: int) -> Any:
    """What perturbing each module does to the probes, a panel a map, Mods_Rob framed.

    found: {panel: {cells, robust}}."""
    wide = 9 if columns == 1 else 7
    fig, axes = _grid(len(found) // columns, columns, (wide, 4))
    for ax, one, title in zip(axes.flat, found.values(), titles, strict=True):
        heatmaps.module_map(ax, one["cells"], one["robust"], title)
    return fig


def asr_by_way(scores: pd.DataFrame, rows: str) -> Any:
    """ASR by way of tuning, a panel a scenario; rows: the column that tells groups of one model."""
    fig, axes = _grid(1, 2, (5.5, 4), sharey=True)
    placed = scores.assign(where=scores["model"] + "\n" + scores[rows])
    for ax, scenario in zip(axes[0], secure_tuning.SCENARIOS, strict=True):
        part = placed[placed["scenario"] == scenario]
        charts.grouped_bars(ax, part, "where", results.asr_column(scores), scenario)
        ax.tick_params(axis="x", labelsize=7)
        ax.set_ylim(0, 102)
    axes[0, 0].set_ylabel("ASR (%): lower is safer")
    axes[0, 1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return fig


def refusal_over_loss(names: Sequence[str], done: Sequence[Run]) -> Any:
    """How many prompts are refused at each task loss, a line a way of tuning."""
    tasks = results.tasks_of(done)
    fig, axes = _grid(len(names), len(tasks), (10 / len(tasks), 3.4))
    for ax, (label, task) in zip(axes.flat, _cells(names, tasks), strict=True):
        same = results.tuned_as(done, scenario="benign", task=task, model=label)
        for method, marker in zip(secure_tuning.WARMUPS, charts.MARKERS, strict=False):
            part = results.tuned_as(same, method=method)
            charts.loss_curve(ax, [run.rounds() for run in part], method, marker)
        ax.set(xlabel="task loss (log scale): lower is better")
        ax.set(ylabel="refused (%): higher is safer", ylim=(-2, 102))
        _log_scale(ax)
        ax.set_title(f"{label}, {task}")
        ax.invert_xaxis()
    axes[0, 0].legend(fontsize=8, loc="lower left")
    return fig


def _log_scale(axes: Any) -> None:
    """Make the x axis logarithmic, with few plain numbers, however short its range is."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def update_norm_panels(names: Sequence[str], done: Sequence[Run]) -> Any:
    """How far modules have moved by round, in Mods_Rob (left) and outside it, a line a way."""
    panels = _cells(names, results.tasks_of(done))
    fig, axes = _grid(len(panels), 2, (5, 3.2))
    for row, (label, task) in zip(axes, panels, strict=True):
        same = {
            way: results.tuned_as(done, task=task, model=label, method=way)
            for way in secure_tuning.WARMUPS
        }
        sides = ((True, "Mods_Rob"), (False, "all other modules"))
        for ax, (inside, where) in zip(row, sides, strict=True):
            drawn = {
                LABEL[way]: [results.norms_by_round(run, inside) for run in part]
                for way, part in same.items()
            }
            title = f"{label}, {task}: {where}"
            options = {"legend": not inside, "chance": None}
            charts.round_curves(ax, drawn, "round", "norm of the update", title, **options)
    return fig
