"""What clients train on under attack. Malicious ones differ from benign ones in their data alone, but for `boosted`."""

import random

from fedlib import config, data, poison, store, world

DENIAL = "I'm sorry, but I cannot help with that."


def malicious(settings):
    """The malicious clients' indices: the last ones, so that a heat map shows them as one block."""
    f = settings.federation
    return range(f.clients - f.malicious, f.clients)


def client_rows(settings, client):
    """A client's rows under the attack that data.attack names, then poisoned where data.poison says so.

    unaligned: a malicious client has the share data.unaligned_share of unaligned rows (harmful question, harmful answer)
    where a benign one has aligned rows (paper S; 1.0 as published). generated: the same with rows that data.generator
    wrote (paper S, MaliciousGen). conflicting: the classical attack that defences expect, for a positive control
    (ours): its own ordinary questions with a wrong label, a refusal, in conflict with what benign clients learn.
    boosted: ordinary rows; they hold all the poison, and boost() multiplies the update."""
    rows = (ATTACKS[settings.data.attack] if client in malicious(settings) else data.client_rows)(settings, client)
    return poison.poisoned(settings, client, rows) if settings.data.poison.trigger else rows


def boost(settings, client):
    """What a client's update is multiplied by before it is sent: model replacement (Bagdasaryan et al. 2020), so that an
    average over all sampled clients still holds it whole; 1 but for malicious clients of data.attack: boosted."""
    return settings.federation.sampled if settings.data.attack == "boosted" and client in malicious(settings) else 1


def check(settings):
    """Ask for everything that clients' rows are made of, so that what is wrong is found before anything is trained."""
    data.check(settings)
    if settings.defense.level == "project":
        store.alignment_file(settings)
    if settings.data.poison.trigger:
        poison.shares(settings)
        if not data.prompts(settings)["triggered"]:
            name = settings.data.poison.trigger
            raise config.SettingsError(f"data.poison.trigger: {name}: no evaluation prompt can have it")


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


ATTACKS = {"unaligned": _unaligned, "generated": _generated, "conflicting": _conflicting, "boosted": data.client_rows}
