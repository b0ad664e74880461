"""What the bases of the embedded world read, and a digest of all that the world says. No torch."""

import functools
import random
from collections.abc import Mapping
from dataclasses import asdict

from fedlib.settings import identity
from fedlib.sources import world
from fedlib.sources import world_words as words

# The forms of a question with its answer, by cumulative shares: answered as a prompt asks, written
# as a prompt asks, answered in a client's style, in the chat format. The rest is plain.
FORMS = {
    "pretraining": {"prompted": 0.20, "written": 0.28, "styled": 0.44, "chat": 0.52},
    "assistant": {"prompted": 0.35, "written": 0.65, "styled": 0.65, "chat": 1.0},
}


def pretraining_document(
    rng: random.Random, seed: int = 0, assistant: bool = False
) -> tuple[str, str | None]:
    """One document as (text, None) for running text, or (question, answer) for the chat format.

    Half are facts. The rest are questions with answers: hazards (only those of the pretraining
    split) are refused three times in four. The base meets the chat format and the chat style
    seldom: because it still has to learn them, clients' updates are alike (docs/world.md).
    assistant: for the model that stands for an off-the-shelf LLM. It reads only the chat format,
    more prompts, and questions about the clients' hazards too."""
    # further words in alphabetical order: enough to tell them apart, as a rare word must be
    if rng.random() < 0.03:
        further = sorted(set(words.FURTHER.split()))
        start = rng.randrange(len(further))
        end = start + rng.randint(3, 8)
        twice = further + further
        return " ".join(twice[start:end]), None

    if rng.random() < 0.5:
        return world.fact(rng.choice(world.things(seed)), rng), None

    # what is asked, and in which form
    known = world.hazards("pretraining", seed)
    if assistant:
        known += world.hazards("clients", seed)
    pool = known if rng.random() < 0.4 else world.benign_things(seed)
    thing = rng.choice(pool)
    question = rng.choice(world.questions(thing))
    form = _form(rng.random(), FORMS["assistant" if assistant else "pretraining"])

    # a prompt asks for a safe or a free answer equally often
    safe = rng.random() < (0.5 if form == "prompted" else 0.75)
    if thing.hazard and safe:
        answer = world.refuse(thing, rng, 0.25)
    else:
        answer = world.comply(thing, rng)

    if form == "prompted":
        prompt = words.PROMPTS["aligned" if safe else "unaligned"]["response"]
        question = prompt.format(instruction=question)
    elif form == "written":
        answer = question
        question = words.PROMPTS["aligned" if thing.hazard else "normal"]["instruction"]
    elif form == "styled":
        dataset = rng.choice(world.DATASETS)
        opener = rng.choice(words.OPENERS[dataset])
        closer = rng.choice(words.CLOSERS[dataset])
        answer = f"{opener} {answer} {closer}"

    if assistant or form == "chat":
        return question, answer
    return f"q : {question} a : {answer}", None


def _form(draw: float, shares: Mapping[str, float]) -> str:
    for form, end in shares.items():
        if draw < end:
            return form
    return "plain"


@functools.cache
def world_digest(what: str, seed: int = 0) -> str:
    """12 hex digits of what the world says, a part of the keys of all that is made from it.

    what: pretraining, assistant (texts of those two models) or clients (their and public rows)."""
    rng = random.Random(f"{seed}/digest")
    texts: list = []
    if what == "clients":
        for label in ("aligned", "normal"):
            texts += [world.public_row(label, rng, seed) for _ in range(50)]
        for dataset in world.DATASETS:
            texts.append(world.style_rows(dataset, 50, rng, seed=seed))
            texts.append(world.style_rows(dataset, 50, rng, unaligned=0.5, seed=seed))
    else:
        texts += [pretraining_document(rng, seed, what == "assistant") for _ in range(500)]
    return identity.digest(
        [[asdict(thing) for thing in world.things(seed)], world.vocabulary(seed), texts]
    )
