"""Residual-based reweighting (Fu et al. 2019): in numpy, or in torch where updates lie on a GPU.

On a CPU numpy sorts short rows 20 times faster than torch, and threads can share the coordinates.
There the rule needs half a copy of the updates and three rows."""

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlib.aggregation import ranks
from fedlib.aggregation.distances import mean_of
from fedlib.aggregation.slopes import repeated_median_slope

THRESHOLDS = {"paper": 0.1, "published": 0.05}  # of confidence; paper: as in the authors' code
FEWEST = 4  # clients: no line can be told from three values
TO_DEVIATION = 1.4826  # the median distance of normal values times this is their deviation
ON_DEVICE = 1 << 27  # slopes at a time on a GPU, at most
NO_DISTANCE = 1e-7  # added to the scale, against a division by 0


def residual(
    updates: Tensor,
    *,
    variant: str,
    threshold: float | None = None,
    strength: float = 2.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Residual-based reweighting (Fu et al. 2019), with a repeated-median line a coordinate.

    The line goes through a coordinate's sorted values. A value's confidence comes from its
    residual, scaled by its leverage; values under the threshold are put on the line. A client's
    weight: the sum of its confidences times their deviation over clients, relative to the largest,
    squared. strength: the authors' lambda. Up to 3 clients: a plain mean."""
    n, size = updates.shape
    if n < FEWEST:
        return mean_of(updates, torch.arange(n))
    least = THRESHOLDS[variant] if threshold is None else threshold
    if updates.device.type != "cpu":
        return residual_in_torch(updates, least, strength)

    # what the first pass leaves for the second: together half a copy of the updates
    values = updates.numpy()
    order = np.empty(values.shape, np.min_scalar_type(n))
    moved = np.empty(values.shape, bool)
    slopes, middles, update = np.empty((3, size), values.dtype)
    centred, reach = _places(n, strength, values.dtype)
    summed = max(1, ranks.BLOCK // 2 // n // n)  # coordinates whose confidences are added first

    def judge(part: slice) -> list[np.ndarray]:
        client, slopes[part], middles[part], confidence = _judge(values[:, part], centred, reach)
        order[:, part], moved[:, part] = client, ~(confidence >= least)
        confidence *= confidence.std(axis=0, ddof=1)
        return [
            np.bincount(client[:, few].ravel(), confidence[:, few].ravel())
            for few in ranks.slices(client.shape[1], summed)
        ]

    def mend(part: slice) -> None:
        fixed = values[:, part].copy()
        rank, at = np.nonzero(moved[:, part])
        line = slopes[part][at] * centred[rank, 0] + middles[part][at]
        fixed[order[:, part][rank, at], at] = line
        update[part] = (weights @ torch.from_numpy(fixed)).numpy()

    with _pool() as pool:
        # first each client's confidence over all coordinates: its weight
        together = summed if n < ranks.NETWORK else summed * (n // 4)
        judged = pool.map(judge, ranks.slices(size, together))
        total = torch.from_numpy(sum(sums for part in judged for sums in part))
        weights = (total / total.max()).square() if total.max() > 0 else torch.ones_like(total)
        weights = (weights / weights.sum()).to(torch.from_numpy(update))

        # then the weighted mean of the values, those without confidence put on the line
        list(pool.map(mend, ranks.slices(size, ranks.BLOCK // 8 // n)))
    return torch.from_numpy(update).to(updates), weights.to(updates)


def residual_in_torch(updates: Tensor, least: float, strength: float) -> tuple[Tensor, Tensor]:
    """(step [D], weights [K]) of the same rule on the updates' own device, except for rounding.

    least: the confidence under which a value is put on the line. Nothing is read by the host, so
    that the device is never waited for."""
    n, size = updates.shape
    centred, reach = (
        torch.from_numpy(part).to(updates) for part in _places(n, strength, np.dtype(np.float64))
    )
    parts = ranks.slices(size, _at_once(updates) // n // n)

    # what the first pass leaves for the second: the lines, and the rank of a value that is put on
    # its line, n in the place of one that is kept
    slopes, middles = updates.new_empty(2, size)
    moved = torch.empty_like(updates, dtype=torch.uint8 if n < 256 else torch.int32)

    # first each client's confidence over all coordinates: its weight (n * n slopes each)
    total = torch.zeros(n, dtype=torch.float64, device=updates.device)
    for part in parts:
        found = _judge_in_torch(updates[:, part], centred, reach, least)
        slopes[part], middles[part], moved[:, part], sums = found
        total += sums
    highest = total.max()
    weights = torch.where(highest > 0, (total / highest).square(), 1.0)
    weights = (weights / weights.sum()).to(updates)

    # then the weighted mean of the values, those without confidence put on the line
    update = updates.new_empty(size)
    for part in ranks.slices(size, _at_once(updates) // 8 // n):
        rank = moved[:, part]
        line = slopes[part] * (rank - (n - 1) / 2) + middles[part]
        update[part] = weights @ torch.where(rank == n, updates[:, part], line)
    return update, weights


def _at_once(updates: Tensor) -> int:
    """Slopes that are worked on together: fewer where little of a GPU's memory is free."""
    device = updates.device
    if device.type != "cuda":
        return ON_DEVICE
    # what torch holds in reserve is free too
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + reserved
    # a slope, sorted with its index, and room for what the sort works in
    bytes_each = 4 * updates.itemsize + 8
    return min(ON_DEVICE, free // 2 // bytes_each)


def _judge_in_torch(
    values: Tensor, centred: Tensor, reach: Tensor, least: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a block of coordinates [n, B]: (the line's slopes [B], the middle values [B], by client
    the rank of a value that goes on the line, else n [n, B], each client's confidence summed [n]).
    """
    n = len(values)
    ordered, client = values.sort(dim=0, stable=True)

    # distances from the line, and their scale without the smallest of them
    slope, middle = _slope_in_torch(ordered), ranks.middle(ordered)
    distance = (ordered - (slope * centred + middle)).abs()
    typical = ranks.middle(distance.sort(dim=0).values[1:])
    scale = TO_DEVIATION * (1 + 5 / (n - 1)) * typical + NO_DISTANCE
    confidence = (reach * (scale / distance.clamp(min=1e-30))).clamp(max=1)

    # from the order of ranks to that of clients
    rank = torch.arange(n, device=values.device)[:, None]
    moved = torch.empty_like(client).scatter_(0, client, torch.where(confidence >= least, n, rank))
    confidence *= confidence.std(dim=0)
    by_client = torch.empty_like(confidence).scatter_(0, client, confidence)
    return slope, middle, moved, by_client.sum(dim=1, dtype=torch.float64)


def _slope_in_torch(ordered: Tensor) -> Tensor:
    """The repeated median [B] of values [n, B] in order, as `repeated_median_slope` gives it."""
    n = len(ordered)
    rank = torch.arange(n, device=ordered.device, dtype=ordered.dtype)
    gaps = rank - rank[:, None]

    # a value's slope to itself is infinite, so that it comes last
    if n < ranks.NETWORK:
        slopes = (ordered - ordered[:, None]) / gaps[:, :, None]
        slopes.diagonal().fill_(math.inf)
        low, high = (n - 2) // 2, (n - 1) // 2
        inner = ranks.midpoint(ranks.order_statistics(slopes, [low, high]), low, high)
        return ranks.middle(inner.sort(dim=0).values)

    # what is sorted lies side by side
    rows = ordered.T.contiguous()
    slopes = (rows[:, None] - rows[:, :, None]).div_(gaps)  # [B, n, n]
    slopes.diagonal(dim1=1, dim2=2).fill_(math.inf)
    inner = ranks.middle(slopes.sort(dim=2).values.movedim(2, 0)[:-1])
    return ranks.middle(inner.sort(dim=1).values.T)


def _pool() -> ThreadPoolExecutor:
    """As many threads as torch has; outliers may overflow in them, which is no reason to warn."""
    quiet = functools.partial(np.seterr, over="ignore", invalid="ignore")
    return ThreadPoolExecutor(torch.get_num_threads(), initializer=quiet)


def _places(n: int, strength: float, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """(centred ranks [n, 1], how far a value of each rank may lie from the line [n, 1])."""
    centred = np.arange(n)[:, None] - (n - 1) / 2
    rest = 1 - 1 / n - centred**2 / (centred**2).sum()  # 1 - leverage
    reach = strength * np.sqrt(2 / n * rest)
    return centred.astype(dtype), reach.astype(dtype)


def _judge(
    values: np.ndarray, centred: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of a block of coordinates [n, B]: (whose value has each rank [n, B], the line's slopes [B],
    the middle values [B], the confidence in the value of each rank [n, B])."""
    n = len(values)
    client = values.argsort(axis=0)
    ordered = np.take_along_axis(values, client, axis=0)
    tied = np.flatnonzero((ordered[1:] == ordered[:-1]).any(axis=0))
    client[:, tied] = values[:, tied].argsort(axis=0, kind="stable")  # ties by clients' order
    ordered[:, tied] = np.take_along_axis(values[:, tied], client[:, tied], axis=0)

    # distances from the line, and their scale without the smallest of them
    slope, middle = repeated_median_slope(ordered), ranks.middle(ordered)
    distance = np.abs(ordered - (slope * centred + middle))
    typical = ranks.middle(np.sort(distance, axis=0)[1:])
    scale = TO_DEVIATION * (1 + 5 / (n - 1)) * typical + NO_DISTANCE
    confidence = np.minimum(reach * (scale / np.maximum(distance, 1e-30)), 1)
    return client, slope, middle, confidence
