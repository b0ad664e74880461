"""What the tests of sources share: files of rows, copies of the hub's datasets, one-line errors."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlib.settings.errors import DataError
from fedlib.sources import hub_rows


def write(file: Path, rows: list[dict]) -> Path:
    """A file of rows, CSV, JSONL or JSON by its ending."""
    texts = {".csv": _csv, ".jsonl": _jsonl, ".json": _json}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(texts[file.suffix](rows), encoding="utf-8")
    return file


def _csv(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _jsonl(rows: list[dict]) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


def _json(rows: list[dict]) -> str:
    return json.dumps(rows, indent=1, ensure_ascii=False)


def error(call: Callable, *given: Any, **named: Any) -> str:
    """The one line of the DataError that a call raises."""
    with pytest.raises(DataError) as caught:
        call(*given, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def save(rows: list[dict], name: str, folder: Path, form: str = "parquet") -> Path:
    """A dataset in a folder as the hub has it, or as the package datasets writes it."""
    dataset = hub_rows.find_dataset(name)
    place = folder / dataset.path
    place.mkdir(parents=True, exist_ok=True)
    if dataset.file:
        (place / dataset.file).write_text(json.dumps(rows))
        return folder

    import datasets  # slow, and only hub tests need it

    made = datasets.Dataset.from_list(rows)
    if form == "parquet":
        (place / "data").mkdir()
        split = dataset.split.replace("330k_", "")
        made.to_parquet(place / "data" / f"{split}-00000-of-00001.parquet")
    if form == "jsonl":
        made.to_json(place / "train.jsonl")
    if form == "arrow":
        elsewhere = folder / "elsewhere"
        made.save_to_disk(elsewhere)
        written = elsewhere / "data-00000-of-00001.arrow"
        written.rename(place / "train-00000-of-00001.arrow")
    if form == "saved":
        made.save_to_disk(place)
    if form == "saved splits":
        splits = {dataset.split: made, "other": made.select([0])}
        datasets.DatasetDict(splits).save_to_disk(place)
    return folder
