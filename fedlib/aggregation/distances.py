"""Inner products and distances between clients, and plain means of some of them."""

import torch
from torch import Tensor

from fedlib.aggregation import ranks

LARGEST = 1e100  # a value of this size still has a square in float64
SMALLEST_NORM = 1e-150  # what is divided by in place of a norm of 0


def inner_products(updates: Tensor) -> Tensor:
    """Inner products [K, K] in float64 of updates [K, D], summed over blocks of coordinates.

    Where a float64 update would overflow its own square, all are shrunk by one factor first. Only
    then is anything read by the host, once: the square of a float32 value fits."""
    shrink = 1.0
    if updates.dtype == torch.float64:
        largest = torch.stack([row.abs().max() for row in updates]).max()
        shrink = max(1.0, float(largest) / LARGEST)
    clients, size = updates.shape
    step = max(1, ranks.block_of(updates.device) // 4 // clients)

    total = torch.zeros(clients, clients, dtype=torch.float64, device=updates.device)
    for start in range(0, size, step):
        block = updates[:, start : start + step].double()
        if shrink > 1:
            block = block / shrink
        total += block @ block.T
    return total


def squared_distances(updates: Tensor) -> Tensor:
    """Squared Euclidean distances [K, K] between updates [K, D], accumulated in float64."""
    gram = inner_products(updates)
    squares = gram.diagonal()
    found = squares[:, None] + squares - 2 * gram
    return found.clamp(min=0).fill_diagonal_(0)


def mean_of(updates: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(plain mean [D] of the clients with the indices `chosen`, their equal weights [K])."""
    weights = torch.zeros(len(updates), dtype=updates.dtype, device=updates.device)
    weights[chosen.to(updates.device)] = 1 / len(chosen)
    return weights @ updates, weights


def clip_factors(norms: Tensor) -> Tensor:
    """What scales each update down to the median of the norms [K], at most 1.

    Of an even number of norms the median is the lower middle one."""
    factors = norms.median() / norms.clamp(min=SMALLEST_NORM)
    return torch.where(norms > 0, factors, 1.0).clamp(max=1)
