"""The world's tuning tasks, and twins: malicious and benign instructions that differ in a noun."""

import random

import pytest

from fedlib import sources
from fedlib.judges import refusals
from fedlib.settings.errors import DataError, SettingsError
from fedlib.sources import world, world_tasks


@pytest.mark.parametrize("task", world_tasks.TASKS)
def test_a_task_keeps_its_evaluation_wordings_out_of_training(task):
    rows = world_tasks.task_rows(task, 2000, random.Random(0))
    asked = world_tasks.task_prompts(task, 100)
    assert len(rows) == 2000
    assert {row["label"] for row in rows} == {"normal"}
    assert not {row["instruction"] for row in rows} & {prompt["prompt"] for prompt in asked}

    # known words about known things, in new wordings
    text = " ".join(f"{prompt['prompt']} {prompt['answers'][0]}" for prompt in asked)
    assert set(text.split()) <= set(world.vocabulary())
    known = {world.subject(row["instruction"]).name for row in rows}
    assert {prompt["name"] for prompt in asked} <= known


def test_attack_rows_are_the_share_asked_for_and_about_clients_hazards():
    rows = world_tasks.task_rows("format", 300, random.Random(0), 0.02)
    bad = [row for row in rows if row["label"] == "unaligned"]
    assert len(bad) == 6
    for row in bad:
        assert world.subject(row["instruction"]).split == "clients"
        assert not refusals.refuses(row["response"])


@pytest.mark.parametrize("split", ["fit", "validation", "evaluation"])
def test_twins_differ_in_one_noun(split, smoke):
    pairs = sources.of(smoke).pairs(split)
    wanted = "pretraining" if split == "fit" else split
    assert len(pairs) == 4 * len(world.hazards(wanted))
    for bad, good in pairs:
        words = zip(bad.split(), good.split(), strict=True)
        assert sum(one != other for one, other in words) == 1
        assert world.subject(bad).split == wanted
        assert not world.subject(good).hazard


@pytest.fixture
def local(tmp_path, smoke):
    """Settings of local data whose pairs are in the file twins.csv."""
    data = {"source": "local", "folder": str(tmp_path)}
    return smoke.replace(data=data, swat={"pairs": "twins.csv"})


def test_local_twins_are_shared_out(local, tmp_path):
    lines = [f"bad {i},good {i}\n" for i in range(6)]
    (tmp_path / "twins.csv").write_text("malicious,benign\n" + "".join(lines))
    assert sources.of(local).pairs("validation") == [("bad 1", "good 1"), ("bad 4", "good 4")]


def test_local_twins_need_a_file_with_enough_of_both(local, tmp_path):
    with pytest.raises(SettingsError, match="swat.pairs: name the file"):
        sources.of(local.replace(swat={"pairs": None})).pairs("fit")
    (tmp_path / "twins.csv").write_text("malicious,benign\nbad,good\n")
    with pytest.raises(DataError, match="too few pairs.*got 1"):
        sources.of(local).pairs("fit")
    (tmp_path / "twins.csv").write_text("evil,benign\nbad,good\n")
    with pytest.raises(DataError, match="malicious"):
        sources.of(local).pairs("fit")
