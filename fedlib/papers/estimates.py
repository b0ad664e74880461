"""Pure statistics: intervals over seeds, rank correlations, and how well clients can be told apart.

Shapes: S seeds, H things asked about (hazards, dishes), K clients, N runs.
"""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-np.inf, np.inf)


def interval(
    values: ArrayLike, bounds: Bounds | None = None, draws: int = 10_000
) -> tuple[float, float, float]:
    """(mean, low, high) at 95%: Student's t over seeds [S], or a bootstrap of [S, H].

    The bootstrap draws seeds and things at once. Its percentiles are expanded as Hesterberg (2015)
    gives for few seeds; with under five it spans little more than the seeds seen. One seed has an
    interval over things only, a single number has none (nan). bounds: what the values cannot leave,
    nor then the interval. Seeds that all agree show no spread, which is not certainty."""
    table = np.atleast_2d(np.asarray(values, dtype=float).T).T
    seeds, things = table.shape
    mean = float(table.mean())

    if table.size == 1:
        return mean, float("nan"), float("nan")
    if things == 1:
        error = table.std(ddof=1)
        half = special.stdtrit(seeds - 1, 0.975) * error / np.sqrt(seeds)
        lowest, highest = bounds or UNBOUNDED
        low = np.clip(mean - half, lowest, highest)
        high = np.clip(mean + half, lowest, highest)
        return mean, float(low), float(high)

    # the mean of each draw: every value counts as often as its seed and its thing were drawn
    rows, columns = _drawn(seeds, things, draws)
    counted = (rows @ table) * columns
    means = counted.sum(axis=1) / table.size

    # the percentiles that give few seeds the width that Student's t would
    count = seeds if seeds > 1 else things
    student = special.stdtrit(count - 1, 0.975)
    wider = np.sqrt(count / (count - 1))
    tail = special.ndtr(-wider * student)
    low, high = np.quantile(means, [tail, 1 - tail])
    return mean, float(low), float(high)


@functools.lru_cache(4)
def _drawn(seeds: int, things: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """How often a bootstrap draws each seed [draws, S] and each thing [draws, H]."""
    rng = np.random.default_rng(0)
    even_seeds = np.full(seeds, 1 / seeds)
    even_things = np.full(things, 1 / things)
    return (
        rng.multinomial(seeds, even_seeds, draws),
        rng.multinomial(things, even_things, draws),
    )


def interval_text(values: ArrayLike, digits: int = 1, bounds: Bounds | None = None) -> str:
    """The mean with its 95% interval as a table shows it; a single number has no interval."""
    mean, low, high = interval(values, bounds)
    if np.isnan(low):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of x and y [N]."""
    from scipy import stats  # takes a second to import

    return float(stats.spearmanr(x, y).statistic)


def partial_spearman(x: ArrayLike, y: ArrayLike, given: ArrayLike) -> float | None:
    """Spearman's rank correlation of x and y [N] with `given` [N] held fixed.

    It is the first-order partial correlation of the ranks. None where a rank is constant, or where
    `given` says all there is to say."""
    from scipy import stats

    ranks = np.array([stats.rankdata(v) for v in (x, y, given)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return None
    correlation = np.corrcoef(ranks)
    both = correlation[0, 1]
    x_given = correlation[0, 2]
    y_given = correlation[1, 2]
    rest = (1 - x_given**2) * (1 - y_given**2)
    if rest <= 1e-12:
        return None
    return float((both - x_given * y_given) / np.sqrt(rest))


def mean_similarity(cosine: ArrayLike) -> np.ndarray:
    """Each client's mean cosine to the others [K], from the matrix [K, K]."""
    matrix = np.asarray(cosine, dtype=float)
    others = matrix.sum(1) - np.diag(matrix)
    return others / (len(matrix) - 1)


def auc(scores: ArrayLike, malicious: Sequence[bool] | np.ndarray) -> float:
    """Area under the ROC curve of scores [K] that should be *lower* for malicious clients [K].

    0.5 is chance. ValueError where all clients are malicious, or none is."""
    marked = np.asarray(malicious, dtype=bool)
    if marked.all() or not marked.any():
        raise ValueError("the AUC needs both benign and malicious clients")
    ranks = _ranks(np.asarray(scores, dtype=float))
    return float(_auc_of_ranks(ranks, marked))


def _ranks(scores: np.ndarray) -> np.ndarray:
    from scipy import stats

    return stats.rankdata(scores, axis=-1)


def _auc_of_ranks(ranks: np.ndarray, malicious: np.ndarray) -> np.ndarray:
    """The AUC from ranks [.., K] and who is malicious [.., K], by the benign clients' rank sum.

    Mann and Whitney's statistic, moved and scaled to lie between 0 and 1. scikit-learn's AUC takes
    one list of scores at a time and can differ in the last bit."""
    bad = malicious.sum(-1)
    good = (~malicious).sum(-1)
    rank_sum = (ranks * ~malicious).sum(-1)
    least = good * (good + 1) / 2
    return (rank_sum - least) / (bad * good)


def permutation_test(
    scores: ArrayLike, malicious: Sequence[bool] | np.ndarray, draws: int = 10_000
) -> float:
    """Two-sided p of the mean AUC over seeds of scores [S, K] (ours).

    Who is malicious is shuffled within each seed, which scipy's test cannot do. The smallest p that
    it can give is 1 / (draws + 1)."""
    marked = np.asarray(malicious, dtype=bool)
    table = np.atleast_2d(np.asarray(scores, dtype=float))
    ranks = _ranks(table)

    # malicious clients drawn anew, for each draw and seed: [draws, S, K]
    rng = np.random.default_rng(0)
    same = np.broadcast_to(marked, (draws, *ranks.shape)).copy()
    shuffled = rng.permuted(same, axis=-1)

    found = _auc_of_ranks(ranks, marked).mean(axis=-1)
    chance = _auc_of_ranks(ranks, shuffled).mean(axis=-1)
    as_seen = abs(found - 0.5) - 1e-12
    extreme = np.abs(chance - 0.5) >= as_seen
    return float((1 + extreme.sum()) / (1 + draws))
