"""Rows shared out among clients: evenly, by topic, or by given sizes."""

import itertools
from collections.abc import Sequence

import numpy as np

from fedlib.settings import identity
from fedlib.settings.errors import DataError
from fedlib.settings.schema import Settings


def partition(
    rows: Sequence[dict],
    clients: int,
    kind: str,
    rng: np.random.Generator,
    alpha: float = 0.3,
    sizes: Sequence[int] | None = None,
) -> list[list[dict]]:
    """The rows of each client; every row goes to at most one of them.

    kind: iid; dirichlet (each topic's rows by shares drawn from Dirichlet(alpha)); sizes (the
    number of rows for each client). DataError where rows are too few or have no topic."""
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

    if kind != "dirichlet":
        raise ValueError(f"partition: no kind {kind!r} (known: iid, dirichlet, sizes)")
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
) -> list[list[dict]]:
    """Each topic's rows cut into shares drawn from Dirichlet(alpha); then each client's rows in
    random order."""
    shared: list[list[dict]] = [[] for _ in range(clients)]
    for topic in sorted({row["topic"] for row in rows}):
        own = [i for i in order if rows[i]["topic"] == topic]
        shares = rng.dirichlet([alpha] * clients)
        ends = np.cumsum(shares)[:-1] * len(own)
        cuts = np.round(ends).astype(int)
        parts = np.split(np.array(own, dtype=int), cuts)
        for client, part in enumerate(parts):
            shared[client] += [rows[i] for i in part]
    return [[part[i] for i in rng.permutation(len(part))] for part in shared]


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
