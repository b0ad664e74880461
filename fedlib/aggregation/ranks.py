"""Order statistics over clients, coordinate by coordinate: what the aggregation rules that sort are made of."""

import functools
import math

import numpy as np
import torch

BLOCK = 1 << 21  # values at a time


def blockwise(updates, rule):
    """rule applied to blocks of coordinates [K, B] -> [B], so that what it needs stays small."""
    step = max(1, BLOCK // len(updates))
    return torch.cat([rule(updates[:, i : i + step]) for i in range(0, updates.shape[1], step)])


@functools.cache
def _network(n, wanted):
    """Batcher's merge exchange for n values (Knuth, TAOCP 3, 5.2.2 M) as (i, j) compare-exchanges, less those that do
    not bear on the wanted ranks. (i, j, whether the smaller goes on to be used, whether the larger does)"""
    pairs, t = [], max(1, math.ceil(math.log2(n))) if n > 1 else 0
    p = 1 << (t - 1) if t else 0
    while p:
        q, r, d = 1 << (t - 1), 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    needed, kept = set(wanted), []
    for i, j in reversed(pairs):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return kept[::-1]


def order_statistics(rows, ranks):
    """{rank: values [..]}: the wanted order statistics over the first dimension of rows [n, ..]."""
    ranks, values = tuple(ranks), list(rows)
    minimum, maximum = (
        (torch.minimum, torch.maximum) if torch.is_tensor(rows) else (np.minimum, np.maximum)
    )
    for i, j, low, high in _network(len(values), ranks):
        a, b = values[i], values[j]
        if low:
            values[i] = minimum(a, b)
        if high:
            values[j] = maximum(a, b)
    return {rank: values[rank] for rank in ranks}


def midpoint(ordered, low, high):
    return ordered[low] if low == high else ordered[low] / 2 + ordered[high] / 2


def middle(ordered):
    """The median over the first dimension of values that are in order along it."""
    return midpoint(ordered, (len(ordered) - 1) // 2, len(ordered) // 2)
