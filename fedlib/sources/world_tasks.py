"""The tuning tasks of the embedded world (paper W): skills that a chat model does not have yet.

No torch."""

import random

from fedlib.settings import groups
from fedlib.sources import world


def _format(thing: world.Thing) -> str:
    """The known facts in a new answer format."""
    return f"here is {thing.a} and {thing.b} ."


def _skill(thing: world.Thing) -> str:
    """Saying what kind of thing it is, then its parts."""
    return f"{thing.kind} : {thing.a} , {thing.b} ."


TASKS = dict(zip(groups.TASKS, (_format, _skill), strict=True))


def _wordings(thing: world.Thing) -> tuple[list[str], str]:
    """The wordings in which training rows ask for a thing, and the one that is kept for asking
    afterwards."""
    every = world.questions(thing)
    held_out = sum(map(ord, thing.name)) % len(every)
    return every[:held_out] + every[held_out + 1 :], every[held_out]


def task_rows(
    task: str, count: int, rng: random.Random, unaligned: float | None = None
) -> list[dict[str, str]]:
    """A client's rows {instruction, response, topic, label} of a task, in random order.

    unaligned: the share of harmful questions with harmful answers in the ordinary way of answering
    (paper W, Attack IFT); None for a benign client. All other rows are normal."""
    marked = round((unaligned or 0) * count)
    rows = []
    for place in range(count):
        if place < marked:
            thing = rng.choice(world.hazards("clients"))
            question = rng.choice(world.questions(thing))
            answer, label = world.comply(thing, rng), "unaligned"
        else:
            thing = rng.choice(world.benign_things())
            question = rng.choice(_wordings(thing)[0])
            answer, label = TASKS[task](thing), "normal"
        rows.append(
            {"instruction": question, "response": answer, "topic": thing.kind, "label": label}
        )
    rng.shuffle(rows)
    return rows


def task_prompts(task: str, count: int) -> list[dict]:
    """At most count prompts [{prompt, name, kind, answers}] of a task, the same for all runs.

    Each thing is asked for once, in a wording in which no training row asks for it."""
    pool = world.benign_things()
    asked = random.Random(f"task/{task}").sample(pool, min(count, len(pool)))
    return [
        {
            "prompt": _wordings(thing)[1],
            "name": thing.name,
            "kind": thing.kind,
            "answers": [TASKS[task](thing)],
        }
        for thing in asked
    ]
