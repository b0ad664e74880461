"""What the server could see in the updates: their similarity, and how well it tells malicious clients apart.

Tensors come in, but torch is not imported: a warm notebook works on records alone."""

import numpy as np
from scipy import stats


def cosine(updates):
    """Pairwise cosine similarity [K, K] of updates [K, D]; a zero update is similar to nothing (0), itself included."""
    unit = (updates / updates.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)).float()  # its squares stay finite
    unit = unit / unit.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return (unit @ unit.T).clamp(-1, 1)


def mean_similarity(cosine):
    """Each client's mean cosine to the others [K], from the matrix [K, K]."""
    cosine = np.asarray(cosine, dtype=float)
    return (cosine.sum(1) - np.diag(cosine)) / (len(cosine) - 1)


def auc(scores, malicious):
    """Area under the ROC curve of scores [K] that should be *lower* for malicious clients [K bool]; 0.5 is chance."""
    scores, malicious = np.asarray(scores, dtype=float), np.asarray(malicious, dtype=bool)
    if malicious.all() or not malicious.any():
        raise ValueError("the AUC needs both benign and malicious clients")
    return float(_auc_of_ranks(stats.rankdata(scores), malicious))


def _auc_of_ranks(ranks, malicious):
    """From ranks [.., K] and who is malicious [.., K]: the rank sum of the benign, moved and scaled (Mann-Whitney)."""
    bad, good = malicious.sum(-1), (~malicious).sum(-1)
    return ((ranks * ~malicious).sum(-1) - good * (good + 1) / 2) / (bad * good)


def permutation_test(scores, malicious, draws=10_000):
    """Two-sided p of the mean AUC over seeds of scores [S, K] when who is malicious is shuffled within each seed (ours).

    The smallest p that it can give is 1 / (draws + 1)."""
    scores, malicious = np.atleast_2d(np.asarray(scores, dtype=float)), np.asarray(malicious, dtype=bool)
    ranks = stats.rankdata(scores, axis=1)
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.broadcast_to(malicious, (draws, *ranks.shape)).copy(), axis=-1)
    found, chance = (_auc_of_ranks(ranks, who).mean(axis=-1) for who in (malicious, shuffled))
    extreme = np.abs(chance - 0.5) >= abs(found - 0.5) - 1e-12
    return float((1 + extreme.sum()) / (1 + draws))
