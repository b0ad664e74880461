"""The round loop, written out: sample, broadcast, train locally, aggregate, record."""

import json
import os
import time

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from fedlib import aggregation, attack, config, data, files, model, signal, training


def sample(settings, round_):
    """The clients of a round, sorted: drawn without replacement from the run's own seed."""
    f = settings.federation
    rng = np.random.default_rng(config.derive(settings.seed, "sample", round_))
    return sorted(rng.choice(f.clients, f.sampled, replace=False).tolist())


def encoded_clients(settings, tokenizer):
    """Every client's rows, encoded, and how many were dropped because no response was left (paper S: truncation)."""
    parts = [data.encode(attack.client_rows(settings, k), tokenizer, settings.model.template, settings.model.max_length)
             for k in range(settings.federation.clients)]
    for client, (rows, dropped) in enumerate(parts):
        if not rows and not dropped:
            raise files.DataError(f"client {client}: no rows; raise data.alpha or data.rows, or lower federation.clients")
        if not rows:
            raise files.DataError(f"client {client}: no row left ({dropped} prompts fill model.max_length, "
                                 f"{settings.model.max_length}, alone)")
    return [rows for rows, _ in parts], [dropped for _, dropped in parts]


def client_update(tuned, global_, rows, settings, round_, client):
    """(update [D], loss of each step, tokens): local training from the global adapter; the model is left tuned."""
    model.set_vector(tuned, global_)
    losses, tokens = training.tune(tuned, rows, settings, round_, config.derive(settings.seed, "train", round_, client))
    return model.get_vector(tuned) - global_, losses, tokens


def execute(settings, folder):
    """Run the federation into folder: rounds.jsonl, adapter/ and, between rounds, what a resume needs."""
    base, tokenizer = model.load(settings)
    tuned = model.attach_lora(base, settings)
    clients, dropped = encoded_clients(settings, tokenizer)
    sizes = [len(rows) for rows in clients]
    global_, start = _resume(folder, model.get_vector(tuned))
    for round_ in range(start, settings.federation.rounds):
        began, updates, losses, tokens = time.perf_counter(), [], {}, 0
        sampled = sample(settings, round_)
        for client in sampled:
            update, losses[client], seen = client_update(tuned, global_, clients[client], settings, round_, client)
            updates.append(update)
            tokens += seen
        updates = torch.stack(updates)
        step, weights = aggregation.aggregate(
            settings.federation.aggregator, updates, sizes=[sizes[k] for k in sampled])
        global_ = global_ + step
        _record(folder, global_, {
            "round": round_, "sampled": sampled, "malicious": [k for k in sampled if k in attack.malicious(settings)],
            "learning_rate": training.learning_rate(settings, round_),
            "losses": {k: _short(v) for k, v in losses.items()},
            "weights": None if weights is None else _short(weights.tolist()), "sizes": [sizes[k] for k in sampled],
            "dropped": [dropped[k] for k in sampled], "norms": _short(updates.norm(dim=1).tolist()),
            "cosine": [_short(row) for row in signal.cosine(updates).tolist()],
            "seconds": round(time.perf_counter() - began, 3), "tokens": tokens})
    model.set_vector(tuned, global_)
    model.save_adapter(tuned, settings, folder / "adapter")
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)


def _short(values):
    return [round(v, 5) for v in values]


def _record(folder, global_, line):
    """A finished round: its line, then atomically the adapter it led to. A line without its adapter is dropped on resume."""
    with open(folder / "rounds.jsonl", "a", encoding="utf-8") as f:
        f.write(json.dumps(line) + "\n")
    partial = folder / "checkpoint.partial"
    save_file({"global": global_.cpu()}, partial, metadata={"rounds": str(line["round"] + 1)})
    os.replace(partial, folder / "checkpoint.safetensors")


def _resume(folder, initial):
    """(global adapter, first round to run): from the checkpoint where there is one, else from the start."""
    from safetensors import safe_open

    rounds, checkpoint = folder / "rounds.jsonl", folder / "checkpoint.safetensors"
    lines = rounds.read_text(encoding="utf-8").splitlines(keepends=True) if rounds.exists() else []
    done = 0
    if checkpoint.exists():
        with safe_open(checkpoint, "pt") as f:
            done = int(f.metadata()["rounds"])
        if len(lines) >= done:
            initial = load_file(checkpoint)["global"].to(initial)
        else:
            done = 0
    if len(lines) != done:
        partial = folder / "rounds.partial"
        partial.write_text("".join(lines[:done]), encoding="utf-8")
        os.replace(partial, rounds)
    return initial, done
