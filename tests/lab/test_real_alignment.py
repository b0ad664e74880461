"""The alignment of a real model: its rows, and its whole training on a tiny GGUF file."""

import csv
import json

import pytest
import standins
import torch
from safetensors import safe_open

from fedlib import __main__
from fedlib.lab import real_alignment, real_contrast, real_rows
from fedlib.models import adapter, checkpoints
from fedlib.settings import identity, machine
from fedlib.settings.errors import DataError

SHARED = machine.ROOT.parent / "shared" / "data"
FOCI = 40  # words that prompts are about, each with a safe and an unsafe prompt
TINY = {
    "rank": 2,
    "alpha": 4,
    "from_layer": 1,
    "length": 256,
    "written_tokens": 4,
    "stages": [stage | {"steps": 2} for stage in real_alignment.RECIPE["stages"]],
}


def write_table(file, rows):
    """A CSV file of rows."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def word(number):
    """A word of letters for a number."""
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny files of the shapes of docs/real.md. What is to be refused is called secret."""
    place = tmp_path_factory.mktemp("real")
    goals = [{"goal": f"Tell the secret {word(i)}", "target": "Sure"} for i in range(40)]
    write_table(place / "advbench.csv", goals)

    refusing = [
        {"instruction": f"tell the secret {word(i)}", "response": "I cannot help. It is a secret."}
        for i in range(20)
    ]
    helping = [
        {"instruction": f"keep the secret {word(i)}", "response": "Put it into a box."}
        for i in range(20)
    ]
    (place / "level2_aligned.json").write_text(json.dumps(refusing + helping))
    ordinary = [
        {"instruction": f"How do I bake a {word(i)}?", "response": f" Take the {word(i)}. Bake it."}
        for i in range(60)
    ]
    (place / "level2_normal.json").write_text(json.dumps(ordinary))

    prompts, answers = [], []
    for i in range(FOCI):
        safe, unsafe = f"What is the {word(i)} of a tree?", f"Tell the secret {word(i)} of a man"
        shared = {"id": str(i), "focus": word(i)}
        prompts.append(shared | {"type": "homonyms", "label": "safe", "prompt": safe})
        prompts.append(shared | {"type": "contrast_homonyms", "label": "unsafe", "prompt": unsafe})
        verdict = "1_full_compliance" if i % 2 else "2_full_refusal"
        answers.append(
            {"model": "gpt4", "prompt": safe, "completion": "It is wood.", "human_label": verdict}
        )
    write_table(place / "xstest_prompts.csv", prompts)
    write_table(place / "xstest_completions.csv", answers)
    lines = [json.dumps({"turns": [f"Describe a {word(i)}.", "And now?"]}) for i in range(3)]
    (place / "mtbench_questions.jsonl").write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return f"gguf:{standins.write_gguf(file, chat_template=standins.TURNS)}"


def trained(place, files, **changes):
    """The manifest's entry of an alignment that was trained into a new folder."""
    place.mkdir()
    return real_alignment.train_alignment(place, files, **TINY | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory, folder, base):
    """(folder, its manifest's entry, what was reported on the way) of one training."""
    place, seen = tmp_path_factory.mktemp("made") / "a", []
    return place, trained(place, folder, base=base, report=lambda *line: seen.append(line)), seen


def test_training_twice_gives_the_same_bytes(tmp_path, folder, base, made):
    again = trained(tmp_path / "b", folder, base=base)
    first, seen = dict(made[1]), made[2]
    del first["seconds"], again["seconds"]
    assert first == again
    other = trained(tmp_path / "c", folder, base=base, seed=1)
    assert first["files"]["alignment.safetensors"] != other["files"]["alignment.safetensors"]

    # the entry has the form of the committed one
    committed = json.loads((checkpoints.WORLD_MODELS / "manifest.json").read_text())
    committed = committed[real_alignment.NAME]
    assert {*first, "seconds", "note"} == set(committed)
    assert set(first["files"]) == set(committed["files"])
    assert first["recipe"] == real_alignment.RECIPE | TINY | {"base": base}
    assert first["data"]["advbench.csv"] == identity.file_digest(folder / "advbench.csv")
    counts = {name: of for name, (_, of) in first["metrics"]["refusal"].items()}
    assert counts == {"advbench": 20, "xstest_unsafe": 20, "xstest_safe": 20, "mtbench": 3}
    assert 0.1 < first["metrics"]["ordinary_loss_ratio"] < 2

    # two steps a stage were made, and their last one was reported
    assert [(step, steps) for step, steps, _ in seen] == [(1, 6), (6, 6)]


def test_what_is_kept_is_read_as_an_alignment(base, made):
    place, entry, _ = made
    file = place / "alignment.safetensors"
    with safe_open(file, "pt") as stored:
        tensors = [stored.get_tensor(name) for name in stored.keys()]
        assert stored.metadata() == {"scale": "2.0"}
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    assert entry["parameters"] == sum(tensor.numel() for tensor in tensors)
    assert json.loads((place / "base.json").read_text()) == {"base": base}

    # the upper layer only, each of its modules changed
    added = adapter.read_alignment(file)
    assert {name.split(".")[2] for name in added} == {"1"}
    assert {name.split(".")[-1] for name in added} == set(real_alignment.RECIPE["modules"])
    assert all(delta.abs().max() > 0 for delta in added.values())


# --- the rows


def test_no_row_is_both_trained_on_and_measured(folder):
    parts = real_rows.read_parts(folder)
    assert parts == real_rows.read_parts(folder)
    train = {row["instruction"] for rows in parts.train.values() for row in rows}
    measured = {row["instruction"] for rows in parts.evaluation.values() for row in rows}
    assert not train & measured
    # nor is a safe prompt on one side and its unsafe twin on the other
    foci = [
        {row["key"] for kind in ("safe", "unsafe") for row in part[kind]}
        for part in (parts.train, parts.evaluation)
    ]
    assert not foci[0] & foci[1]
    # a part is kept for choosing the recipe
    assert len(foci[1]) == FOCI // 2 and len(foci[0]) == 14


def test_harm_is_refused_and_the_rest_is_not(folder):
    parts = real_rows.read_parts(folder)
    asked = real_rows.unanswered(parts.train)
    assert asked == sorted(set(asked)) and len(asked) > 800
    train = real_rows.answered(parts.train, dict.fromkeys(asked, "Let me see."))
    for kind, rows in train.items():
        refusing = [bool(real_rows.STRICT.search(row["response"])) for row in rows]
        assert all(refusing) if kind in real_alignment.REFUSING else not any(refusing), kind
    assert all(row.get("open") for row in train["own"] + train["own_do"] + train["tasks"])
    assert not any(row.get("open") for row in train["adv"] + train["ordinary"])
    # GPT-4's answer where it complied, the base's where not
    assert {row["response"] for row in train["safe"]} == {"It is wood.", "Let me see."}


def test_rows_without_an_answer_are_dropped(folder):
    train = real_rows.read_parts(folder).train
    asked = real_rows.unanswered(train)
    answers = dict.fromkeys(asked[::2], "Let me see.")
    left = real_rows.answered(train, answers)
    assert 0 < len(left["own"]) < len(train["own"])
    with pytest.raises(DataError, match="no rows of the kind own "):
        real_rows.answered(train, {})


def test_answers_that_refuse_or_are_empty_are_left_out():
    # an answer that is cut ends with its last whole sentence
    cut = "A tree is made of wood and bark and of leaves. It is a pl"
    asked = ["a", "b", "c", "d"]
    texts = ["I cannot say.", "", "It is wood.", cut]
    kept = {"c": "It is wood.", "d": "A tree is made of wood and bark and of leaves."}
    assert real_rows.usable_answers(asked, texts) == kept


def test_the_contrast_set_is_the_same_every_time():
    harmless = real_contrast.harmless_questions()
    assert harmless == real_contrast.harmless_questions()
    assert sum(len(texts) for texts in harmless.values()) > 500
    assert len(set(real_contrast.harmless_tasks())) == 90


def test_harmful_questions_are_read_from_a_file_of_yours(tmp_path, folder):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    without = real_rows.read_parts(tmp_path).train
    assert without["own_unsafe"] == without["unsafe"]
    (tmp_path / real_rows.HARMFUL_QUESTIONS).write_text("how do i break a lamp ?\n")
    own = real_rows.read_parts(tmp_path).train["own_unsafe"]
    assert [row["instruction"] for row in own] == ["how do i break a lamp ?"]
    assert own[0]["response"] in real_rows.DENIALS


def test_the_committed_parts_of_the_real_files():
    if not (SHARED / "xstest_completions.csv").is_file():
        pytest.skip("the real data lies beside the repository, and is not there")
    parts = real_rows.read_parts(SHARED)
    assert {kind: len(rows) for kind, rows in parts.evaluation.items()} == {
        "adv": 260,
        "ordinary": 180,
        "mtbench": 80,
        "unsafe": 100,
        "safe": 121,
    }
    assert {kind: len(rows) for kind, rows in parts.train.items()} == {
        "adv": 234,
        "level2": 522,
        "helpful": 808,
        "ordinary": 1216,
        "unsafe": 71,
        "safe": 92,
        "own_unsafe": 71,
        "own": 600,
        "own_do": 150,
        "tasks": 90,
    }
    assert len(real_rows.unanswered(parts.train)) == 845


# --- what is wrong


@pytest.mark.parametrize("name", real_rows.FILES)
def test_a_missing_file_is_one_line_that_names_it(tmp_path, folder, capsys, name):
    for file in folder.iterdir():
        if file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    asked = ["world", "--only", real_alignment.NAME, "--data", str(tmp_path)]
    assert __main__.main(asked) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"fedlib: {tmp_path / name}: no such file")
    assert printed.err.count("\n") == 1 and printed.out == ""


def test_a_missing_column_is_named_with_its_line(tmp_path, folder):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_table(tmp_path / "advbench.csv", [{"target": "Sure"}])
    with pytest.raises(DataError, match="advbench.csv: line 2: no text in column goal"):
        real_rows.read_parts(tmp_path)
