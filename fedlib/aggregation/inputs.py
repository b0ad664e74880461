"""What rules may be asked, and what a person's own may return: one line names client or limit."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

VARIANTS = ("paper", "published")  # the original paper's rule, and FedLLM-Attack's


def check_name(what: str, given: str, known: Collection[str]) -> None:
    """ValueError, which lists the known names, where a name is not one of them."""
    if given not in known:
        raise ValueError(f"{what} {given!r} is unknown; known: {', '.join(known)}")


def check_options(rule: str, given: Collection[str], known: Collection[str]) -> None:
    """ValueError where a rule is given an option that it does not have."""
    unknown = set(given) - set(known)
    if unknown:
        listed = ", ".join(sorted(known)) or "none"
        raise ValueError(f"{rule} has no option {min(unknown)!r}; it has: {listed}")


def check_malicious(f: Any, clients: int) -> None:
    """ValueError where f, the expected malicious clients, is no whole number under `clients`."""
    whole = isinstance(f, int) and not isinstance(f, bool)
    if not whole or not 0 <= f < clients:
        raise ValueError(f"f must be a whole number from 0 to {clients - 1}, got {f!r}")


def checked_matrix(what: str, matrix: Any) -> Tensor:
    """The matrix [K, D] in float32 or wider, without its graph; ValueError where it is no such."""
    shaped = torch.is_tensor(matrix) and matrix.ndim == 2 and 0 not in matrix.shape
    if not shaped or not matrix.is_floating_point():
        got = getattr(matrix, "shape", type(matrix))
        raise ValueError(f"{what} must be a floating-point tensor [K, D], got {got}")
    wide = matrix.dtype in (torch.float32, torch.float64)
    return matrix.detach() if wide else matrix.detach().float()


def check_finite(what: str, matrix: Tensor) -> None:
    """ValueError, which names the client, where a row of the matrix holds NaN or Inf."""
    # a sum is cheap to look at; it may also overflow, so what it finds is looked at again
    odd = ~matrix.sum(dim=1).isfinite()
    for client in odd.nonzero().flatten().tolist():
        if not matrix[client].isfinite().all():
            raise ValueError(f"{what} of client {client} holds NaN or Inf")


def checked_sizes(
    sizes: Sequence[float] | Tensor | None, clients: int, device: torch.device
) -> Tensor:
    """The clients' data sizes [K] in float64, equal if None; ValueError if one is not positive."""
    given = [1.0] * clients if sizes is None else sizes
    found = torch.as_tensor(given, dtype=torch.float64, device=device)
    positive = found.isfinite().all() and (found > 0).all()
    if found.shape != (clients,) or not positive:
        raise ValueError(f"sizes must be {clients} positive numbers, got {found.tolist()}")
    return found


def checked_result(found: Any, updates: Tensor) -> tuple[Tensor, Tensor | None]:
    """(update [D] in the updates' dtype, weights [K] that sum to 1, or None) as a rule returned.

    updates [K, D]: what it was given. ValueError where it is no such pair, or holds NaN or Inf."""
    pair = "a pair: the update [D], and the weights [K] or None"
    if not isinstance(found, tuple) or len(found) != 2:
        kind = f"{len(found)} values" if isinstance(found, tuple) else type(found).__name__
        raise ValueError(f"returned {kind}, must return {pair}")
    update, weights = found
    count, size = updates.shape
    _check_returned("update", update, (size,))
    if weights is None:
        return update.detach().to(updates), None
    weights = torch.as_tensor(weights) if isinstance(weights, list) else weights
    _check_returned("weights", weights, (count,))
    if weights.sum() <= 0:
        raise ValueError(f"returned weights that sum to {float(weights.sum()):g}, not to 1")
    return update.detach().to(updates), (weights / weights.sum()).detach().to(updates)


def _check_returned(what: str, value: Any, shape: tuple[int, ...]) -> None:
    if not torch.is_tensor(value) or not value.is_floating_point():
        kind = getattr(value, "dtype", type(value).__name__)
        raise ValueError(f"returned {what} of {kind}, not a floating-point tensor")
    if value.shape != shape:
        raise ValueError(f"returned {what} of shape {tuple(value.shape)}, not {shape}")
    if not value.isfinite().all():
        raise ValueError(f"returned {what} that hold NaN or Inf")
