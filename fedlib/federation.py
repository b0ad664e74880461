"""The round loop, written out: sample, broadcast, train locally, aggregate, look.

It writes no file: `run_rounds` yields after each round, and whoever runs it keeps what it likes."""

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlib import attack, stacked, training
from fedlib.aggregation import aggregate, faults
from fedlib.callbacks import Callback, Round
from fedlib.models import adapter, templates
from fedlib.settings import errors, identity, own_methods
from fedlib.settings.errors import DataError, SettingsError
from fedlib.settings.groups import Federation, Model, Training
from fedlib.settings.schema import Settings
from fedlib.swat import modules
from fedlib.training import Encoded

LOOKED_AT = 100  # rows whose loss is shown
UNKNOWN = 0.2  # of all clients' tokens, at most, may be unknown to the base's tokenizer
NAMED = 3  # clients that an error names with their reasons, at most


@dataclass(frozen=True)
class State:
    """Where a federation stands after so many rounds.

    adapter: the global adapter [D]; history: each client's summed updates [K, D], kept only where
    the rule looks at them (FoolsGold as its own paper has it, or a rule of your own)."""

    rounds: int
    adapter: Tensor
    history: Tensor | None = None


@dataclass(frozen=True)
class Sent:
    """What the clients of a round sent back.

    updates: {client: its update [D], or a text that says why there is none}, in the round's order;
    losses: {client: the loss of each step}; sizes: {client: its number of rows}; tokens: seen in
    all trainings that were finished."""

    updates: dict[int, Tensor | str]
    losses: dict[int, list[float]]
    sizes: dict[int, int]
    tokens: int


# (clients, the global adapter [D] that they are sent, the round) -> what they sent back
Exchange = Callable[[Sequence[int], Tensor, int], Sent]


def sample_clients(clients: int, sampled: int, seed: int, round_: int) -> list[int]:
    """The clients of a round, sorted: drawn without replacement from the run's own seed."""
    rng = np.random.default_rng(identity.derive(seed, "sample", round_))
    return sorted(rng.choice(clients, sampled, replace=False).tolist())


def expected_malicious(federation: Federation, present: int | None = None) -> int:
    """The f that robust rules assume: round(sampled * malicious share), as in paper S's code.

    federation.expected, where given, stands in the place of federation.malicious. present: the
    clients of the round whose updates count, where these are fewer than were sampled."""
    given = federation.malicious if federation.expected is None else federation.expected
    count = federation.sampled if present is None else present
    return round(count * given / federation.clients)


def least_clients(federation: Federation) -> int:
    """How many clients of a round must send a usable update: min_clients, or half of them."""
    return federation.min_clients or -(-federation.sampled // 2)


def check_enough(settings: Settings, round_: int, left: int, left_out: Mapping[int, str]) -> None:
    """SettingsError, one line that says who is left out and why, where too few clients are left.

    left: how many sent a usable update in the round; left_out: {client: why}. Where all others
    sent NaN or Inf, it is the training that diverges, and the line says so."""
    federation = settings.federation
    needed = least_clients(federation)
    if left >= needed:
        return
    line = (
        f"federation.min_clients: round {round_ + 1} of {federation.rounds}: usable updates of "
        f"{left} of {left + len(left_out)} clients, {needed} needed ({_reasons(left_out)})"
    )
    if not left and all(why.startswith(faults.NOT_FINITE) for why in left_out.values()):
        line += (
            "; every client's training diverges: lower training.learning_rate "
            f"({settings.training.learning_rate:g}) or training.clip ({settings.training.clip:g})"
        )
    raise SettingsError(f"{line}; the rounds before it are kept")


def _reasons(left_out: Mapping[int, str]) -> str:
    """Who is left out and why, the first of them by name."""
    named = [f"client {client}: {why}" for client, why in list(left_out.items())[:NAMED]]
    more = len(left_out) - len(named)
    return "; ".join([*named, f"and {more} more"] if more else named)


def aggregation_rule(federation: Federation) -> Any:
    """federation.aggregator for `aggregate`: the name of a rule, or a method of a person's own."""
    return own_methods.method("federation.aggregator", federation.aggregator)


def check_rule(federation: Federation, rule: Any) -> None:
    """Ask the rule about so many updates before any client trains: krum, say, needs over three.

    rule: as `aggregation_rule` gives it."""
    count = federation.sampled
    updates = torch.eye(count, count + 1)
    try:
        aggregate(
            rule,
            updates,
            f=expected_malicious(federation),
            history=updates if callable(rule) else None,
            generator=torch.Generator().manual_seed(0),
            variant=federation.variant,
        )
    except SettingsError:
        raise  # an own rule's, which names itself
    except ValueError as error:
        name = f"{federation.aggregator}: " if callable(rule) else ""
        raise SettingsError(
            f"federation.aggregator: {name}with federation.sampled: {federation.sampled}: {error}"
        ) from None


def first_state(tuned: Any, federation: Federation) -> State:
    """The state before the first round: the adapter as it is."""
    start, rule = adapter.get_vector(tuned), aggregation_rule(federation)
    keeps_history = (rule, federation.variant) == ("foolsgold", "paper")
    if isinstance(rule, own_methods.Own):
        keeps_history = "history" in rule.asks
    if not keeps_history:
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
    rule: Any = None,
    exchange: Exchange | None = None,
) -> Iterator[tuple[dict, State]]:
    """Federated instruction tuning: yields (record of a round, state after it), round by round.

    clients: {client: encoded rows}; state: where to go on from; warmup: the modules that benign
    clients train in the first settings.swat.warmup rounds. Malicious clients always train all
    modules. A lone client (a single tuner) warms up even if it is malicious. rule: what
    `aggregation_rule` gave, where the caller has asked already. exchange: has the clients train
    elsewhere; clients and warmup are then not looked at."""
    federation, seed = settings.federation, settings.seed
    state = state or first_state(tuned, federation)
    # a rule of a person's own is read once: its file may be edited meanwhile
    rule = rule or aggregation_rule(federation)
    exchange = exchange or functools.partial(_train_here, tuned, clients, settings, warmup)

    for index in range(state.rounds, federation.rounds):
        began = time.perf_counter()
        sampled = sample_clients(federation.clients, federation.sampled, seed, index)

        # broadcast the global adapter, train locally, send updates
        sent = exchange(sampled, state.adapter, index)

        # leave out what no rule can use
        present, updates, left_out = faults.usable_updates(sent.updates, state.adapter)
        check_enough(settings, index, len(present), left_out)

        # aggregate
        history = state.history
        if history is not None:
            history = history.clone()
            history[present] += updates
        sizes = [sent.sizes[k] for k in present]
        seen = None if history is None else history[present]
        step, weights = _aggregated(rule, settings, index, updates, sizes, seen, left_out)

        # look at the round, then go on from its adapter
        rate = round_learning_rate(settings, index)
        heard = {client: sent.losses[client] for client in present}
        start, tokens = state.adapter, sent.tokens
        done = Round(index, present, start, updates, step, weights, heard, rate, tokens)
        record: dict = {}
        for callback in callbacks:
            record |= callback.after_round(tuned, done)
        if left_out:
            record["left_out"] = left_out
        state = State(index + 1, state.adapter + step, history)
        yield record | {"seconds": round(time.perf_counter() - began, 3)}, state


def _train_here(
    tuned: Any,
    clients: Mapping[int, Sequence[Encoded]],
    settings: Settings,
    warmup: Collection[str] | None,
    sampled: Sequence[int],
    start: Tensor,
    round_: int,
) -> Sent:
    """An `Exchange` without a network: the clients train in this process, one after another."""
    updates, losses, tokens = local_updates(
        tuned, clients, sampled, start, settings, round_, warmup
    )
    return Sent(updates, losses, {client: len(clients[client]) for client in sampled}, tokens)


def _aggregated(
    rule: Any,
    settings: Settings,
    round_: int,
    updates: Tensor,
    sizes: Sequence[int],
    history: Tensor | None,
    left_out: Mapping[int, str],
) -> tuple[Tensor, Tensor | None]:
    """(step [D], weights [K] or None) of a round; SettingsError where the rule cannot give them."""
    federation = settings.federation
    where = f"round {round_ + 1} of {federation.rounds}"
    if left_out:
        where += f" with the {len(updates)} clients left ({_reasons(left_out)})"
    try:
        step, weights = aggregate(
            rule.within(where) if isinstance(rule, own_methods.Own) else rule,
            updates,
            sizes=sizes,
            f=expected_malicious(federation, len(updates)),
            history=history,
            generator=torch.Generator().manual_seed(
                identity.derive(settings.seed, "aggregate", round_)
            ),
            variant=federation.variant,
        )
    except SettingsError:
        raise  # an own rule's, which says all this itself
    except ValueError as error:
        name = f"{federation.aggregator}: " if callable(rule) else ""
        raise SettingsError(f"federation.aggregator: {name}{where}: {error}") from None
    if not step.isfinite().all():
        raise SettingsError(
            f"federation.aggregator: {where}: the result of {federation.aggregator} holds NaN or "
            "Inf, though no update does: updates are too large for it; the rounds before it are "
            "kept"
        )
    return step, weights


def local_updates(
    tuned: Any,
    clients: Mapping[int, Sequence[Encoded]],
    sampled: Sequence[int],
    start: Tensor,
    settings: Settings,
    round_: int,
    warmup: Collection[str] | None = None,
) -> tuple[dict[int, Tensor | str], dict[int, list[float]], int]:
    """({client: its update [D]}, {client: loss of each step}, tokens) of one round.

    sampled: the clients; start: the global adapter [D] that they are sent; warmup: as in
    `run_rounds`. Where a client's training fails, a text that says why stands in its update's
    place, for `aggregation.usable_updates`. ValueError where the settings ask for a warm-up and no
    modules are given."""
    if round_ < settings.swat.warmup and warmup is None:
        raise ValueError("swat.warmup: give the modules to warm up (warmup)")
    federation, seed = settings.federation, settings.seed
    malicious = attack.malicious_clients(federation.clients, federation.malicious)
    rate = round_learning_rate(settings, round_)
    seeds = {client: identity.derive(seed, "train", round_, client) for client in sampled}
    made = {}
    if settings.training.together > 1 and round_ >= settings.swat.warmup:
        chosen = {client: clients[client] for client in sampled}
        made = stacked.client_updates(tuned, start, chosen, settings.training, rate, seeds)

    sent: dict[int, Tensor | str] = {}
    losses: dict[int, list[float]] = {}
    tokens = 0
    for client in sampled:
        obeys = client not in malicious or federation.clients == 1
        warming = round_ < settings.swat.warmup and obeys
        try:
            update, losses[client], seen = made.get(client) or client_update(
                tuned,
                start,
                clients[client],
                settings.training,
                rate,
                seeds[client],
                only=warmup if warming else None,
            )
        except Exception as error:
            sent[client] = f"its training failed: {errors.one_line(error)}"
            continue
        sent[client] = update * attack.boost(federation, settings.data.attack, client)
        tokens += seen
    return sent, losses, tokens


def loss_with(tuned: Any, vector: Tensor, rows: Sequence[Encoded]) -> float:
    """The mean loss of a response's token over rows, with this adapter [D]; the model is left so.

    At most the first LOOKED_AT rows: enough to see whether something was learned."""
    adapter.set_vector(tuned, vector)
    log_likelihood, _ = training.likelihood(tuned, rows[:LOOKED_AT])
    return -log_likelihood


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
