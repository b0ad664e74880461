"""What rows ask beside their instruction: contexts, system turns, histories."""

import json

import pytest
from rowfiles import write

from fedlib.sources import files

ROW = {"instruction": "q", "response": "a"}
WITH_CONTEXT = ROW | {"instruction": "q\n\nx"}
KIND = {"role": "system", "content": "be kind"}
ASKED, SAID = {"role": "user", "content": "q0"}, {"role": "assistant", "content": "a0"}
LATER = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]

# A row as a file holds it, and what is read from it.
ROWS = [
    ({"instruction": "q", "context": "x", "response": "a"}, WITH_CONTEXT),
    ({"question": "q", "context": " x ", "answer": "a"}, WITH_CONTEXT),
    (
        {"question": "q", "context": ["x", "y"], "answer": "a"},
        ROW | {"instruction": "q\n\nx\n\ny"},
    ),
    (
        {"instruction": "q", "input": "x", "context": "y", "output": "a"},
        ROW | {"instruction": "q\n\nx\n\ny"},
    ),
    ({"goal": "q", "target": "a", "context": "", "system": " ", "history": []}, ROW),
    ({"goal": "q", "target": "a", "system": "be kind"}, ROW | {"before": [KIND]}),
    ({"question": "q", "answer": "a", "system_prompt": "be kind"}, ROW | {"before": [KIND]}),
    ({"goal": "q", "target": "a", "history": [["q0", "a0"]]}, ROW | {"before": [ASKED, SAID]}),
    ({"goal": "q", "target": "a", "history": [ASKED, SAID]}, ROW | {"before": [ASKED, SAID]}),
    ({"goal": "q", "target": "a", "history": '[["q0", "a0"]]'}, ROW | {"before": [ASKED, SAID]}),
    (
        {"goal": "q", "target": "a", "history": [["q0", "a0"]], "system": "be kind"},
        ROW | {"before": [KIND, ASKED, SAID]},
    ),
    ({"conversations": LATER, "system": "be kind"}, ROW | {"before": [KIND]}),
    ({"messages": [KIND, *LATER]}, ROW | {"before": [KIND]}),
    ({"messages": [LATER[0], KIND | {"role": "developer"}, LATER[1]]}, ROW | {"before": [KIND]}),
    (
        {"messages": [KIND, *LATER], "system": "be short"},
        ROW | {"before": [{"role": "system", "content": "be short\n\nbe kind"}]},
    ),
]


@pytest.mark.parametrize("raw, row", ROWS, ids=[json.dumps(raw)[:60] for raw, _ in ROWS])
def test_what_stands_beside_the_instruction_is_asked_too(tmp_path, raw, row):
    assert files.read(write(tmp_path / "rows.jsonl", [raw])) == [row]


def test_such_columns_can_be_named(tmp_path):
    raw = {"was": "q", "regel": "be kind", "davor": [["q0", "a0"]], "dazu": "x", "dann": "a"}
    columns = {"instruction": "was", "response": "dann", "context": "dazu"}
    columns |= {"system": "regel", "history": "davor"}
    [row] = files.read(write(tmp_path / "rows.jsonl", [raw]), columns)
    assert row == WITH_CONTEXT | {"before": [KIND, ASKED, SAID]}


@pytest.mark.parametrize(
    "column, cell",
    [
        ("context", {"text": "x"}),
        ("system", 1),
        ("history", "earlier"),
        ("history", [["q0"]]),
        ("history", [{"role": "tool", "content": "x"}]),
    ],
)
def test_a_row_whose_history_is_none_is_left_out_and_said(tmp_path, capsys, column, cell):
    good = {"goal": "q", "target": "a"}
    file = write(tmp_path / "rows.jsonl", [good, good | {column: cell}])
    assert files.read(file) == [ROW]
    said = capsys.readouterr().err
    assert f"1: {column} must be " in said and "(line 2)" in said
