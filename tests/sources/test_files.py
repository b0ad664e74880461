"""Files of rows: every shape and format is read; what is not used is counted, with its line."""

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet
from rowfiles import error, write

from fedlib.settings import machine
from fedlib.sources import files, shapes

SHARED = machine.ROOT.parent / "shared" / "data"
QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CHAT = [QUESTION, ANSWER, {"role": "user", "content": "one question more"}]
SYSTEM = [{"role": "system", "content": "be kind"}, *CHAT]
# Content in parts, and a second system turn before the answer.
PARTS = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": [{"type": "text", "text": "q"}]},
    {"role": "developer", "content": "and brief"},
    ANSWER,
]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
ROW = {"instruction": "q", "response": "a"}


def said_before(*texts):
    """The turns before a question: the system's, the user's, the assistant's."""
    turns = zip(("system", "user", "assistant"), texts, strict=False)
    return {"before": [{"role": role, "content": text} for role, text in turns if text]}


KIND = said_before("be kind")

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
    ({"messages": SHAREGPT, "system": "be kind"}, ROW | KIND),
    ({"conversations": PARTS}, ROW | said_before("be kind\n\nand brief")),
    ({"instruction": "q", "context": "x", "response": "a"}, ROW | {"instruction": "q\n\nx"}),
    ({"question": "q", "context": "x", "answer": "a"}, ROW | {"instruction": "q\n\nx"}),
    ({"question": "q", "answers": {"text": ["a"], "at": [0]}}, ROW | {"answers": ["a"]}),
    ({"instruction": "q", "output": "a", "system": "s"}, ROW | said_before("s")),
    (
        {"instruction": "q", "input": "x", "output": "a", "history": [["q0", " a0"]]},
        ROW | {"instruction": "q\n\nx"} | said_before(None, "q0", "a0"),
    ),
    ({"instruction": "q", "output": "a", "system": "", "history": []}, ROW),
    ({"question": "q", "system_prompt": "s", "answer": "a"}, ROW | said_before("s")),
    (
        {"prompt": "q", "response": "a", "history": '[["q0", "a0"]]', "context": ["x", "y"]},
        ROW | {"instruction": "q\n\nx\n\ny"} | said_before(None, "q0", "a0"),
    ),
    (
        {"prompt": "q", "response": "a", "history": [{"from": "human", "value": "q0"}]},
        ROW | said_before(None, "q0"),
    ),
    ({"conversation": CHAT, "category": "c"}, ROW | {"topic": "c"}),
    ({"conversations": SHAREGPT}, ROW),
    ({"prompt": "q", "response": "a", "topic": "t"}, ROW | {"topic": "t"}),
    ({"prompt": "q", "response": "a", "category": "t"}, ROW | {"topic": "t"}),
    (
        {"prompt": "für „q“", "response": "a,\nb"},
        {"instruction": "für „q“", "response": "a,\nb"},
    ),
]


# A cell of CSV holds no list.
IN_FILES = [
    (suffix, raw, row)
    for suffix in (".json", ".jsonl", ".csv")
    for raw, row in SHAPES
    if suffix != ".csv" or not any(isinstance(cell, list | dict) for cell in raw.values())
]


@pytest.mark.parametrize(
    "suffix, raw, row", IN_FILES, ids=[f"{s}{list(r)}" for s, r, _ in IN_FILES]
)
def test_every_shape_is_read(tmp_path, suffix, raw, row):
    assert files.read(write(tmp_path / f"rows{suffix}", [raw, raw])) == [row, row]


def test_the_table_has_every_shape_that_is_registered():
    columns = [set(raw) for raw, _ in SHAPES]
    for shape in shapes.SHAPES:
        assert any(set(shape) <= there for there in columns)
    for name in (*shapes.CONVERSATIONS, *shapes.INPUTS, *shapes.BEFORE):
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
    assert "did you mean 'was'" in found or "known:" in found or "instruction is missing" in found


GOOD, LIST = '{"goal": "q", "target": "a"}', '[\n {\n  "goal": "q",\n  "target": "a"\n },\n'
BAD_ROWS = [  # suffix, text, the bad row's line, what is said about it
    (".jsonl", f'{GOOD}\n\n{GOOD}\n{{"goal": \n{GOOD}', 4, "not valid JSON"),
    (".jsonl", f'{GOOD}\n{{"goal": "q", "target": 3}}\n', 2, "target must be text, got a number"),
    (".jsonl", f'{GOOD}\n{{"goal": "q"}}\n', 2, "target is empty"),
    (".jsonl", f'{GOOD}\n{{"goal": "q", "target": null}}\n', 2, "target is empty"),
    (".jsonl", f'{GOOD}\n{{"goal": " ", "target": "a"}}\n', 2, "goal is empty"),
    (".jsonl", f"{GOOD}\n[1]\n", 2, "must be an object"),
    (".jsonl", f"\n\n3\n{GOOD}\n", 3, "must be an object"),
    (".jsonl", f'{GOOD}\n{{"goal": "half \\ud83d", "target": "a"}}', 2, "half of a character"),
    (".jsonl", f'{GOOD}\n{{"goal": "caf\udce9", "target": "a"}}', 2, "not UTF-8"),
    (".json", LIST + ' {\n  "goal": 3,\n  "target": "a"\n }\n]', 6, "goal must be text"),
    (".json", LIST + " 7\n]", 6, "must be an object"),
    (".json", LIST + ' {"goal": "q", "goal": "r"}\n]', 6, "a name stands in it twice"),
    (".jsonl", f"{GOOD}\n{{'goal': {'9' * 5000}}}".replace("'", '"'), 2, "a number is too long"),
    # an unquoted comma: the rest must not be lost in silence
    (".csv", "goal,target\nq,a\nq,a, b\n", 3, "more cells than columns"),
    (".csv", 'goal,target\n"q\n",a\nq\n', 4, "target is empty"),
]
# A whole conversation, and turns that no row can be made of.
CONVERSATION = {"messages": [QUESTION, ANSWER]}
BAD_TURNS = [
    ([], "must open with a user's and an assistant's turn, found []"),
    ([ANSWER, QUESTION], "found ['assistant', 'user']"),
    ([QUESTION, {"role": "tool", "content": "3"}, ANSWER], "found ['user', 'tool']"),
    ([QUESTION | {"content": None}, ANSWER], "messages is empty"),
    ([QUESTION | {"content": 3}, ANSWER], "messages must be text, got a number"),
    (["q", "a"], "must be a list of turns"),
    (None, "must be a list of turns"),
]
BAD_ROWS.append(
    (
        ".jsonl",
        "\n".join(json.dumps({"goal": "q", "target": "a", "history": h}) for h in ([], "no list")),
        2,
        "history must be a list of pairs",
    )
)
BAD_ROWS += [
    (".jsonl", "\n".join(map(json.dumps, [CONVERSATION, {"messages": turns}])), 2, said)
    for turns, said in BAD_TURNS
]


@pytest.mark.parametrize(
    "suffix, text, line, said", BAD_ROWS, ids=[f"{b[0]}-{b[1][-50:]!r}" for b in BAD_ROWS]
)
def test_a_bad_row_is_left_out_and_counted_with_its_line(tmp_path, suffix, text, line, said):
    file = tmp_path / f"rows{suffix}"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = files.reading(file)
    assert all(row == ROW for row in found.rows)
    # the row of invalid JSON is followed by a good one
    total = len(found.rows) + 1
    assert found.bad == 1 and found.note.startswith(f"{file}: 1 of {total} rows are left out: 1: ")
    assert said in found.note and f"(line {line})" in found.note and "half \\" not in found.note

    stopped = error(files.reading, file, stop=True)
    assert stopped.startswith(f"{file}: line {line}: ") and said in stopped


def test_what_is_left_out_is_said_once_and_no_text_of_a_row(tmp_path, capsys):
    rows = [{"goal": "q", "target": "a"}] * 9 + [{"goal": "secret", "target": ""}] * 4
    rows += [{"goal": "secret", "target": {"secret": 1}}]
    file = write(tmp_path / "rows.jsonl", rows)
    for _ in range(2):
        assert len(files.read(file)) == 9
    assert capsys.readouterr().err == (
        f"{file}: 5 of 14 rows are left out: 4: target is empty (line 10, 11, 12, ...), "
        "1: target must be text, got an object (line 14)\n"
    )


def test_too_many_bad_rows_are_an_error(tmp_path):
    """More than 10 and more than the share, a tenth."""
    good, bad = {"goal": "q", "target": "a"}, {"goal": "q", "target": ""}
    file = write(tmp_path / "rows.jsonl", [good] * 2 + [bad] * 10)
    assert files.reading(file).bad == 10
    write(file, [good] * 99 + [bad] * 11)
    assert files.reading(file).bad == 11
    write(file, [good] * 98 + [bad] * 11)
    said = error(files.reading, file)
    assert f"{file}: 11 of 109 rows cannot be used, the first at line 99: target is empty" in said
    assert "data.bad_share" in said
    assert files.reading(file, share=0.5).bad == 11


BAD_FILES = [
    (".json", LIST + ' {\n  "goal": "q"\n  "target": "a"\n }\n]', "line 8: not valid JSON"),
    (".json", f"[{GOOD},\n{GOOD}\n", "line 3: not valid JSON"),
    (".json", f"[{GOOD}\n{GOOD}]", "line 2: not valid JSON"),
    (".json", f"[{GOOD}]\nand more", "line 2: not valid JSON"),
    (".json", f'{{"name": 1,\n "data": [{GOOD}]}}', "line 1: must be a list of rows; 'data' in"),
    (".json", "[\n\n 7\n]", "line 3: a row must be an object"),
    (".json", "", "must be a list of rows"),
    (".json", GOOD, "line 1: must be a list of rows"),
    (".json", "[" * 99999, "line 1: a number is too long, or lists nest too deep"),
    (".json", "[]", "holds no rows"),
    (".jsonl", "\n\n", "holds no rows"),
    (".jsonl", '{"instruction": "q", "input": 5, "output": "a"}', "line 1: input must be text"),
    (".jsonl", '{"goal": "q", "target": ""}', "target is empty; not one of 1 rows can be used"),
    (".jsonl", '{"goal": "caf\udce9", "target": "a"}', "line 1: not UTF-8: save the file as UTF-8"),
    (".csv", "goal,target\n", "holds no rows"),
    (".csv", "goal,target\nq,a, b\n", "line 2: more cells than columns"),
    (".csv", 'goal,target\nq,a\n"q,a\nq,a\n', "line 3: a quote opens in this row and never"),
    (".csv", "goal,target,goal\nq,a,b\n", "two columns are called 'goal'"),
    (".txt", "q", "must be one of .csv, .json, .jsonl"),
    (".csv", "g\0o\0a\0l\0,\0\n\0", "is it UTF-16? save it as UTF-8"),
    (".jsonl.gz", GOOD, "not a whole gzip file"),
    (".parquet", "PAR1 and no more", "not a whole Parquet file"),
]


@pytest.mark.parametrize("suffix, text, said", BAD_FILES, ids=[f"{b[0]}-{b[2]}" for b in BAD_FILES])
def test_a_bad_file_is_one_line(tmp_path, suffix, text, said):
    file = tmp_path / f"rows{suffix}"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = error(files.read, file)
    assert found.startswith(f"{file}: ") and said in found, found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_a_mark_says_how_text_is_encoded(tmp_path, suffix, encoding):
    file = write(tmp_path / f"rows{suffix}", [{"goal": "für „q“", "target": "😀"}])
    file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
    assert files.read(file) == [{"instruction": "für „q“", "response": "😀"}]


PAIR = [{"instruction": "q1", "response": "a1"}, {"instruction": "q2", "response": "a2"}]
AS_TEXT = {
    "lines.json": "\n".join(map(json.dumps, PAIR)),
    "list.jsonl": json.dumps(PAIR, indent=1),
    "short_list.jsonl": json.dumps(PAIR),
    "semicolons.csv": "instruction;response\nq1;a1\nq2;a2\n",
    "tabs.csv": "instruction\tresponse\nq1\ta1\nq2\ta2\n",
    "LARGE.JSON": json.dumps(PAIR),
    "columns.json": json.dumps({name: [row[name] for row in PAIR] for name in PAIR[0]}),
    "spaces.csv": "\ninstruction, response\nq1, a1\n\nq2, a2\n",
}


@pytest.mark.parametrize("name", AS_TEXT)
def test_a_files_text_counts_more_than_its_ending(tmp_path, name):
    (tmp_path / name).write_text(AS_TEXT[name])
    assert files.read(tmp_path / name) == PAIR


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_text_may_be_packed(tmp_path, suffix):
    plain = write(tmp_path / f"rows{suffix}", PAIR)
    packed = tmp_path / f"rows{suffix}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert files.read(packed) == PAIR
    packed.write_bytes(packed.read_bytes()[:-9])
    assert "not a whole gzip file" in error(files.read, packed)


def test_parquet_is_read_and_its_rows_are_numbered(tmp_path):
    rows = [{"messages": SYSTEM, "id": 1}, {"messages": [], "id": 2}]
    file = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    found = files.reading(file)
    assert found.rows == [ROW | KIND]
    assert "(row 2)" in found.note
    assert "1 row goes on after the first question and answer" in found.note
    assert "columns that are not used: id" in found.note


def test_an_unknown_shape_gives_the_line_to_write(tmp_path):
    file = write(tmp_path / "rows.jsonl", [{"id": 3, "eine frage": "q", "antwort": "a"}])
    said = error(files.read, file)
    assert f"{file}: line 1: no known shape in the columns id, eine frage, antwort" in said
    assert "{fields: {rows.jsonl: {instruction: 'eine frage', response: antwort}}}" in said


def test_a_misspelt_name_gives_the_nearest(tmp_path):
    assert "(it is a folder)" in error(files.read, tmp_path)
    write(tmp_path / "normal.json", [ROW])
    assert "no such file; did you mean 'normal.json'" in error(files.read, tmp_path / "nromal.json")
    assert "no such file" in error(files.read, tmp_path / "nowhere" / "normal.json")


def test_only_an_empty_instruction_or_response_makes_a_row_empty(tmp_path):
    file = write(tmp_path / "rows.json", [ROW | {"category": "c"}, ROW | {"category": ""}])
    assert files.reading(file).bad == 0


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
