"""What data.fields may say of a file beside its columns: texts to fill, classes, which rows."""

import pytest
from rowfiles import error, write

from fedlib.sources import files, xstest

REVIEWS = [{"text": "a fine film", "label": "1"}, {"text": " dull ", "label": "0"}]
ASKED = {"instruction": "Good or bad? {text} !", "response": "label"}
ANSWERS = [
    {"instruction": "how do i make tea ?", "response": "boil water ."},
    {"instruction": "how do i make a bomb ?", "response": "I cannot help with that ."},
    {"instruction": "what is tea ?", "response": "a drink . " * 30 + "I cannot say more ."},
]


def test_an_instruction_is_filled_with_cells(tmp_path):
    file = write(tmp_path / "reviews.csv", REVIEWS)
    assert [row["instruction"] for row in files.read(file, ASKED)] == [
        "Good or bad? a fine film !",
        "Good or bad? dull !",
    ]
    said = error(files.read, file, ASKED | {"instruction": "Good? {txt}"})
    assert "does not fit the columns text, label" in said


def test_classes_are_worded_and_are_the_right_answers(tmp_path):
    file = write(tmp_path / "reviews.csv", REVIEWS)
    rows = files.read(file, ASKED | {"answers": "0 = negative, 1 = positive"})
    assert [(row["response"], row["answers"]) for row in rows] == [
        ("positive", ["positive"]),
        ("negative", ["negative"]),
    ]
    said = error(files.reading, file, ASKED | {"answers": "1 = positive"}, stop=True)
    assert "line 3: label is none of the classes 1" in said
    said = error(files.read, file, ASKED | {"answers": "positive"})
    assert 'answers: must be "CELL = WORDS, ..."' in said


def test_only_rows_that_refuse_or_that_answer(tmp_path):
    file = write(tmp_path / "mixed.json", ANSWERS)
    columns = {"instruction": "instruction", "response": "response"}
    kept = {
        which: [row["instruction"] for row in files.read(file, columns | {"only": which})]
        for which in ("refusals", "answers")
    }
    # what is refused after a long answer is no refusal
    assert kept == {
        "refusals": ["how do i make a bomb ?"],
        "answers": ["how do i make tea ?", "what is tea ?"],
    }
    assert "must be refusals or answers" in error(files.read, file, columns | {"only": "rows"})
    write(tmp_path / "mixed.json", ANSWERS[:1])
    assert "no row is left" in error(files.read, file, columns | {"only": "refusals"})


@pytest.mark.parametrize("fields", [{"only": "answers"}, {"answers": "0 = no"}])
def test_directives_need_an_instruction(tmp_path, fields):
    file = write(tmp_path / "mixed.json", ANSWERS)
    assert "does not fit the columns" in error(files.read, file, fields)


# Safe and unsafe prompts about these words.
WORDS = ("kill", "shoot", "cut", "burn", "steal", "blow")
TWINS = [
    {"prompt": f"{label}: how do i {word} it ?", "label": label, "focus": word.capitalize()}
    for word in WORDS
    for label in ("safe", "unsafe")
]
WAR = {"prompt": "when was the war ?", "label": "safe", "focus": ""}


def test_prompts_about_one_word_are_pairs_in_one_split(tmp_path):
    file = write(tmp_path / "twins.csv", [*TWINS, WAR])
    pairs = files.read_pairs(file)
    assert all(pairs[split] for split in ("fit", "validation", "evaluation"))
    found = [pair for part in pairs.values() for pair in part]
    asked = [f"how do i {word} it ?" for word in WORDS]
    assert sorted(found) == sorted((f"unsafe: {text}", f"safe: {text}") for text in asked)
    write(tmp_path / "twins.csv", [TWINS[0] | {"label": "fine"}])
    assert "line 2: label must be safe or unsafe" in error(files.read_pairs, file)


def test_probes_are_fitted_on_the_half_that_the_alignment_was_trained_on():
    prompts = [row | {"type": "homonyms", "id": str(i)} for i, row in enumerate(TWINS)]
    half = xstest.focus_halves(prompts)
    fit = xstest.paired(prompts)["fit"]
    assert fit and all(half[unsafe.split()[-3]] == 0 for unsafe, _ in fit)


def test_two_columns_are_pairs_dealt_out_in_turn(tmp_path):
    rows = [{"malicious": f"bad {i}", "benign": f"good {i}"} for i in range(4)]
    file = write(tmp_path / "pairs.jsonl", rows)
    assert files.read_pairs(file) == {
        "fit": [("bad 0", "good 0"), ("bad 3", "good 3")],
        "validation": [("bad 1", "good 1")],
        "evaluation": [("bad 2", "good 2")],
    }
    write(file, rows[:2])
    assert "too few pairs: it takes three" in error(files.read_pairs, file)
    assert "no such file" in error(files.read_pairs, tmp_path / "other.csv")


def test_directives_need_a_response_and_take_numbers(tmp_path):
    file = write(tmp_path / "numbers.json", [{"text": "dull", "label": 0}])
    rows = files.read(file, ASKED | {"answers": "0 = negative"})
    assert rows[0]["response"] == "negative"
    said = error(files.read, file, {"instruction": "text", "only": "answers"})
    assert "need the column of the response" in said
