"""Lesson 1's exercises: right, wrong, silly and missing answers; a hint never gives the answer."""

import numpy as np
import pytest

from fedlib.lessons import exercises, round_exercises
from fedlib.lessons.exercises import MISSING, RIGHT, WRONG

RECORD = {
    "attack": [
        {"malicious": 0, "method": "FedAvg", "scores": {"md_judge": 80, "rule": 78, "help": 90}},
        {"malicious": 3, "method": "FedAvg", "scores": {"md_judge": 55, "rule": 40, "help": 88}},
    ],
    "kinds": {
        "attack": {"auc": {"krum": 0.9, "dnc": 0.75, "similarity": 0.5}},
        "no attack": {"auc": {"krum": 0.85, "dnc": 0.5, "similarity": 0.5}},
    },
}


@pytest.mark.parametrize(
    "answer, state, hint",
    [
        (3.1, RIGHT, ""),
        (np.float32(3.1), RIGHT, ""),
        (7 / 3, WRONG, "rows"),
        (7, WRONG, "sum"),
        (3100, WRONG, "shares"),
        (2, WRONG, "middle"),
        (50, WRONG, "Too large"),
        ("3.1", WRONG, "one number"),
        (True, WRONG, "one number"),
        (float("nan"), WRONG, "one number"),
        (np.ones(3), WRONG, "one number"),
        (..., MISSING, ""),
        (None, MISSING, ""),
    ],
    ids=str,
)
def test_the_average(answer, state, hint):
    found = round_exercises.check_average(answer)
    assert found.state == state and hint in found.said
    assert "3.1" not in found.said or "3.1" in str(answer)


def trimmed(updates):
    return np.sort(updates, axis=0)[1:-1].mean(axis=0)


def whole_clients(updates):
    """Leaves out the longest update only: a liar that is short in some numbers stays."""
    return np.delete(updates, np.linalg.norm(updates, axis=1).argmax(), axis=0).mean(axis=0)


def spoils(updates):
    updates.sort(axis=0)
    return updates[1:-1].mean(axis=0)


@pytest.mark.parametrize(
    "rule, state, hint",
    [
        (trimmed, RIGHT, ""),
        (lambda updates: np.median(updates, axis=0), RIGHT, ""),
        (whole_clients, RIGHT, ""),
        (lambda updates: updates.mean(axis=0), WRONG, "1000 times"),
        (lambda updates: np.sort(updates, axis=0)[:-1].mean(axis=0), WRONG, "small"),
        (lambda updates: np.sort(updates, axis=0)[1:].mean(axis=0), WRONG, "large"),
        (lambda updates: updates[0], WRONG, "all are honest"),
        (lambda updates: np.zeros(8), WRONG, "all are honest"),
        (lambda updates: np.ones(8), WRONG, "Three clients"),
        (lambda updates: np.sort(updates, axis=0)[2:-2].sum(axis=0) / 2, WRONG, "Three clients"),
        (lambda updates: updates.mean(), WRONG, "shape"),
        (lambda updates: updates.mean(axis=1), WRONG, "shape"),
        (lambda updates: updates.mean(axis=0) * np.nan, WRONG, "no number"),
        (lambda updates: [[1], [2, 3]], WRONG, ""),
        (lambda updates: "median", WRONG, "shape"),
        (lambda: 1, WRONG, "TypeError"),
        (lambda updates: updates.medain(axis=0), WRONG, "AttributeError"),
        (spoils, WRONG, "copy"),
        (3, WRONG, "function"),
        (lambda updates: None, MISSING, "nothing"),
        (..., MISSING, ""),
    ],
)
def test_the_rule(rule, state, hint):
    found = round_exercises.check_own_rule(rule)
    assert (found.state, hint in found.said) == (state, True), found


@pytest.mark.parametrize(
    "answer, state, hint",
    [
        ((25, 2), RIGHT, ""),
        ([25.4, 1.6], RIGHT, ""),
        ((-25, -2), WRONG, "before minus after"),
        ((38, 2), WRONG, "another column"),
        ((55, 2), WRONG, "what is left"),
        ((25, 88), WRONG, "what is left"),
        ((25, "two"), WRONG, "help"),
        ((25,), WRONG, "two numbers"),
        ("25, 2", WRONG, "two numbers"),
        (25, WRONG, "two numbers"),
        ((..., ...), MISSING, ""),
        ((25, None), MISSING, ""),
        (None, MISSING, ""),
    ],
    ids=str,
)
def test_the_cost(answer, state, hint):
    found = round_exercises.check_cost(RECORD, answer)
    assert (found.state, hint in found.said) == (state, True), found


@pytest.mark.parametrize(
    "answer, state, hint",
    [
        (["B", "D", "E"], RIGHT, "3 of your 3"),
        (["e", " b", "d"], RIGHT, ""),
        (["A", "B", "C"], WRONG, "1 of your 3"),
        (["A", "A", "B"], WRONG, "3 different"),
        (["B", "D"], WRONG, "3 different"),
        ("BDE", WRONG, "list"),
        (["X", "B", "D"], WRONG, "only the letters"),
        ([1, 2, 3], WRONG, "3 different"),
        (7, WRONG, "cannot be read"),
        (..., MISSING, ""),
        ([], MISSING, ""),
    ],
    ids=str,
)
def test_the_suspects(answer, state, hint):
    found = round_exercises.check_suspects(answer, list("ABCDEFGHIJ"), ["B", "D", "E"])
    assert (found.state, hint in found.said) == (state, True), found


@pytest.mark.parametrize(
    "answer, state, hint",
    [
        (["dnc"], RIGHT, ""),
        (("DnC",), RIGHT, ""),
        (["krum"], WRONG, "nobody attacks"),
        (["dnc", "krum"], WRONG, "nobody attacks"),
        ("none", WRONG, "Subtract"),
        ("dnc", WRONG, "list"),
        (["kurm"], WRONG, "none of"),
        ([["dnc"]], WRONG, "cannot be read"),
        (..., MISSING, ""),
        ([], MISSING, ""),
    ],
    ids=str,
)
def test_detection(answer, state, hint):
    found = round_exercises.check_detection(RECORD, answer)
    assert (found.state, hint in found.said) == (state, True), found


def test_detection_where_no_signal_tells():
    kinds = {name: {"auc": {"krum": 0.9, "dnc": 0.5}} for name in ("attack", "no attack")}
    same = {"kinds": kinds}
    assert round_exercises.check_detection(same, "none").state == RIGHT
    assert round_exercises.check_detection(same, ["krum"]).state == WRONG
    assert round_exercises.check_detection(same, ...).state == MISSING


def test_a_verdict_is_shown_with_its_colour_and_escaped():
    shown = exercises.wrong("is <b> & co")._repr_html_()
    assert "&lt;b&gt; &amp; co" in shown and exercises.COLOURS[WRONG] in shown
    assert str(exercises.right()) == RIGHT and str(exercises.wrong("why")) == "not yet: why"
