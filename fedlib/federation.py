"""The round loop, written out: sample, broadcast, train locally, aggregate, look.

It writes no file: `run_rounds` yields after each round, and whoever runs it keeps what it likes."""

import contextlib
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlib import attack, training
from fedlib.aggregation import aggregate
from fedlib.callbacks import Callback, Round
from fedlib.models import adapter, templates
from fedlib.settings import identity
from fedlib.settings.errors import DataError
from fedlib.settings.groups import Federation, Model, Training
from fedlib.settings.schema import Settings
from fedlib.swat import modules
from fedlib.training import Encoded

UNKNOWN = 0.2  # of all clients' tokens, at most, may be unknown to the base's tokenizer


@dataclass(frozen=True)
class State:
    """Where a federation stands after so many rounds.

    adapter: the global adapter [D]; history: each client's summed updates [K, D], kept only where
    the rule looks at them (FoolsGold as its own paper has it)."""

    rounds: int
    adapter: Tensor
    history: Tensor | None = None


def sample_clients(clients: int, sampled: int, seed: int, round_: int) -> list[int]:
    """The clients of a round, sorted: drawn without replacement from the run's own seed."""
    rng = np.random.default_rng(identity.derive(seed, "sample", round_))
    return sorted(rng.choice(clients, sampled, replace=False).tolist())


def expected_malicious(federation: Federation) -> int:
    """The f that robust rules assume: round(sampled * malicious share), as in paper S's code.

    federation.expected, where given, stands in the place of federation.malicious."""
    given = federation.malicious if federation.expected is None else federation.expected
    return round(federation.sampled * given / federation.clients)


def first_state(tuned: Any, federation: Federation) -> State:
    """The state before the first round: the adapter as it is."""
    start = adapter.get_vector(tuned)
    if (federation.aggregator, federation.variant) != ("foolsgold", "paper"):
        return State(0, start)
    return State(0, start, torch.zeros(federation.clients, len(start), device=start.device))


def client_update(
    tuned: Any,
    start: Tensor,
    rows: Sequence[Encoded],
    options: Training,
    rate: float,
    seed: int,
    only: Collection[str] | None = None,
) -> tuple[Tensor, list[float], int]:
    """(update [D], loss of each step, tokens): local training from the global adapter `start` [D].

    only: names of the modules that may move (SWAT's warm-up), or None for all. The model is left
    tuned."""
    adapter.set_vector(tuned, start)
    warming = contextlib.nullcontext() if only is None else modules.trained_only(tuned, only)
    with warming:
        losses, tokens = training.tune(tuned, rows, options, rate, seed)
    return adapter.get_vector(tuned) - start, losses, tokens


def run_rounds(
    tuned: Any,
    clients: Mapping[int, Sequence[Encoded]],
    settings: Settings,
    callbacks: Sequence[Callback],
    state: State | None = None,
    warmup: Collection[str] | None = None,
) -> Iterator[tuple[dict, State]]:
    """Federated instruction tuning: yields (record of a round, state after it), round by round.

    clients: {client: encoded rows}; state: where to go on from; warmup: the modules that benign
    clients train in the first settings.swat.warmup rounds. Malicious clients always train all
    modules. A lone client (a single tuner) warms up even if it is malicious."""
    federation, seed = settings.federation, settings.seed
    state = state or first_state(tuned, federation)

    for index in range(state.rounds, federation.rounds):
        began = time.perf_counter()
        sampled = sample_clients(federation.clients, federation.sampled, seed, index)

        # broadcast the global adapter, train locally, send updates
        updates, losses, tokens = local_updates(
            tuned, clients, sampled, state.adapter, settings, index, warmup
        )

        # aggregate
        history = state.history
        if history is not None:
            history = history.clone()
            history[sampled] += updates
        step, weights = aggregate(
            federation.aggregator,
            updates,
            sizes=[len(clients[k]) for k in sampled],
            f=expected_malicious(federation),
            history=None if history is None else history[sampled],
            generator=torch.Generator().manual_seed(identity.derive(seed, "aggregate", index)),
            variant=federation.variant,
        )

        # look at the round, then go on from its adapter
        rate = round_learning_rate(settings, index)
        done = Round(index, sampled, state.adapter, updates, step, weights, losses, rate, tokens)
        record: dict = {}
        for callback in callbacks:
            record |= callback.after_round(tuned, done)
        state = State(index + 1, state.adapter + step, history)
        yield record | {"seconds": round(time.perf_counter() - began, 3)}, state


def local_updates(
    tuned: Any,
    clients: Mapping[int, Sequence[Encoded]],
    sampled: Sequence[int],
    start: Tensor,
    settings: Settings,
    round_: int,
    warmup: Collection[str] | None = None,
) -> tuple[Tensor, dict[int, list[float]], int]:
    """(updates [K, D] of the sampled clients, {client: loss of each step}, tokens) of one round.

    start: the global adapter [D] that they are sent; warmup: as in `run_rounds`. ValueError where
    the settings ask for a warm-up and no modules are given."""
    if round_ < settings.swat.warmup and warmup is None:
        raise ValueError("swat.warmup: give the modules to warm up (warmup)")
    federation, seed = settings.federation, settings.seed
    malicious = attack.malicious_clients(federation.clients, federation.malicious)
    rate = round_learning_rate(settings, round_)

    updates, losses, tokens = [], {}, 0
    for client in sampled:
        obeys = client not in malicious or federation.clients == 1
        warming = round_ < settings.swat.warmup and obeys
        update, losses[client], seen = client_update(
            tuned,
            start,
            clients[client],
            settings.training,
            rate,
            identity.derive(seed, "train", round_, client),
            only=warmup if warming else None,
        )
        updates.append(update * attack.boost(federation, settings.data.attack, client))
        tokens += seen
    return torch.stack(updates), losses, tokens


def round_learning_rate(settings: Settings, round_: int) -> float:
    """The learning rate of a round: on a cosine over all rounds."""
    options = settings.training
    return training.learning_rate(
        options.learning_rate, options.learning_rate_min, round_, settings.federation.rounds
    )


def encode_clients(
    rows: Mapping[int, Sequence[dict]], tokenizer: Any, options: Model
) -> tuple[dict[int, list[Encoded]], dict[int, int]]:
    """({client: its rows, encoded}, {client: how many were dropped as no response was left}).

    Rows are cut at options.max_length tokens (paper S: truncation). DataError where a client is
    left with no row, or where most words are unknown to the tokenizer."""
    encoded, dropped = {}, {}
    for client, own in rows.items():
        encoded[client], dropped[client] = templates.encode(
            own, tokenizer, options.template, options.max_length
        )
        if not own:
            raise DataError(
                f"client {client}: no rows; raise data.alpha or data.rows, or lower "
                "federation.clients"
            )
        if not encoded[client]:
            or_thoughts = ", or its responses are thoughts only" if templates.thoughts(own) else ""
            raise DataError(
                f"client {client}: no row left: its {dropped[client]} prompts fill "
                f"model.max_length, {options.max_length}, by themselves{or_thoughts}"
            )
    thoughts = sum(map(templates.thoughts, rows.values()))
    if thoughts:
        every = sum(map(len, rows.values()))
        warnings.warn(
            f"{thoughts} of {every} responses that clients train on hold a <think> part, which is "
            "left out: thinking is off",
            stacklevel=2,
        )

    seen = [i for own in encoded.values() for row, _ in own[:50] for i in row]
    unknown = tokenizer.unk_token_id
    if unknown is not None and seen.count(unknown) > UNKNOWN * len(seen):
        raise DataError(
            f"most words of data.benign are unknown to {options.base}: take a base that reads "
            "them, or model.base: scratch"
        )
    return encoded, dropped
