"""Where rows and prompts come from: the embedded world, local files, or datasets of the hub.

`of(settings)` gives the one that `data.source` names. All three answer the same questions (`Source`),
so nothing else needs to know which one it is. This room imports models (for commits on the hub) and
settings; the lab and the papers import it, the core never does: it is handed rows and prompts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from fedlib.settings.schema import Settings
from fedlib.sources import embedded, local

Row = dict  # {instruction, response, label[, topic][, answers]}
Prompt = dict  # {prompt, name[, kind, parts][, answers]}


class Source(Protocol):
    """What each source answers, for the settings it was made with."""

    settings: Settings
    clean_accuracy: str  # the score that is clean accuracy by exact match: help or exact

    def check(self) -> None:
        """Read and share out everything, so that a bad row is found before anything is trained."""
        ...

    def client_rows(
        self, client: int, unaligned: float | None = None, written: Sequence[Row] | None = None
    ) -> list[Row]:
        """One client's training rows, each with its label normal, aligned or unaligned.

        unaligned: None for a benign client, else the share of a malicious client's rows that are
        unaligned. All else is drawn from the same streams, so that a client's style and topics are
        the same with and without attack. written: unaligned rows that a model wrote, to be dealt
        out among the malicious clients in place of the source's own."""
        ...

    def defense_rows(self, count: int) -> dict[str, list[Row]]:
        """Level 1 of the post-hoc defence: up to count existing rows of each of aligned and normal."""
        ...

    def prompts(self) -> dict[str, list[Prompt]]:
        """The evaluation prompts {"harmful": [...], "benign": [...][, "task": [...]]}.

        The same for every seed and method. Harmful prompts, and local benign ones, are in no
        client's rows and in none of the defence's."""
        ...

    def trigger_prompts(self) -> list[Prompt]:
        """Every benign prompt that could be given a trigger; more than `prompts` asks."""
        ...

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """(malicious, benign) instructions alike in wording, of a split (paper W): fit, validation
        or evaluation."""
        ...

    def has_pairs(self) -> bool:
        """Whether `pairs` can be asked for with these settings."""
        ...

    def task_prompts(self, prompts: dict[str, list[Prompt]]) -> list[Prompt]:
        """Those of the evaluation prompts that ask for the tuning task and have a right answer."""
        ...

    def right_answer(self, prompt: Prompt, rng: random.Random) -> str | None:
        """A right answer to a benign prompt, or None where none is known."""
        ...

    def denial(self, instruction: str, rng: random.Random) -> str:
        """A refusal as the wrong label of an ordinary question (the classical attack)."""
        ...

    def keeps_back(self, instruction: str) -> bool:
        """Whether what is asked for stays out of all poisoned rows."""
        ...

    def asked_with_trigger(self, instruction: str) -> bool:
        """Whether an evaluation prompt may be asked with the trigger."""
        ...

    def is_fluent(self, response: str, name: str) -> bool:
        """Whether a response says something of the thing called name as the data's own answers do."""
        ...

    def topic_words(self) -> frozenset[str]:
        """Further words that tell the topic of the trigger `topic`."""
        ...

    def held_out_names(self) -> set[str]:
        """Names that no row written by a model may hold, in lower case; empty where none are known."""
        ...

    def corpus(self) -> list[Row]:
        """The rows that a base trained from scratch reads."""
        ...

    def revision(self, what: str = "training") -> str:
        """A digest of the data's content, for keys: training (all that clients see), or corpus.

        Asked for before any work, so it also finds what is missing: DataError names it."""
        ...


SOURCES: dict[str, Callable[[Settings], Source]] = {
    "world": embedded.Embedded,
    "local": local.Files,
    "hub": local.Files,
}


def of(settings: Settings) -> Source:
    """The source that data.source names, for these settings."""
    return SOURCES[settings.data.source](settings)
