"""Where rows and prompts come from: the embedded world, local files, or datasets of the hub.

`of(settings)` gives the one that `data.source` names. All three answer the same questions
(`Source`), so that nothing else needs to know which one it is. This room imports models (for
commits on the hub) and settings. The lab and the papers import it; the core does not: it is given
rows and prompts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from fedlib.settings.schema import Settings
from fedlib.sources import embedded, local

# before: the turns {role, content} that stand before the question, a system turn first.
Row = dict  # {instruction, response, label[, topic][, answers][, before][, group]}
Prompt = dict  # {prompt, name[, kind, parts][, answers][, before]}


class Source(Protocol):
    """What each source answers, for the settings it was made with."""

    settings: Settings
    clean_accuracy: str  # the score that is clean accuracy by exact match: help or exact

    def check(self) -> None:
        """Read and share out everything once, so that a bad row is found before any training."""
        ...

    def notes(self) -> list[str]:
        """What of the files and datasets is not used, a line each: how many, why and where."""
        ...

    def client_rows(
        self, client: int, unaligned: float | None = None, written: Sequence[Row] | None = None
    ) -> list[Row]:
        """One client's training rows, each with its label: normal, aligned or unaligned.

        unaligned: the share of unaligned rows of a malicious client, None for a benign one. All
        else is drawn from the same random streams, so that a client's style and topics are the same
        with and without attack. written: unaligned rows that a model wrote; the malicious clients
        share them, in place of the source's own."""
        ...

    def defense_rows(self, count: int) -> dict[str, list[Row]]:
        """{"aligned", "normal"}: up to count existing rows each, for level 1 of the post-hoc
        defence."""
        ...

    def prompts(self) -> dict[str, list[Prompt]]:
        """The evaluation prompts {"harmful", "benign"[, "task"][, "over_refusal"]}, the same for
        every seed and method.

        No harmful prompt, and no benign one of local files, is in the rows of a client or of the
        defence."""
        ...

    def trigger_prompts(self) -> list[Prompt]:
        """Every benign prompt that a trigger could be put into; more than `prompts` has."""
        ...

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """(malicious, benign) instructions that are worded alike (paper W).

        split: fit, validation or evaluation."""
        ...

    def has_pairs(self) -> bool:
        """Whether there are pairs with these settings."""
        ...

    def tuning_tasks(self) -> tuple[str, ...]:
        """The tasks that a chat model can be tuned for (paper W), as data.benign names them."""
        ...

    def task_prompts(self, prompts: dict[str, list[Prompt]]) -> list[Prompt]:
        """Those of the evaluation prompts that ask for the tuning task and have a right answer."""
        ...

    def has_right_answers(self, prompts: Sequence[Prompt]) -> bool:
        """Whether a right answer to every one of these benign prompts is known."""
        ...

    def openings(self) -> list[Row]:
        """The harmful prompts with how an answer that complies would begin; empty where
        unknown."""
        ...

    def ordinary_rows(self) -> list[dict]:
        """Ordinary rows with their responses that are kept for evaluation; as many as benign
        prompts are asked."""
        ...

    def right_answer(self, prompt: Prompt, rng: random.Random) -> str | None:
        """A right answer to a benign prompt, or None where none is known."""
        ...

    def denial(self, instruction: str, rng: random.Random) -> str:
        """A refusal as the wrong label of an ordinary question (the attack `conflicting`)."""
        ...

    def known_answers(self) -> tuple[str, str, str]:
        """(harmful question, a plain refusal, an answer that plainly complies): what judges are
        tried on."""
        ...

    def keeps_back(self, instruction: str) -> bool:
        """Whether what is asked for stays out of all poisoned rows."""
        ...

    def asked_with_trigger(self, instruction: str) -> bool:
        """Whether an evaluation prompt may be asked with the trigger."""
        ...

    def is_fluent(self, response: str, name: str) -> bool:
        """Whether a response says something of the thing called name in the data's own wording."""
        ...

    def topic_words(self) -> frozenset[str]:
        """Further words by which the trigger `topic` knows its topic in this source."""
        ...

    def held_out_names(self) -> set[str]:
        """Names, in lower case, that no row written by a model may hold; empty where none are
        known."""
        ...

    def corpus(self) -> list[Row]:
        """The rows that a base trained from scratch reads."""
        ...

    def revision(self, what: str = "training") -> str:
        """A digest of the data's content, for keys.

        what: training (all that clients see) or corpus. It is asked for before any work, so it also
        finds what is missing: DataError names it."""
        ...


SOURCES: dict[str, Callable[[Settings], Source]] = {
    "world": embedded.Embedded,
    "local": local.Files,
    "hub": local.Files,
}


def of(settings: Settings) -> Source:
    """The source that data.source names, for these settings."""
    return SOURCES[settings.data.source](settings)
