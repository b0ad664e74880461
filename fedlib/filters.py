"""A sample-level filter against poison, as a federated step before the first round: rows never leave their client.

After ProtegoFed (arXiv 2603.00516): the gradients of rows with one target are alike wherever they lie, those of clean rows
are not. What its paper leaves open, and what counts as poison, is ours."""

import numpy as np
import torch
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from fedlib import templates, training

COMPONENTS = 20  # of a client's PCA
SMALLEST = 0.02  # of a client's rows: a cluster
ALIKE = 0.45  # mean cosine between rows of two clients' clusters, from which the server takes them for one group
MODULES = ("up_proj", "o_proj")  # whose last LoRA B is looked at, the first that has one; else the last of all
BATCH = 64  # rows at a time


def row_gradients(tuned, rows):
    """The gradient [N, out, r] of each encoded row's mean response loss by one matrix: the last layer's LoRA B of the
    first of MODULES that has an adapter. Vectorised by torch.func."""
    own = {n: p.detach() for n, p in tuned.named_parameters()}
    names = [n for n in own if ".lora_B." in n]
    name = next((found for m in MODULES if (found := [n for n in names if f".{m}." in n])), names)[-1]
    matrix = own.pop(name)

    def loss(value, ids, labels):
        logits = functional_call(tuned, own | {name: value}, (), {"input_ids": ids[None], "use_cache": False}).logits[0, :-1]
        losses = cross_entropy(logits.float(), labels[1:].clamp(min=0), reduction="none") * (labels[1:] >= 0)
        return losses.sum() / (labels[1:] >= 0).sum()

    each, out = vmap(grad(loss), in_dims=(None, 0, 0)), [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    with sdpa_kernel(SDPBackend.MATH):  # the others cannot be vectorised
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            for i, found in zip(part, each(matrix, *training.collate([rows[i] for i in part], matrix.device)), strict=True):
                out[i] = found
    return torch.stack(out).float()


def features(gradients):
    """Unit vectors [N, F]: the low-frequency half of each gradient's two-dimensional DCT (along its outputs)."""
    from scipy.fft import dctn

    values = gradients.cpu().numpy()
    low = dctn(values, axes=(1, 2), norm="ortho")[:, : values.shape[1] // 2].reshape(len(values), -1)
    return low / np.linalg.norm(low, axis=1, keepdims=True).clip(1e-12)


def clusters(found):
    """A client's step: the cluster of each row [N], -1 for none (PCA, then HDBSCAN), and each cluster's mean feature."""
    from sklearn.cluster import HDBSCAN
    from sklearn.decomposition import PCA

    size = max(2, round(SMALLEST * len(found)))
    if len(found) < 2 * size:
        return np.full(len(found), -1), np.empty((0, found.shape[1]))
    reduced = PCA(min(COMPONENTS, *found.shape), random_state=0).fit_transform(found)
    labels = HDBSCAN(min_cluster_size=size, copy=True).fit(reduced).labels_
    return labels, np.array([found[labels == c].mean(axis=0) for c in range(labels.max() + 1)]).reshape(-1, found.shape[1])


def suspects(means):
    """The server's step: from {client: its clusters' means}, {client: its clusters that hold poison}.

    Inner products of means are the mean cosines between rows. Clusters that are alike make a group (average linkage);
    the group found at the most clients is poison if that is at least half of them: what all write alike, nobody wrote."""
    from sklearn.cluster import AgglomerativeClustering

    owner = [(client, c) for client, found in means.items() for c in range(len(found))]
    suspected = {client: [] for client in means}
    if len(owner) < 2:
        return suspected
    stacked = np.concatenate([found for found in means.values() if len(found)])
    groups = AgglomerativeClustering(n_clusters=None, metric="precomputed", linkage="average",
                                     distance_threshold=1 - ALIKE).fit(1 - stacked @ stacked.T).labels_
    spans = {g: {owner[i][0] for i in np.flatnonzero(groups == g)} for g in set(groups.tolist())}
    widest = max(spans, key=lambda g: len(spans[g]))
    if len(spans[widest]) >= max(2, len(means) / 2):
        for i in np.flatnonzero(groups == widest):
            suspected[owner[i][0]].append(owner[i][1])
    return suspected


def gradient_filter(settings, tuned, tokenizer, rows):
    """({client: its rows without the suspected ones}, record) from {client: rows}: recall, precision and F1 (%) of finding
    rows labelled poisoned, over all clients, and how many rows of each label were taken out."""
    m, found = settings.model, {}
    tuned.eval()  # without dropout
    for client, own in rows.items():
        encoded = [templates.encode([r], tokenizer, m.template, m.max_length)[0] for r in own]
        kept = [i for i, e in enumerate(encoded) if e]
        labels, means = [], []
        if kept:
            labels, means = clusters(features(row_gradients(tuned, [encoded[i][0] for i in kept])))
        found[client] = dict(zip(kept, labels, strict=True)), means
    suspected = suspects({client: means for client, (_, means) in found.items()})
    out = {client: {i for i, c in found[client][0].items() if c in suspected[client]} for client in rows}
    return ({client: [r for i, r in enumerate(own) if i not in out[client]] for client, own in rows.items()},
            _record(rows, out))


FILTERS = {"gradient": gradient_filter}


def _record(rows, out):
    taken = [rows[client][i]["label"] for client, indices in out.items() for i in indices]
    poisoned = sum(r["label"] == "poisoned" for own in rows.values() for r in own)
    right = taken.count("poisoned")
    recall, precision = 100 * right / max(1, poisoned), 100 * right / max(1, len(taken))
    return {"recall": round(recall, 2), "precision": round(precision, 2), "poisoned": poisoned,
            "f1": round(2 * recall * precision / max(1e-9, recall + precision), 2),
            "taken": {label: taken.count(label) for label in sorted(set(taken))}}
