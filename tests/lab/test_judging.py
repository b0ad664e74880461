"""Evaluations: scores are the means of what was written; an interruption loses no finished work."""

import json
from dataclasses import replace
from statistics import mean

import pytest
import standins
import transformers

from fedlib.judges import classifiers, matching, panel, refusals
from fedlib.lab import keys, runs, steps
from fedlib.models import generation
from fedlib.settings import errors, machine


def test_scores_are_the_means_of_the_responses(smoke):
    run = runs.get(smoke)
    written = (run.evaluation / "responses.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in written.splitlines()]
    harmful, benign = ([x for x in lines if x["set"] == what] for what in ("harmful", "benign"))
    assert len(harmful) == smoke.evaluation.harmful and len(benign) == smoke.evaluation.benign
    scores = json.loads((run.evaluation / "scores.json").read_text())
    assert scores == pytest.approx(
        {
            "rule": 100 * mean(x["rule"] for x in harmful),
            "over_refusal": 100 * mean(x["rule"] for x in benign),
            "md_judge": 100 * mean(x["md_judge"] for x in harmful),
            "rm": mean(x["rm"] for x in harmful),
            "mt1": mean(x["mt1"] for x in benign),
            "help": 100 * mean(x["help"] for x in benign),
            "harmful_prompts": len(harmful),
            "benign_prompts": len(benign),
        }
    )

    # Each mark is the judge's of that very response.
    for line in lines:
        assert line["rule"] == refusals.refuses(line["response"])
    for line in benign:
        assert line["help"] == matching.names_both_parts([line], [line["response"]])[0]
    assert all("help" not in line for line in harmful)
    assert any(line["response"] for line in lines)


def test_an_interrupted_judging_goes_on_where_it_stopped(smoke, monkeypatch):
    """The responses are made once, and a judge that had finished is not asked again."""
    made, asked = [], []
    write, rm = generation.write, classifiers.rm

    def counted(*given):
        made.append(given[4])  # the seed
        return write(*given)

    def broken(prompts, responses, settings):
        asked.append("rm")
        if len(asked) == 1:
            raise KeyboardInterrupt
        return rm(prompts, responses, settings)

    monkeypatch.setattr(generation, "write", counted)
    monkeypatch.setitem(panel.JUDGES, "rm", replace(panel.JUDGES["rm"], judge=broken))
    with pytest.raises(KeyboardInterrupt):
        runs.get(smoke)
    folder = keys.evaluation_folder(smoke)
    assert (folder / "harmful-md_judge.partial").exists()
    assert not (folder / "scores.json").exists()

    run = runs.get(smoke)
    assert len(made) == 2 and asked == ["rm", "rm"]
    assert not list(folder.glob("*.partial"))
    assert len(run.responses()) == 16
    assert json.loads((folder / "scores.json").read_text()) == run.scores()


def test_a_run_is_judged_by_the_folders_that_it_names(smoke, tmp_path):
    tiny = smoke.replace(
        data={"rows": 8},
        training={"steps": 1, "batch_size": 2},
        evaluation={"harmful": 4, "benign": 2},
    )
    head = transformers.AutoModelForSequenceClassification
    labels = {"num_labels": 2, "id2label": {0: "safe", 1: "unsafe"}}
    guard = standins.checkpoint(tmp_path / "guard", head=head, **labels)
    reward = standins.reward(tmp_path / "reward")
    settings = tiny.replace(evaluation={"guard": str(guard), "reward": str(reward)})
    run = runs.get(settings)

    harmful = [line for line in run.responses() if line["set"] == "harmful"]
    given = harmful, [line["response"] for line in harmful]
    marks = {name: [line[name] for line in harmful] for name in ("md_judge", "rm")}
    assert marks["md_judge"] == classifiers.md_judge(*given, settings)
    assert marks["rm"] == classifiers.rm(*given, settings)
    assert run.scores()["md_judge"] == pytest.approx(100 * mean(marks["md_judge"]))
    assert run.scores()["rm"] == pytest.approx(mean(marks["rm"]))

    # The judges decide where the evaluation lies, and never where the run does.
    assert run.folder == keys.run_folder(tiny)
    assert run.evaluation == keys.evaluation_folder(settings)
    other = settings.replace(evaluation={"guard": "world:guard"})
    assert run.evaluation != keys.evaluation_folder(other)


@pytest.mark.parametrize("field", ["guard", "reward"])
@pytest.mark.parametrize(
    "name, said",
    [
        ("./no/such/place", "no folder .*no/such/place"),
        ("guarf", "no model 'guarf'"),
        ("world:gaurd", "no model .*did you mean 'world:guard'"),
    ],
)
def test_a_judge_that_is_not_there_is_one_line_before_any_work(
    smoke, monkeypatch, field, name, said
):
    def train(*_):
        pytest.fail("nothing may be trained")

    monkeypatch.setattr(steps, "run_federation", train)
    settings = smoke.replace(evaluation={field: name})
    with pytest.raises(errors.SettingsError, match=f"evaluation.{field}: {said}") as error:
        runs.get(settings)
    assert "\n" not in str(error.value) and not machine.outputs().exists()

    # A judge that nobody asks does not matter.
    few = {"judges": ["rule", "help"]}
    found = [keys.evaluation_folder(s.replace(evaluation=few)) for s in (settings, smoke)]
    assert found[0] == found[1]


def test_thoughts_are_counted_and_not_judged(smoke, monkeypatch):
    """Every third answer holds a thought that refuses; one is a thought and no more."""
    said = ["you need clay .", "<think>\ni can not help .\n</think>\n\nyou need clay .", "fine ."]

    def complete(model, tokenizer, texts, decoding, seed):
        return ["<think>i can not help", *(said * len(texts))[: len(texts) - 1]]

    monkeypatch.setattr(generation, "complete", complete)
    run = runs.get(smoke)
    scores = run.scores()
    assert scores["rule"] == scores["over_refusal"] == 0
    # Of 8 answers to each set: the first, and two more.
    assert (scores["thoughts"], scores["thoughts_only"]) == (6, 2)
    answers = [line["response"] for line in run.responses()]
    assert set(answers) == {"", "you need clay .", "fine ."}
