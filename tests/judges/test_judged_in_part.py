"""What a classifier does not read to the end is counted, and what is not calibrated is left out."""

import json

import pytest
import standins
import transformers

from fedlib.judges import classifiers, panel
from fedlib.lab import checks, runs
from fedlib.sources import world

THINGS = world.hazards("evaluation")[:4]
ASKED = [{"prompt": world.questions(thing)[0]} for thing in THINGS]
SHORT, LONG = "i can not help with that .", "you need clay and water . " * 12


@pytest.fixture
def judged(smoke, tmp_path):
    """Settings with a guard and a reward model that read 32 tokens."""
    head = transformers.AutoModelForSequenceClassification
    labels = {"num_labels": 2, "id2label": {0: "safe", 1: "unsafe"}}
    guard = standins.checkpoint(tmp_path / "guard", head=head, **labels)
    reward = standins.reward(tmp_path / "reward")
    for folder in (guard, reward):
        config = json.loads((folder / "config.json").read_text())
        config["max_position_embeddings"] = 32
        (folder / "config.json").write_text(json.dumps(config))
    return smoke.replace(evaluation={"guard": str(guard), "reward": str(reward)})


def test_responses_that_do_not_fit_are_counted_and_said(judged, capsys):
    responses = [SHORT, LONG, SHORT, LONG]
    found = panel.cut_responses(judged, {"md_judge": [], "rm": []}, ASKED, responses)
    assert found == {"guard_cut": 2, "reward_cut": 2}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[0].startswith("evaluation.guard: ")
    assert "reads 32 tokens: 2 of 4 responses" in said[0]


def test_what_fits_or_is_not_judged_is_not_counted(judged, capsys):
    assert panel.cut_responses(judged, {"rm": []}, ASKED, [SHORT] * 4) == {}
    assert panel.cut_responses(judged, {"rule": []}, ASKED, [LONG] * 4) == {}
    assert panel.cut_responses(judged, {"rm": []}, [], []) == {}
    assert capsys.readouterr().err == ""


def test_the_scores_of_a_run_say_how_many_were_cut(judged, monkeypatch):
    monkeypatch.setattr(classifiers, "count_cut", lambda field, *_: 3 * (field[-5:] == "guard"))
    tiny = judged.replace(
        data={"rows": 8},
        federation={"rounds": 1},
        training={"steps": 1, "batch_size": 2},
        evaluation={"judges": ["rule", "md_judge"], "harmful": 4, "benign": 2},
    )
    scores = runs.get(tiny).scores()
    assert scores["guard_cut"] == 3 and "reward_cut" not in scores


# hs takes bounds that were found for the world's reward model.


def test_hs_is_left_out_with_a_word_where_its_reward_is_another(judged, capsys):
    settings = judged.replace(evaluation={"judges": ["rule", "hs"]})
    assert settings.judges == ["rule"]
    for _ in range(2):
        checks.check_run(settings)
    said = capsys.readouterr().err
    assert said.startswith("evaluation.judges: hs is left out: ") and said.count("\n") == 1
    assert str(settings.evaluation.reward) in said


def test_hs_judges_in_the_world(smoke, capsys):
    settings = smoke.replace(evaluation={"judges": ["rule", "hs"]})
    assert settings.judges == ["rule", "hs"]
    checks.check_run(settings)
    assert capsys.readouterr().err == ""


# Labels of other names, and one number.


@pytest.mark.parametrize(
    "labels, verdict",
    [
        (("LABEL_0", "LABEL_1"), "LABEL_0 is safe"),
        (("LABEL_0", "LABEL_1"), "label_1 is unsafe"),
        (("neutral", "toxic"), "toxic is unsafe"),
    ],
)
def test_a_guards_labels_mean_what_the_verdict_says(smoke, tmp_path, labels, verdict):
    head = transformers.AutoModelForSequenceClassification
    words = dict(enumerate(labels))
    guard = standins.checkpoint(tmp_path / "g", head=head, num_labels=2, id2label=words)
    settings = smoke.replace(evaluation={"guard": str(guard), "verdict": verdict})
    responses = [SHORT, LONG[:24], "a dish .", ""]
    logits, _ = classifiers.classify("evaluation.guard", ASKED, responses, settings)
    first = (logits.argmax(dim=1) == 0).int().tolist()
    assert classifiers.md_judge(ASKED, responses, settings) == first


def test_a_guard_of_one_number(smoke, tmp_path):
    guard = standins.reward(tmp_path / "g")
    settings = smoke.replace(evaluation={"guard": str(guard), "verdict": "over 0 is unsafe"})
    logits, _ = classifiers.classify("evaluation.guard", ASKED, [SHORT] * 4, settings)
    assert classifiers.md_judge(ASKED, [SHORT] * 4, settings) == (logits[:, 0] <= 0).int().tolist()
