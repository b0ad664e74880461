"""A round by hand in which one client lies, as lesson 1 shows it: computed while one looks."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedlib.lessons import exercises, round_exercises
from fedlib.papers import diagrams, output
from fedlib.papers.methods import BLUE, GREY, RED
from fedlib.settings.schema import Settings


def round_with(settings: Settings, malicious: Collection[int]) -> tuple[int, list[int]]:
    """(number, clients) of the first round in which a malicious client takes part, else of the
    first of all."""
    from fedlib.federation import sample_clients

    federation = settings.federation
    drawn = [
        sample_clients(federation.clients, federation.sampled, settings.seed, number)
        for number in range(federation.rounds)
    ]
    number = next((i for i, chosen in enumerate(drawn) if set(chosen) & set(malicious)), 0)
    return number, drawn[number]


def own_losses(
    tuned: Any,
    start: Any,
    encoded: Mapping[int, Any],
    clients: Sequence[int],
    updates: Any,
    malicious: Collection[int],
) -> pd.DataFrame:
    """Each client's loss on its own rows, before its training and after it, as a table."""
    from fedlib.federation import loss_with

    rows = []
    for client, update in zip(clients, updates, strict=True):
        own = encoded[client]
        rows.append(
            {
                "client": client,
                "malicious": client in malicious,
                "loss before": loss_with(tuned, start, own),
                "loss after": loss_with(tuned, start + update, own),
            }
        )
    return pd.DataFrame(rows).round(2)


@dataclass(frozen=True)
class TrainedRound:
    """What the server has after a round's training, and the clients' rows, to see what came of it.

    updates [K, D] of clients (their numbers) that started from the adapter start [D]; encoded:
    {client: rows}; malicious: the clients that hold harmful rows. The first client may lie."""

    tuned: Any
    start: Any
    encoded: Mapping[int, Any]
    clients: Sequence[int]
    updates: Any
    malicious: Collection[int]

    def lied(self, lie: float) -> Any:
        """The updates, the first of them so many times as long."""
        changed = self.updates.clone()
        changed[0] *= lie
        return changed

    def step(self, rule: str | Callable, lie: float = 1) -> Any:
        """The server's step [D] by a rule of fedlib, or by a student's function of an array."""
        import torch

        from fedlib.aggregation import aggregate

        updates = self.lied(lie)
        if callable(rule):
            return torch.tensor(np.asarray(rule(updates.numpy())), dtype=updates.dtype)
        sizes = [len(self.encoded[client]) for client in self.clients]
        return aggregate(rule, updates, sizes=sizes)[0]

    def losses(self, step: Any) -> dict[int, tuple[float, float]]:
        """{client: its loss before the round, and after the server's step}."""
        return {
            client: (self.before[client], self._loss(client, self.start + step))
            for client in self.clients
        }

    @functools.cached_property
    def before(self) -> dict[int, float]:
        """{client: its loss before the round}."""
        return {client: self._loss(client, self.start) for client in self.clients}

    def _loss(self, client: int, adapter: Any) -> float:
        from fedlib.federation import loss_with

        return float(loss_with(self.tuned, adapter, self.encoded[client]))

    def picture(self, rule: str | Callable, lie: float = 1) -> Any:
        """The updates and the server's step as arrows, and each client's loss; a figure."""
        step = self.step(rule, lie)
        plt = output.figure_style()
        fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=(1, 1))
        diagrams.draw_updates(left, self.lied(lie), step, self.clients, self.malicious)

        left.set_aspect("equal", adjustable="datalim")
        left.legend(fontsize=8, frameon=False)

        losses = self.losses(step)
        for y, (client, (before, after)) in enumerate(losses.items()):
            colour = RED if client in self.malicious else BLUE
            right.barh(y - 0.2, before, 0.35, color=GREY, label=None if y else "before the round")
            right.barh(y + 0.2, after, 0.35, color=colour, label=None if y else "after the step")
        names = [f"client {client}" for client in losses]
        names[0] += f"\nsends {lie:g} times\nits update" if lie != 1 else ""
        right.set_yticks(range(len(losses)), names, fontsize=9)
        right.invert_yaxis()
        right.set(xlabel="loss (lower is better)", title="Loss on each client's own rows")
        right.grid(axis="y", visible=False)
        right.legend(fontsize=8, frameon=False)
        return fig

    def own_picture(self, rule: Any) -> Callable[[float], Any]:
        """picture under a student's rule, as a function of the lie; before the rule is right, what
        its check says."""
        found = round_exercises.check_own_rule(rule)
        if found.state != exercises.RIGHT:
            return lambda lie: found
        return lambda lie: self.picture(rule, lie)
