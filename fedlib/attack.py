"""The safety attack: malicious clients differ from benign ones in their data, and in nothing else."""

import random

from fedlib import config, data, store, world

DENIAL = "I'm sorry, but I cannot help with that."


def malicious(settings):
    """The malicious clients' indices: the last ones, so that a heat map shows them as one block."""
    f = settings.federation
    return range(f.clients - f.malicious, f.clients)


def client_rows(settings, client):
    """A client's rows under the attack that data.attack names. A benign client's never change.

    unaligned: a malicious client has the share data.unaligned_share of unaligned rows (harmful question, harmful answer)
    where a benign one has aligned rows (paper S; 1.0 as published). generated: the same with rows that data.generator
    wrote (paper S, MaliciousGen). conflicting: the classical attack that defences expect, for a positive control
    (ours): its own ordinary questions with a wrong label, a refusal, in conflict with what benign clients learn."""
    if client not in malicious(settings):
        return data.client_rows(settings, client)
    return ATTACKS[settings.data.attack](settings, client)


def _unaligned(settings, client):
    return data.client_rows(settings, client, settings.data.unaligned_share)


def _generated(settings, client):
    rows, _ = store.written(settings, "unaligned")
    return data.client_rows(settings, client, settings.data.unaligned_share, rows)


def _conflicting(settings, client):
    rows = data.client_rows(settings, client, 0.0)
    rng = random.Random(config.derive(settings.seed, "conflicting", client))
    world_ = settings.data.source == "world"
    return [r | {"label": "conflicting", "response": world.denial(r["instruction"], rng) if world_ else DENIAL}
            for r in rows]


ATTACKS = {"unaligned": _unaligned, "generated": _generated, "conflicting": _conflicting}
