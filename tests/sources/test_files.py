"""Files of rows: every shape is read, and a bad row is named by file and line."""

import json
import warnings

import pytest
from rowfiles import error, write

from fedlib.settings import machine
from fedlib.sources import files

SHARED = machine.ROOT.parent / "shared" / "data"
QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CHAT = [QUESTION, ANSWER, {"role": "user", "content": "one question more"}]
SYSTEM = [{"role": "system", "content": "be kind"}, *CHAT]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
ROW = {"instruction": "q", "response": "a"}
KIND = {"before": [{"role": "system", "content": "be kind"}]}

# A row as a file holds it, and what is read from it. Rows without lists are also tried as CSV.
SHAPES = [
    ({"instruction": "q", "response": "a"}, ROW),
    ({"instruction": "q", "output": "a"}, ROW),
    ({"instruction": "q", "input": "x", "output": "a"}, ROW | {"instruction": "q\n\nx"}),
    ({"instruction": "q", "input": "", "output": "a"}, ROW),
    ({"instruction": "q", "input": "x", "response": "a"}, ROW | {"instruction": "q\n\nx"}),
    ({"prompt": "q", "response": "a", "other": "z"}, ROW),
    ({"question": "q", "answer": "a"}, ROW),
    ({"question": "q", "answers": ["a", "b"]}, ROW | {"answers": ["a", "b"]}),
    ({"goal": " q ", "target": "a\n"}, ROW),
    ({"messages": CHAT}, ROW),
    ({"messages": SYSTEM, "prompt": "q"}, ROW | KIND),
    ({"conversation": CHAT, "category": "c"}, ROW | {"topic": "c"}),
    ({"conversations": SHAREGPT}, ROW),
    ({"prompt": "q", "response": "a", "topic": "t"}, ROW | {"topic": "t"}),
    ({"prompt": "q", "response": "a", "category": "t"}, ROW | {"topic": "t"}),
    (
        {"prompt": "für „q“", "response": "a,\nb"},
        {"instruction": "für „q“", "response": "a,\nb"},
    ),
]


@pytest.mark.parametrize("raw, row", SHAPES, ids=[str(list(raw)) for raw, _ in SHAPES])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_every_shape_is_read(tmp_path, suffix, raw, row):
    # a CSV cell holds no list: the row is a question with one answer there
    if suffix == ".csv" and any(isinstance(cell, list) for cell in raw.values()):
        raw = {column: cell for column, cell in raw.items() if not isinstance(cell, list)}
        raw |= {"question": "q", "answer": "a"}
        row = {name: text for name, text in row.items() if name not in ("answers", "before")}
    assert files.read(write(tmp_path / f"rows{suffix}", [raw, raw])) == [row, row]


def test_the_table_has_every_shape_that_is_registered():
    columns = [set(raw) for raw, _ in SHAPES]
    for shape in files.SHAPES:
        wanted = set(shape) - {None}
        assert any(wanted <= there for there in columns)
    for name in files.CONVERSATIONS:
        assert any(name in there for there in columns)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, suffix):
    file = write(tmp_path / f"rows{suffix}", [{"goal": "q", "target": "a"}])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert files.read(file) == [ROW]


@pytest.mark.parametrize(
    "fields, row",
    [
        ({"instruction": "was", "response": "dann"}, ROW),
        (
            {"instruction": "was", "input": "dazu", "response": "dann"},
            ROW | {"instruction": "q\n\nx"},
        ),
        ({"instruction": "was", "response": "dann", "topic": "dazu"}, ROW | {"topic": "x"}),
        ({"instruction": "was"}, {"instruction": "q"}),
    ],
)
def test_columns_can_be_named(tmp_path, fields, row):
    file = write(tmp_path / "rows.csv", [{"was": "q", "dazu": "x", "dann": "a"}])
    assert files.read(file, fields) == [row]


@pytest.mark.parametrize(
    "fields", [{"instruction": "wa"}, {"response": "dann"}, {"question": "was"}]
)
def test_columns_named_wrongly_are_an_error(tmp_path, fields):
    file = write(tmp_path / "rows.csv", [{"was": "q", "dann": "a"}])
    found = error(files.read, file, fields)
    assert str(file) in found and "was, dann" in found and "data.fields" in found


GOOD, LIST = '{"goal": "q", "target": "a"}', '[\n {\n  "goal": "q",\n  "target": "a"\n },\n'
BAD = [  # suffix, text, the bad row's line, what is said about it
    (".jsonl", f'{GOOD}\n\n{GOOD}\n{{"goal": \n{GOOD}', 4, "not valid JSON"),
    (".jsonl", f'{GOOD}\n{{"goal": "q", "target": 3}}\n', 2, "target must be text, got 3"),
    (".jsonl", f'{GOOD}\n{{"goal": "q"}}\n', 2, "target must be text, got None"),
    (".jsonl", f"{GOOD}\n[1]\n", 2, "must be an object"),
    (".jsonl", f"\n\n3\n{GOOD}\n", 3, "must be an object"),
    (".jsonl", '{"instruction": "q", "input": 5, "output": "a"}', 1, "input must be text, got 5"),
    (
        ".jsonl",
        json.dumps({"messages": [QUESTION | {"content": None}, ANSWER]}),
        1,
        "must be text, got None",
    ),
    (".jsonl", json.dumps({"messages": [ANSWER]}), 1, "conversation must open with a user's"),
    (".jsonl", '{"messages": ["q", "a"]}', 1, "conversation must be a list of turns"),
    (".json", LIST + ' {\n  "goal": 3,\n  "target": "a"\n }\n]', 6, "goal must be text, got 3"),
    (".json", LIST + ' {\n  "goal": "q"\n  "target": "a"\n }\n]', 8, "not valid JSON"),
    (".json", LIST + " 7\n]", 6, "must be an object"),
    (".json", "[\n\n 7\n]", 3, "must be an object"),
    (".json", f"[{GOOD},\n{GOOD}\n", 3, "not valid JSON"),
    (".json", f"[{GOOD}\n{GOOD}]", 2, "not valid JSON"),
    (".json", f"[{GOOD}]\nand more", 2, "not valid JSON"),
    (".json", GOOD, 1, "must be a list of rows"),
    (".json", '[{"a": "q", "b": "a"}]', 1, "no known shape in the columns a, b"),
    (".csv", "a,b\nq,a\n", 2, "no known shape in the columns a, b"),
    (".csv", 'goal,target\n"q\nq",a\nq\n', 4, "target must be text, got None"),
    # an unquoted comma: the rest must not be lost in silence
    (".csv", "goal,target\nq,a\nq,a, b\n", 3, "more cells than columns"),
    (".csv", "goal,target\nq,a, b\n", 2, "more cells than columns"),
]


@pytest.mark.parametrize(
    "suffix, text, line, said", BAD, ids=[f"{b[0]}-{b[1][:50]!r}" for b in BAD]
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, suffix, text, line, said):
    file = tmp_path / f"rows{suffix}"
    file.write_text(text)
    found = error(files.read, file)
    assert found.startswith(f"{file}: line {line}: ") and said in found, found


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("rows.csv", b"goal,target\n", "holds no rows"),
        ("rows.json", b"[]", "holds no rows"),
        ("rows.jsonl", b"\n\n", "holds no rows"),
        ("rows.jsonl", b'{"goal": "q\xe9"}', "not UTF-8"),
        ("rows.jsonl", b'{"goal": "q", "target": ""}', "every row is empty"),
        ("rows.txt", b"q", "must be .json, .jsonl or .csv"),
        ("rows.json", b"", "must be a list of rows"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    found = error(files.read, tmp_path / name)
    assert found.startswith(str(tmp_path / name)) and said in found


def test_a_misspelt_name_gives_the_nearest(tmp_path):
    write(tmp_path / "normal.json", [ROW])
    assert "no such file; did you mean 'normal.json'" in error(files.read, tmp_path / "nromal.json")
    assert "no such file" in error(files.read, tmp_path / "nowhere" / "normal.json")


@pytest.mark.parametrize("suffix, first", [(".json", 6), (".jsonl", 2), (".csv", 3)])
def test_empty_rows_are_left_out_with_a_warning_that_counts_them(tmp_path, suffix, first):
    full = {"goal": "q", "target": "a"}
    empty = full | {"goal": ""}
    blank = full | {"target": " "}
    file = write(tmp_path / f"rows{suffix}", [full, empty, full, blank])
    with pytest.warns(UserWarning, match=f"rows{suffix}: 2 of 4 rows are empty .* line {first}"):
        assert files.read(file) == [ROW, ROW]


def test_only_an_empty_instruction_or_response_makes_a_row_empty(tmp_path):
    file = write(tmp_path / "rows.json", [ROW | {"category": "c"}, ROW | {"category": ""}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(files.read(file)) == 2


def test_a_long_text_in_csv_is_read(tmp_path):
    long = "x" * 200_000  # more than the csv module's own limit
    [row] = files.read(write(tmp_path / "rows.csv", [{"goal": "q", "target": long}]))
    assert row["response"] == long


@pytest.mark.parametrize(
    "name, rows",
    [
        ("advbench.csv", 520),
        ("freebaseqa_dev.json", None),
        ("level2_normal.json", None),
        ("level2_aligned.json", None),
    ],
)
def test_real_files_are_read(name, rows):
    if not (SHARED / name).is_file():
        pytest.skip("the real data lies beside the repository, and is not there")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some real rows are empty
        read = files.read(SHARED / name)
    assert len(read) == rows if rows else len(read) > 300
    assert all(r["instruction"] and r["response"] for r in read)


def test_optional_columns_may_be_missing_in_the_first_row(tmp_path):
    first = {"instruction": "a", "output": "b"}
    second = {"instruction": "sum", "input": "1 2", "output": "3"}
    file = write(tmp_path / "rows.jsonl", [first, second])
    assert [r["instruction"] for r in files.read(file)] == ["a", "sum\n\n1 2"]


def test_only_the_first_turn_of_a_users_turns_is_asked(tmp_path):
    raw = {"question_id": 81, "category": "writing", "turns": ["one", "two"]}
    file = write(tmp_path / "q.jsonl", [raw])
    assert files.read(file) == [{"instruction": "one", "topic": "writing"}]
