"""The repeated median of slopes (Siegel 1982), coordinate by coordinate, in numpy.

A value's inner median is the median of its slopes to all others, and the repeated median is the
median of the inner medians. To sort every value's slopes takes nearly all of the rule's time. But
most inner medians need not be known: it is enough that they lie below a slope that is lower than
the repeated median, or above one that is higher. That is counted for all values together. Only the
few in between are computed, and the result is the same to the bit."""

import numpy as np

from fedlib.aggregation import ranks

TRIALS = 3  # slopes that are tried in a coordinate: more take longer than they save
BEYOND = 0.04  # of the values: so far beyond the middle aims a trial that is to be on its far side
EVERY = 6  # values: one of so many gives the first trial
SORTED = 1 << 16  # slopes that are sorted together


def repeated_median_slope(ordered: np.ndarray) -> np.ndarray:
    """Siegel's repeated median [B] of values [n, B] in order.

    The median over i of the median over j of the slopes between the values of rank i and j."""
    n = len(ordered)
    if n < ranks.NETWORK:
        return _by_network(ordered)
    below, above, low, high = _settled(ordered)
    middles = _middles(ordered, below, above)

    # the trials were counted except for rounding: what they do not bound for sure is computed whole
    unsure = np.flatnonzero(~((low < middles[0]) & (middles[-1] < high)))
    if len(unsure):
        middles[:, unsure] = _middle_rows(np.sort(_all_inner_medians(ordered[:, unsure]), axis=0))
    return ranks.middle(middles)


def _by_network(ordered: np.ndarray) -> np.ndarray:
    """The same of few values: all slopes, and a sorting network for each inner median."""
    n = len(ordered)
    rank = np.arange(n, dtype=ordered.dtype)
    gaps = rank - rank[:, None] + np.eye(n, dtype=ordered.dtype)
    slopes = (ordered - ordered[:, None]) / gaps[:, :, None]

    # a value's slope to itself is infinite, so that it comes last
    slopes[range(n), range(n)] = np.inf
    low, high = (n - 2) // 2, (n - 1) // 2
    inner = ranks.midpoint(ranks.order_statistics(slopes, [low, high]), low, high)
    return ranks.middle(np.sort(inner, axis=0))


def _middles(ordered: np.ndarray, below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """The one or two inner medians in the middle [1 or 2, B], of which some lie below or above."""
    inner = _inner_medians(ordered, ~(below | above))
    inner[below], inner[above] = -np.inf, np.inf
    return _middle_rows(np.sort(inner, axis=0))


def _middle_rows(ordered: np.ndarray) -> np.ndarray:
    """The one or two rows in the middle."""
    return ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]


def _all_inner_medians(ordered: np.ndarray) -> np.ndarray:
    """Every inner median [n, B] of values [n, B] in order."""
    n = len(ordered)
    inner = np.empty_like(ordered)
    rank = np.arange(n, dtype=ordered.dtype)
    gaps = rank - rank[:, None] + np.eye(n, dtype=ordered.dtype)
    for part in ranks.slices(ordered.shape[1], SORTED // n // n):
        rows = ordered[:, part].T.copy()  # what is sorted lies side by side
        slopes = rows[:, None] - rows[:, :, None]  # [B, n, n]
        slopes /= gaps
        slopes[:, range(n), range(n)] = np.inf  # a value's slope to itself comes last
        slopes.sort()
        inner[:, part] = ranks.middle(np.moveaxis(slopes, 2, 0)[:-1]).T
    return inner


def _inner_medians(ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The inner medians [n, B] that are wanted [n, B]; the others are left 0."""
    n = len(ordered)
    inner = np.zeros_like(ordered)
    rows = ordered.T.copy()  # what is sorted lies side by side
    columns, places = np.nonzero(wanted.T.copy())
    rank = np.arange(n, dtype=ordered.dtype)

    for part in ranks.slices(len(columns), SORTED // n):
        column, place = columns[part], places[part]
        own = np.arange(len(place)), place
        slopes, gaps = rows[column], rank - rank[place][:, None]
        gaps[own] = 1
        slopes -= slopes[own][:, None]
        slopes /= gaps
        slopes[own] = np.inf  # a value's slope to itself comes last
        slopes.sort()
        inner[place, column] = ranks.middle(slopes.T[:-1])
    return inner


def _settled(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(which inner medians lie below the repeated median [n, B], which above it [n, B], a slope
    under it [B], one over it [B]).

    That holds where the repeated median is found to lie between those two slopes."""
    n, size = ordered.shape
    below, above = np.zeros((2, n, size), bool)
    low, high = np.full((2, size), [[-np.inf], [np.inf]], ordered.dtype)
    fewer, more = np.full((2, size), [[0], [n]])  # inner medians under low, and under high
    largest = np.abs(ordered).max(axis=0)
    slope, width = _first_trial(ordered)

    for _trial in range(TRIALS):
        # is each inner median at most the trial slope, or more; neither if it is a mean around it
        count = _count(ordered, slope)
        under, over = count > (n - 1) // 2, count <= (n - 2) // 2
        at_least, at_most = under.sum(axis=0), n - over.sum(axis=0)
        lower, higher = at_least <= (n - 1) // 2, at_most > n // 2
        below |= under & lower
        above |= over & higher

        # the trial is an end of where the repeated median lies, except for rounding
        rounding = 2 * np.finfo(ordered.dtype).eps * (largest + n * np.abs(slope))
        low = np.maximum(low, np.where(lower, slope + rounding, -np.inf))
        high = np.minimum(high, np.where(higher, slope - rounding, np.inf))
        fewer = np.maximum(fewer, np.where(lower, at_least, 0))
        more = np.minimum(more, np.where(higher, at_most, n))

        # the next trial: between both ends, or beyond the middle if there is only one
        no_low, no_high = low == -np.inf, high == np.inf
        between = (high - low) / np.maximum(more - fewer, 1)
        width = np.where(no_low | no_high, width, between)
        aim = (n - 1) / 2 + BEYOND * n * np.where(no_high, 1, np.where(no_low, -1, 0))
        slope = (slope + (aim - at_least) * width).astype(ordered.dtype)
    return below, above, low, high


def _first_trial(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(a slope near the repeated median [B], how far apart inner medians are near it [B]).

    From a few of the values alone."""
    n = len(ordered)
    few = ordered[EVERY // 2 :: EVERY]
    inner = np.sort(_all_inner_medians(few), axis=0) / EVERY
    quarter = len(few) // 4
    return ranks.middle(inner), (inner[-1 - quarter] - inner[quarter]) / (n / 2)


def _count(ordered: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """How many of each value's slopes are at most `slope` [B]: [n, B], except for rounding.

    A slope is if what it leaves of the later value, without that slope, is no more than of the
    earlier one."""
    n = len(ordered)
    rest = ordered - slope * (np.arange(n, dtype=ordered.dtype)[:, None] - (n - 1) / 2)
    count = np.zeros(ordered.shape, np.min_scalar_type(n))
    for gap in range(1, n):
        at_most = (rest[gap:] <= rest[:-gap]).view(np.uint8)
        count[:-gap] += at_most
        count[gap:] += at_most
    return count
