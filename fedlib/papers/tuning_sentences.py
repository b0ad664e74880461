"""Paper W: what each table and figure says, in a sentence made from its numbers.

ASR is the attack success rate: responses to harmful prompts that are unsafe (judged by the guard)
or, on real text, not refused; in percent."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from fedlib.papers import estimates
from fedlib.papers.methods import LABEL
from fedlib.papers.secure_tuning_results import asr_column

HARDLY = 0.01  # a rise of the probes' log loss that is next to none


def drift_said(scores: pd.DataFrame) -> list[str]:
    """ASR and the probes' loss before tuning and after it, by model, task and scenario.

    scores: of tuning_scores, the untuned model's scenario named untuned."""
    column = asr_column(scores)
    untuned = scores[scores["scenario"] == "untuned"]
    lines = []
    tuned = scores[scores["scenario"] != "untuned"]
    for (model, task), part in tuned.groupby(["model", "task"], sort=False):
        before = untuned.loc[untuned["model"] == model, column].mean()
        told = [f"{before:.0f}% before"]
        for scenario, same in part.groupby("scenario", sort=False):
            one = f"{same[column].mean():.0f}% after ({scenario})"
            if "probe_loss_rise" in same:
                # a rise that rounds to 0 has no sign
                rise = round(same["probe_loss_rise"].mean(), 2) + 0.0
                one += f", where the probes' loss rose by {rise:.2f}"
            told.append(one)
        lines.append(f"- {model}, task {task}: {'; '.join(told)}")
    return ["\n".join(["ASR:", *lines])]


def layers_said(panels: Mapping[str, Mapping[str, Sequence[Any]]]) -> list[str]:
    """In which layer the probes' loss rises most.

    panels: {panel: {line: (losses by layer, accuracies) of each run}}, the first line before
    tuning, as panels.probe_losses gives them."""
    lines = []
    for panel, drawn in panels.items():
        means = {
            name: pd.DataFrame([losses for losses, _ in runs]).mean()
            for name, runs in drawn.items()
            if runs
        }
        before, *after = means.items()
        told = []
        for name, losses in after:
            rise = losses - before[1]
            most = f"layer {rise.idxmax()}, by {rise.max():.2f}"
            told.append(f"{name}: {most if rise.max() >= HARDLY else 'no layer'}")
        lines.append(f"- {panel}: {'; '.join(told)}")
    return ["\n".join(["The probes' loss rises most in:", *lines])]


def noise_said(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which module the probes need most, and how many of all hardly matter.

    found: {model: what the lab found about its modules}."""
    said = []
    for name, one in found.items():
        cells = pd.DataFrame(one["cells"])
        # `loss` is by how much the probes' loss rises
        worst = cells.loc[cells["loss"].idxmax()]
        quiet = (cells["loss"] < HARDLY).sum()
        said.append(
            f"{name}: noise in {worst['type']} of layer {worst['layer']} raises the probes' loss "
            f"most, by {worst['loss']:.2f}. In {quiet} of {len(cells)} modules it rises by less "
            f"than {HARDLY:g}. {len(one['robust'])} modules are robust (Mods_Rob)."
        )
    return said


def updates_said(moved: Mapping[tuple[str, str], pd.DataFrame]) -> list[str]:
    """Whose own update moves the probes most, and how many modules' updates hardly do.

    moved: {(model, task): of transplanted_losses}."""
    lines = []
    for (name, task), cells in moved.items():
        worst = cells.loc[cells["loss"].idxmax()]
        quiet = (cells["loss"] < HARDLY).sum()
        lines.append(
            f"- {name}, task {task}: {worst['type']} of layer {worst['layer']}, by "
            f"{worst['loss']:.2f}; in {quiet} of {len(cells)} modules by less than {HARDLY:g}"
        )
    return ["\n".join(["The probes' loss rises most by the update of:", *lines])]


def robust_said(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How much of a model Mods_Rob is, and what perturbing all of it does."""
    return [
        f"{row['model']}: Mods_Rob holds {row['in Mods_Rob']} of {row['cells']} modules, "
        f"{row['parameters (%)']:.0f}% of their parameters. With noise in all of them the probes' "
        f"loss rises by {row['rise, all of Mods_Rob perturbed']:.3f} "
        f"(untouched: {row['loss, untouched']:.3f})."
        for row in rows
    ]


def agreement_of_noise_said(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether noise and a module's own update order the modules alike."""
    told = [f"{row['model']}, task {row['task']}: {row['Spearman']:.2f}" for row in rows]
    return [
        f"Rank correlation of the two maps (1: the same order, 0: none in common): "
        f"{'; '.join(told)}."
    ]


def swat_said(scores: pd.DataFrame) -> list[str]:
    """ASR and task accuracy after plain tuning and after each warm-up, averaged over models.

    scores: of tuning_scores."""
    column = asr_column(scores)
    lines = []
    for (task, scenario), part in scores.groupby(["task", "scenario"], sort=False):
        means = part.groupby("method", sort=False)[[column, "task_accuracy"]].mean()
        told = [
            f"{name} {row[column]:.0f}% (task {row['task_accuracy']:.0f}%)"
            for name, row in means.iterrows()
        ]
        line = f"- task {task}, {scenario}: {', '.join(told)}."
        plain, swat = LABEL["plain"], LABEL["swat"]
        if plain in means.index and swat in means.index:
            asr = means[column].to_dict()
            line += _lowered(asr[plain], asr[swat])
        lines.append(line)
    return ["\n".join(["ASR by way of tuning:", *lines])]


def _lowered(plain: float, swat: float) -> str:
    """Whether SWAT lowers ASR, and whether by the third that the claims ask for."""
    if swat >= plain:
        return " SWAT does not lower ASR."
    enough = 3 * (plain - swat) >= plain
    return f" SWAT lowers ASR by {plain - swat:.0f} points, " + (
        "a third or more." if enough else "less than a third."
    )


def signs_said(measured: Mapping[str, ArrayLike]) -> list[str]:
    """Which of the claims' differences are above zero, and which below, by their intervals.

    measured: {claim: its differences [seeds, prompts]}."""
    above, below = [], []
    for claim, values in measured.items():
        _, low, high = estimates.interval(values)
        above += [claim] if low > 0 else []
        below += [claim] if high < 0 else []
    told = f"Of {len(measured)} differences {len(above)} are above zero with their whole interval"
    told += f", {len(below)} below it" + (f" ({', '.join(below)})." if below else ".")
    return [told + " A claim asks for more: its margin (notebook 90)."]


def composition_said(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """By how many points of ASR SWAT lowers what other defences leave, by scenario."""
    lines = []
    mine = [row for row in rows if row["on top"] == LABEL["swat"]]
    for scenario in dict.fromkeys(row["scenario"] for row in mine):
        told = [
            f"{row['defence']} {row['ASR lower by']}" for row in mine if row["scenario"] == scenario
        ]
        lines.append(f"- {scenario}: {', '.join(told)}")
    return ["\n".join(["SWAT on top lowers ASR by, in points, by the defence there:", *lines])]


def differences_said(rows: Sequence[Mapping[str, Any]], column: str, what: str) -> list[str]:
    """A table's differences in a line: the column's text, after the words of the other columns."""
    told = [
        f"{', '.join(str(value) for name, value in row.items() if name != column)}: {row[column]}"
        for row in rows
    ]
    return [f"{what}: {'; '.join(told)}."]


def federated_said(scores: pd.DataFrame) -> list[str]:
    """Safety and help in the federation, by way of tuning."""
    columns = [name for name in ("md_judge", "rule", "help") if name in scores]
    means = scores.groupby("method", sort=False)[columns].mean()
    told = [
        f"{method}: " + ", ".join(f"{name} {value:.0f}%" for name, value in row.items())
        for method, row in means.iterrows()
    ]
    return [f"{'; '.join(told)}."]
