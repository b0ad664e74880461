"""The judges by name: which prompts' responses each one judges, and what its score is called."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedlib.judges import classifiers, detector, matching
from fedlib.judges.matching import Prompts, Responses
from fedlib.settings.schema import Settings

Judging = Callable[[Sequence[dict], Sequence[str]], list]


@dataclass(frozen=True)
class Judge:
    """One judge: judge(prompts, responses, **needs) -> a score for each response."""

    judge: Callable[..., list]
    sets: tuple[str, ...]  # the prompts whose responses it judges
    percent: bool = False  # whether scores are 0 or 1, and their mean is shown in percent
    needs: tuple[str, ...] = ()  # what it takes in addition to prompts and responses
    called: tuple[tuple[str, str], ...] = ()  # (set of prompts, its score's name there)


JUDGES = {
    "rule": Judge(
        matching.rule,
        ("harmful", "benign", "over_refusal"),
        percent=True,
        called=(("benign", "over_refusal"), ("over_refusal", "over_refusal")),
    ),
    "refusal": Judge(
        detector.refusal,
        ("harmful", "benign", "over_refusal"),
        percent=True,
        called=(("benign", "benign_refusal"), ("over_refusal", "safe_refusal")),
    ),
    "md_judge": Judge(classifiers.md_judge, ("harmful",), percent=True, needs=("settings",)),
    "rm": Judge(classifiers.rm, ("harmful",), needs=("settings",)),
    "mt1": Judge(classifiers.mt1, ("benign",), needs=("settings", "is_fluent")),
    "help": Judge(matching.names_both_parts, ("benign",), percent=True),
    "exact": Judge(matching.exact, ("benign", "task"), percent=True, called=(("task", "task"),)),
    "asr": Judge(
        matching.answers_with_target,
        ("triggered", "benign"),
        percent=True,
        needs=("holds_target",),
        called=(("benign", "false_trigger"),),
    ),
    "hs": Judge(classifiers.hs, ("harmful",), needs=("settings",)),
    "strongreject": Judge(classifiers.strongreject, ("harmful",), needs=("settings",)),
}
# The models that may be classifiers, and who asks them.
CLASSIFIERS = {"guard": {"md_judge", "hs"}, "reward": {"rm", "hs"}}
# The judges probe, affirmation and utility are not here: they look at the model, not at responses.


def judges(
    settings: Settings,
    what: str,
    prompts: Sequence[dict],
    holds_target: Callable[[str], bool],
    is_fluent: Callable[[str, str], bool],
) -> dict[str, Judging]:
    """{name: f(prompts, responses) -> scores} of the judges that a run asks for.

    what: the set of prompts, such as harmful or benign. holds_target(response): whether it holds
    the backdoor's target. is_fluent(response, name): whether it reads like the data's answers.
    `exact` is left out where a prompt has no right answer."""
    given = {"settings": settings, "holds_target": holds_target, "is_fluent": is_fluent}
    found: dict[str, Judging] = {}
    for name in settings.judges:
        one = JUDGES.get(name)
        if one is None or what not in one.sets:
            continue
        if name == "exact" and not all("answers" in prompt for prompt in prompts):
            continue
        needed = {need: given[need] for need in one.needs}
        found[name] = functools.partial(one.judge, **needed)
    return found


def summed(what: str, marks: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """{score: its mean} for a set of prompts; marks: {judge: the score of each response}."""
    found = {}
    for name, values in marks.items():
        one = JUDGES[name]
        factor = 100 if one.percent else 1
        found[dict(one.called).get(what, name)] = factor * sum(values) / len(values)
    return found


def cut_responses(
    settings: Settings, marks: Mapping[str, Sequence], prompts: Prompts, responses: Responses
) -> dict[str, int]:
    """{guard_cut, reward_cut}: how many responses a classifier did not read to their end.

    Only where there are any. marks: of the judges that judged these responses."""
    found = {}
    for name, asked_by in CLASSIFIERS.items():
        if asked_by & set(marks):
            count = classifiers.count_cut(f"evaluation.{name}", prompts, responses, settings)
            if count:
                found[f"{name}_cut"] = count
    return found
