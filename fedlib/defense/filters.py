"""A filter of rows against poison: a federated step before the first round; rows stay at home.

After ProtegoFed (arXiv 2603.00516): the gradients of rows with one target are alike wherever they
lie, those of clean rows are not. What its paper leaves open, and what counts as poison, is ours."""

import collections
import pprint
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from fedlib import training
from fedlib.settings.own_methods import Own
from fedlib.training import Encoded

COMPONENTS = 20  # of a client's PCA
SMALLEST = 0.02  # of a client's rows: a cluster
ALIKE = 0.45  # mean cosine between the rows of two clusters from which on they are one group
# Of the first of these that has an adapter the last LoRA B is looked at; else the last of all.
MODULES = ("up_proj", "o_proj")
BATCH = 64  # rows at a time, at most
LOGITS = 1 << 26  # of all of them; a large vocabulary takes room, several times over

Encode = Callable[[Sequence[dict]], list[Encoded]]


def row_gradients(tuned: Any, rows: Sequence[Encoded]) -> Tensor:
    """The gradient [N, out, r] of each row's mean response loss by one matrix.

    The matrix is the last layer's LoRA B of the first of MODULES that has an adapter. Vectorised by
    torch.func."""
    own = {name: p.detach() for name, p in tuned.named_parameters()}
    name = _watched([n for n in own if ".lora_B." in n])
    matrix = own.pop(name)

    def loss(value: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
        inputs = {"input_ids": ids[None], "use_cache": False}
        logits = functional_call(tuned, own | {name: value}, (), inputs).logits[0, :-1]
        counted = labels[1:] >= 0
        losses = cross_entropy(logits.float(), labels[1:].clamp(min=0), reduction="none")
        return (losses * counted).sum() / counted.sum()

    # rows of about one length share a batch, so that little of it is padding
    each = vmap(grad(loss), in_dims=(None, 0, 0))
    found: list[Tensor] = [matrix] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    longest = max(len(ids) for ids, _ in rows)
    size = max(1, min(BATCH, LOGITS // (longest * tuned.config.vocab_size)))
    with sdpa_kernel(SDPBackend.MATH):  # the others cannot be vectorised
        for start in range(0, len(order), size):
            part = order[start : start + size]
            ids, labels = training.collate([rows[i] for i in part], matrix.device)
            for i, gradient in zip(part, each(matrix, ids, labels), strict=True):
                found[i] = gradient
    return torch.stack(found).float()


def _watched(names: Sequence[str]) -> str:
    """The name of the matrix whose gradient is looked at."""
    for module in MODULES:
        own = [name for name in names if f".{module}." in name]
        if own:
            return own[-1]
    return names[-1]


def features(gradients: Tensor) -> np.ndarray:
    """Unit vectors [N, F]: the low-frequency half of each gradient's two-dimensional DCT."""
    from scipy.fft import dctn

    values = gradients.cpu().numpy()
    spectrum = dctn(values, axes=(1, 2), norm="ortho")
    # low frequencies along the outputs
    half = values.shape[1] // 2
    low = spectrum[:, :half].reshape(len(values), -1)
    return low / np.linalg.norm(low, axis=1, keepdims=True).clip(1e-12)


def clusters(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A client's step: each row's cluster [N], -1 for none, and each cluster's mean feature [C, F].

    PCA to COMPONENTS, then HDBSCAN."""
    from sklearn.cluster import HDBSCAN
    from sklearn.decomposition import PCA

    smallest = max(2, round(SMALLEST * len(found)))
    if len(found) < 2 * smallest:
        return np.full(len(found), -1), np.empty((0, found.shape[1]))
    reduced = PCA(min(COMPONENTS, *found.shape), random_state=0).fit_transform(found)
    labels = HDBSCAN(min_cluster_size=smallest, copy=True).fit(reduced).labels_
    means = [found[labels == c].mean(axis=0) for c in range(labels.max() + 1)]
    return labels, np.array(means).reshape(-1, found.shape[1])


def suspects(means: Mapping[int, np.ndarray]) -> dict[int, list[int]]:
    """The server's step: {client: its clusters' means} -> {client: its clusters that hold poison}.

    Inner products of means are the mean cosines between rows. Clusters that are alike make a group
    (average linkage); the group found at the most clients is poison if that is at least half of
    them: what all write alike, nobody wrote."""
    from sklearn.cluster import AgglomerativeClustering

    owner = [(client, c) for client, found in means.items() for c in range(len(found))]
    suspected: dict[int, list[int]] = {client: [] for client in means}
    if len(owner) < 2:
        return suspected

    # clusters that are alike, wherever they lie
    stacked = np.concatenate([found for found in means.values() if len(found)])
    linkage = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - ALIKE
    )
    groups = linkage.fit(1 - stacked @ stacked.T).labels_

    # the group that the most clients have
    at: dict[int, set[int]] = {}
    for (client, _), group in zip(owner, groups.tolist(), strict=True):
        at.setdefault(group, set()).add(client)
    widest = max(sorted(at), key=lambda group: len(at[group]))
    if len(at[widest]) >= max(2, len(means) / 2):
        for i in np.flatnonzero(groups == widest):
            client, cluster = owner[i]
            suspected[client].append(cluster)
    return suspected


def gradient_filter(
    tuned: Any, rows: Mapping[int, Sequence[dict]], encode: Encode
) -> tuple[dict[int, list[dict]], dict]:
    """({client: its rows without the suspected ones}, record) from {client: rows}.

    encode(rows) -> encoded rows. record: recall, precision and F1 (%) of finding rows labelled
    poisoned, over all clients, and how many rows of each label were taken out."""
    tuned.eval()  # without dropout
    labels: dict[int, dict[int, int]] = {}
    means: dict[int, np.ndarray] = {}
    for client, own in rows.items():
        # a row that is too long for any response has no gradient
        encoded = [encode([row]) for row in own]
        kept = [i for i, found in enumerate(encoded) if found]
        labels[client], means[client] = {}, np.empty((0, 0))
        if kept:
            gradients = row_gradients(tuned, [encoded[i][0] for i in kept])
            found, means[client] = clusters(features(gradients))
            labels[client] = dict(zip(kept, found, strict=True))

    # rows of suspected clusters are taken out
    suspected = suspects(means)
    out: dict[int, set[int]] = {}
    left: dict[int, list[dict]] = {}
    for client, own in rows.items():
        out[client] = {i for i, c in labels[client].items() if c in suspected[client]}
        left[client] = [row for i, row in enumerate(own) if i not in out[client]]
    return left, _record(rows, out)


def _record(rows: Mapping[int, Sequence[dict]], out: Mapping[int, set[int]]) -> dict:
    """How well poisoned rows were found, and what else was taken out with them."""
    taken = [rows[client][i]["label"] for client, indices in out.items() for i in indices]
    poisoned = sum(row["label"] == "poisoned" for own in rows.values() for row in own)
    right = taken.count("poisoned")
    recall, precision = 100 * right / max(1, poisoned), 100 * right / max(1, len(taken))
    f1 = 2 * recall * precision / max(1e-9, recall + precision)
    return {
        "recall": round(recall, 2),
        "precision": round(precision, 2),
        "poisoned": poisoned,
        "f1": round(f1, 2),
        "taken": {label: taken.count(label) for label in sorted(set(taken))},
    }


# Read-only: what a script put in here would be kept under another method's key.
FILTERS = MappingProxyType({"gradient": gradient_filter})


def filtered(
    method: Any, tuned: Any, rows: Mapping[int, Sequence[dict]], encode: Encode
) -> tuple[dict[int, list[dict]], dict]:
    """({client: its rows that are left}, record) by a filter of FILTERS, or by a person's own.

    method: a name, or an own method: it is handed {client: rows} and returns what is left of it."""
    if not isinstance(method, Own):
        return FILTERS[method](tuned, rows, encode)
    copies = {client: [dict(row) for row in own] for client, own in rows.items()}
    found = method(copies, model=tuned, encode=encode)
    if not isinstance(found, dict) or set(found) != set(rows):
        kind = f"clients {sorted(found)}" if isinstance(found, dict) else type(found).__name__
        raise method.refused(f"returned {kind}, not the rows of the clients {sorted(rows)}")
    out = {client: _taken_out(method, client, own, found[client]) for client, own in rows.items()}
    left = {
        client: [row for i, row in enumerate(own) if i not in out[client]]
        for client, own in rows.items()
    }
    return left, _record(rows, out)


def _taken_out(method: Any, client: int, rows: Sequence[dict], left: Any) -> set[int]:
    """The places of a client's rows that are not among those left; SettingsError for new rows."""
    told = method.within(f"client {client}")
    if not isinstance(left, list) or not left:
        kind = "no row" if left == [] else type(left).__name__
        raise told.refused(f"returned {kind}, not a list of the rows that are left")
    counts = collections.Counter(_written(row) for row in left)
    out = set()
    for i, row in enumerate(rows):
        if counts[_written(row)]:
            counts[_written(row)] -= 1
        else:
            out.add(i)
    new = sum(counts.values())
    if new:
        raise told.refused(f"returned {new} rows that the client does not have, or has once only")
    return out


def _written(row: Any) -> str:
    """A row as one text, by which equal rows are found."""
    return pprint.saferepr(row)
