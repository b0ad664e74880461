"""What the server could see in the updates: their similarity, and how well it tells malicious clients apart.

Tensors come in, but torch is not imported: a warm notebook works on records alone."""

import numpy as np


def cosine(updates):
    """Pairwise cosine similarity [K, K] of updates [K, D]; a zero update is similar to nothing (0), itself included."""
    unit = (updates / updates.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)).float()  # its squares stay finite
    unit = unit / unit.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return (unit @ unit.T).clamp(-1, 1)


def bsnr(poisoned, clean, weights, shares):
    """Backdoor Signal-to-Noise Ratio of one round and its two factors (paper B names it; the formula is ours).

    From one global model: poisoned [K, D] and clean [K, D], each client's gradient of its poisoned and of its clean rows;
    weights w [K], poison shares p [K]; c' is the clean gradients less their mean. bsnr = |sum w p s|^2 /
    (K/(K-1) sum w^2 (1-p)^2 |c'|^2); alignment: mean pairwise cosine of the s of clients with p > 0 (None if under two);
    cancellation: |sum w c| / sum w |c|. ValueError for K = 1. At a fixed total, poison held by few has no lower bsnr than
    poison held by all: their gradients add up at most as well as one client's with itself."""
    k = len(clean)
    if k < 2:
        raise ValueError("the BSNR needs two clients a round: with one there is no variance between clients")
    poisoned, clean = poisoned.double(), clean.double()
    w, p = (clean.new_tensor([float(v) for v in values]) for values in (weights, shares))
    w = w / w.sum()
    centred = clean - clean.mean(dim=0)
    signal = (w * p) @ poisoned
    noise = k / (k - 1) * (w**2 * (1 - p) ** 2 * centred.square().sum(dim=1)).sum()
    holders = (p > 0).nonzero().flatten()
    between = cosine(poisoned[holders])
    pairs = len(holders) * (len(holders) - 1)
    alignment = float((between.sum() - between.diagonal().sum()) / pairs) if pairs else None
    return {"bsnr": float(signal.square().sum() / noise), "alignment": alignment,
            "cancellation": float((w @ clean).norm() / (w * clean.norm(dim=1)).sum())}


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
    scores, malicious = np.atleast_2d(np.asarray(scores, dtype=float)), np.asarray(malicious, dtype=bool)
    ranks = _ranks(scores)
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.broadcast_to(malicious, (draws, *ranks.shape)).copy(), axis=-1)
    found, chance = (_auc_of_ranks(ranks, who).mean(axis=-1) for who in (malicious, shuffled))
    extreme = np.abs(chance - 0.5) >= abs(found - 0.5) - 1e-12
    return float((1 + extreme.sum()) / (1 + draws))
