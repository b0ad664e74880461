"""What clients sent, sorted: which updates a round can use, and why the others are left out.

The policy of every engine: the rules refuse bad input, so it is taken out before they see it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NOT_FINITE = "its update holds"  # how the reason begins where it holds NaN or Inf


def usable_updates(
    sent: Mapping[int, Any], like: Tensor
) -> tuple[list[int], Tensor, dict[int, str]]:
    """(clients that are left, their updates [K, D], {client left out: why}).

    sent: {client: its update [D], or None where nothing came, or a text that says why nothing
    came}, in the round's order. like [D]: the adapter that they were sent; updates are brought to
    its dtype and device. An update is left out that is no floating-point tensor of that shape, or
    that holds NaN or Inf. Nothing here is random, and no input is changed."""
    kept: dict[int, Tensor] = {}
    left_out: dict[int, str] = {}
    for client, update in sent.items():
        problem = _problem(update, like)
        if problem:
            left_out[client] = problem
        else:
            kept[client] = update.detach().to(like)
    updates = torch.stack([*kept.values()]) if kept else like.new_zeros(0, len(like))
    return [*kept], updates, left_out


def _problem(update: Any, like: Tensor) -> str | None:
    """Why an update cannot be used; None where it can."""
    if update is None:
        return "it sent nothing"
    if isinstance(update, str):
        return update
    if not torch.is_tensor(update):
        return f"its update is no tensor, but {type(update).__name__}"
    if not update.is_floating_point():
        return f"its update holds no floating-point numbers, but {update.dtype}"
    if update.shape != like.shape:
        return f"its update has shape {tuple(update.shape)}, not {tuple(like.shape)}"

    # as the round would use it: a wider number may become Inf
    values = update.detach().to(like)
    if values.sum().isfinite():
        return None
    odd = int((~values.isfinite()).sum())
    if not odd:
        return None  # only the sum was too large
    kind = "NaN" if values.isnan().any() else "Inf"
    return f"{NOT_FINITE} {kind} ({odd} of {len(values)} values)"
