"""Order statistics over clients, coordinate by coordinate: what rules that sort are made of."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 21  # values that are worked on together
BLOCK_ON_DEVICE = 1 << 24  # the same on a GPU, where each step has to be started
NETWORK = 32  # values; measured: below this a sorting network is faster than a sort of slopes

Values = TypeVar("Values", Tensor, np.ndarray)
Exchange = tuple[int, int, bool, bool]  # i, j, is the smaller used later on, is the larger


def blockwise(updates: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
    """rule applied to blocks of coordinates [K, B] -> [B], so that what it needs stays small."""
    clients, size = updates.shape
    parts = slices(size, block_of(updates.device) // clients)
    return torch.cat([rule(updates[:, part]) for part in parts])


def slices(size: int, step: int) -> list[slice]:
    """Slices of at most `step` places, but at least one, that cover them all."""
    step = max(1, step)
    return [slice(start, start + step) for start in range(0, size, step)]


def block_of(device: torch.device) -> int:
    """How many values are worked on together on a device."""
    return BLOCK if device.type == "cpu" else BLOCK_ON_DEVICE


def _merge_exchange(n: int) -> list[tuple[int, int]]:
    """Batcher's sorting network for n values, as pairs to compare and exchange.

    Merge exchange, Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M, with his names."""
    if n < 2:
        return []
    pairs = []
    top = 1 << (math.ceil(math.log2(n)) - 1)
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d = q - p
            q >>= 1
            r = p
        p >>= 1
    return pairs


@functools.cache
def _network(n: int, wanted: tuple[int, ...]) -> list[Exchange]:
    """The exchanges of a sorting network that bear on the wanted ranks, in order."""
    needed, kept = set(wanted), []
    for i, j in reversed(_merge_exchange(n)):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return kept[::-1]


def order_statistics(rows: Values, ranks: Iterable[int]) -> dict[int, Values]:
    """{rank: values [..]}: the wanted order statistics over the first dimension of rows [n, ..]."""
    wanted = tuple(ranks)
    if torch.is_tensor(rows) and rows.device.type != "cpu" and len(rows) >= NETWORK:
        return sorted_statistics(rows, wanted)
    values: list[Any] = list(rows)
    of_torch = torch.is_tensor(rows)
    minimum = torch.minimum if of_torch else np.minimum
    maximum = torch.maximum if of_torch else np.maximum

    for i, j, low, high in _network(len(values), wanted):
        one, other = values[i], values[j]
        if low:
            values[i] = minimum(one, other)
        if high:
            values[j] = maximum(one, other)
    return {rank: values[rank] for rank in wanted}


def sorted_statistics(rows: Tensor, wanted: Iterable[int]) -> dict[int, Any]:
    """The same by a sort: on a GPU each exchange of a long network would have to be started."""
    # what is sorted lies side by side
    ordered = rows.movedim(0, -1).contiguous().sort(dim=-1).values
    return {rank: ordered[..., rank] for rank in wanted}


def midpoint(ordered: Any, low: int, high: int) -> Any:
    """The mean of two ranks of ordered values, halved first: their sum could overflow."""
    if low == high:
        return ordered[low]
    return ordered[low] / 2 + ordered[high] / 2


def middle(ordered: Values) -> Values:
    """The median over the first dimension of values that are in order along it."""
    return midpoint(ordered, (len(ordered) - 1) // 2, len(ordered) // 2)
