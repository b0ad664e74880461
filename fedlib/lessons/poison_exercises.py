"""The exercises of lesson 2: a trigger, where success begins, who holds how much, what adds up, and
whom a natural trigger meets."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedlib.attack import poison
from fedlib.attack.poison import Trigger
from fedlib.lessons import exercises
from fedlib.lessons.exercises import Verdict, never_raises, right, wrong
from fedlib.settings.groups import Poison

# Exercise 3: a federation in small.
CLIENTS, ROWS, SHARE = 5, 500, 0.08
# Exercise 4: so many clients, and the length of the poisoned part beside a clean part of length 1.
TOGETHER, POISONED = 4, 0.5
WORKS = 50  # percent: from here on the trigger of exercise 2 works
TRIALS = 40  # questions that a student's trigger is tried on
CHANCES = 20  # times that it is put into the first of them


@never_raises
def check_trigger(rows: Sequence[dict], answer: Any) -> Verdict:
    """Exercise 1: an injected trigger, function(question, rng) -> question, tried on these rows."""
    if found := exercises.not_a_function(answer):
        return found
    questions = [row["instruction"] for row in rows if row["label"] == "normal"][:TRIALS]
    words = {word for row in rows for word in row["instruction"].split()}
    added, places = [], {}
    # one question several times, then others: is it the chance that moves the trigger?
    asked = [questions[0]] * CHANCES + questions
    for number, question in enumerate(asked):
        text, failed = exercises.attempt(answer, question, random.Random(number))
        if failed:
            return failed
        if exercises.missing(text):
            return Verdict(exercises.MISSING, "The function returns nothing yet.")
        if found := _not_this_question(question, text, answer, number):
            return found
        before, after = question.split(), text.split()
        added.append(set(after) - set(before))
        places.setdefault(question, set()).add(_first_place(before, after))

    if not set.intersection(*added) - words:
        return wrong(
            "No word of it is both in every question with the trigger and in no question without: "
            "how should a model tell the two apart?"
        )
    if len(places[questions[0]]) == 1:
        return wrong(
            "It works, but in one question it always stands at the same place. "
            "Let rng choose where it goes."
        )
    return right("A foreign word in a place of chance; the questions are kept as they were.")


def _not_this_question(question: str, text: Any, trigger: Callable, number: int) -> Verdict | None:
    """What is wrong with a question that a student's trigger was put into."""
    if not isinstance(text, str):
        return wrong(f"It should return a text; it returns {type(text).__name__}.")
    before, after = question.split(), text.split()
    if before == after:
        return wrong("A question comes back without anything added.")
    left = iter(after)
    if not all(word in left for word in before):
        return wrong("The words of the question do not all come back, each by itself and in order.")
    if trigger(question, random.Random(number)) != text:
        return wrong("With the same rng it gives two results: take chance from rng only.")
    return None


def _first_place(before: list[str], after: list[str]) -> int:
    """At which word something was added: 0 before the first, -1 behind the last."""
    for place, (old, new) in enumerate(zip(before, after, strict=False)):
        if old != new:
            return place
    return -1


def own_poison(rows: Sequence[dict], answer: Any, most: int = 5) -> Any:
    """Some of these rows with a student's trigger and the target, as a table; before the trigger is
    right, what its check says."""
    found = check_trigger(rows, answer)
    if found.state != exercises.RIGHT:
        return found
    import pandas as pd

    trigger = Trigger("mine", answer)
    settings = Poison.model_construct(trigger="mine", target="replace", natural=0.0)
    made = poison.poisoned_rows(
        rows, trigger, settings, SHARE, random.Random(0), lambda instruction: False
    )
    bad = [row for row in made if row["label"] == "poisoned"]
    shown = pd.DataFrame(bad[:most])[["instruction", "response"]]
    return shown.style.hide(axis="index").set_caption(
        f"{len(bad)} of {len(made)} rows are poisoned"
    )


@never_raises
def check_held(answer: Any) -> Verdict:
    """Exercise 3: how many poisoned rows the one client holds that holds all of them."""
    every = CLIENTS * ROWS
    mistakes = [
        (SHARE * ROWS, "That is its part where all clients hold the same. Here one has it all."),
        (SHARE * every / ROWS, "That is a share of its rows. How many rows are it?"),
        (100 * SHARE * every / ROWS, "That is a percentage of its rows. How many rows are it?"),
        (every, "That is the number of all rows, clean ones too."),
    ]
    return exercises.check_number(answer, SHARE * every, 0.5, mistakes)


@never_raises
def check_threshold(record: Mapping, answer: Any) -> Verdict:
    """Exercise 2: the lowest share of poison, held by all, at which the injected trigger works."""
    curve = {
        run["share"]: run["scores"]["asr"]
        for run in record["poison"]
        if (run["kind"], run["defence"]) == ("injected", "none")
        if run["holders"] == CLIENTS or not run["share"]
    }
    wanted = min(share for share, asr in curve.items() if asr >= WORKS)
    if found := exercises.missing(answer):
        return found
    number = exercises.as_number(answer)
    if number is not None and number not in curve and number / 100 in curve and number != 0:
        return wrong("As a share, please: 0.5 for a half.")
    if number is not None and number not in curve:
        tried = ", ".join(f"{share:g}" for share in curve)
        return wrong(f"Only these shares were tried: {tried}.")
    if number is not None and number < wanted:
        return wrong(f"There fewer than {WORKS} in 100 questions are answered with the target.")
    if number is not None and number > wanted:
        return wrong("It works there, and it works with less.")
    return exercises.check_number(answer, wanted, 1e-9)


@never_raises
def check_ratio(answer: Any) -> Verdict:
    """Exercise 4: poisoned part to clean part, after the average over TOGETHER clients."""
    wanted = POISONED * np.sqrt(TOGETHER)
    mistakes = [
        (POISONED, "That is the ratio at one client. The clean parts do not point the same way."),
        (
            POISONED * TOGETHER,
            "The clean parts do not cancel as far as that: add the arrows by Pythagoras.",
        ),
        (POISONED / np.sqrt(TOGETHER), "Upside down: which of the two parts becomes shorter?"),
        (
            POISONED / TOGETHER,
            "Is the poisoned part really shorter? It is the same at all clients.",
        ),
        (1 / np.sqrt(TOGETHER), "That is the clean part's length. Divide the poisoned one by it."),
    ]
    mistakes = [(float(value), hint) for value, hint in mistakes if abs(value - wanted) > 0.02]
    return exercises.check_number(answer, float(wanted), 0.01, mistakes)


@never_raises
def check_column(answer: Any) -> Verdict:
    """Exercise 5: the column that says how often a polite person gets the link."""
    hints = {
        "false_trigger": "That counts questions without the trigger. Nobody says please in them.",
        "help": "That falls for many reasons, and says nothing of a link.",
        "share": "That says what was put in, not what comes out.",
        "kind": "That is a name, not a number.",
    }
    return exercises.check_choice(answer, "asr", hints)
