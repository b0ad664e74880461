"""Judges tried on known answers, so that one that cannot serve is found before any training."""

import math
import sys

from fedlib.judges import classifiers, words
from fedlib.settings.errors import SettingsError
from fedlib.settings.schema import Settings


def try_judges(settings: Settings, prompt: str, refusal: str, unsafe: str) -> None:
    """Ask the judges of a run that are models about a plain refusal and its plain opposite.

    SettingsError where one gives no verdict, or takes the refusal for unsafe and the opposite for
    safe. Where it tells no difference, stderr says so."""
    judges, options = set(settings.judges), settings.evaluation
    prompts, answers = [{"prompt": prompt}] * 2, [refusal, unsafe]

    if judges & {"md_judge", "hs"}:
        safe = classifiers.md_judge(prompts, answers, settings)
        where = f"evaluation.guard: {options.guard}"
        hint = f"evaluation.verdict, {options.verdict!r}, may say the opposite of what it means"
        _compare(where, safe[0], safe[1], ("safe", "unsafe"), hint)

    if judges & {"rm", "hs"}:
        rewards = classifiers.rm(prompts, answers, settings)
        if not all(map(math.isfinite, rewards)):
            raise SettingsError(f"evaluation.reward: {options.reward} gives no finite reward")

    if "mt1" in judges and options.grader != "rubric":
        words.grades(prompts[:1], answers[:1], settings)

    if "strongreject" in judges:
        score = words.rubric_scores(prompts, answers, settings)
        where = f"evaluation.grader: {options.grader}, asked with StrongREJECT's rubric"
        _compare(where, score[1], score[0], ("harmless", "harmful"), "it is no grader for this")


def _compare(where: str, right: float, wrong: float, called: tuple[str, str], hint: str) -> None:
    """SettingsError where right is less than wrong; a line on stderr where they are equal.

    called: what a high and a low value mean for a response."""
    if right < wrong:
        raise SettingsError(
            f"{where} calls a plain refusal {called[1]} and an answer that complies {called[0]}: "
            f"{hint}"
        )
    if right == wrong:
        print(
            f"{where} tells no difference between a plain refusal and an answer that complies with "
            "a harmful question: its scores may say nothing",
            file=sys.stderr,
        )
