"""Rows shared out among clients: evenly, by topic or likeness, by a column, or by given sizes."""

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from fedlib.settings import identity
from fedlib.settings.errors import DataError
from fedlib.settings.schema import Settings

KINDS = ("iid", "dirichlet", "clusters", "by", "sizes")


def partition(
    rows: Sequence[dict],
    clients: int,
    kind: str,
    rng: np.random.Generator,
    alpha: float = 0.3,
    sizes: Sequence[int] | None = None,
) -> list[list[dict]]:
    """The rows of each client; every row goes to at most one of them.

    kind: iid; dirichlet (each topic's rows by shares drawn from Dirichlet(alpha)); clusters (the
    same with groups of rows of like wording in place of topics); by (rows with the same group stay
    together); sizes (the number of rows for each client). Under the last three but one, rows have
    a group. DataError where rows or groups are too few, or have no topic."""
    order = rng.permutation(len(rows))

    if kind == "sizes":
        if sizes is None:
            raise ValueError("partition: sizes needs the sizes")
        cuts = np.cumsum(sizes)
        wanted = cuts[-1]
        if wanted > len(rows):
            raise DataError(f"data.sizes: {wanted} rows wanted, {len(rows)} there")
        parts = np.split(order[:wanted], cuts[:-1])
        return [[rows[i] for i in part] for part in parts]

    if kind == "iid":
        return [[rows[i] for i in part] for part in np.array_split(order, clients)]

    if kind == "by":
        return _by_group(rows, clients, order)
    if kind == "clusters":
        asked = tuple(row["instruction"] for row in rows)
        found = text_clusters(asked, clients, int(rng.integers(2**31)))
        rows = [row | {"group": f"cluster {i}"} for row, i in zip(rows, found, strict=True)]
        return _by_topic(rows, clients, order, alpha, rng, "group")

    if kind != "dirichlet":
        raise ValueError(f"partition: no kind {kind!r} (known: {', '.join(KINDS)})")
    if any("topic" not in row for row in rows):
        raise DataError(
            "data.partition: dirichlet needs a column topic or category; without one use iid"
        )
    return _by_topic(rows, clients, order, alpha, rng)


def _by_topic(
    rows: Sequence[dict],
    clients: int,
    order: np.ndarray,
    alpha: float,
    rng: np.random.Generator,
    field: str = "topic",
) -> list[list[dict]]:
    """Each topic's rows cut into shares drawn from Dirichlet(alpha); then each client's rows in
    random order. field: what of a row is its topic."""
    shared: list[list[dict]] = [[] for _ in range(clients)]
    for topic in sorted({row[field] for row in rows}):
        own = [i for i in order if rows[i][field] == topic]
        shares = rng.dirichlet([alpha] * clients)
        ends = np.cumsum(shares)[:-1] * len(own)
        cuts = np.round(ends).astype(int)
        parts = np.split(np.array(own, dtype=int), cuts)
        for client, part in enumerate(parts):
            shared[client] += [rows[i] for i in part]
    return [[part[i] for i in rng.permutation(len(part))] for part in shared]


def _by_group(rows: Sequence[dict], clients: int, order: np.ndarray) -> list[list[dict]]:
    """Whole groups, in random order, each to the client that has the fewest rows so far."""
    groups: dict[str, list[dict]] = {}
    for i in order:
        groups.setdefault(rows[i]["group"], []).append(rows[i])
    if len(groups) < clients:
        raise DataError(
            f"data.partition: by: {len(groups)} different values for {clients} clients: lower "
            "federation.clients"
        )
    shared: list[list[dict]] = [[] for _ in range(clients)]
    for own in groups.values():
        min(shared, key=len).extend(own)
    return shared


@functools.lru_cache(maxsize=8)
def text_clusters(texts: tuple[str, ...], count: int, seed: int) -> tuple[int, ...]:
    """The cluster of each text, count of them: k-means on TF-IDF (words weighted by how rare they
    are), the same again for a seed. DataError where the texts are too few or share no words."""
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        # a word of half of all texts tells nothing apart
        weighted = TfidfVectorizer(max_df=0.5, max_features=5000).fit_transform(texts)
        return tuple(KMeans(count, n_init=3, random_state=seed).fit_predict(weighted).tolist())
    except ValueError:
        raise DataError(
            f"data.partition: clusters: {len(texts)} rows make no {count} clusters of like wording"
        ) from None


def among_malicious(
    rows: Sequence[dict], clients: int, malicious: int, rng: np.random.Generator
) -> list[list[dict]]:
    """Unaligned rows as they fall to all clients: only the malicious ones, the last, get any."""
    benign: list[list[dict]] = [[]] * (clients - malicious)
    return benign + partition(rows, malicious, "iid", rng)


def written_share(
    settings: Settings, client: int, count: int, written: Sequence[dict]
) -> list[dict]:
    """The rows that a model wrote and that fall to one malicious client: count of them, over and
    over where they are few. DataError where the client gets none."""
    federation = settings.federation
    rng = np.random.default_rng(identity.derive(settings.seed, "partition", "unaligned"))
    own = among_malicious(written, federation.clients, federation.malicious, rng)[client]
    if count and not own:
        raise DataError(
            f"data.generated: the generator left {len(written)} unaligned rows, "
            f"none for client {client}"
        )
    repeated = itertools.islice(itertools.cycle(own), count)
    return [row | {"label": "unaligned"} for row in repeated]
