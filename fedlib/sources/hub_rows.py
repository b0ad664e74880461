"""Rows taken from datasets of the Hugging Face hub, through their filters, and kept. No torch."""

import functools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from fedlib.models import hub
from fedlib.settings import errors, groups, identity, machine, own_methods
from fedlib.settings.errors import DataError
from fedlib.settings.schema import Settings
from fedlib.sources import files, shapes
from fedlib.sources.hub_datasets import Dataset, find_dataset

VERSION = 1  # raise it when a filter changes: rows are then taken anew
SHAPES_VERSION = 2  # the same for datasets without a filter, whose shape is detected
BUFFER = 10_000  # rows that are shuffled at a time while a dataset is streamed


# --- names in settings ------------------------------------------------------------------------


def datasets_named(settings: Settings) -> dict[str, str]:
    """The datasets of the hub that a run's settings name, each with the field that names it."""
    data, defense = settings.data, settings.defense
    named = [("benign", name) for name in data.benign]
    named += [("harmful", data.harmful), ("questions", data.questions)]
    # the others only where the run uses them
    if data.aligned_share:
        named.append(("aligned", data.aligned))
    takes_unaligned = data.attack == "unaligned" or own_methods.is_own(data.attack)
    if settings.federation.malicious > 0 and takes_unaligned:
        named.append(("unaligned", data.unaligned))
    if defense.level == 1 or defense.before or own_methods.is_own(defense.level):
        named.append(("defense.aligned", defense.aligned))
        named.append(("defense.normal", defense.normal))
    return {name: field for field, name in named if name and is_dataset(settings, name)}


def is_dataset(settings: Settings, name: str) -> bool:
    """Whether a name in settings means a dataset of the hub: OWNER/NAME with data.source: hub, and
    no ending of a file."""
    return settings.data.source == "hub" and "/" in name and not name.endswith(groups.ENDINGS)


def copy_of(settings: Settings, name: str) -> Path | None:
    """The folder of a copy of the dataset in data.folder (as OWNER/NAME or NAME), or None."""
    if not settings.data.folder:
        return None
    path = find_dataset(name).path
    for inside in (path, path.partition("/")[2]):
        folder = machine.path(settings.data.folder) / inside
        if folder.is_dir():
            return folder
    return None


# --- rows taken from a dataset ----------------------------------------------------------------


def rows_file(settings: Settings, name: str) -> Path:
    """The file of rows of a dataset, made if need be.

    They are {instruction, response[, topic][, answers][, before]}, taken from a copy in data.folder
    where there is one, in any format of the hub; else they are streamed at the dataset's commit.
    They are shuffled; kept are the first data.pool rows that pass the filters, one for each prompt.
    report.json beside the file counts what was left out and why, and holds the digests of both:
    where they do not fit, the rows are taken again. DataError says what to do where the dataset is
    gated, missing or out of reach."""
    dataset, copy = find_dataset(name), copy_of(settings, name)
    asked = {
        "dataset": name,
        "version": VERSION if dataset.take else SHAPES_VERSION,
        "pool": settings.data.pool,
        "fields": settings.data.fields.get(name, {}),
    }
    if settings.data.group and name in settings.data.benign:
        asked["group"] = settings.data.group

    # what tells the dataset's content: the state of the copy, or the commit
    commit = None
    try:
        if not copy:
            commit = hub.commit(f"{dataset.path}@{dataset.commit or 'main'}", "dataset")
        state = _state(copy) if copy else commit
    except DataError:
        # the hub cannot say which commit is the newest: what was the newest will do
        before = taken_before(name, asked)
        if not before:
            raise
        return before[-1]

    folder = _runs() / f"{_folder_start(dataset)}{identity.digest([asked, state])}"
    rows = folder / "rows.jsonl"
    if not _whole(rows):
        with FileLock(machine.made_folder(folder) / ".lock"):
            if not _whole(rows):
                _take_rows(replace(dataset, commit=commit), copy, asked, folder)
    _check_bad_rows(settings, rows)
    return rows


def note(rows: Path) -> str | None:
    """One line on what was left out of a dataset since it could not be used, or None."""
    return _report(rows).get("note")


def _report(rows: Path) -> dict:
    return json.loads((rows.parent / "report.json").read_text(encoding="utf-8"))


def _whole(rows: Path) -> bool:
    """Whether taken rows and their report are there, as they were written."""
    report = rows.parent / "report.json"
    try:
        states = [file.stat() for file in (rows, report)]
    except OSError:
        return False
    return _fits(rows, *((state.st_size, state.st_mtime_ns) for state in states))


@functools.lru_cache(maxsize=64)
def _fits(rows: Path, *_states: tuple[int, int]) -> bool:
    try:
        report = _report(rows)
        wanted = report.pop("digests")
        if wanted == [identity.file_digest(rows), identity.digest(report)]:
            return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    errors.say(f"{rows.parent}: damaged: its rows are taken again")
    return False


def _check_bad_rows(settings: Settings, rows: Path) -> None:
    """DataError where a dataset has bad rows and data.bad_rows is stop, or where it has too
    many."""
    report, data = _report(rows), settings.data
    bad = report.get("bad", 0)
    if bad and data.bad_rows == "stop":
        raise DataError(f"data: {report['note']} (data.bad_rows: skip leaves them out)")
    if files.too_many(bad, report["seen"], data.bad_share):
        raise DataError(f"data: {report['note']}; {files.TOO_MANY}")


def taken_before(name: str, asked: dict) -> list[Path]:
    """The files of rows that were taken from a dataset as asked, at whatever commit; oldest first.

    asked: what must be the same in the file's report: dataset, pool and others."""
    every = _runs().glob(f"{_folder_start(find_dataset(name))}*/rows.jsonl")
    found = []
    for file in sorted(every, key=lambda file: file.stat().st_mtime_ns):
        if _whole(file) and asked.items() <= _report(file).items():
            found.append(file)
    return found


def _runs() -> Path:
    return machine.outputs() / "runs"


def _folder_start(dataset: Dataset) -> str:
    return f"rows-{dataset.path.replace('/', '--')}-"


def _state(copy: Path) -> list[list]:
    """What tells a copy's content without reading gigabytes: its files' names, sizes and times."""
    inside = [file for file in sorted(copy.rglob("*")) if file.is_file()]
    return [
        [str(file.relative_to(copy)), file.stat().st_size, file.stat().st_mtime_ns]
        for file in inside
    ]


def _take_rows(dataset: Dataset, copy: Path | None, asked: dict, folder: Path) -> None:
    """Write report.json, then rows.jsonl: last, so that nothing half taken is ever read."""
    name = asked["dataset"]
    with hub.explained(name, "dataset"):
        stream = _stream(dataset, copy, folder / "cache")
        rows, seen, left_out, skipped = _passed(stream, dataset, asked)
    skipped.check(seen)
    bad, said = skipped.count, files.note_of(name, [skipped.said(seen)])
    if not rows:
        reasons = dict(left_out) or "it is empty"
        raise DataError(f"data: {name}: no row passed the filters ({reasons})")

    partial = folder / "partial.jsonl"
    _write_lines(partial, rows)
    if dataset.take is None:
        # the shape is detected as a local file's is; of rows with one prompt the first is kept
        group = asked.get("group")
        read = files.reading(
            partial, asked["fields"], name=name, place=name, share=1.0, group=group
        )
        bad, said = read.bad, read.note
        by_prompt = {_whole_prompt(row): row for row in reversed(read.rows)}
        rows = list(reversed(by_prompt.values()))
        left_out["prompt seen before"] = len(read.rows) - len(rows)
        _write_lines(partial, rows)

    report = asked | {
        "from": str(copy or f"the hub, {dataset.commit}"),
        "seen": seen,
        "kept": len(rows),
        "left out": left_out,
        "bad": bad,
        "note": said,
    }
    report["digests"] = [identity.file_digest(partial), identity.digest(report)]
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    os.replace(partial, folder / "rows.jsonl")


def _whole_prompt(row: dict) -> str:
    """What a row asks, with all that is said before."""
    return json.dumps([row["instruction"], row.get("before")])


def _passed(
    stream: Iterable[dict], dataset: Dataset, asked: dict
) -> tuple[list[dict], int, Counter[str], files.Skipped]:
    """(the first rows that pass the filters, at most asked["pool"]; how many were seen; why others
    were left out; those that could not be used)."""
    skipped = files.Skipped(dataset.path, "row", share=1.0)
    rows: list[dict] = []
    prompts: set[str] = set()
    left_out: Counter[str] = Counter()
    seen = 0
    for raw in stream:
        seen += 1
        try:
            row = _checked(dataset.take(raw), prompts) if dataset.take else raw
            if dataset.take and isinstance(row, dict) and "group" in asked:
                row["group"] = shapes.group_of(raw, asked["group"])
        except (KeyError, TypeError, IndexError, AttributeError):
            skipped.add(seen, "of another shape than the dataset's filter reads")
            continue
        except shapes.BadRow as error:
            skipped.add(seen, str(error))
            continue
        if isinstance(row, str):
            left_out[row] += 1
            continue
        if dataset.take:
            prompts.add(row["instruction"])
        rows.append(row)
        if len(rows) == asked["pool"]:
            break
    return rows, seen, left_out, skipped


def _checked(row: dict | str, prompts: set[str]) -> dict | str:
    """What a dataset's own filter gave, or why its row is left out all the same."""
    if isinstance(row, str):
        return row
    if not all(isinstance(text, str) and text.strip() for text in row.values()):
        return "empty"
    if row["instruction"] in prompts:
        return "prompt seen before"
    return row


def _write_lines(file: Path, rows: Iterable[dict]) -> None:
    lines = [json.dumps(row, default=str) + "\n" for row in rows]
    file.write_text("".join(lines), encoding="utf-8")


# --- the package datasets ---------------------------------------------------------------------


def _stream(dataset: Dataset, copy: Path | None, cache: Path) -> Iterator[dict]:
    """The dataset's rows as the hub has them, shuffled.

    cache: an empty folder. What the package datasets finds in a person's own cache it takes for
    any commit where the hub is out of reach."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        import datasets
    except ImportError:
        raise errors.SettingsError(
            "data.source: hub: needs the package datasets: pip install -e .[hub]"
        ) from None

    if copy and _is_saved(copy):
        whole: Any = datasets.load_from_disk(str(copy))
        if isinstance(whole, datasets.DatasetDict):
            whole = whole[_split(whole, dataset)]
        _check_saved(whole, dataset)
        rows = whole.to_iterable_dataset()
    elif dataset.file:
        given: dict[str, Any] = {"path": dataset.path, "data_files": dataset.file}
        given["revision"] = dataset.commit
        if copy:
            given = {"path": "json", "data_files": str(copy / dataset.file)}
        rows = datasets.load_dataset(**given, split="train", streaming=True, cache_dir=str(cache))
    else:
        given = {"path": dataset.path, "revision": dataset.commit}
        if copy:
            given = {"path": str(copy)}
        if dataset.config:
            given["name"] = dataset.config
        try:
            whole = datasets.load_dataset(**given, streaming=True, cache_dir=str(cache))
        except ValueError as error:
            raise _config_error(dataset, given, error) from None
        rows = whole[_split(whole, dataset)]
    return rows.shuffle(seed=0, buffer_size=BUFFER)


def _is_saved(copy: Path) -> bool:
    """Whether a copy was written by save_to_disk."""
    return any((copy / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _check_saved(whole: Any, dataset: Dataset) -> None:
    """DataError where a saved copy is of another configuration or split than settings name."""
    for what, wanted, saved in (
        ("configuration", dataset.config, whole.info.config_name),
        ("split", dataset.split if dataset.split_is_named else None, whole.split),
    ):
        if wanted and saved and str(saved) != wanted:
            raise DataError(
                f"data: {dataset.path}: the copy in data.folder was saved from the {what} "
                f"{str(saved)!r}, not {wanted!r}"
            )


def _config_error(dataset: Dataset, given: dict, error: ValueError) -> ValueError:
    """The error for a configuration that is wrong or missing; any other stays as it is."""
    import datasets

    if "config" not in str(error).lower():
        return error
    place = {name: value for name, value in given.items() if name != "name"}
    known = datasets.get_dataset_config_names(**place)
    if dataset.config:
        wrong = f"no configuration {dataset.config!r}{errors.nearest(dataset.config, known)}"
        return DataError(f"data: {dataset.path}: {wrong}; a split alone is named as NAME::SPLIT")
    return DataError(
        f"data: {dataset.path}: it has several configurations: name one, as "
        f"{dataset.path}:{known[0]} (known: {', '.join(known)})"
    )


def _split(whole: Any, dataset: Dataset) -> str:
    """The split asked for, or the only one where settings name none."""
    if dataset.split in whole:
        return dataset.split
    if len(whole) > 1 or dataset.split_is_named:
        known = errors.nearest(dataset.split, list(whole))
        raise DataError(f"data: {dataset.path}: no split {dataset.split!r}{known}")
    return next(iter(whole))
