"""The security feature space: a fixed linear probe a layer, and what moves it (paper W)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fedlib.models import templates
from fedlib.settings import identity
from fedlib.settings.groups import Swat
from fedlib.swat import modules
from fedlib.swat.modules import Cell
from fedlib.training import collate

Pairs = Sequence[tuple[str, str]]  # (malicious, benign) instructions alike in wording
Scores = tuple[np.ndarray, np.ndarray]  # log loss [L], accuracy [L] in percent


@torch.no_grad()
def hidden_states(
    model: Any, tokenizer: Any, instructions: Sequence[str], template: str, batch_size: int
) -> np.ndarray:
    """The hidden state of the last prompt token after every layer, [L, N, H] float32."""
    texts = [templates.prompt_text(text, tokenizer, template) for text in instructions]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    device = next(model.parameters()).device
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = causal.get_decoder()

    found = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        ids, _ = collate([(row, 0) for row in part], device)  # padded where no real token sees it
        states = decoder(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        last = torch.tensor([len(row) - 1 for row in part], device=device)
        each = torch.arange(len(part), device=device)
        found.append(torch.stack([state[each, last] for state in states[1:]]).float().cpu())
    return torch.cat(found, dim=1).numpy()


class Space:
    """The security feature space of an aligned model: a linear probe a layer, fitted once.

    Fitted on the pairs of the split `fit`; `score` asks another split of a tuned or perturbed
    model. pairs: {split: pairs}, for fit and each split that is scored."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pairs: Mapping[str, Pairs],
        template: str,
        batch_size: int,
    ):
        from sklearn.linear_model import LogisticRegression  # half a second, in every worker
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.tokenizer, self.pairs = tokenizer, pairs
        self.template, self.batch_size = template, batch_size
        states, labels = self._states(model, "fit")
        self.probes = []
        for layer in states:
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
            self.probes.append(probe.fit(layer, labels))
        self._untouched: dict[str, Scores] = {}

    def _states(self, model: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(hidden states [L, 2P, H], labels [2P]: 1 malicious, 0 benign) of a split's P pairs."""
        texts = [text for pair in self.pairs[split] for text in pair]
        states = hidden_states(model, self.tokenizer, texts, self.template, self.batch_size)
        return states, np.array([1, 0] * len(self.pairs[split]))

    def untouched(self, model: Any, split: str) -> Scores:
        """`score` of the model that the probes were fitted on; computed once for each split."""
        if split not in self._untouched:
            self._untouched[split] = self.score(model, split)
        return self._untouched[split]

    def score(self, model: Any, split: str) -> Scores:
        """(log loss [L], accuracy [L] in percent) of the fixed probes on a model's states."""
        from sklearn.metrics import log_loss

        states, labels = self._states(model, split)
        losses, accuracies = [], []
        for probe, layer in zip(self.probes, states, strict=True):
            malicious = probe.predict_proba(layer)[:, 1]
            losses.append(log_loss(labels, malicious, labels=[0, 1]))
            accuracies.append(100 * ((malicious > 0.5) == labels).mean())
        return np.array(losses), np.array(accuracies)


def robustness(model: Any, space: Space, options: Swat) -> dict[Cell, dict[str, float]]:
    """{cell: {loss, accuracy}}: what noise in the cell's weights does (paper W, Figure 3).

    loss: how much the fixed probes' mean loss rises; accuracy: how many points their accuracy
    falls. On validation pairs; the noise has options.noise times a weight's norm, and the scores
    are means over options.draws."""
    loss, accuracy = space.untouched(model, "validation")
    found = {}
    for cell, names in modules.cells(model, options.window).items():
        scores = [_perturbed(model, space, names, options.noise, d) for d in range(options.draws)]
        found[cell] = {
            "loss": float(np.mean([s[0].mean() for s in scores]) - loss.mean()),
            "accuracy": float(accuracy.mean() - np.mean([s[1].mean() for s in scores])),
        }
    return found


def _perturbed(
    model: Any, space: Space, names: Sequence[str], ratio: float, draw: int
) -> tuple[np.ndarray, np.ndarray]:
    """The probes' scores with noise on these modules."""
    generator = torch.Generator().manual_seed(identity.derive(draw, "noise", *names))
    with modules.shifted(model, modules.noise(model, names, ratio, generator)):
        return space.score(model, "validation")


def transplanted(model: Any, space: Space, deltas: Mapping, window: int) -> list[dict]:
    """As `robustness`, each cell given its own update of a tuned model instead of noise.

    A cell whose weights stay the same except for rounding is not asked.
    Returns [{type, layer, loss, accuracy}]."""
    loss, accuracy = untouched = space.untouched(model, "validation")
    felt = modules.felt(model, deltas)
    found = []
    for (kind, layer), names in modules.cells(model, window).items():
        own = {name: deltas[name] for name in names if name in felt}
        moved = untouched
        if own:
            with modules.shifted(model, own):
                moved = space.score(model, "validation")
        rise = float(moved[0].mean() - loss.mean())
        fall = float(accuracy.mean() - moved[1].mean())
        found.append({"type": kind, "layer": layer, "loss": rise, "accuracy": fall})
    return found


def robust_subset(
    model: Any, space: Space, options: Swat, found: Mapping[Cell, Mapping[str, float]]
) -> tuple[list[Cell], list[dict]]:
    """(Mods_Rob, trace): the robust subset of the cells (paper W, Figure 4; greedily: ours).

    Cells are taken from the least harmful on, as long as they, perturbed together, keep the probes'
    mean loss within options.threshold of what it was, until options.share of the parameters that
    LoRA gives the modules is used up. A cell that breaks the threshold is left out, and the next
    one is tried. trace: [{cell, rise, kept}] of each that was tried."""
    parts, window = modules.cells(model, options.window), options.window
    untouched = space.untouched(model, "validation")[0].mean()
    budget = options.share * modules.adapter_cost(model, parts, window)

    chosen: list[Cell] = []
    trace, used = [], 0
    for cell in sorted(found, key=lambda c: found[c]["loss"]):
        cost = modules.adapter_cost(model, [cell], window)
        if used + cost > budget:
            continue
        names = [name for c in [*chosen, cell] for name in parts[c]]
        losses = [
            _perturbed(model, space, names, options.noise, draw)[0].mean()
            for draw in range(options.draws)
        ]
        rise = float(np.mean(losses) - untouched)
        kept = rise <= options.threshold
        trace.append({"cell": cell, "rise": rise, "kept": kept})
        if kept:
            chosen.append(cell)
            used += cost
    return chosen, trace


def drift(
    tuned: Any, space: Space, split: str, window: int | None = None
) -> tuple[dict[str, float], dict]:
    """What tuning changed for the fixed probes of the model that it started from (paper W).

    space: of the base, without the adapter. Returns ({probe_loss, probe_accuracy (points lost)}:
    means over layers of loss after minus before, of accuracy before minus after; {before, after}:
    [loss, accuracy] a layer, and {cells}: `transplanted` where a window is given)."""
    base = tuned.get_base_model()
    with tuned.disable_adapter():
        before = space.untouched(base, split)
        own: list[dict] = []
        if window is not None:
            own = transplanted(base, space, modules.lora_updates(tuned), window)
    after = space.score(tuned, split)

    moved = {
        "probe_loss": float((after[0] - before[0]).mean()),
        "probe_accuracy": float((before[1] - after[1]).mean()),
    }
    layers = {"before": [list(v) for v in before], "after": [list(v) for v in after], "cells": own}
    return moved, layers
