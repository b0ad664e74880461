"""What clients train on under attack.

Malicious clients differ from benign ones in their data only, except under `boosted`."""

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fedlib.settings import identity, own_methods
from fedlib.settings.groups import Federation

Row = dict


def malicious_clients(clients: int, malicious: int) -> range:
    """The malicious clients' indices: the last ones, so that a heat map shows them as one block."""
    return range(clients - malicious, clients)


def attacked_rows(source: Any, client: int, written: Sequence[Row] | None = None) -> list[Row]:
    """A client's rows under the attack that data.attack names, before any poison.

    source: a `sources.Source`; written: the unaligned rows of a generated attack, as a model wrote
    them. Benign clients get ordinary and aligned rows; malicious ones what ATTACKS says."""
    settings = source.settings
    federation = settings.federation
    if client not in malicious_clients(federation.clients, federation.malicious):
        return source.client_rows(client)
    attack = own_methods.method("data.attack", settings.data.attack)
    if isinstance(attack, own_methods.Own):
        return _own_rows(attack.within(f"client {client}"), source, client)
    return ATTACKS[attack](source, client, written)


def _own_rows(attack: own_methods.Own, source: Any, client: int) -> list[Row]:
    """What a person's own attack makes of the rows that the client would have as a benign one.

    Rows that it changed or added get its name as their label."""
    honest = source.client_rows(client)
    rng = random.Random(identity.derive(source.settings.seed, "own attack", client))
    rows = attack([dict(row) for row in honest], client=client, rng=rng, source=source)
    if not isinstance(rows, list) or not rows:
        kind = "an empty list" if rows == [] else type(rows).__name__
        raise attack.refused(f"returned {kind}, not a list of rows")

    known = {(row["instruction"], row["response"]) for row in honest}
    found = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise attack.refused(f"row {i} is {type(row).__name__}, not a dict")
        for field in ("instruction", "response"):
            text = row.get(field)
            if not isinstance(text, str) or not text.strip():
                raise attack.refused(f"row {i}: its {field} is {text!r}, not a text")
        same = (row["instruction"], row["response"]) in known and "label" in row
        found.append(row if same else row | {"label": own_methods.called(attack.name)})
    return found


def boost(federation: Federation, attack: str, client: int) -> int:
    """What a client's update is multiplied by before it is sent.

    Model replacement (Bagdasaryan et al. 2020): under `boosted` a malicious client's update is
    multiplied by the number of sampled clients, so that an average still holds it whole. Else 1."""
    malicious = client in malicious_clients(federation.clients, federation.malicious)
    return federation.sampled if attack == "boosted" and malicious else 1


def _unaligned(source: Any, client: int, written: Sequence[Row] | None) -> list[Row]:
    """Unaligned rows (harmful question, harmful answer) where a benign client has aligned ones
    (paper S; a share of 1.0 as published)."""
    return source.client_rows(client, source.settings.data.unaligned_share)


def _generated(source: Any, client: int, written: Sequence[Row] | None) -> list[Row]:
    """The same with rows that a language model wrote (paper S, MaliciousGen)."""
    return source.client_rows(client, source.settings.data.unaligned_share, written)


def _conflicting(source: Any, client: int, written: Sequence[Row] | None) -> list[Row]:
    """The classical attack that defences expect, for a positive control (ours): ordinary questions
    with a refusal as their wrong label, in conflict with what benign clients learn."""
    rng = random.Random(identity.derive(source.settings.seed, "conflicting", client))
    return [
        row | {"label": "conflicting", "response": source.denial(row["instruction"], rng)}
        for row in source.client_rows(client, 0.0)
    ]


def _boosted(source: Any, client: int, written: Sequence[Row] | None) -> list[Row]:
    """Ordinary rows: they are given all the poison, and `boost` multiplies the update."""
    return source.client_rows(client)


# Read-only: what a script put in here would be kept under another method's key.
ATTACKS: Mapping[str, Callable[..., list[Row]]] = MappingProxyType(
    {
        "unaligned": _unaligned,
        "generated": _generated,
        "conflicting": _conflicting,
        "boosted": _boosted,
    }
)
