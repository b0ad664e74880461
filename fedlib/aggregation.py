"""The server's rules: clients' updates in, one update and each client's weight out. Pure functions of a matrix."""

import torch


def fedavg(updates, *, sizes):
    """The mean weighted by sizes (McMahan et al. 2017): sum_k n_k u_k / sum_k n_k."""
    weights = sizes / sizes.sum()
    return weights @ updates, weights


RULES = {"fedavg": fedavg}
VARIANTS = ("paper", "published")


def aggregate(name, updates, *, sizes=None, f=0, history=None, generator=None, variant="paper", **options):
    """Aggregate updates [K, D] (floating point) to (update [D], weights [K] summing to 1, or None).

    sizes [K]: clients' data sizes, equal if None. f, history, generator and variant serve the rules that need them.
    Never changes its inputs. ValueError for an unknown name, a wrong shape, or NaN or Inf, naming the client."""
    if name not in RULES:
        raise ValueError(f"aggregator {name!r} is unknown; known: {', '.join(RULES)}")
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; known: {', '.join(VARIANTS)}")
    if not torch.is_tensor(updates) or updates.ndim != 2 or not updates.is_floating_point() or 0 in updates.shape:
        raise ValueError(f"updates must be a floating-point tensor [K, D], got {getattr(updates, 'shape', type(updates))}")
    finite = updates.isfinite().all(dim=1)
    if not finite.all():
        raise ValueError(f"update of client {int((~finite).nonzero()[0])} holds NaN or Inf")
    work = updates if updates.dtype in (torch.float32, torch.float64) else updates.float()
    sizes = torch.ones(len(updates)) if sizes is None else torch.as_tensor(sizes)
    if sizes.shape != (len(updates),) or not (sizes.isfinite().all() and (sizes > 0).all()):
        raise ValueError(f"sizes must be {len(updates)} positive numbers, got {sizes.tolist()}")
    update, weights = RULES[name](work, sizes=sizes.to(work), **options)
    return update.to(updates.dtype), weights
