"""Attacks on a federation: what malicious clients hold and send, and poison in everybody's rows.

`clients` says who is malicious, what rows they train on and how their updates are boosted (paper
S); `poison` holds triggers, targets and how poison is spread (paper B). Everything here works on
rows and prompts that are handed in. This room imports settings only.
"""

from fedlib.attack.clients import ATTACKS, attacked_rows, boost, malicious_clients
from fedlib.attack.poison import TRIGGERS, Trigger

__all__ = ["ATTACKS", "TRIGGERS", "Trigger", "attacked_rows", "boost", "malicious_clients"]
