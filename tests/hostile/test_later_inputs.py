"""Kinds of input, in the shape of public bug reports, that were tried later and failed."""

import gzip

import pytest
from conftest import smoke_settings

from fedlib.lab import runs, store
from fedlib.settings import own_methods
from fedlib.settings.errors import DataError, SettingsError
from fedlib.sources import files

ROW = b'{"instruction": "where?", "output": "there", "user": [1, 2]}\n'
FORMATS = {  # what a file's ending does not say: (name, content, what the line says)
    "gzip": ("rows.jsonl", gzip.compress(ROW), "is packed by gzip: add .gz to its name"),
    "Excel": ("rows.csv", b"PK\x03\x04" + b"\0" * 30, "is a ZIP file, as Excel's are"),
    "Parquet": ("rows.json", b"PAR1" + b"\0" * 30, "is a Parquet file: name it .parquet"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_of_another_format_than_its_ending_says(tmp_path, kind):
    name, content, line = FORMATS[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=line):
        files.read(tmp_path / name)


def test_a_list_is_nobody_to_share_rows_out_by(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(ROW + ROW.replace(b"[1, 2]", b"7"))
    found = files.reading(file, group="user")
    assert [row["group"] for row in found.rows] == ["7"]
    assert "1: user is a list, by which no rows can be shared out (line 1)" in found.note


ENDS = {  # a method that ends the process: what the line says
    "import sys\nsys.exit('usage: mine.py')\ndef f(updates): ...": "SystemExit: usage: mine.py",
    "def f(updates):\n    raise SystemExit(3)": r"SystemExit: 3 \(mine.py, line 2\)",
}


@pytest.mark.parametrize("source", ENDS, ids=lambda source: ENDS[source])
def test_a_method_that_ends_the_process_is_one_line(tmp_path, source):
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(SettingsError, match=ENDS[source]):
        own_methods.method("federation.aggregator", f"{file}:f")([])


def test_a_file_in_the_way_of_a_run_is_one_line():
    settings = smoke_settings(model={"device": "cpu"})
    place = runs.keys.run_folder(settings)
    place.parent.mkdir(parents=True)
    place.write_text("not a folder")
    with pytest.raises(SettingsError, match=f"outputs: {place}: File exists"):
        store.ensure(settings, place, lambda *_: None)
