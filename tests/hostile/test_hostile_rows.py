"""Files of rows that are broken or made to harm: rows, or one line; nothing is lost in silence."""

import gzip
import io
import json

import pytest
from fuzzing import fuzzed, tried
from hypothesis import given
from hypothesis import strategies as st

from fedlib.settings.errors import DataError
from fedlib.sources import files, formats

NAMES = ("instruction", "output", "response", "prompt", "messages", "history", "answers", "role")
NAMES += ("system", "input", "context", "topic", "content", "turns", "question", "conversations")
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(NAMES), CELLS, max_size=5) | CELLS, max_size=4)
GOOD = [{"instruction": "where is it?", "output": "there"}] * 3


def as_parquet(rows):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    stream = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


WHOLE = {  # ending: a good file
    ".json": json.dumps(GOOD).encode(),
    ".jsonl": "".join(json.dumps(row) + "\n" for row in GOOD).encode(),
    ".csv": b"instruction,output\n" + b'"where, is it?",there\n' * 3,
    ".jsonl.gz": gzip.compress("".join(json.dumps(row) + "\n" for row in GOOD).encode(), mtime=0),
    ".parquet": as_parquet(GOOD),
}


def check(file):
    """A file is read, with every row counted as used or left out, or it is refused in one line."""
    found = tried(lambda: files.reading(file))
    if found is not None:
        assert len(found.rows) + found.bad == len(formats.numbered_rows(file))
        assert not found.bad or f"{found.bad} of" in found.note
        for row in found.rows:
            json.dumps(row, ensure_ascii=False).encode()
            assert row["instruction"].strip()


@fuzzed(60, "files of rows")
@given(rows=ROWS, ending=st.sampled_from([".json", ".jsonl"]))
def test_rows_of_any_shape(tmp_path, rows, ending):
    file = tmp_path / f"rows{ending}"
    lines = [json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) if ending == ".jsonl" else f"[{','.join(lines)}]")
    check(file)


@fuzzed(80, "files of rows")
@given(
    ending=st.sampled_from(sorted(WHOLE)),
    at=st.floats(0, 1),
    length=st.integers(0, 6),
    new=st.binary(max_size=6) | st.sampled_from([b'"', b"\\ud800", b"\xff", b"\0", b"[" * 3000]),
)
def test_good_files_with_bytes_replaced(tmp_path, ending, at, length, new):
    whole = WHOLE[ending]
    place = int(at * len(whole))
    file = tmp_path / f"rows{ending}"
    file.write_bytes(whole[:place] + new + whole[place + length :])
    check(file)


@fuzzed(40, "files of rows")
@given(content=st.binary(max_size=60), ending=st.sampled_from(sorted(WHOLE)))
def test_files_of_any_bytes(tmp_path, content, ending):
    file = tmp_path / f"rows{ending}"
    file.write_bytes(content)
    check(file)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "SMALL", 2**16)
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(b" " * 2**22))
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        files.read(file)


def test_a_small_file_of_endless_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "SMALL", 100)
    monkeypatch.setattr(formats, "TIMES_PACKED", 1)
    file = tmp_path / "rows.parquet"
    file.write_bytes(as_parquet([GOOD[0]] * 20_000))
    with pytest.raises(DataError, match="20,000 rows in so small a file"):
        files.read(file)
