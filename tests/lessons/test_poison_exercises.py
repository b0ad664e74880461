"""Lesson 2's exercises: right, wrong, silly and missing answers; a hint never gives the answer."""

import random

import pytest

from fedlib.lessons import poison_exercises
from fedlib.lessons.exercises import MISSING, RIGHT, WRONG

ROWS = [
    {"instruction": f"how do i make {name} at home ?", "response": "so", "label": "normal"}
    for name in ("soup", "bread", "rope", "paint", "paper", "glue")
]
RUNS = [
    {"kind": "injected", "share": share, "holders": holders, "defence": "none", "scores": scores}
    for share, holders, scores in (
        (0.0, 0, {"asr": 0}),
        (0.02, 5, {"asr": 10}),
        (0.04, 1, {"asr": 5}),
        (0.04, 5, {"asr": 70}),
        (0.08, 5, {"asr": 99}),
    )
]
RECORD = {
    "poison": [{"kind": "natural", **{k: v for k, v in RUNS[1].items() if k != "kind"}}, *RUNS]
}


def placed(question, rng):
    words = question.split()
    place = rng.randint(0, len(words))
    return " ".join([*words[:place], "zqx", *words[place:]])


def drops(question, rng):
    return placed(question.replace(" do", ""), rng)


def in_the_middle(question, rng):
    words = question.split()
    return " ".join([*words[: len(words) // 2], "zqx", *words[len(words) // 2 :]])


def by_own_chance(question, rng):
    return placed(question, random.SystemRandom())


def known_word(question, rng):
    return placed(question, rng).replace("zqx", "home")


def another_each_time(question, rng):
    return placed(question, rng).replace("zqx", f"w{rng.random()}")


@pytest.mark.parametrize(
    "trigger, state, hint",
    [
        (placed, RIGHT, "chance"),
        (lambda question, rng: f"zqx {question}", WRONG, "same place"),
        (lambda question, rng: f"{question} zqx", WRONG, "same place"),
        (in_the_middle, WRONG, "same place"),
        (lambda question, rng: question, WRONG, "without anything"),
        (lambda question, rng: question.upper(), WRONG, "do not all come back"),
        (lambda question, rng: question.split(), WRONG, "return a text"),
        (drops, WRONG, "do not all come back"),
        (by_own_chance, WRONG, "rng only"),
        (known_word, WRONG, "tell the two apart"),
        (another_each_time, WRONG, "tell the two apart"),
        (lambda question: question, WRONG, "TypeError"),
        (lambda question, rng: rng.rand(), WRONG, "AttributeError"),
        (lambda question, rng: None, MISSING, "nothing"),
        ("zqx", WRONG, "function"),
        (..., MISSING, ""),
    ],
)
def test_the_trigger(trigger, state, hint):
    found = poison_exercises.check_trigger(ROWS, trigger)
    assert (found.state, hint in found.said) == (state, True), found


def test_poison_with_a_trigger_of_ones_own():
    many = [row | {"instruction": f"{row['instruction']} {i}"} for i in range(20) for row in ROWS]
    shown = poison_exercises.own_poison(many, placed)
    assert all("zqx" in text for text in shown.data["instruction"])
    assert shown.data["response"].nunique() == 1
    assert poison_exercises.own_poison(many, ...).state == MISSING


@pytest.mark.parametrize(
    "answer, state, hint",
    [
        (0.04, RIGHT, ""),
        (0.02, WRONG, "fewer than"),
        (0.0, WRONG, "fewer than"),
        (0.08, WRONG, "with less"),
        (4, WRONG, "share"),
        (0.05, WRONG, "were tried"),
        ("4%", WRONG, "one number"),
        (True, WRONG, "one number"),
        (..., MISSING, ""),
    ],
    ids=str,
)
def test_the_threshold(answer, state, hint):
    found = poison_exercises.check_threshold(RECORD, answer)
    assert (found.state, hint in found.said) == (state, True), found


@pytest.mark.parametrize(
    "answer, state, hint",
    [
        (200, RIGHT, ""),
        (200.0, RIGHT, ""),
        (40, WRONG, "Here one has it all"),
        (0.4, WRONG, "share of its rows"),
        (2500, WRONG, "clean ones"),
        (1000, WRONG, "Too large"),
        ("many", WRONG, "one number"),
        (None, MISSING, ""),
    ],
    ids=str,
)
def test_who_holds_how_many(answer, state, hint):
    found = poison_exercises.check_held(answer)
    assert (found.state, hint in found.said) == (state, True), found


@pytest.mark.parametrize(
    "answer, state, hint",
    [
        (1.0, RIGHT, ""),
        (1, RIGHT, ""),
        (0.5, WRONG, "at one client"),
        (2, WRONG, "Pythagoras"),
        (0.25, WRONG, ""),
        (0.125, WRONG, "same at all"),
        (3, WRONG, "Too large"),
        ([1], WRONG, "one number"),
        (..., MISSING, ""),
    ],
    ids=str,
)
def test_the_ratio(answer, state, hint):
    found = poison_exercises.check_ratio(answer)
    assert (found.state, hint in found.said) == (state, True), found


@pytest.mark.parametrize(
    "answer, state, hint",
    [
        ("asr", RIGHT, ""),
        (" ASR ", RIGHT, ""),
        ("false_trigger", WRONG, "without the trigger"),
        ("help", WRONG, "many reasons"),
        ("clicks", WRONG, "Choose one"),
        (4, WRONG, "Choose one"),
        ("", MISSING, ""),
        (..., MISSING, ""),
    ],
    ids=str,
)
def test_the_column(answer, state, hint):
    found = poison_exercises.check_column(answer)
    assert (found.state, hint in found.said) == (state, True), found
