"""Rows shared out among clients: evenly, by topic, by given sizes; written rows among malicious ones."""

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
    """Rows of each client: every row goes to at most one of them.

    kind: iid; dirichlet (each topic's rows by shares drawn from Dirichlet(alpha)); sizes (so many
    rows each). DataError where rows are too few or have no topic."""
    order = rng.permutation(len(rows))

    if kind == "sizes":
        if sum(sizes) > len(rows):
            raise DataError(f"data.sizes: {sum(sizes)} rows wanted, {len(rows)} there")
        cuts = np.cumsum(sizes)
        parts = np.split(order[: cuts[-1]], cuts[:-1])
        return [[rows[i] for i in part] for part in parts]

    if kind == "iid":
        return [[rows[i] for i in part] for part in np.array_split(order, clients)]

    if any("topic" not in row for row in rows):
        raise DataError(
            "data.partition: dirichlet needs a column topic or category; without one use iid"
        )
    return _by_topic(rows, clients, order, alpha, rng)


def _by_topic(rows, clients, order, alpha, rng):
    """Each topic's rows cut into shares drawn from Dirichlet(alpha), then each client's in random order."""
    shared: list[list[dict]] = [[] for _ in range(clients)]
    for topic in sorted({row["topic"] for row in rows}):
        own = [i for i in order if rows[i]["topic"] == topic]
        shares = rng.dirichlet([alpha] * clients)
        cuts = np.round(np.cumsum(shares)[:-1] * len(own)).astype(int)
        for client, part in enumerate(np.split(np.array(own, dtype=int), cuts)):
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
    """count of the rows that a model wrote, as they fall to one malicious client; over and over where they
    are few."""
    federation = settings.federation
    rng = np.random.default_rng(identity.derive(settings.seed, "partition", "unaligned"))
    own = among_malicious(written, federation.clients, federation.malicious, rng)[client]
    if count and not own:
        raise DataError(
            f"data.generated: the generator left {len(written)} unaligned rows, "
            f"none for client {client}"
        )
    return [row | {"label": "unaligned"} for row in (own * -(-count // max(1, len(own))))[:count]]
