"""The server's post-hoc defence: tune the aggregated model on aligned and normal rows (paper S)."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedlib import training
from fedlib.settings import identity
from fedlib.settings.groups import Training
from fedlib.training import Encoded

PROJECTED = 0.22  # under this share of an update's norm within the safety subspace it is projected
GENTLY = 0.2  # of the learning rate, in further alignment
RANK = 1e-3  # of the largest singular value: smaller ones are no direction of the subspace


def halves(parts: Mapping[str, Sequence[dict]], count: int) -> list[dict]:
    """As many rows of each part as of the other: count in all, or what there is.

    ValueError, which names the part, where one is empty."""
    half = min(count // 2, *map(len, parts.values()))
    if not half:
        empty = next(kind for kind, rows in parts.items() if not rows)
        raise ValueError(f"not one {empty} row is left of what was written")
    return [row for rows in parts.values() for row in rows[:half]]


def strengthen(
    tuned: Any, rows: Sequence[Encoded], options: Training, rounds: int, seed: int
) -> None:
    """Further alignment before the first round, in place, in the adapter that is then tuned.

    A defence before tuning, one of those that paper W composes SWAT with. At GENTLY of the learning
    rate: faster, it makes safety more brittle (docs/world.md)."""
    for round_ in range(rounds):
        rate = GENTLY * training.learning_rate(
            options.learning_rate, options.learning_rate_min, round_, rounds
        )
        training.tune(tuned, rows, options, rate, identity.derive(seed, "before", round_))


def tune_rounds(
    tuned: Any,
    rows: Sequence[Encoded],
    options: Training,
    rounds: int,
    seed: int,
    start: int = 0,
) -> Iterator[dict]:
    """Tune the aggregated model on the server, in place; yields a record after each round.

    options.steps steps a round, AdamW afresh in each, the learning rate on a cosine over these
    rounds. start: the first round to run, where earlier ones are done."""
    for round_ in range(start, rounds):
        began = time.perf_counter()
        rate = training.learning_rate(
            options.learning_rate, options.learning_rate_min, round_, rounds
        )
        losses, tokens = training.tune(
            tuned, rows, options, rate, identity.derive(seed, "defense", round_)
        )
        yield {
            "round": round_,
            "learning_rate": rate,
            "losses": [round(loss, 5) for loss in losses],
            "seconds": round(time.perf_counter() - began, 3),
            "tokens": tokens,
        }


def repaired(method: Any, update: Tensor, **offered: Any) -> Tensor:
    """The adapter [D] that a person's own defence makes of the attacked one, `update` [D].

    offered: what it may ask for by name. SettingsError where it returns no tensor [D], or NaN."""
    found = method(update.clone(), **offered)
    if not torch.is_tensor(found) or not found.is_floating_point():
        raise method.refused(f"returned {type(found).__name__}, not a floating-point tensor")
    if found.shape != update.shape:
        raise method.refused(
            f"returned a tensor of shape {tuple(found.shape)}, not {tuple(update.shape)}"
        )
    if not found.isfinite().all():
        raise method.refused("returned a tensor that holds NaN or Inf")
    return found.detach().to(update)


def project(tuned: Any, alignment: Mapping[str, Tensor]) -> dict[str, float]:
    """Project the adapter's updates onto the safety subspace, in place.

    alignment: {module: V [out, in]}, aligned less unaligned weight. Where the part of a module's
    update within the columns of V is under PROJECTED of its norm, that part replaces the update (in
    the manner of Safe LoRA, Hsu et al. 2024, whose C = V V'/|V| is here the projector itself).
    A module without an adapter has no update, and is left out.
    Returns {module: share of its norm that lies within}."""
    found = {}
    for name, v in alignment.items():
        part = tuned.get_submodule(f"base_model.model.{name}")
        if not hasattr(part, "lora_B"):
            continue
        b, delta = part.lora_B["default"].weight, part.get_delta_weight("default").detach()

        # an orthonormal basis of the columns of V
        left, values, _ = torch.linalg.svd(v.float(), full_matrices=False)
        left = left[:, values > RANK * values[0]].to(b)

        found[name] = ((left.T @ delta).norm() / delta.norm().clamp(min=1e-30)).item()
        if found[name] < PROJECTED:
            with torch.no_grad():
                b.copy_(left @ (left.T @ b))
    return found
