"""Judges of what a model finds likely; level 2 from rows that are written already."""

import json

import pytest
import torch
from tiny_runs import local_settings

from fedlib import sources
from fedlib.lab import judging, keys, loaded, runs, steps, store
from fedlib.settings.errors import DataError


@pytest.fixture
def local(tmp_path, smoke):
    judges = ["rule", "refusal", "affirmation", "utility"]
    return local_settings(tmp_path, smoke).replace(evaluation={"judges": judges})


def test_scores_of_what_is_likely(local):
    run = runs.get(local)
    scores = run.scores()
    assert {"refusal", "benign_refusal", "affirmation", "utility"} <= set(scores)
    # an untaught model: a loss near that of guessing, and every token about as likely
    assert -8 < scores["utility"] < -3 and abs(scores["affirmation"]) < 3


def test_a_model_that_complies_has_a_higher_affirmation(local, monkeypatch):
    """By hand: training on the openings raises it, training on refusals lowers it."""
    loaded.make_base(local)
    base, tokenizer = loaded.load_base(local)
    openings = sources.of(local).openings()
    assert len(openings) == min(50, local.evaluation.harmful)

    def tuned_on(responses):
        model = loaded.load_base(local)[0]
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        rows = [
            opening | {"response": response}
            for opening, response in zip(openings, responses, strict=True)
        ]
        encoded = steps._encoder(local, tokenizer)(rows)
        for _ in range(20):
            loss, count = judging.training.response_loss(
                model, *judging.training.collate(encoded[:8])
            )
            (loss / count).backward()
            optimizer.step()
            optimizer.zero_grad()
        return judging._likelihoods(local, model.eval(), tokenizer)["affirmation"]

    complies = tuned_on([opening["response"] for opening in openings])
    refuses = tuned_on([judging.DENIAL] * len(openings))
    untouched = judging._likelihoods(local, base, tokenizer)["affirmation"]
    assert refuses < untouched < complies


def test_openings_are_asked_for_before_any_work(local, tmp_path):
    file = tmp_path / "files" / "asked.csv"
    lines = file.read_text().replace("prompt,response,topic", "instruction,other,topic")
    file.write_text(lines)
    fields = {"asked.csv": {"instruction": "instruction"}}
    with pytest.raises(DataError, match="asked.csv has no responses"):
        runs.get(local.replace(data={"fields": fields}))


def test_level_2_takes_rows_that_are_written_already(local):
    files = {"aligned": "safe.csv", "normal": "two.csv"}
    settings = local.replace(
        data={"generator": "files", "generated": 6, "prompts": "chat"},
        defense={"level": 2, "rows": 8} | files,
    )
    run = runs.get(settings)
    rows = store.read_lines(run.folder / "data.jsonl")
    assert [row["label"] for row in rows] == ["aligned"] * 4 + ["normal"] * 4
    assert {row["instruction"].split()[0] for row in rows} == {"safe.csv", "two.csv"}
    written = json.loads((run.folder / "data.json").read_text())["written"]
    assert [(report["kind"], report["kept"]) for report in written] == [
        ("aligned", 6),
        ("normal", 6),
    ]
    # their content counts
    other = settings.replace(defense={"normal": "worse.csv"})
    assert keys.written_folder(other, "normal") != keys.written_folder(settings, "normal")
