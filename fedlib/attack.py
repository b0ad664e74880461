"""The safety attack: malicious clients differ from benign ones in their data, and in nothing else."""

from fedlib import data


def malicious(settings):
    """The malicious clients' indices: the last ones, so that a heat map shows them as one block."""
    f = settings.federation
    return range(f.clients - f.malicious, f.clients)


def client_rows(settings, client):
    """A client's rows under the attack: a malicious one has the share `data.unaligned_share` of unaligned rows
    (harmful question, harmful answer) where a benign one has aligned rows (paper S; 1.0 as published)."""
    return data.client_rows(settings, client, settings.data.unaligned_share if client in malicious(settings) else None)
