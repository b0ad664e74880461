"""The rows that a client of a run trains on: its source's, under attack, poisoned."""

import random

from fedlib import attack, sources
from fedlib.attack import poison
from fedlib.lab import keys, prompting, store
from fedlib.settings import identity
from fedlib.settings.schema import Settings


def client_rows(settings: Settings, client: int) -> list[dict]:
    """A client's rows under the attack that data.attack names, then poisoned by data.poison.

    Rows of a generated attack are read from the store: `steps` has them written first."""
    source = sources.of(settings)
    federation = settings.federation
    malicious = attack.malicious_clients(federation.clients, federation.malicious)

    written = None
    if client in malicious and settings.data.attack == "generated":
        written, _ = store.read_written(keys.written_folder(settings, "unaligned"), "unaligned")
    rows = attack.attacked_rows(source, client, written)

    if not settings.data.poison.trigger:
        return rows
    shares = poison.poison_shares(settings.data.poison, federation.clients, settings.seed)
    return poison.poisoned_rows(
        rows,
        prompting.find_trigger(settings),
        settings.data.poison,
        shares[client],
        random.Random(identity.derive(settings.seed, "poison", client)),
        source.keeps_back,
    )
