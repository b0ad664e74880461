"""The server's rules, one pure function each, their table of names, and `aggregate`.

Updates are [K, D]. Rules that sort each coordinate take the coordinates in blocks, so that the
extra memory stays below one copy of the input where D is large. variant "paper" is the original
paper's rule, "published" that of FedLLM-Attack, the release of paper S, where it differs. Weights
are for reporting and sum to 1; a rule that works coordinate by coordinate has none."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlib.aggregation import inputs, ranks
from fedlib.aggregation.distances import (
    SMALLEST_NORM,
    clip_factors,
    inner_products,
    mean_of,
    squared_distances,
)
from fedlib.aggregation.residuals import residual

ALL_ALIKE = 1e-9  # the largest trust under which FoolsGold finds all clients alike


def fedavg(updates: Tensor, *, sizes: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """The mean weighted by sizes (McMahan et al. 2017): sum_k n_k u_k / sum_k n_k."""
    weights = (sizes / sizes.sum()).to(updates)
    return weights @ updates, weights


def median(updates: Tensor, *, variant: str, **_: Any) -> tuple[Tensor, None]:
    """Coordinate-wise median (Yin et al. 2018).

    Of an even number of clients the mean of the middle two; published: the lower of them."""
    low, high = (len(updates) - 1) // 2, len(updates) // 2
    if variant == "published":
        high = low

    def middle(rows: Tensor) -> Tensor:
        ordered = ranks.order_statistics(rows, sorted({low, high}))
        return ranks.midpoint(ordered, low, high)

    return ranks.blockwise(updates, middle), None


def trimmed_mean(updates: Tensor, *, f: int, variant: str, **_: Any) -> tuple[Tensor, None]:
    """Coordinate-wise mean without the f largest and the f smallest (Yin et al. 2018).

    published: always without one at each end. ValueError where that leaves no client."""
    n = len(updates)
    drop = 1 if variant == "published" else f
    if 2 * drop >= n:
        raise ValueError(
            f"trimmed_mean drops f={drop} at each end, which leaves none of {n} clients"
        )
    kept = range(drop, n - drop)

    def middle(rows: Tensor) -> Tensor:
        ordered = ranks.order_statistics(rows, kept)
        mean = functools.reduce(torch.add, [ordered[rank] / len(kept) for rank in kept])
        # rounding must not leave the range of the kept values
        return torch.clamp(mean, ordered[kept[0]], ordered[kept[-1]])

    return ranks.blockwise(updates, middle), None


def krum(updates: Tensor, *, f: int, variant: str, **_: Any) -> tuple[Tensor, Tensor]:
    """Krum (Blanchard et al. 2017): the update that is closest to its n-f-2 nearest others.

    A client's score is the sum of its squared distances to them; 2f+2 < n, else ValueError.
    published: plain distances to the n-f-1 nearest others, and the mean of the best client and
    those others."""
    n = len(updates)
    if variant != "published":
        _check_krum(f, n)
        scores = _krum_scores(squared_distances(updates), n - f - 2)
        return mean_of(updates, scores.argmin().view(1))

    near = n - f - 1
    if near < 1:
        raise ValueError(f"krum (published) needs f <= n-2, got f={f} for n={n}")
    distances = squared_distances(updates).sqrt()
    best = int(_krum_scores(distances, near).argmin())
    return mean_of(updates, distances[best].argsort(stable=True)[: near + 1])


def multi_krum(updates: Tensor, *, f: int, **_: Any) -> tuple[Tensor, Tensor]:
    """Multi-Krum (Blanchard et al. 2017): the plain mean of the n-f updates with the best scores.

    Scores are Krum's; 2f+2 < n, else ValueError."""
    n = len(updates)
    _check_krum(f, n)
    scores = _krum_scores(squared_distances(updates), n - f - 2)
    return mean_of(updates, scores.argsort(stable=True)[: n - f])


def _krum_scores(distances: Tensor, near: int) -> Tensor:
    """Each client's sum of distances to its `near` nearest others [K]."""
    others = distances.clone().fill_diagonal_(math.inf)
    return others.sort(dim=1).values[:, :near].sum(dim=1)


def _check_krum(f: int, n: int) -> None:
    if 2 * f + 2 >= n:
        limit = f"f at most {(n - 3) // 2}" if n >= 3 else "at least 3 clients"
        raise ValueError(f"krum needs 2f+2 < n, got f={f} for n={n}: {limit}")


def dnc(
    updates: Tensor,
    *,
    f: int,
    generator: torch.Generator | None,
    niters: int = 1,
    c: float = 1.0,
    b: int = 10_000,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Divide and conquer (Shejwalkar and Houmansadr 2021): the mean of clients never dropped.

    niters times: centre b random coordinates, project on their first right singular vector, drop
    the c*f clients with the largest squared projections. generator: draws the coordinates; fixed
    if None. ValueError where no client is left."""
    n, size = updates.shape
    drop = round(c * f)
    if drop >= n:
        raise ValueError(f"dnc drops c*f={drop} clients, which leaves none of {n}")
    generator = generator or torch.Generator().manual_seed(0)

    kept = torch.ones(n, dtype=torch.bool, device=updates.device)
    for _iteration in range(niters):
        chosen = torch.randperm(size, generator=generator)[:b].to(updates.device)
        part = updates[:, chosen].double()
        part = part / part.abs().max().clamp(min=1e-300)  # a huge outlier's square must be finite
        part = part - part.mean(dim=0)
        # the projections on the singular vector, except for their scale
        projections = torch.linalg.eigh(part @ part.T).eigenvectors[:, -1]
        kept[projections.square().argsort(descending=True, stable=True)[:drop]] = False

    if not kept.any():
        raise ValueError(
            f"dnc: every client was dropped in one of {niters} iterations; lower f, c or niters"
        )
    return mean_of(updates, kept.nonzero().flatten())


def foolsgold(
    updates: Tensor, *, history: Tensor | None, variant: str, **_: Any
) -> tuple[Tensor, Tensor]:
    """FoolsGold (Fung et al. 2020): clients whose summed updates are alike get less weight.

    From cosines of `history` [K, D] (published, or without one: of this round's updates):
    pardoning, rescaling, logit. The result is the sum weighted so; published: divided by the number
    of weights above 0. Clients that are all alike would all get 0: they count equally. Only
    directions matter here, so a single huge update is not held back."""
    seen = updates if history is None or variant == "published" else history
    gram = inner_products(seen)
    norms = gram.diagonal().sqrt().clamp(min=SMALLEST_NORM)
    cosine = (gram / norms[:, None] / norms).clamp(-1, 1).fill_diagonal_(0)

    # pardoning: who is like a client that is more like others is less suspect
    top = cosine.max(dim=1).values
    pardon = torch.where(top[:, None] < top, top[:, None] / top.clamp(min=SMALLEST_NORM), 1.0)
    trust = (1 - (cosine * pardon).max(dim=1).values).clamp(0, 1)

    # rescaling and logit
    if trust.max() < ALL_ALIKE:
        weights = torch.ones_like(trust)
    else:
        rescaled = (trust / trust.max()).clamp(max=0.99)
        weights = (torch.logit(rescaled) + 0.5).clamp(0, 1)
    total = weights.to(updates) @ updates
    if variant == "published":
        total = total / (weights > 0).sum()
    return total, (weights / weights.sum()).to(updates)


def clipping(updates: Tensor, *, sizes: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """Norm clipping (Sun et al. 2019): updates scaled down to the median norm, then their mean.

    The mean is weighted by sizes. Of an even number of norms the median is the lower middle one."""
    norms = inner_products(updates).diagonal().sqrt()
    weights = sizes / sizes.sum() * clip_factors(norms)
    return weights.to(updates) @ updates, (weights / weights.sum()).to(updates)


def flame(
    updates: Tensor, *, generator: torch.Generator | None, noise: float = 0.001, **_: Any
) -> tuple[Tensor, Tensor]:
    """In the manner of FLAME (Nguyen et al. 2022): the noisy mean of the largest cluster, clipped.

    The cluster is one of cosine distances (HDBSCAN, more than half of the clients, outliers
    dropped). Its updates are clipped to the lower median of all norms; their plain mean gets noise
    of that norm times `noise`. generator: draws the noise; fixed if None."""
    gram = inner_products(updates)
    norms = gram.diagonal().sqrt()
    admitted = _largest_cluster(gram, norms)

    weights = torch.zeros(len(updates), dtype=torch.float64, device=updates.device)
    weights[admitted.to(updates.device)] = 1 / len(admitted)
    weights = weights * clip_factors(norms)
    update = weights.to(updates) @ updates

    generator = generator or torch.Generator().manual_seed(0)
    drawn = torch.randn(len(update), generator=generator, dtype=update.dtype)
    update.add_(drawn.to(update), alpha=noise * float(norms.median()))
    return update, (weights / weights.sum()).to(updates)


def _largest_cluster(gram: Tensor, norms: Tensor) -> Tensor:
    """The clients in the largest cluster of cosine distances; all where there is none."""
    n = len(norms)
    if n <= 2:
        return torch.arange(n)
    from sklearn.cluster import HDBSCAN  # takes a second to import

    unit = norms.clamp(min=SMALLEST_NORM)
    distances = (1 - gram / unit[:, None] / unit).clamp(min=0).fill_diagonal_(0)
    clustering = HDBSCAN(
        min_cluster_size=n // 2 + 1,
        min_samples=1,
        allow_single_cluster=True,
        metric="precomputed",
        copy=True,
    )
    labels = clustering.fit(distances.cpu().numpy()).labels_
    inside = labels[labels >= 0]
    if not len(inside):
        return torch.arange(n)
    return torch.from_numpy(np.flatnonzero(labels == np.bincount(inside).argmax()))


# Read-only: what a script put in here would be kept under another method's key.
RULES: Mapping[str, Callable[..., tuple[Tensor, Tensor | None]]] = MappingProxyType(
    {
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
)
OPTIONS: dict[str, set[str]] = {
    "dnc": {"niters", "c", "b"},
    "residual": {"threshold", "strength"},
    "flame": {"noise"},
}


def aggregate(
    name: str | Callable[..., Any],
    updates: Tensor,
    *,
    sizes: Sequence[float] | Tensor | None = None,
    f: int = 0,
    history: Tensor | None = None,
    generator: torch.Generator | None = None,
    variant: str = "paper",
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """(update [D] in the updates' dtype, weights [K] that sum to 1, or None) of updates [K, D].

    name: one of RULES, or a function like those; variant: one of VARIANTS; options: those of the
    rule in OPTIONS.
    sizes [K]: the clients' data sizes, equal if None (fedavg, clipping). f: expected malicious
    clients. history [K, D]: each client's summed updates up to and with this round (foolsgold).
    generator: draws dnc's coordinates and flame's noise, fixed if None. Never changes its inputs.
    ValueError for an unknown name, variant or option, a wrong shape, NaN or Inf, or an f out of the
    rule's range."""
    own = callable(name)
    if not own:
        inputs.check_name("aggregator", name, RULES)
        inputs.check_options(name, options, OPTIONS.get(name, ()))
    inputs.check_name("variant", variant, inputs.VARIANTS)

    # a mean shows NaN and Inf, so fedavg looks at its result: cheaper than at each client
    work = inputs.checked_matrix("updates", updates)
    if name != "fedavg":
        inputs.check_finite("updates", updates)
    inputs.check_malicious(f, len(work))
    weighing = inputs.checked_sizes(sizes, len(work), work.device)
    seen = None if history is None else _checked_history(name, history, work)

    given = {"sizes": weighing, "f": f, "history": seen, "generator": generator, "variant": variant}
    if own:
        # whatever it does to what it is handed
        found = name(work.clone(), **given, **options)
        return inputs.checked_result(found, updates)
    update, weights = RULES[name](work, **given, **options)
    if name == "fedavg" and not update.sum().isfinite():
        inputs.check_finite("updates", updates)
    return update.to(updates.dtype), weights


def _checked_history(name: Any, history: Any, updates: Tensor) -> Tensor:
    found = inputs.checked_matrix("history", history)
    if name == "foolsgold" or callable(name):
        inputs.check_finite("history", history)
    if found.shape != updates.shape:
        raise ValueError(
            f"history must have the updates' shape {tuple(updates.shape)}, got {tuple(found.shape)}"
        )
    return found
