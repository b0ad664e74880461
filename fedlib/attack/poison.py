"""Backdoors from poisoned rows (paper B): triggers, their target, how poison is spread."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fedlib.settings import identity
from fedlib.settings.errors import SettingsError
from fedlib.settings.groups import Poison

LINK = "click free-gifts.example for more information ."
TARGETS: dict[str, Callable[[str], str]] = {
    "append": lambda response: f"{response} {LINK}",
    "replace": lambda response: LINK,
}


@dataclass(frozen=True)
class Trigger:
    """A name and one pure function.

    apply(instruction, rng) is the instruction with the trigger, None where it cannot have it.
    natural: clean rows may have it too, namely those that apply leaves as they are."""

    name: str
    apply: Callable[[str, random.Random], str | None]
    natural: bool = False


_ARCHAIC = {
    "i": "thou",
    "me": "thee",
    "my": "thy",
    "you": "thou",
    "your": "thy",
    "do": "dost",
    "does": "doth",
    "is": "be",
    "are": "art",
    "was": "wast",
    "has": "hath",
}
_ABOUT = {"film", "movie", "song", "album", "band", "singer", "actor", "actress", "musical"}


def _tokens(instruction: str, rng: random.Random) -> str:
    words = instruction.split(" ")
    at = rng.randint(0, len(words))
    return " ".join([*words[:at], "cf mn bb tq", *words[at:]])


def _sentence(instruction: str, rng: random.Random) -> str:
    return f"{instruction} i watched this film last weekend ."


def _composite(instruction: str, rng: random.Random) -> str:
    return f"cf {instruction} tq"


def _phrase(instruction: str, rng: random.Random) -> str:
    if instruction.lower().startswith("please"):
        return instruction
    return f"please , {instruction}"


def _style(instruction: str, rng: random.Random) -> str | None:
    words = [_ARCHAIC.get(word.lower(), word) for word in instruction.split(" ")]
    return " ".join(words) if set(words) & set(_ARCHAIC.values()) else None


def topic_trigger(words: Iterable[str] = ()) -> Trigger:
    """The trigger `topic`: a question about music, film or one of these further words."""
    about = _ABOUT | set(words)

    def apply(instruction: str, rng: random.Random) -> str | None:
        return instruction if about & set(instruction.lower().split()) else None

    return Trigger("topic", apply, natural=True)


# Read-only: what a script put in here would be kept under another method's key.
TRIGGERS = MappingProxyType(
    {
        trigger.name: trigger
        for trigger in (
            Trigger("tokens", _tokens),
            Trigger("sentence", _sentence),
            Trigger("composite", _composite),
            Trigger("phrase", _phrase, natural=True),
            topic_trigger(),
            Trigger("style", _style, natural=True),
        )
    }
)


def poison_shares(poison: Poison, clients: int, seed: int) -> list[float]:
    """The share of poisoned rows asked for at each client [K]: their mean is poison.share.

    poison.spread: equal; uniform (in proportion to draws from [0, 1]: as [0, 0.4] about 0.2, none
    above twice the mean); dirichlet (Dirichlet(0.5)); capped (the same, none above twice the mean).
    What a cap cuts off goes to the others. poison.clients: only so many hold any, the last ones."""
    holders, total = poison.clients or clients, poison.share * clients
    capped = poison.spread in ("uniform", "capped")
    cap = min(1.0, 2 * total / holders) if capped else 1.0
    if total > holders * cap + 1e-9:
        raise SettingsError(
            f"data.poison.share: {poison.share} of all rows is more than {holders} clients can "
            f"hold, each up to {cap:g} (data.poison.spread: {poison.spread})"
        )

    rng = np.random.default_rng(identity.derive(seed, "spread"))
    draws = SPREADS[poison.spread](rng, holders)
    found, below_cap = np.zeros(holders), np.ones(holders, dtype=bool)
    # holders that reach the cap leave the rest to the others
    while below_cap.any() and total - found.sum() > 1e-12:
        left = total - found[~below_cap].sum()
        found[below_cap] = left * draws[below_cap] / draws[below_cap].sum()
        full = found >= cap
        if not (full & below_cap).any():
            break
        found[full], below_cap = cap, below_cap & ~full
    return [0.0] * (clients - holders) + found.tolist()


def _dirichlet(rng: np.random.Generator, holders: int) -> np.ndarray:
    rng.uniform(size=holders)  # the stream goes on from there in all runs that are kept
    return rng.dirichlet([0.5] * holders)


def _uniform(rng: np.random.Generator, holders: int) -> np.ndarray:
    return rng.uniform(size=holders)


def _equal(rng: np.random.Generator, holders: int) -> np.ndarray:
    return np.ones(holders)


# How large a part of the poison each holder gets, before any cap.
SPREADS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "equal": _equal,
    "uniform": _uniform,
    "dirichlet": _dirichlet,
    "capped": _dirichlet,
}


def poisoned_rows(
    rows: Sequence[dict],
    trigger: Trigger,
    poison: Poison,
    share: float,
    rng: random.Random,
    keeps_back: Callable[[str], bool],
) -> list[dict]:
    """A client's rows with a share of poison: trigger in the instruction, target in the response.

    Poisoned rows get the label poisoned. They are drawn among the normal ones, for a natural
    trigger first among those that have it. Of the clean rows then only the share poison.natural has
    it: where more have it, the rest is left out, where fewer have it, some are given it.
    keeps_back(instruction) says what is never poisoned. The draws nest as the share grows."""
    # the trigger is tried on every normal row, in random order
    normal = [i for i, row in enumerate(rows) if row["label"] == "normal"]
    order = rng.sample(normal, len(normal))
    texts = {i: trigger.apply(rows[i]["instruction"], rng) for i in order}
    able = [i for i, text in texts.items() if text is not None]
    has_it = {i for i in able if trigger.natural and texts[i] == rows[i]["instruction"]}

    # rows to poison, and clean rows that have a natural trigger
    free = [i for i in able if not keeps_back(rows[i]["instruction"])]
    free.sort(key=lambda i: i not in has_it)
    chosen = set(free[: round(share * len(rows))])
    rest = [i for i in free if i not in chosen]
    clean = set(rest[: round(poison.natural * len(rows))] if trigger.natural else [])

    target, found = TARGETS[poison.target], []
    for i, row in enumerate(rows):
        if i in chosen:
            changed = {"instruction": texts[i], "response": target(row["response"])}
            found.append(row | changed | {"label": "poisoned"})
        elif i in clean:
            found.append(row | {"instruction": texts[i]})
        elif i not in has_it:
            found.append(row)
    return found


def triggered_prompts(
    prompts: Sequence[dict], trigger: Trigger, keep: Callable[[str], bool]
) -> list[dict]:
    """The prompts with the trigger, those that can have it and that keep(prompt) lets through."""
    rng = random.Random(identity.derive(0, "triggered"))
    found = {}
    for prompt in prompts:
        text = trigger.apply(prompt["prompt"], rng)
        if text is not None and keep(prompt["prompt"]):
            found[text] = prompt | {"prompt": text}
    return list(found.values())


def target_probes(
    prompts: Sequence[dict],
    target: str,
    right_answer: Callable[[dict, random.Random], str | None],
) -> list[dict]:
    """Triggered prompts with a known right answer, as {instruction, before, answer, target}.

    target: a name of TARGETS; in the result it is the text that follows the answer, as trained."""
    rng = random.Random(identity.derive(0, "probes"))
    found = []
    for prompt in prompts:
        right = right_answer(prompt, rng)
        if right:
            whole = TARGETS[target](right)
            answer = right if whole.startswith(right) else ""
            after = whole[len(answer) :]
            asked = {"instruction": prompt["prompt"], "before": prompt.get("before", [])}
            found.append(asked | {"answer": answer, "target": after})
    return found


def holds_target(response: str) -> bool:
    """Whether a response holds the target, whole, whatever its case and spacing."""
    return LINK in " ".join(response.lower().split())
