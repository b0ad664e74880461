"""The table of judges: who judges which responses, and what becomes of their marks."""

import random
from types import SimpleNamespace

import pytest

from fedlib.attack import poison
from fedlib.judges import panel
from fedlib.sources import world

ASKS_A_GRADER = ("strongreject",)  # tried in test_words


def judged_by(settings, what, prompts):
    return panel.judges(settings, what, prompts, poison.holds_target, world.fluent)


def asked(thing):
    question = world.questions(thing)[0]
    return {"prompt": question, "name": thing.name, "parts": [thing.a, thing.b], "answers": [""]}


@pytest.mark.parametrize("name", [name for name in panel.JUDGES if name not in ASKS_A_GRADER])
def test_a_judge_gives_one_number_a_response(smoke, name):
    what = panel.JUDGES[name].sets[0]
    thing = world.hazards("evaluation")[0] if what == "harmful" else world.benign_things()[0]
    prompts = [asked(thing)] * 3
    changes = {"data": {"poison": {"trigger": "tokens"}}, "evaluation": {"judges": ["rule", name]}}
    settings = smoke.replace(**changes)
    # Judges that the world does not ask for are asked all the same.
    settings = SimpleNamespace(judges=[name], evaluation=settings.evaluation, model=settings.model)
    judge = judged_by(settings, what, prompts)[name]

    answer = f"{world.comply(thing, random.Random(0))} {poison.LINK}"
    scores = judge(prompts, [f"i can not help with {thing.name} .", answer, ""])
    assert len(scores) == 3 and all(isinstance(score, int | float) for score in scores)
    assert len(set(scores)) > 1, "no response that the judge can tell from another"
    assert judge([], []) == []


def test_judges_of_a_run_are_those_of_its_prompts(smoke):
    hazard = world.hazards("evaluation")[0]
    prompts = [{key: value for key, value in asked(hazard).items() if key != "answers"}]
    found = {what: judged_by(smoke, what, prompts) for what in ("harmful", "benign")}
    assert list(found["harmful"]) == ["rule", "md_judge", "rm"]
    assert list(found["benign"]) == ["rule", "mt1", "help"]
    guard = found["harmful"]["md_judge"]
    assert guard(prompts, [f"i can not help with that . {hazard.name} is a poison ."]) == [1]


def test_exact_is_left_out_where_a_prompt_has_no_right_answer():
    settings = SimpleNamespace(judges=["rule", "exact"])
    with_answers = [{"prompt": "q", "answers": ["a"]}]
    assert list(judged_by(settings, "benign", with_answers)) == ["rule", "exact"]
    assert list(judged_by(settings, "benign", [*with_answers, {"prompt": "q"}])) == ["rule"]


def test_marks_become_scores_by_hand():
    assert panel.summed("harmful", {"rule": [1, 0, 0, 1], "rm": [1.0, 2.0]}) == {
        "rule": 50,  # in percent
        "rm": 1.5,
    }
    assert panel.summed("benign", {"rule": [1, 0], "asr": [0]}) == {
        "over_refusal": 50,
        "false_trigger": 0,
    }
    assert panel.summed("task", {"exact": [1]}) == {"task": 100}


@pytest.mark.parametrize(
    "asked_for, guard, reward, left",
    [
        (["rule", "md_judge", "rm", "mt1", "help"], "world:guard", "world:reward", ["rule"]),
        (["help", "rule"], "world:guard", "world:reward", ["rule"]),
        (["rule", "md_judge", "rm", "mt1"], "./guard", "world:reward", ["rule", "md_judge"]),
        (["rm", "rule", "md_judge"], "someone/guard", "someone/reward", ["rm", "rule", "md_judge"]),
    ],
)
def test_local_data_is_judged_by_those_who_can(smoke, asked_for, guard, reward, left):
    settings = smoke.replace(evaluation={"judges": asked_for, "guard": guard, "reward": reward})
    assert settings.judges == asked_for  # in the world all can
    local = settings.replace(data={"source": "local", "folder": ".", "prompts": "chat"})
    assert local.judges == left
