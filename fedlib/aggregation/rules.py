"""The server's rules: clients' updates in, one update and each client's weight out. Pure functions of a matrix.

Updates are [K, D]. Rules that sort or regress each coordinate take the coordinates in blocks, so that extra memory stays
below one copy of the input where D is large; residual needs half a copy and two rows. variant "paper" is the original
paper's rule, "published" that of FedLLM-Attack, the safety paper's release, where it differs. Weights are for reporting,
normalised to sum 1.
"""

import functools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from fedlib.aggregation import ranks

VARIANTS = ("paper", "published")


def fedavg(updates, *, sizes, **_):
    """The mean weighted by sizes (McMahan et al. 2017): sum_k n_k u_k / sum_k n_k."""
    weights = (sizes / sizes.sum()).to(updates)
    return weights @ updates, weights


def median(updates, *, variant, **_):
    """Coordinate-wise median (Yin et al. 2018). Even K: the mean of the middle two; published: the lower of them."""
    low, high = (len(updates) - 1) // 2, len(updates) // 2
    if variant == "published" or low == high:
        return ranks.blockwise(updates, lambda rows: ranks.order_statistics(rows, [low])[low]), None
    return ranks.blockwise(
        updates, lambda rows: ranks.midpoint(ranks.order_statistics(rows, [low, high]), low, high)
    ), None


def trimmed_mean(updates, *, f, variant, **_):
    """Coordinate-wise mean without the f largest and the f smallest (Yin et al. 2018); published: always without one."""
    n, f = len(updates), 1 if variant == "published" else f
    if 2 * f >= n:
        raise ValueError(f"trimmed_mean drops f={f} at each end, which leaves none of {n} clients")

    def middle(rows):
        ordered = ranks.order_statistics(rows, range(f, n - f))
        mean = functools.reduce(torch.add, [ordered[i] / (n - 2 * f) for i in range(f, n - f)])
        return torch.clamp(
            mean, ordered[f], ordered[n - f - 1]
        )  # rounding must not leave the kept values' range

    return ranks.blockwise(updates, middle), None


def krum(updates, *, f, variant, **_):
    """Krum (Blanchard et al. 2017): the update with the least sum of squared distances to its n-f-2 nearest others.

    Needs 2f+2 < n. published: distances unsquared, n-f-1 others; the mean of that client and those others."""
    n = len(updates)
    if variant == "published":
        near = n - f - 1
        if near < 1:
            raise ValueError(f"krum (published) needs f <= n-2, got f={f} for n={n}")
        distances = squared_distances(updates).sqrt()
        best = int(_krum_scores(distances, near).argmin())
        return _mean_of(updates, distances[best].argsort(stable=True)[: near + 1])
    _check_krum(f, n)
    return _mean_of(updates, _krum_scores(squared_distances(updates), n - f - 2).argmin().view(1))


def multi_krum(updates, *, f, **_):
    """Multi-Krum (Blanchard et al. 2017): the plain mean of the m = n-f updates with the lowest Krum scores."""
    n = len(updates)
    _check_krum(f, n)
    scores = _krum_scores(squared_distances(updates), n - f - 2)
    return _mean_of(updates, scores.argsort(stable=True)[: n - f])


def dnc(updates, *, f, generator, niters=1, c=1.0, b=10_000, **_):
    """Divide and conquer (Shejwalkar and Houmansadr 2021): niters times, centre b random coordinates, project on their
    first right singular vector, drop the c*f with the largest squared projections; the mean of those never dropped."""
    n, dim = updates.shape
    drop = round(c * f)
    if drop >= n:
        raise ValueError(f"dnc drops c*f={drop} clients, which leaves none of {n}")
    generator = generator or torch.Generator().manual_seed(0)
    kept = torch.ones(n, dtype=torch.bool, device=updates.device)
    for _ in range(niters):
        chosen = torch.randperm(dim, generator=generator)[:b].to(updates.device)
        part = updates[:, chosen].double()
        part = part / part.abs().max().clamp(
            min=1e-300
        )  # a huge outlier must not overflow its own square
        part = part - part.mean(dim=0)
        projections = torch.linalg.eigh(part @ part.T).eigenvectors[
            :, -1
        ]  # on that vector, but for their scale
        kept[projections.square().argsort(descending=True, stable=True)[:drop]] = False
    if not kept.any():
        raise ValueError(
            f"dnc: every client was dropped in one of {niters} iterations; lower f, c or niters"
        )
    return _mean_of(updates, kept.nonzero().flatten())


def foolsgold(updates, *, history, variant, **_):
    """FoolsGold (Fung et al. 2020): clients whose summed updates point the same way get less weight.

    Cosines of `history` (published, or without one: of this round), pardoning, rescaling, logit; the sum weighted so,
    published: divided by the number of weights above 0. Clients all alike would all get 0: they count equally. Only
    directions matter here, so a single huge update is not held back."""
    seen = updates if history is None or variant == "published" else history
    gram = _gram(seen)
    norms = gram.diagonal().sqrt().clamp(min=1e-150)
    cosine = (gram / norms[:, None] / norms).clamp(-1, 1).fill_diagonal_(0)
    top = cosine.max(dim=1).values
    pardon = torch.where(top[:, None] < top, top[:, None] / top.clamp(min=1e-150), 1.0)
    trust = (1 - (cosine * pardon).max(dim=1).values).clamp(0, 1)
    if trust.max() < 1e-9:
        weights = torch.ones_like(trust)
    else:
        weights = (torch.logit((trust / trust.max()).clamp(max=0.99)) + 0.5).clamp(0, 1)
    total = weights.to(updates) @ updates
    if variant == "published":
        total = total / (weights > 0).sum()
    return total, (weights / weights.sum()).to(updates)


def residual(updates, *, variant, threshold=None, strength=2.0, **_):
    """Residual-based reweighting (Fu et al. 2019): per coordinate a repeated-median line through the sorted values, each
    value's confidence from its residual scaled by leverage; values under the threshold are put on the line.

    A client's weight: the sum of its confidences times their deviation over clients, relative to the largest, squared.
    threshold: 0.1 as the authors' code, published 0.05; strength: their lambda. Up to 3 clients: a plain mean."""
    if threshold is None:
        threshold = 0.05 if variant == "published" else 0.1
    n = len(updates)
    if n <= 3:
        return _mean_of(updates, torch.arange(n))
    values = (
        updates.cpu().numpy()
    )  # numpy sorts short rows 20 times faster than torch, and threads can share the work
    slopes, update = np.empty((2, values.shape[1]), values.dtype)
    order, kept = (
        np.empty(values.shape, np.min_scalar_type(n)),
        np.empty(values.shape, bool),
    )  # together half a copy
    centred = np.arange(n)[:, None] - (n - 1) / 2
    reach = strength * np.sqrt(
        2 / n * (1 - 1 / n - centred**2 / (centred**2).sum())
    )  # 1 - leverage under the root
    centred, reach = centred.astype(values.dtype), reach.astype(values.dtype)

    def judge(part):  # a sum for each client, in float64
        u = values[:, part]
        order[:, part] = client = u.argsort(axis=0, kind="stable")
        y = np.take_along_axis(u, client, axis=0)
        slopes[part] = _repeated_median_slope(y)
        distance = np.abs(y - (slopes[part] * centred + ranks.middle(y)))
        scale = (
            1.4826 * (1 + 5 / (n - 1)) * ranks.middle(np.sort(distance, axis=0)[1:]) + 1e-7
        )  # without the smallest
        confidence = np.minimum(reach * (scale / np.maximum(distance, 1e-30)), 1)
        kept[:, part] = confidence >= threshold
        confidence *= confidence.std(axis=0, ddof=1)
        return np.bincount(client.ravel(), confidence.ravel())

    def mend(part):
        client = order[:, part].astype(int)
        y = np.take_along_axis(values[:, part], client, axis=0)
        fixed = np.empty_like(y)
        np.put_along_axis(
            fixed,
            client,
            np.where(kept[:, part], y, slopes[part] * centred + ranks.middle(y)),
            axis=0,
        )
        update[part] = (weights @ torch.from_numpy(fixed)).numpy()

    def parts(step):
        return [slice(i, i + step) for i in range(0, values.shape[1], step)]

    with ThreadPoolExecutor(
        torch.get_num_threads(), initializer=lambda: np.seterr(over="ignore")
    ) as pool:  # outliers may
        total = torch.from_numpy(
            sum(pool.map(judge, parts(max(1, ranks.BLOCK // 2 // n // n))))
        )  # n * n slopes each
        weights = (total / total.max()).square() if total.max() > 0 else torch.ones_like(total)
        weights = (weights / weights.sum()).to(torch.from_numpy(update))
        list(pool.map(mend, parts(max(1, ranks.BLOCK // 8 // n))))
    return torch.from_numpy(update).to(updates), weights.to(updates)


def clipping(updates, *, sizes, **_):
    """Norm clipping (Sun et al. 2019): each update scaled down to the median of the norms (of an even number
    the lower middle one), then the mean by sizes."""
    weights = sizes / sizes.sum() * _clip(_gram(updates).diagonal().sqrt())
    return weights.to(updates) @ updates, (weights / weights.sum()).to(updates)


def flame(updates, *, generator, noise=0.001, **_):
    """FLAME-like (Nguyen et al. 2022): clients in the largest cluster of cosine distances (HDBSCAN, more than half of them,
    outliers dropped), clipped to the (lower) median of all norms; their plain mean with noise of that norm times `noise`."""
    n, admitted = len(updates), torch.arange(len(updates))
    gram = _gram(updates)
    norms = gram.diagonal().sqrt()
    if n > 2:
        from sklearn.cluster import HDBSCAN  # takes a second to import

        unit = norms.clamp(min=1e-150)
        distances = (1 - gram / unit[:, None] / unit).clamp(min=0).fill_diagonal_(0).cpu().numpy()
        labels = (
            HDBSCAN(
                min_cluster_size=n // 2 + 1,
                min_samples=1,
                allow_single_cluster=True,
                metric="precomputed",
                copy=True,
            )
            .fit(distances)
            .labels_
        )
        if (labels >= 0).any():
            admitted = torch.from_numpy(
                np.flatnonzero(labels == np.bincount(labels[labels >= 0]).argmax())
            )
    weights = torch.zeros(n, dtype=torch.float64, device=updates.device)
    weights[admitted.to(updates.device)] = 1 / len(admitted)
    weights = weights * _clip(norms)
    update = weights.to(updates) @ updates
    drawn = torch.randn(
        len(update), generator=generator or torch.Generator().manual_seed(0), dtype=update.dtype
    )
    return update.add_(drawn.to(update), alpha=noise * float(norms.median())), (
        weights / weights.sum()
    ).to(updates)


def _clip(norms):
    """What scales each update down to the median of the norms [K], at most 1."""
    return torch.where(norms > 0, norms.median() / norms.clamp(min=1e-150), 1.0).clamp(max=1)


RULES = {
    "fedavg": fedavg,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "krum": krum,
    "multi_krum": multi_krum,
    "dnc": dnc,
    "foolsgold": foolsgold,
    "residual": residual,
    "clipping": clipping,
    "flame": flame,
}
OPTIONS = {"dnc": {"niters", "c", "b"}, "residual": {"threshold", "strength"}, "flame": {"noise"}}


def aggregate(
    name, updates, *, sizes=None, f=0, history=None, generator=None, variant="paper", **options
):
    """Aggregate updates [K, D] (floating point) to (update [D], weights [K] summing to 1, or None).

    sizes [K]: clients' data sizes, equal if None (fedavg). f: expected malicious clients. history [K, D]: each client's
    summed updates with this round's (foolsgold). generator: dnc's coordinates, fixed if None. Never changes its inputs.
    ValueError for an unknown name, variant or option, a wrong shape, NaN or Inf, or an f out of the rule's range."""
    for what, given, known in (("aggregator", name, RULES), ("variant", variant, VARIANTS)):
        if given not in known:
            raise ValueError(f"{what} {given!r} is unknown; known: {', '.join(known)}")
    unknown = set(options) - OPTIONS.get(name, set())
    if unknown:
        known = ", ".join(sorted(OPTIONS.get(name, ()))) or "none"
        raise ValueError(f"{name} has no option {min(unknown)!r}; it has: {known}")
    work = _checked("updates", updates, look=name != "fedavg")
    n = len(work)
    if not isinstance(f, int) or isinstance(f, bool) or not 0 <= f < n:
        raise ValueError(f"f must be a whole number from 0 to {n - 1}, got {f!r}")
    sizes = torch.as_tensor(
        [1.0] * n if sizes is None else sizes, dtype=torch.float64, device=work.device
    )
    if sizes.shape != (n,) or not (sizes.isfinite().all() and (sizes > 0).all()):
        raise ValueError(f"sizes must be {n} positive numbers, got {sizes.tolist()}")
    if history is not None:
        history = _checked("history", history, look=name == "foolsgold")
        if history.shape != work.shape:
            raise ValueError(
                f"history must have the updates' shape {tuple(work.shape)}, got {tuple(history.shape)}"
            )
    update, weights = RULES[name](
        work, sizes=sizes, f=f, history=history, generator=generator, variant=variant, **options
    )
    if (
        name == "fedavg" and not update.sum().isfinite()
    ):  # a mean shows NaN and Inf: cheaper than to look at each client
        _checked("updates", updates)
    return update.to(updates.dtype), weights


def _checked(what, matrix, look=True):
    """The matrix in float32 or wider; if asked to look, ValueError names the client whose row is not finite."""
    if (
        not torch.is_tensor(matrix)
        or matrix.ndim != 2
        or not matrix.is_floating_point()
        or 0 in matrix.shape
    ):
        raise ValueError(
            f"{what} must be a floating-point tensor [K, D], got {getattr(matrix, 'shape', type(matrix))}"
        )
    for client in (~matrix.sum(dim=1).isfinite()).nonzero().flatten().tolist() if look else ():
        if not matrix[client].isfinite().all():  # a sum may also overflow
            raise ValueError(f"{what} of client {client} holds NaN or Inf")
    return (
        matrix.detach()
        if matrix.dtype in (torch.float32, torch.float64)
        else matrix.detach().float()
    )


def _repeated_median_slope(y):
    """Siegel's repeated median: the median over i of the median over j of the slopes between i and j; y [n, B] in order."""
    n, rank = len(y), np.arange(len(y), dtype=y.dtype)
    gaps = rank - rank[:, None] + np.eye(n, dtype=y.dtype)
    if n < 32:  # measured: up to here the sorting network is faster
        slopes = (y - y[:, None]) / gaps[:, :, None]
        slopes[range(n), range(n)] = np.inf  # comes last
        low, high = (n - 2) // 2, (n - 1) // 2
        inner = ranks.midpoint(ranks.order_statistics(slopes, [low, high]), low, high)
    else:
        rows = y.T.copy()
        slopes = rows[:, None] - rows[:, :, None]  # [B, n, n]
        slopes /= gaps
        slopes[:, range(n), range(n)] = np.inf
        slopes.sort()
        inner = ranks.middle(np.moveaxis(slopes, 2, 0)[:-1]).T
    return ranks.middle(np.sort(inner, axis=0))


def _gram(updates):
    """Inner products [K, K] in float64, by blocks; shrunk where a float64 update would overflow its own square."""
    shrink = max(1.0, float(max(row.abs().max() for row in updates)) / 1e100)
    step = max(1, ranks.BLOCK // 4 // len(updates))
    total = torch.zeros(len(updates), len(updates), dtype=torch.float64, device=updates.device)
    for i in range(0, updates.shape[1], step):
        block = (
            updates[:, i : i + step].double() / shrink
            if shrink > 1
            else updates[:, i : i + step].double()
        )
        total += block @ block.T
    return total


def squared_distances(updates):
    """Squared Euclidean distances [K, K] between updates [K, D], accumulated in float64."""
    gram = _gram(updates)
    return (gram.diagonal()[:, None] + gram.diagonal() - 2 * gram).clamp(min=0).fill_diagonal_(0)


def _krum_scores(distances, near):
    """Each client's sum of distances to its `near` nearest others [K]."""
    others = distances.clone().fill_diagonal_(math.inf)
    return others.sort(dim=1).values[:, :near].sum(dim=1)


def _check_krum(f, n):
    if 2 * f + 2 >= n:
        raise ValueError(
            f"krum needs 2f+2 < n, got f={f} for n={n}: f at most {(n - 3) // 2}"
            if n >= 3
            else f"krum needs 2f+2 < n, got f={f} for n={n}: at least 3 clients"
        )


def _mean_of(updates, chosen):
    """(the chosen clients' plain mean, their equal weights)."""
    weights = torch.zeros(len(updates), dtype=updates.dtype, device=updates.device)
    weights[chosen.to(updates.device)] = 1 / len(chosen)
    return weights @ updates, weights
