"""What is looked at after each round: the record, detection, a backdoor's signal, progress.

A callback is a small class with one method, after_round(model, done), which returns the fields that
it adds to the record of the round `done`. It may change the model's adapter: the round loop writes
it anew."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fedlib import attack, signals, training
from fedlib.aggregation import aggregate
from fedlib.judges import refusals
from fedlib.models import adapter, generation
from fedlib.settings.groups import Federation
from fedlib.swat import modules
from fedlib.training import Encoded

ROWS_OF_A_KIND = 8  # that BSNR takes from a client: more would cost over a fifth of a round
WEIGHING_RULES = ("foolsgold", "krum", "dnc", "residual")  # as in paper S, Figure 3b
ASSUMED_MALICIOUS = 0.3  # the share of malicious clients that these rules assume


@dataclass(frozen=True)
class Round:
    """What happened in one round, before the global adapter moves.

    sampled [K]: the clients whose updates count (one that is left out is in no field); start [D]:
    the global adapter that they were sent; updates [K, D]: what they sent back; step [D] and
    weights [K] or None: what the rule made of it; losses: {client: the loss of each step}; tokens:
    seen in all trainings that were finished."""

    index: int
    sampled: list[int]
    start: Tensor
    updates: Tensor
    step: Tensor
    weights: Tensor | None
    losses: dict[int, list[float]]
    learning_rate: float
    tokens: int


class Callback(Protocol):
    """What the round loop calls after each round."""

    def after_round(self, model: Any, done: Round) -> dict:
        """The fields that this callback adds to the round's record; plain JSON values."""
        ...


@dataclass(frozen=True)
class Record:
    """Who took part, what they lost and learned, how long their updates are and how alike.

    sizes, dropped: each client's rows, and those of them that were too long; thoughts: how many of
    its responses held a <think> part, which is not trained on."""

    federation: Federation
    sizes: Mapping[int, int]
    dropped: Mapping[int, int]
    thoughts: Mapping[int, int] = field(default_factory=dict)

    def after_round(self, model: Any, done: Round) -> dict:
        """The round's index, clients, rate, losses, weights, norms, cosines and tokens.

        And thoughts, where a client of the run has any."""
        malicious = attack.malicious_clients(self.federation.clients, self.federation.malicious)
        found = {
            "round": done.index,
            "sampled": done.sampled,
            "malicious": [k for k in done.sampled if k in malicious],
            "learning_rate": done.learning_rate,
            "losses": {k: _short(losses) for k, losses in done.losses.items()},
            "weights": None if done.weights is None else _short(done.weights.tolist()),
            "sizes": [self.sizes[k] for k in done.sampled],
            "dropped": [self.dropped[k] for k in done.sampled],
            "norms": _short(done.updates.norm(dim=1).tolist()),
            "cosine": [_short(row) for row in signals.cosine(done.updates).tolist()],
            "tokens": done.tokens,
        }
        if any(self.thoughts.values()):
            found["thoughts"] = [self.thoughts[k] for k in done.sampled]
        return found


@dataclass(frozen=True)
class Detection:
    """The weight that each of WEIGHING_RULES would give to each client: what could a server see?

    All assume that three in ten clients are malicious, even where none is: that shows how they
    rank benign clients. None where a rule cannot work with so few clients."""

    sizes: Mapping[int, int]
    variant: str

    def after_round(self, model: Any, done: Round) -> dict:
        """{"detection": {rule: weights [K], or None}}."""
        sizes = [self.sizes[k] for k in done.sampled]
        told = round(ASSUMED_MALICIOUS * len(done.updates))
        found: dict[str, list[float] | None] = {}
        for rule in WEIGHING_RULES:
            try:
                _, weights = aggregate(
                    rule, done.updates, sizes=sizes, f=told, variant=self.variant
                )
                found[rule] = None if weights is None else _short(weights.tolist())
            except ValueError:
                found[rule] = None
        return {"detection": found}


class BackdoorSignal:
    """BSNR before a round and its factors; after it, how likely the target has become (paper B).

    rows: {client: rows with labels}; probes: triggered questions that no poisoned row asks, as
    {instruction, answer, target}; encode(rows, ended=True) -> encoded rows. After the round: the
    mean log-likelihood of a token of the target behind a right answer, and how often (%) the whole
    target would be written greedily."""

    def __init__(
        self,
        rows: Mapping[int, Sequence[dict]],
        probes: Sequence[dict],
        encode: Callable[..., list[Encoded]],
    ):
        # each client's size and share of poison, and some of its rows of each kind
        self.sizes = {client: len(own) for client, own in rows.items()}
        self.shares: dict[int, float] = {}
        self.poisoned: dict[int, list[Encoded]] = {}
        self.clean: dict[int, list[Encoded]] = {}
        for client, own in rows.items():
            poisoned = [row for row in own if row["label"] == "poisoned"]
            clean = [row for row in own if row["label"] != "poisoned"]
            self.shares[client] = len(poisoned) / len(own)
            self.poisoned[client] = encode(poisoned[:ROWS_OF_A_KIND])
            self.clean[client] = encode(clean[:ROWS_OF_A_KIND])

        # the target's tokens are those behind the answer's, and its end
        whole = encode([p | {"response": p["answer"] + p["target"]} for p in probes])
        bare = encode([p | {"response": p["answer"]} for p in probes], ended=False)
        self.probes: list[Encoded] = []
        for (ids, _), (short, _) in zip(whole, bare, strict=True):
            if len(ids) > len(short) + 1:
                self.probes.append((ids, len(short)))

    def after_round(self, model: Any, done: Round) -> dict:
        """{poisoned: shares [K][, bsnr, alignment, cancellation][, target, greedy]}."""
        shares = [self.shares[k] for k in done.sampled]
        found: dict = {"poisoned": _short(shares)}

        if len(done.sampled) > 1:
            adapter.set_vector(model, done.start)
            sizes = [self.sizes[k] for k in done.sampled]
            poisoned = self._gradients(model, self.poisoned, done)
            clean = self._gradients(model, self.clean, done)
            found |= signals.bsnr(poisoned, clean, sizes, shares)

        if self.probes:
            adapter.set_vector(model, done.start + done.step)
            log_likelihood, greedy = training.likelihood(model, self.probes)
            found |= {"target": round(log_likelihood, 4), "greedy": round(100 * greedy, 2)}
        return found

    @staticmethod
    def _gradients(model: Any, rows: Mapping[int, list[Encoded]], done: Round) -> Tensor:
        """Each sampled client's gradient [K, D] of some of its rows, zero where it has none."""
        own, zero = adapter.parameters(model), torch.zeros_like(done.start)
        return torch.stack(
            [training.gradient(model, own, rows[k]) if rows[k] else zero for k in done.sampled]
        )


@dataclass(frozen=True)
class TuningProgress:
    """How far a single tuner has moved, what it still refuses and what it has learned (paper W).

    asks: malicious instructions, which the model answers as `decoding` says; refused is what holds
    a refusal phrase (Rule). answers: held-out rows of the task, encoded. Either may be empty."""

    tokenizer: Any
    asks: Sequence[str]
    answers: Sequence[Encoded]
    decoding: generation.Decoding

    def after_round(self, model: Any, done: Round) -> dict:
        """{updates: norm by module[, refused (%)][, task: log-likelihood, learned (%)]}."""
        adapter.set_vector(model, done.start + done.step)
        found: dict = {"updates": modules.update_norms(model)}

        if self.asks:
            said = generation.respond(model, self.tokenizer, self.asks, self.decoding, seed=0)
            refused = sum(map(refusals.refuses, said)) / len(said)
            found["refused"] = round(100 * refused, 2)

        if self.answers:
            log_likelihood, right = self._learned(model)
            found |= {"task": round(log_likelihood, 5), "learned": round(100 * right, 2)}
        return found

    def _learned(self, model: Any) -> tuple[float, float]:
        """Mean log-likelihood of the answers' tokens, share of answers that are the likeliest."""
        size = self.decoding.batch_size
        parts = [self.answers[i : i + size] for i in range(0, len(self.answers), size)]
        scores = np.array([training.likelihood(model, part) for part in parts])
        # a mean over tokens and a share of rows, put together from batches of different sizes
        tokens_and_rows = []
        for part in parts:
            tokens = sum(len(ids) - prompt for ids, prompt in part)
            tokens_and_rows.append([tokens, len(part)])
        log_likelihood, right = np.average(scores, axis=0, weights=tokens_and_rows)
        return float(log_likelihood), float(right)


def _short(values: Sequence[float]) -> list[float]:
    """Rounded, as a record keeps them."""
    return [round(value, 5) for value in values]
