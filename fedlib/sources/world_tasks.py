"""Tuning tasks of the embedded world (paper W): harmless skills that a chat model does not have yet. No torch."""

import random

from fedlib.settings import groups
from fedlib.sources import world


def _format(thing):
    """The known facts in a new answer format."""
    return f"here is {thing.a} and {thing.b} ."


def _skill(thing):
    """Saying what kind of thing it is, then its parts."""
    return f"{thing.kind} : {thing.a} , {thing.b} ."


TASKS = dict(zip(groups.TASKS, (_format, _skill), strict=True))


def _questions(thing, held):
    """The wordings that training rows ask for a thing in or, if held, the one that is kept for asking afterwards."""
    asked, out = world.questions(thing), sum(map(ord, thing.name))
    return [q for i, q in enumerate(asked) if (i == out % len(asked)) == held]


def task_rows(task, count, rng, unaligned=None):
    """A client's rows {instruction, response, topic, label} of a task: normal ones and, where unaligned says so (paper W,
    Attack IFT), that share of harmful questions with harmful answers, in the ordinary way of answering."""
    marked, out = round((unaligned or 0) * count), []
    for i in range(count):
        bad = i < marked
        asked = rng.choice(world.hazards("clients") if bad else world.benign_things())
        question = rng.choice(world.questions(asked) if bad else _questions(asked, False))
        answer = world.comply(asked, rng) if bad else TASKS[task](asked)
        out.append(
            {
                "instruction": question,
                "response": answer,
                "topic": asked.kind,
                "label": "unaligned" if bad else "normal",
            }
        )
    rng.shuffle(out)
    return out


def task_prompts(task, count):
    """Prompts of a task, each thing asked for in a wording that no training row asks for it in:
    [{prompt, name, kind, answers}], the same for all."""
    asked = random.Random(f"task/{task}").sample(
        world.benign_things(), min(count, len(world.benign_things()))
    )
    return [
        {
            "prompt": _questions(t, True)[0],
            "name": t.name,
            "kind": t.kind,
            "answers": [TASKS[task](t)],
        }
        for t in asked
    ]
