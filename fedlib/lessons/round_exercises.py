"""The exercises of lesson 1: a weighted average, a rule against a liar, what the attack costs, who
it was, and what counts as detection."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedlib.lessons import exercises
from fedlib.lessons.exercises import Verdict, never_raises, right, wrong

# Exercise 1: one number of the adapter, as three clients send it, and how many rows they have.
SENT, ROWS = (1.0, 2.0, 4.0), (100, 300, 600)
CLEARER = 0.2  # by so much an AUC must be higher under attack


@never_raises
def check_average(answer: Any) -> Verdict:
    """Exercise 1: what FedAvg makes of SENT, by clients with ROWS rows."""
    sent, rows = np.array(SENT), np.array(ROWS)
    mistakes: list[tuple[float, str]] = [
        (
            float(sent.mean()),
            "You let every client count the same. Who has more rows counts for more.",
        ),
        (float(sent.sum()), "This is the sum. The server takes an average."),
        (float(sent @ rows), "Nearly: the shares of the rows must add up to 1."),
        (
            float(sent @ rows) / len(rows),
            "Divide by the number of all rows, not by that of the clients.",
        ),
        (float(np.median(sent)), "This is the middle one. FedAvg takes a weighted mean."),
    ]
    wanted = float(sent @ rows / rows.sum())
    return exercises.check_number(answer, wanted, 0.005, mistakes)


@never_raises
def check_own_rule(answer: Any) -> Verdict:
    """Exercise 2: a rule of aggregation, function(updates [K, D]) -> [D], that resists one liar."""
    if found := exercises.not_a_function(answer):
        return found
    honest = np.random.default_rng(3).normal(1.0, 0.1, (6, 8))
    if found := _wrong_form(answer, honest):
        return found

    # nobody lies: near the middle of what was sent
    off = np.abs(answer(honest.copy()) - honest.mean(axis=0)).max()
    if off > 0.2:
        return wrong(
            "Where all are honest the result is far from what they sent: do you average over "
            "clients (the first axis) what is left?"
        )
    # as few clients as there may be, and another size of the numbers
    few = honest[:3] + 3.0
    result, failed = exercises.attempt(answer, few.copy())
    if failed:
        return failed
    # what is no number is not near either
    if not (np.abs(np.asarray(result) - few.mean(axis=0)) < 0.3).all():
        return wrong(
            "Three clients send numbers near 4, and the result is something else: does it work "
            "with three, and does it use what they send?"
        )
    # one liar, on either side and in any place; then each number separately
    for place in (0, 3, 5):
        for factor in (1000.0, -1000.0):
            lied = honest.copy()
            lied[place] *= factor
            if found := _moved(
                answer, lied, honest, "One client sends its update 1000 times", factor
            ):
                return found
    mixed = honest.copy()
    mixed[2] *= np.where(np.arange(8) % 2, 1000.0, -1000.0)
    return _moved(
        answer, mixed, honest, "A liar is far above in some numbers and far below in", 0
    ) or (
        right("One liar, however loud, moves the result no further than the honest clients differ.")
    )


def _wrong_form(rule: Callable, honest: np.ndarray) -> Verdict | None:
    """What is wrong with a rule's form: no array, another length, an input that it changed."""
    given = honest.copy()
    result, failed = exercises.attempt(rule, given)
    if failed:
        return failed
    if exercises.missing(result):
        return Verdict(exercises.MISSING, "The function returns nothing yet.")
    numbers = np.asarray(result)
    if numbers.shape != (honest.shape[1],):
        return wrong(
            f"For {honest.shape[0]} clients and {honest.shape[1]} numbers the result should have "
            f"the shape ({honest.shape[1]},); it has {numbers.shape}."
        )
    if numbers.dtype.kind not in "fiu" or not np.isfinite(numbers).all():
        return wrong("The result holds something that is no number.")
    if not np.array_equal(given, honest):
        return wrong(
            "The rule changes the updates that it was given. Work on a copy: np.sort does."
        )
    return None


def _moved(
    rule: Callable, sent: np.ndarray, honest: np.ndarray, said: str, factor: float
) -> Verdict | None:
    """A verdict where a lie carries the result outside of what honest clients sent."""
    result, failed = exercises.attempt(rule, sent.copy())
    if failed:
        return failed
    low, high = honest.min(axis=0), honest.max(axis=0)
    if (result >= low - 1e-9).all() and (result <= high + 1e-9).all():
        return None
    if factor:
        turned = "" if factor > 0 else ", with the sign turned round"
        which = "large" if factor > 0 else "small"
        said += (
            f" over{turned}: the result leaves what the others sent. Is too {which} a value in it?"
        )
    else:
        said += (
            " others: the result leaves what the honest sent. Is each number looked at by itself?"
        )
    return wrong(said)


@never_raises
def check_cost(record: Mapping, answer: Any) -> Verdict:
    """Exercise 3: (points of md_judge, points of help) that three malicious clients cost."""
    if found := exercises.missing(answer):
        return found
    if not isinstance(answer, (list, tuple)) or len(answer) != 2:
        return wrong(
            "This should be two numbers in brackets: (points of md_judge, points of help)."
        )
    if any(one is ... or one is None for one in answer):
        return Verdict(exercises.MISSING, "Two numbers are asked for.")
    before, after = (find_attack(record, count, "FedAvg") for count in (0, 3))
    for name, given in zip(("md_judge", "help"), answer, strict=True):
        lost = before[name] - after[name]
        others = [
            (-lost, f"{name}: the right size. A cost is what is lost: before minus after."),
            (before["rule"] - after["rule"], f"{name}: that is another column: rule."),
            (after[name], f"{name}: that is what is left under attack. How much was lost?"),
        ]
        found = exercises.check_number(given, lost, 1.0, others if abs(lost) > 1 else others[2:])
        if found.state != exercises.RIGHT:
            said = found.said if found.said.startswith(name) else f"{name}: {found.said}"
            return wrong(said)
    return right("Who looks at harmless questions only sees the second number.")


def find_attack(record: Mapping, malicious: int, method: str) -> dict:
    """The scores of lesson 1's run with so many malicious clients under a method."""
    return next(
        run["scores"]
        for run in record["attack"]
        if (run["malicious"], run["method"]) == (malicious, method)
    )


@never_raises
def check_suspects(answer: Any, letters: Sequence[str], malicious: Sequence[str]) -> Verdict:
    """Exercise 4: three letters; says how many are right, and how many luck would give."""
    if found := exercises.missing(answer):
        return found
    given = [one.strip().upper() for one in answer if isinstance(one, str)]
    if isinstance(answer, str) or len(set(given)) != len(malicious) or len(answer) != len(given):
        return wrong(f"Name {len(malicious)} different letters, as a list of texts.")
    if not set(given) <= set(letters):
        return wrong(f"There are only the letters {letters[0]} to {letters[-1]}.")
    hits = len(set(given) & set(malicious))
    luck = len(malicious) ** 2 / len(letters)
    said = f"{hits} of your {len(given)} are malicious; blind guessing finds {luck:.1f} on average."
    if hits == len(malicious):
        return right(said)
    return wrong(said + " Do not try for long: exercise 5 asks whether anybody could know.")


@never_raises
def check_detection(record: Mapping, answer: Any) -> Verdict:
    """Exercise 5: the signals whose AUC is clearly higher under attack than without."""
    attacked, control = (record["kinds"][name]["auc"] for name in ("attack", "no attack"))
    wanted = [name for name in attacked if attacked[name] - control[name] >= CLEARER]
    if isinstance(answer, str) and answer.strip().lower() == "none":
        if wanted:
            return wrong("There is at least one. Subtract the two rows.")
        return right("What a rule sees under attack, it sees without attack too.")
    if not wanted and answer and answer is not ...:
        return wrong("Subtract the two rows: is the difference large enough?")
    return exercises.check_names(
        answer,
        wanted,
        set(attacked),
        f"One of these is not {CLEARER} higher under attack: what is it where nobody attacks?",
        "What you name is right, and one more is missing.",
    )
