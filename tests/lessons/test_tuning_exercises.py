"""Lesson 3's exercises: right, wrong, silly and missing answers; a hint never gives the answer."""

import numpy as np
import pytest

from fedlib.lessons import tuning_exercises
from fedlib.lessons.exercises import MISSING, RIGHT, WRONG

RNG = np.random.default_rng(0)


def clouds(pairs, apart):
    """States [4 layers, 2 * pairs, 6 numbers]: harmful ones lie apart along two of the numbers."""
    found = RNG.normal(2.0, 0.3, (4, 2 * pairs, 6))
    found[:, 0::2, :2] += apart
    return found.astype(np.float16)


STATES = {"fit": clouds(40, 3), "before": clouds(20, 3), "plain": clouds(20, 3)}
LOST = STATES | {"plain": clouds(20, 0)}


def order(modules, warm_rounds, unsafe, task):
    return {
        "modules": modules,
        "warm_rounds": warm_rounds,
        "scores": {"unsafe": unsafe, "task": task, "help": 90},
    }


RECORD = {
    "answers": [
        {"runs": {"plain": {"rule": rule, "md_judge": safe}}}
        for rule, safe in [(1, 0)] * 3 + [(0, 0)] * 6 + [(1, 1)] * 4 + [(1, 0)] * 9
    ],
    "orders": [
        order("none", 0, 0, 0),
        order("all", 0, 80, 99),
        order("robust", 1, 70, 98),
        order("robust", 2, 50, 96),
        order("robust", 3, 20, 60),
        order("fragile", 2, 10, 99),
    ],
    "cells": [
        {"type": kind, "layer": layer, "loss": 0.5 if layer == 0 else 0.0005}
        for kind in ("q_proj", "v_proj")
        for layer in range(4)
    ],
}


@pytest.mark.parametrize(
    "answer, state, hint",
    [
        (3, RIGHT, ""),
        (np.int64(3), RIGHT, ""),
        (9, WRONG, "unsafe at all"),
        (6, WRONG, "refusal phrase"),
        (12, WRONG, "Too large"),
        (-1, WRONG, "Too small"),
        ("three", WRONG, "one number"),
        (..., MISSING, ""),
    ],
    ids=str,
)
def test_who_refuses_and_tells(answer, state, hint):
    found = tuning_exercises.check_still_known(RECORD, answer)
    assert (found.state, hint in found.said) == (state, True), found


def means(harmful, harmless):
    return tuning_exercises.difference_of_means(harmful, harmless)


def turned(harmful, harmless):
    direction, threshold = means(harmful, harmless)
    return -direction, -threshold


def no_threshold(harmful, harmless):
    return means(harmful, harmless)[0], 0.0


def one_cloud(harmful, harmless):
    direction = np.array([0, 0, 0, 0, 1.0, 0])
    return direction, harmless.mean(axis=0) @ direction


def single_row(harmful, harmless):
    return harmful[0] - harmless[0], [1.0, 2.0]


@pytest.mark.parametrize(
    "probe, state, hint",
    [
        (means, RIGHT, "told rightly"),
        (turned, WRONG, "worse than guessing"),
        (no_threshold, WRONG, "called harmful"),
        (one_cloud, WRONG, "one mean to the other"),
        (single_row, WRONG, "one number"),
        (lambda harmful, harmless: harmful.mean(axis=0), WRONG, "two things"),
        (lambda harmful, harmless: (harmful.mean(axis=1), 0), WRONG, "shape"),
        (lambda harmful, harmless: (np.zeros(6), 0), WRONG, "zeros"),
        (lambda harmful, harmless: (harmful - harmless).mean(), WRONG, "two things"),
        (lambda harmful: harmful, WRONG, "TypeError"),
        (lambda harmful, harmless: ("up", 0), WRONG, "cannot be read"),
        (lambda harmful, harmless: (..., ...), MISSING, "nothing"),
        (lambda harmful, harmless: None, MISSING, "nothing"),
        (3, WRONG, "function"),
        (..., MISSING, ""),
    ],
)
def test_the_probe(probe, state, hint):
    found = tuning_exercises.check_probe(STATES, probe)
    assert (found.state, hint in found.said) == (state, True), found


@pytest.mark.parametrize(
    "states, answer, state, hint",
    [
        (STATES, "refusing", RIGHT, ""),
        (STATES, "Refusing ", RIGHT, ""),
        (STATES, "knowing", WRONG, "should fail"),
        (LOST, "knowing", RIGHT, ""),
        (LOST, "refusing", WRONG, "as good as before"),
        (STATES, "both", WRONG, "Choose one"),
        (STATES, 1, WRONG, "Choose one"),
        (STATES, ..., MISSING, ""),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_what_was_forgotten(states, answer, state, hint):
    found = tuning_exercises.check_forgotten(RECORD, states, answer)
    assert (found.state, hint in found.said) == (state, True), found


def test_a_probe_is_as_good_as_guessing_where_the_clouds_are_one():
    assert tuning_exercises.accuracies(STATES, "before").min() > 95
    assert tuning_exercises.accuracies(LOST, "plain").max() < 75


@pytest.mark.parametrize(
    "answer, state, hint",
    [
        ([("q_proj", 1), ("v_proj", 2), ("q_proj", 3)], RIGHT, ""),
        ((["q_proj", 1], ["v_proj", 2], ["q_proj", 3]), RIGHT, ""),
        ([("q_proj", 0), ("v_proj", 2), ("q_proj", 3)], WRONG, "One of these"),
        ([("q_proj", 1), ("v_proj", 1), ("q_proj", 3)], WRONG, "different layers"),
        ([("q_proj", 1), ("v_proj", 2)], WRONG, "Name three"),
        ([("x_proj", 1), ("v_proj", 2), ("q_proj", 3)], WRONG, "no module"),
        ([1, 2, 3], WRONG, "cannot be read"),
        ("q_proj", WRONG, "Name three"),
        ((..., ..., ...), MISSING, ""),
        (..., MISSING, ""),
    ],
    ids=str,
)
def test_the_modules(answer, state, hint):
    found = tuning_exercises.check_modules(RECORD, answer)
    assert (found.state, hint in found.said) == (state, True), found


@pytest.mark.parametrize(
    "answer, state, hint",
    [
        (2, RIGHT, "only the unsafe"),
        (1, WRONG, "fewer unsafe"),
        (0, WRONG, "fewer unsafe"),
        (3, WRONG, "task is learned worse"),
        (4, WRONG, "one of"),
        (1.5, WRONG, "one of"),
        ("two", WRONG, "one of"),
        (..., MISSING, ""),
    ],
    ids=str,
)
def test_the_warm_up(answer, state, hint):
    found = tuning_exercises.check_warm_up(RECORD, answer)
    assert (found.state, hint in found.said) == (state, True), found
