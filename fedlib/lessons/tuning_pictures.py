"""The pictures and tables of lesson 3, drawn from its record and its hidden states."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fedlib.lessons import exercises, pictures, tuning_exercises
from fedlib.lessons.tuning_exercises import States
from fedlib.papers import heatmaps, output
from fedlib.papers.methods import BLUE, GREEN, GREY, RED

MODELS = {"before": "before tuning", "plain": "after plain tuning", "swat": "after SWAT"}


def find_order(record: Mapping, modules: str, warm_rounds: int) -> dict:
    """The run whose warm-up trained these modules for so many rounds; without one, plain tuning."""
    wanted = (modules, warm_rounds) if warm_rounds else ("all", 0)
    return next(
        order for order in record["orders"] if (order["modules"], order["warm_rounds"]) == wanted
    )


def tuned_picture(record: Mapping) -> Any:
    """What plain tuning does; lines: before tuning."""
    scores = find_order(record, "all", 0)["scores"]
    before = next(order for order in record["orders"] if order["modules"] == "none")["scores"]
    return pictures.one_panel("after plain tuning (black lines: before)", scores, before)


def probe_picture(states: States, probe: Any, layer: int, model: str) -> Any:
    """Held-out questions along a student's probe, in a layer of a model; before the probe is right,
    what its check says."""
    found = tuning_exercises.check_probe(states, probe)
    if found.state != exercises.RIGHT:
        return found
    fit = tuning_exercises.both_kinds(states["fit"][layer])
    direction, threshold = probe(*fit)
    length = np.linalg.norm(direction)
    harmful, harmless = (
        part @ direction / length for part in tuning_exercises.both_kinds(states[model][layer])
    )
    fig, axes = output.figure_style().subplots(figsize=(8, 2.8))
    both = np.concatenate([harmful, harmless])
    edges = np.linspace(both.min(), both.max(), 30)
    axes.hist(harmless, edges, color=BLUE, alpha=0.6, label="harmless")
    axes.hist(harmful, edges, color=RED, alpha=0.6, label="harmful")
    axes.axvline(threshold / length, color="black", ls="--", label="threshold")
    accuracy = tuning_exercises.probe_accuracy(states, probe, layer, model)
    axes.set(title=f"layer {layer}, {MODELS[model]}: {accuracy:.0f} of 100 told rightly")
    axes.set(xlabel="along the direction (fitted before tuning)", ylabel="questions")
    axes.legend(fontsize=8, frameon=False)
    return fig


def accuracy_table(states: States) -> pd.DataFrame:
    """Accuracy by layer of the difference of means, fitted before tuning, a row a model."""
    rows = {name: tuning_exercises.accuracies(states, model) for model, name in MODELS.items()}
    frame = pd.DataFrame(rows).T.round(0).astype(int)
    frame.columns = [f"layer {layer}" for layer in frame.columns]
    return frame


def noise_map(record: Mapping) -> Any:
    """What noise in each module does to the probes' loss: module type by layer; a figure."""
    fig, axes = output.figure_style().subplots(figsize=(9, 3.8))
    robust = [tuple(cell) for cell in record["robust"]]
    heatmaps.module_map(axes, record["cells"], robust, "noise in one module at a time")
    return fig


def module_picture(record: Mapping, module: str, layer: int) -> Any:
    """One type of module in all layers: how much noise in it raises the probes' loss."""
    cells = [cell for cell in record["cells"] if cell["type"] == module]
    robust = {tuple(cell) for cell in record["robust"]}
    fig, axes = output.figure_style().subplots(figsize=(8, 2.6))
    for cell in cells:
        warmed = (module, cell["layer"]) in robust
        edge = "black" if cell["layer"] == layer else "none"
        axes.bar(cell["layer"], cell["loss"], color=GREEN if warmed else GREY, edgecolor=edge, lw=3)
    chosen = next(cell for cell in cells if cell["layer"] == layer)
    said = "robust" if (module, layer) in robust else "not robust"
    axes.set(title=f"{module}, layer {layer}: rise {chosen['loss']:.2g} ({said})")
    axes.set(xlabel="layer (green: robust)", ylabel="probes' loss, rise")
    axes.set_yscale("symlog", linthresh=0.002)  # small rises are told apart too
    axes.set_xticks([cell["layer"] for cell in cells])
    return fig


def order_picture(record: Mapping, modules: str, warm_rounds: int) -> Any:
    """What a warm-up does; lines: plain tuning. What was not tried is said."""
    title = f"warm-up: {modules} modules in {warm_rounds} of {record['rounds']} rounds"
    try:
        order = find_order(record, modules, warm_rounds)
    except StopIteration:
        tried = sorted(o["warm_rounds"] for o in record["orders"] if o["modules"] == modules)
        return exercises.wrong(f"{title} was not tried; with these modules: {tried} rounds.")
    plain = find_order(record, "all", 0)["scores"]
    return pictures.one_panel(f"{title}\n(black lines: plain tuning)", order["scores"], plain)


def orders_table(record: Mapping) -> pd.DataFrame:
    """Every order of tuning that was tried, with its scores in percent."""
    rows = [
        {"modules first": order["modules"], "rounds": order["warm_rounds"]} | order["scores"]
        for order in record["orders"]
    ]
    return pd.DataFrame(rows).round(1)
