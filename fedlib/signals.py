"""What the server could see in the updates: their similarity, and how well it tells malicious clients apart.

Tensors come in, but torch is not imported: a warm notebook works on records alone."""


def cosine(updates):
    """Pairwise cosine similarity [K, K] of updates [K, D]; a zero update is similar to nothing (0), itself included."""
    unit = (
        updates / updates.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    ).float()  # its squares stay finite
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
        raise ValueError(
            "the BSNR needs two clients a round: with one there is no variance between clients"
        )
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
    return {
        "bsnr": float(signal.square().sum() / noise),
        "alignment": alignment,
        "cancellation": float((w @ clean).norm() / (w * clean.norm(dim=1)).sum()),
    }
