"""Security feature space, robustness of modules, Mods_Rob, warm-up (paper W: SWAT). For any causal LM of transformers whose
attention and MLP are separate linear modules."""

import contextlib
import json
import random
import re

import numpy as np
import torch

from fedlib import config, data, generation, judge, model, store, templates, training

TYPES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FEW = 48  # validation instructions that a tuning is followed by
_MODULE = re.compile(r"(?:.*\.)?layers\.(\d+)\.(?:\w+\.)?(" + "|".join(TYPES) + r")$")


def modules(base):
    """{module name: (type, layer)} of the linear modules of a causal LM's layers; ValueError where there are none."""
    causal = base.get_base_model() if hasattr(base, "get_base_model") else base
    found = {name: (m[2], int(m[1])) for name, _ in causal.named_modules() if (m := _MODULE.match(name))}
    if not found:
        raise ValueError(f"{type(causal).__name__}: no modules called {', '.join(TYPES)}; a fused attention matrix (GPT-2) "
                         "cannot be taken apart")
    return found


def cells(base, window=1):
    """{(type, first layer): [module names]}: a module type over a window of layers (paper W, Figure 3)."""
    found, out = modules(base), {}
    for name, (kind, layer) in found.items():
        out.setdefault((kind, layer // window * window), []).append(name)
    return dict(sorted(out.items(), key=lambda item: (TYPES.index(item[0][0]), item[0][1])))


@torch.no_grad()
def features(lm, tokenizer, instructions, settings):
    """The hidden state of the last prompt token after every layer, [L, N, H] float32."""
    texts = [templates.prompt_text(i, tokenizer, settings.model.template) for i in instructions]
    rows, device, out = tokenizer(texts, add_special_tokens=False)["input_ids"], next(lm.parameters()).device, []
    decoder = (lm.get_base_model() if hasattr(lm, "get_base_model") else lm).get_decoder()
    for start in range(0, len(rows), settings.evaluation.batch_size):
        part = rows[start : start + settings.evaluation.batch_size]
        ids, _ = training.collate([(r, 0) for r in part], device)  # padded on the right: no real token sees it
        states = decoder(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[1:]
        last = torch.tensor([len(r) - 1 for r in part], device=device)
        out.append(torch.stack([s[torch.arange(len(part), device=device), last] for s in states]).float().cpu())
    return torch.cat(out, dim=1).numpy()


class Space:
    """The security feature space of an aligned model: a linear probe a layer, fitted once and then fixed.

    Fitted on one split of the pairs; `score` asks another split of a tuned or perturbed model (paper W: drift)."""

    def __init__(self, lm, tokenizer, settings):
        from sklearn.linear_model import LogisticRegression  # takes half a second to import, in every worker
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.tokenizer, self.settings = tokenizer, settings
        self.asked = {split: data.pairs(settings, split) for split in ("fit", "validation", "evaluation")}
        found, labels = features(lm, tokenizer, *self._flat("fit")), self._labels("fit")
        self.probes = [make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(layer, labels)
                       for layer in found]

    def _flat(self, split):
        return [text for pair in self.asked[split] for text in pair], self.settings

    def _labels(self, split):
        return np.array([1, 0] * len(self.asked[split]))

    def score(self, lm, split):
        """(log loss [L], accuracy [L] in percent) of the fixed probes on a model's hidden states."""
        from sklearn.metrics import log_loss

        found, labels = features(lm, self.tokenizer, *self._flat(split)), self._labels(split)
        said = [probe.predict_proba(layer)[:, 1] for probe, layer in zip(self.probes, found, strict=True)]
        return (np.array([log_loss(labels, p, labels=[0, 1]) for p in said]),
                np.array([100 * ((p > 0.5) == labels).mean() for p in said]))


@contextlib.contextmanager
def shifted(lm, deltas):
    """The model with {module name: delta [out, in]} added to its weights, and the very same bits afterwards."""
    kept = {name: lm.get_submodule(name).weight.data for name in deltas}
    try:
        for name, delta in deltas.items():
            lm.get_submodule(name).weight.data = kept[name] + delta.to(kept[name])
        yield lm
    finally:
        for name, weight in kept.items():
            lm.get_submodule(name).weight.data = weight


def noise(lm, names, ratio, generator):
    """{module name: Gaussian noise of `ratio` times the norm of that module's weight}."""
    out = {}
    for name in names:
        weight = lm.get_submodule(name).weight
        drawn = torch.randn(weight.shape, generator=generator)
        out[name] = drawn * (ratio * weight.norm().float().cpu() / drawn.norm())
    return out


def updates(tuned):
    """{module name: delta [out, in]} that a LoRA adapter adds to each module's weight."""
    return {name.removeprefix("base_model.model."): part.get_delta_weight("default").detach()
            for name, part in tuned.named_modules() if hasattr(part, "get_delta_weight")}


def update_norms(tuned):
    """{"type/layer": norm of the adapter's update of that weight}, from its factors alone."""
    out = {}
    with torch.no_grad():
        for name, part in tuned.named_modules():
            if hasattr(part, "get_delta_weight") and (m := _MODULE.match(name)):
                a, b = part.lora_A["default"].weight.float(), part.lora_B["default"].weight.float()
                square = ((b.T @ b) * (a @ a.T)).sum().clamp(min=0)
                out[f"{m[2]}/{m[1]}"] = round(part.scaling["default"] * square.sqrt().item(), 5)
    return out


def robustness(lm, space, settings):
    """{cell: {loss, accuracy}}: how far the fixed probes' mean loss rises and their accuracy falls (points) on validation
    pairs when the cell's weights get noise of swat.noise times their norm, averaged over swat.draws (Figure 3)."""
    loss, accuracy = space.score(lm, "validation")
    out = {}
    for cell, names in cells(lm, settings.swat.window).items():
        found = [_moved(lm, space, names, settings, draw) for draw in range(settings.swat.draws)]
        out[cell] = {"loss": float(np.mean([f[0].mean() for f in found]) - loss.mean()),
                     "accuracy": float(accuracy.mean() - np.mean([f[1].mean() for f in found]))}
    return out


def _moved(lm, space, names, settings, draw):
    generator = torch.Generator().manual_seed(config.derive(draw, "noise", *names))
    with shifted(lm, noise(lm, names, settings.swat.noise, generator)):
        return space.score(lm, "validation")


def transplanted(lm, space, settings, deltas):
    """As robustness(), each cell given its own update of a tuned model instead of noise: [{type, layer, loss, accuracy}]."""
    loss, accuracy = space.score(lm, "validation")
    out = []
    for (kind, layer), names in cells(lm, settings.swat.window).items():
        with shifted(lm, {n: deltas[n] for n in names if n in deltas}):
            found = space.score(lm, "validation")
        out.append({"type": kind, "layer": layer, "loss": float(found[0].mean() - loss.mean()),
                    "accuracy": float(accuracy.mean() - found[1].mean())})
    return out


def search(lm, space, settings, found):
    """Mods_Rob: cells taken from the least harmful on while, perturbed together, they keep the probes' mean loss within
    swat.threshold of what it was, until swat.share of the parameters that LoRA gives the modules is used up (the paper's
    search is guided by the same performance; greedy is ours). A cell that breaks the threshold is left out and the next
    one tried. Returns (cells, trace)."""
    parts, start = cells(lm, settings.swat.window), space.score(lm, "validation")[0].mean()
    window = settings.swat.window
    budget, chosen, used, trace = settings.swat.share * size(lm, parts, window), [], 0, []
    for cell in sorted(found, key=lambda c: found[c]["loss"]):
        cost = size(lm, [cell], window)
        if used + cost > budget:
            continue
        names = [n for c in [*chosen, cell] for n in parts[c]]
        rise = float(np.mean([_moved(lm, space, names, settings, d)[0].mean() for d in range(settings.swat.draws)]) - start)
        kept = rise <= settings.swat.threshold
        trace.append({"cell": cell, "rise": rise, "kept": kept})
        if kept:
            chosen, used = [*chosen, cell], used + cost
    return chosen, trace


def size(lm, chosen, window=1):
    """The parameters a unit of rank that LoRA adds to these cells' modules: inputs plus outputs."""
    parts = cells(lm, window)
    return sum(sum(lm.get_submodule(n).weight.shape) for c in chosen for n in parts[c])


def execute(settings, folder):
    """The robustness of the modules of model.base and its Mods_Rob into folder: robustness.json."""
    base, tokenizer = model.load(settings)
    space = Space(base, tokenizer, settings)
    found = robustness(base, space, settings)
    chosen, trace = search(base, space, settings, found)
    if not chosen:
        what = f"swat.threshold: {settings.swat.threshold}" if trace else f"swat.share: {settings.swat.share}"
        raise ValueError(f"{what}: not one cell of {settings.model.base} fits; raise it, or lower swat.noise")
    sizes = {cell: size(base, [cell], settings.swat.window) for cell in found}
    report = {"cells": [{"type": c[0], "layer": c[1], "size": sizes[c]} | v for c, v in found.items()],
              "robust": chosen, "trace": trace, "probes": [list(v) for v in space.score(base, "validation")]}
    (folder / "robustness.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def chosen_cells(settings):
    """The cells that swat.modules names: Mods_Rob (robust), or as large a part of all cells with the most harmful first
    (fragile) or in random order, by the seed (random)."""
    found = store.robustness(settings)
    sizes = {(c["type"], c["layer"]): c["size"] for c in found["cells"]}
    robust = [tuple(c) for c in found["robust"]]
    if settings.swat.modules == "robust":
        return robust
    harm = {(c["type"], c["layer"]): c["loss"] for c in found["cells"]}
    order = sorted(sizes, key=harm.get, reverse=True)
    if settings.swat.modules == "random":
        random.Random(config.derive(settings.seed, "modules")).shuffle(order)
    out, left = [], sum(sizes[c] for c in robust)
    for cell in order:
        if sizes[cell] <= left:
            out, left = [*out, cell], left - sizes[cell]
    return out


@contextlib.contextmanager
def only(tuned, settings):
    """The adapter with nothing trainable but the modules that SWAT's warm-up trains; all of it trainable afterwards."""
    parts = cells(tuned, settings.swat.window)
    names = {f"base_model.model.{n}" for c in chosen_cells(settings) for n in parts[c]}
    frozen = [p for name, p in tuned.named_parameters() if p.requires_grad and name.partition(".lora_")[0] not in names]
    try:
        for p in frozen:
            p.requires_grad_(False)
        yield tuned
    finally:
        for p in frozen:
            p.requires_grad_(True)


def follower(settings, tokenizer):
    """f(tuned, global adapter, step, sampled) -> what a tuning is followed by after each round: the update's norm in each
    module; how many (%) malicious instructions of the validation pairs are refused, greedily and by phrase (Rule); with a
    task the mean log-likelihood of its held-out answers and how many (%) are the likeliest."""
    fixed = settings.replace(evaluation={"temperature": 0.0, "benign": 100, "max_new_tokens": 32})  # none is in a run's key
    prompts, world_ = data.prompts(fixed), settings.data.source == "world"
    asked = prompts.get("task", []) if world_ else [p for p in prompts["benign"] if "answers" in p]
    paired = world_ or settings.swat.pairs
    asks = [bad for bad, _ in data.pairs(settings, "validation")[::2]][:FEW] if paired else []
    rows = [{"instruction": p["prompt"], "response": p["answers"][0]} for p in asked]
    encoded, _ = templates.encode(rows, tokenizer, settings.model.template, settings.model.max_length)

    def follow(tuned, global_, step, sampled):
        model.set_vector(tuned, global_ + step)
        found = {"updates": update_norms(tuned)}
        if asks:
            said = generation.respond(tuned, tokenizer, asks, fixed, 0)
            found["refused"] = round(100 * sum(map(judge.refuses, said)) / len(said), 2)
        if encoded:
            size = fixed.evaluation.batch_size
            parts = [encoded[i : i + size] for i in range(0, len(encoded), size)]
            scores = np.array([training.likelihood(tuned, part) for part in parts])
            sizes = [[sum(len(ids) - n for ids, n in part), len(part)] for part in parts]  # tokens and rows
            likelihood, right = np.average(scores, axis=0, weights=sizes)
            found |= {"task": round(float(likelihood), 5), "learned": round(100 * float(right), 2)}
        return found

    return follow


def drift(settings, tuned, tokenizer):
    """What tuning changed for the fixed probes of the model that it started from, on pairs of evaluation.split (paper W).

    Returns ({probe_loss, probe_accuracy (points lost)}: means over layers of loss after minus before, accuracy before minus
    after; {before, after}: [loss, accuracy] a layer, and, of plain benign tuning, {cells}: transplanted())."""
    base, d = tuned.get_base_model(), settings.defense
    plain = not (settings.swat.warmup or settings.federation.malicious or d.level or d.before)
    with tuned.disable_adapter():
        space = Space(base, tokenizer, settings)
        before = space.score(base, settings.evaluation.split)
        own = transplanted(base, space, settings, updates(tuned)) if plain else []
    after = space.score(tuned, settings.evaluation.split)
    return ({"probe_loss": float((after[0] - before[0]).mean()), "probe_accuracy": float((before[1] - after[1]).mean())},
            {"before": [list(v) for v in before], "after": [list(v) for v in after], "cells": own})
