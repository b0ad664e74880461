"""TODO: what this room is for."""

import functools

import numpy as np
from scipy import special, stats


def interval(values, bounds=None, draws=10_000):
    """(mean, low, high) at 95%: Student's t over seeds [S]; a bootstrap over seeds and things at once for [S, H].

    The bootstrap's percentiles are expanded as Hesterberg (2015) gives for few seeds; with under five it spans little
    more than the seeds seen. One seed has an interval over things alone, a single number none (nan). bounds: what the
    values cannot leave, nor then the interval. Seeds that all agree show no spread, which is not certainty."""
    values = np.atleast_2d(np.asarray(values, dtype=float).T).T
    seeds, things = values.shape
    if values.size == 1:
        return float(values[0, 0]), float("nan"), float("nan")
    if things == 1:
        half = special.stdtrit(seeds - 1, 0.975) * values.std(ddof=1) / np.sqrt(seeds)
        low, high = np.clip(
            [values.mean() - half, values.mean() + half], *(bounds or (-np.inf, np.inf))
        )
        return float(values.mean()), float(low), float(high)
    rows, columns = _drawn(seeds, things, draws)
    means = ((rows @ values) * columns).sum(axis=1) / values.size
    n = seeds if seeds > 1 else things
    tail = special.ndtr(-np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, 0.975))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(values.mean()), float(low), float(high)


@functools.lru_cache(4)
def _drawn(
    seeds, things, draws
):  # how often a bootstrap draws each seed [draws, S] and each thing [draws, H]
    rng = np.random.default_rng(0)
    return tuple(rng.multinomial(n, np.full(n, 1 / n), draws) for n in (seeds, things))


def text(values, digits=1, bounds=None):
    """The mean with its 95% interval as a table shows it; a single number has none."""
    mean, low, high = interval(values, bounds)
    return f"{mean:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low else "")


def partial_spearman(x, y, given):
    """Spearman's rank correlation of x and y [N] with `given` [N] held fixed: the first-order partial correlation of ranks.

    None where a rank is constant, or given says it all."""
    ranks = np.array([stats.rankdata(v) for v in (x, y, given)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return None
    r = np.corrcoef(ranks)
    rest = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt(rest)) if rest > 1e-12 else None


def mean_similarity(cosine):
    """Each client's mean cosine to the others [K], from the matrix [K, K]."""
    cosine = np.asarray(cosine, dtype=float)
    return (cosine.sum(1) - np.diag(cosine)) / (len(cosine) - 1)


def auc(scores, malicious):
    """Area under the ROC curve of scores [K] that should be *lower* for malicious clients [K bool]; 0.5 is chance."""
    scores, malicious = np.asarray(scores, dtype=float), np.asarray(malicious, dtype=bool)
    if malicious.all() or not malicious.any():
        raise ValueError("the AUC needs both benign and malicious clients")
    return float(_auc_of_ranks(_ranks(scores), malicious))


def _ranks(scores):
    from scipy.stats import rankdata  # takes half a second to import, in every worker

    return rankdata(scores, axis=-1)


def _auc_of_ranks(ranks, malicious):
    """From ranks [.., K] and who is malicious [.., K]: the rank sum of the benign, moved and scaled (Mann-Whitney)."""
    bad, good = malicious.sum(-1), (~malicious).sum(-1)
    return ((ranks * ~malicious).sum(-1) - good * (good + 1) / 2) / (bad * good)


def permutation_test(scores, malicious, draws=10_000):
    """Two-sided p of the mean AUC over seeds of scores [S, K] when who is malicious is shuffled within each seed (ours).

    The smallest p that it can give is 1 / (draws + 1)."""
    scores, malicious = (
        np.atleast_2d(np.asarray(scores, dtype=float)),
        np.asarray(malicious, dtype=bool),
    )
    ranks = _ranks(scores)
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.broadcast_to(malicious, (draws, *ranks.shape)).copy(), axis=-1)
    found, chance = (_auc_of_ranks(ranks, who).mean(axis=-1) for who in (malicious, shuffled))
    extreme = np.abs(chance - 0.5) >= abs(found - 0.5) - 1e-12
    return float((1 + extreme.sum()) / (1 + draws))
