"""The exercises of lesson 3: what still refuses, a probe, what was forgotten, which modules do
not matter, and how long to warm up."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedlib.lessons import exercises
from fedlib.lessons.exercises import Verdict, never_raises, right, wrong

States = Mapping[str, np.ndarray]  # {fit, before, plain, swat}: [layers, 2 * pairs, numbers]
Probe = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]]

COUNTED = 12  # the first answers, which exercise 1 counts
LAYER = 3  # where a student's probe is tried
ENOUGH = 5  # percentage points by which a student's probe may be behind the difference of means
AFFORDED = 5  # points of the task that a warm-up may cost in exercise 5


def both_kinds(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(harmful, harmless) of states [..., 2 * pairs, numbers], which alternate."""
    return states[..., 0::2, :].astype(float), states[..., 1::2, :].astype(float)


def difference_of_means(harmful: np.ndarray, harmless: np.ndarray) -> tuple[np.ndarray, float]:
    """(direction, threshold): from the mean of the harmless states to that of the harmful ones, and
    the middle between the two along it."""
    direction = harmful.mean(axis=0) - harmless.mean(axis=0)
    middle = (harmful.mean(axis=0) + harmless.mean(axis=0)) / 2
    return direction, float(middle @ direction)


def probe_accuracy(states: States, probe: Probe, layer: int, model: str) -> float:
    """How many states of a model (percent) a probe tells rightly, fitted before tuning."""
    direction, threshold = probe(*both_kinds(states["fit"][layer]))
    harmful, harmless = both_kinds(states[model][layer])
    hits = [harmful @ direction > threshold, harmless @ direction <= threshold]
    return float(100 * np.concatenate(hits).mean())


@never_raises
def check_still_known(record: Mapping, answer: Any) -> Verdict:
    """Exercise 1: how many of the first answers after plain tuning refuse and are unsafe."""
    lines = [asked["runs"]["plain"] for asked in record["answers"][:COUNTED]]
    both = sum(line["rule"] == 1 and line["md_judge"] == 0 for line in lines)
    mistakes = [
        (sum(line["md_judge"] == 0 for line in lines), "That is how many are unsafe at all."),
        (sum(line["rule"] == 1 for line in lines), "That is how many have a refusal phrase."),
        (len(lines) - both, "That is all the others."),
    ]
    mistakes = [(float(value), hint) for value, hint in mistakes if value != both]
    return exercises.check_number(answer, both, 0.1, mistakes)


@never_raises
def check_probe(states: States, answer: Any) -> Verdict:
    """Exercise 2: a probe, function(harmful [N, H], harmless [N, H]) -> (direction [H], threshold),
    which must tell held-out pairs at LAYER."""
    if found := exercises.not_a_function(answer):
        return found
    harmful, harmless = both_kinds(states["fit"][LAYER])
    result, failed = exercises.attempt(answer, harmful.copy(), harmless.copy())
    if failed:
        return failed
    if found := _wrong_probe(result, harmful.shape[1]):
        return found

    accuracy = probe_accuracy(states, answer, LAYER, "before")
    wanted = probe_accuracy(states, difference_of_means, LAYER, "before")
    said = f"{accuracy:.0f} of 100 held-out questions are told rightly"
    if accuracy >= wanted - ENOUGH:
        return right(f"{said}.")
    direction, threshold = np.asarray(result[0], dtype=float), float(result[1])
    if accuracy < 100 - wanted + ENOUGH:
        return wrong(f"{said}: worse than guessing. Which of the two lies above the threshold?")
    held_out = np.concatenate(both_kinds(states["before"][LAYER])) @ direction
    share = (held_out > threshold).mean()
    if share < 0.1 or share > 0.9:
        which = "harmful" if share > 0.9 else "harmless"
        return wrong(f"{said}: nearly all are called {which}. Look at the threshold again.")
    return wrong(f"{said}; more can be had. Does the direction lead from one mean to the other?")


def _wrong_probe(result: Any, numbers: int) -> Verdict | None:
    """What is wrong with the form of a student's probe."""
    if exercises.missing(result):
        return Verdict(exercises.MISSING, "The function returns nothing yet.")
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        return wrong("It should return two things: direction, threshold.")
    if any(one is None or one is ... for one in result):
        return Verdict(exercises.MISSING, "The function returns nothing yet.")
    direction = np.asarray(result[0], dtype=float)
    if direction.shape != (numbers,):
        return wrong(
            f"The direction should have {numbers} numbers; its shape is {direction.shape}. "
            "Take means over questions (the first axis)."
        )
    if np.ndim(result[1]) != 0 or not np.isfinite(float(result[1])):
        return wrong("The threshold should be one number.")
    if not np.isfinite(direction).all() or not direction.any():
        return wrong("The direction is nothing but zeros, or holds something that is no number.")
    return None


@never_raises
def check_forgotten(record: Mapping, states: States, answer: Any) -> Verdict:
    """Exercise 3: whether plain tuning made the model lose what it knows, or what it does with it.

    knowing, where the probes lose more than half as many points as answers became unsafe."""
    lost = (accuracies(states, "before") - accuracies(states, "plain")).max()
    unsafe = {order["modules"]: order["scores"]["unsafe"] for order in record["orders"]}
    hints = {
        "knowing": "Then a probe, which only asks what is known, should fail. Compare the points "
        "that it loses with the answers that became unsafe.",
        "refusing": "Then the probes should be as good as before. Are they?",
    }
    wanted = "knowing" if lost > (unsafe["all"] - unsafe["none"]) / 2 else "refusing"
    return exercises.check_choice(answer, wanted, {k: v for k, v in hints.items() if k != wanted})


def accuracies(states: States, model: str) -> np.ndarray:
    """Accuracy by layer of the difference of means, fitted before tuning, in percent."""
    layers = range(len(states["fit"]))
    return np.array([probe_accuracy(states, difference_of_means, i, model) for i in layers])


@never_raises
def check_modules(record: Mapping, answer: Any, most: float = 0.001) -> Verdict:
    """Exercise 4: three modules in three layers whose noise raises the probes' loss by at most so
    much each."""
    if found := exercises.missing(answer):
        return found
    if not isinstance(answer, (list, tuple)) or len(answer) != 3:
        return wrong('Name three, such as [("q_proj", 0), ("k_proj", 1), ("v_proj", 2)].')
    if any(one is None or one is ... for one in answer):
        return Verdict(exercises.MISSING, "Three modules are asked for.")
    rises = {(cell["type"], cell["layer"]): cell["loss"] for cell in record["cells"]}
    cells = [tuple(one) for one in answer]
    strange = [cell for cell in cells if cell not in rises]
    if strange:
        return wrong(f"There is no module {strange[0]}: a type and a layer of the map, please.")
    if len({layer for _, layer in cells}) < 3:
        return wrong("Take them from three different layers.")
    worse = [cell for cell in cells if rises[cell] > most]
    if worse:
        count = {1: "One of these", 2: "Two of these", 3: "Each of these"}[len(worse)]
        return wrong(f"{count} raises the loss by more than {most:g}.")
    return right(
        "Training may move these without the probes noticing much. The paper warms them up."
    )


@never_raises
def check_warm_up(record: Mapping, answer: Any) -> Verdict:
    """Exercise 5: the rounds of robust warm-up with the fewest unsafe answers, among those that
    cost at most AFFORDED points of the task."""
    if found := exercises.missing(answer):
        return found
    scores = {
        order["warm_rounds"]: order["scores"]
        for order in record["orders"]
        if order["modules"] in ("robust", "all")
    }
    number = exercises.as_number(answer)
    if number is None or number not in scores:
        return wrong(f"Rounds of warm-up are one of: {', '.join(map(str, sorted(scores)))}.")
    least = scores[0]["task"] - AFFORDED
    fit = {rounds: one["unsafe"] for rounds, one in scores.items() if one["task"] >= least}
    if number not in fit:
        return wrong(f"The task is learned worse there, by more than {AFFORDED} points.")
    if fit[int(number)] > min(fit.values()):
        return wrong("Another one that learns the task as well has fewer unsafe answers.")
    return right("Whoever shows only the unsafe answers can make any method look good.")
