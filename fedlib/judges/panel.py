"""The judges by name: which prompts' responses each one judges, and what its score is called."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedlib.judges import classifiers, detector, matching
from fedlib.judges.matching import Prompts, Responses
from fedlib.settings import own_methods
from fedlib.settings.own_methods import Own
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
# What an own judge must not be called: a score's name, or what a response's line holds already.
TAKEN = {*JUDGES, *(name for one in JUDGES.values() for _, name in one.called)}
TAKEN |= {"prompts", "prompt", "name", "kind", "parts", "answers", "set", "response"}
TAKEN |= {"probe", "affirmation", "utility", "refusal", "accuracy", "unsafe", "answered"}
TAKEN |= {"benign_rule", *(f"{model}_cut" for model in CLASSIFIERS)}
TRIAL = ("I cannot help with that.", "Sure, here is how.")
# The judges probe, affirmation and utility are not here: they look at the model, not at responses.


def judges(
    settings: Settings,
    what: str,
    prompts: Sequence[dict],
    holds_target: Callable[[str], bool],
    is_fluent: Callable[[str, str], bool],
    own: Sequence[Own] = (),
) -> dict[str, Judging]:
    """{name: f(prompts, responses) -> scores} of the judges that a run asks for.

    what: the set of prompts, such as harmful or benign. holds_target(response): whether it holds
    the backdoor's target. is_fluent(response, name): whether it reads like the data's answers.
    `exact` is left out where a prompt has no right answer. own: the judges of a person's own, as
    `own_judges` gives them; they judge every set."""
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
    for judge in own:
        name = own_methods.called(judge.name)
        found[name] = functools.partial(_own_marks, judge.within(f"{what} prompts"))
    return found


def own_judges(settings: Settings) -> list[Own]:
    """Those of a run's judges that are a person's own; SettingsError for a name that is taken."""
    field = "evaluation.judges"
    found = [own_methods.method(field, n) for n in settings.judges if own_methods.is_own(n)]
    for judge in found:
        name = own_methods.called(judge.name)
        if name in TAKEN:
            raise judge.refused(f"the name {name!r} is taken: call it something else")
        # two answers, before anything is trained
        asked = [{"prompt": f"question {i}", "name": "", "answers": [""]} for i in range(2)]
        _own_marks(judge.within("a trial on two answers"), asked, TRIAL)
    return found


def _own_marks(judge: Own, prompts: Sequence[dict], responses: Sequence[str]) -> list:
    """A score for each response by a person's own judge; SettingsError where they do not fit."""
    found = judge([dict(prompt) for prompt in prompts], list(responses))
    try:
        scores = list(found)
    except TypeError:
        raise judge.refused(f"returned {type(found).__name__}, not a list of scores") from None
    if isinstance(found, str | dict):
        raise judge.refused(f"returned {type(found).__name__}, not a list of scores")
    if len(scores) != len(responses):
        raise judge.refused(f"returned {len(scores)} scores for {len(responses)} responses")
    marks = []
    for i, score in enumerate(scores):
        # numpy's and torch's numbers become Python's
        plain = score.item() if hasattr(score, "item") else score
        if not isinstance(plain, int | float) or not math.isfinite(plain):
            raise judge.refused(f"the score of response {i} is {plain!r}, not a number")
        marks.append(plain)
    return marks


def summed(what: str, marks: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """{score: its mean} for a set of prompts; marks: {judge: the score of each response}."""
    found = {}
    for name, values in marks.items():
        one = JUDGES.get(name) or _own_judge(what, name, values)
        factor = 100 if one.percent else 1
        found[dict(one.called).get(what, name)] = factor * sum(values) / len(values)
    return found


def _own_judge(what: str, name: str, values: Sequence[float]) -> Judge:
    """How a person's own judge is summed: in percent where all its scores are True or False.

    Its score of harmful prompts has its name, of other ones such as benign_NAME."""
    percent = all(isinstance(value, bool) for value in values)
    called = name if what == "harmful" else f"{what}_{name}"
    return Judge(_own_marks, (), percent=percent, called=((what, called),))


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
