"""What a server could see in the updates: how similar they are, and a backdoor's signal and noise.

Tensors come in, but torch is not imported: a warm notebook works on records only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-30  # what is divided by in place of a norm of 0


def cosine(updates: Tensor) -> Tensor:
    """Pairwise cosine similarity [K, K] of updates [K, D].

    A zero update is similar to nothing (0), itself included."""
    # by the largest value first, so that squares stay finite
    largest = updates.abs().amax(dim=1, keepdim=True)
    unit = (updates / largest.clamp(min=SMALLEST)).float()
    unit = unit / unit.norm(dim=1, keepdim=True).clamp(min=SMALLEST)
    return (unit @ unit.T).clamp(-1, 1)


def bsnr(
    poisoned: Tensor, clean: Tensor, weights: Sequence[float], shares: Sequence[float]
) -> dict[str, float | None]:
    """Backdoor signal-to-noise ratio of a round, and two factors (paper B; the formula is ours).

    From one global model: poisoned [K, D] and clean [K, D], each client's gradient s of its
    poisoned and c of its clean rows; weights w [K], poison shares p [K]; c' is c less the mean over
    clients.
    bsnr: |sum w p s|^2 / (K/(K-1) sum w^2 (1-p)^2 |c'|^2). alignment: the mean pairwise cosine of
    the s of clients with p > 0, None if under two. cancellation: |sum w c| / sum w |c|.
    At a fixed total, poison held by few has no lower bsnr than poison held by all: their gradients
    add up at most as well as one client's with itself. ValueError for K = 1."""
    clients = len(clean)
    if clients < 2:
        raise ValueError(
            "the BSNR needs two clients a round: with one there is no variance between clients"
        )
    poisoned, clean = poisoned.double(), clean.double()
    w = clean.new_tensor([float(weight) for weight in weights])
    p = clean.new_tensor([float(share) for share in shares])
    w = w / w.sum()

    # the poison that all send together, against how much their clean parts differ
    signal = (w * p) @ poisoned
    centred = clean - clean.mean(dim=0)
    spread = (w**2 * (1 - p) ** 2 * centred.square().sum(dim=1)).sum()
    noise = clients / (clients - 1) * spread

    lengths = (w * clean.norm(dim=1)).sum()
    return {
        "bsnr": float(signal.square().sum() / noise),
        "alignment": _alignment(poisoned[(p > 0).nonzero().flatten()]),
        "cancellation": float((w @ clean).norm() / lengths),
    }


def _alignment(poisoned: Tensor) -> float | None:
    """The mean cosine between two of these gradients [H, D]; None where there are no two."""
    pairs = len(poisoned) * (len(poisoned) - 1)
    if not pairs:
        return None
    between = cosine(poisoned)
    return float((between.sum() - between.diagonal().sum()) / pairs)
