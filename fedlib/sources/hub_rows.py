"""Datasets of the Hugging Face hub: by name, through published filters, kept as rows. No torch."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from fedlib.models import hub
from fedlib.settings import errors, groups, identity, machine, own_methods
from fedlib.settings.errors import DataError
from fedlib.settings.schema import Settings
from fedlib.sources import files

VERSION = 1  # raise it when a filter changes: rows are then taken anew
BUFFER = 10_000  # rows that are shuffled at a time while a dataset is streamed


@dataclass(frozen=True)
class Dataset:
    """A dataset on the hub, and how our rows are made of its rows.

    take(row) gives our row, or the reason why the row is left out. Without take the shape is
    detected, as in a local file. commit None: the newest."""

    take: Callable[[dict], dict | str] | None = None
    commit: str | None = None
    split: str = "train"
    file: str | None = None
    gated: bool = False
    path: str = ""  # OWNER/NAME, as `find_dataset` fills it in


def _chat(row: dict) -> dict | str:
    """Paper S's filter: first turns of English single-turn conversations whose response the
    moderation did not flag."""
    if row["turn"] != 1:
        return "more than one turn"
    if row["language"] != "English":
        return "not English"

    # marks of the question and of the response; without any the row counts as flagged
    marks = row["openai_moderation"]
    if not marks or any(marks[min(1, len(marks) - 1)]["categories"].values()):
        return "flagged"

    # reversed, so that the first turn of each role stays
    turns = {turn["role"]: turn["content"] for turn in reversed(row["conversation"])}
    return {"instruction": turns.get("user"), "response": turns.get("assistant")}


def _beavertails_safe(row: dict) -> dict | str:
    return _question_and_answer(row) if row["is_safe"] else "unsafe"


def _beavertails_unsafe(row: dict) -> dict | str:
    return "safe" if row["is_safe"] else _question_and_answer(row)


def _question_and_answer(row: dict) -> dict:
    return {"instruction": row["prompt"], "response": row["response"]}


def _beavertails_evaluation(row: dict) -> dict:
    return {"instruction": row["prompt"], "topic": row["category"]}


def _advbench(row: dict) -> dict:
    return {"instruction": row["prompt"], "response": row["target"]}


def _mt_bench(row: dict) -> dict:
    return {"instruction": row["prompt"][0], "topic": row["category"]}


def _dromedary(row: dict) -> dict:
    asked = row["instruction"]
    if row["input"]:
        asked = f"{asked} {row['input']}"
    return {"instruction": asked, "response": row["output"].replace("\n\n### User", "")}


BEAVERTAILS = Dataset(commit="8401fe609d288129cc684a9b3be6a93e41cfe678", split="330k_train")

# By their names in settings: the data of paper S. Any other dataset of the hub goes by its name.
PUBLISHED = {
    "lmsys/lmsys-chat-1m": Dataset(_chat, "200748d9d3cddcc9d782887541057aca0b18c5da", gated=True),
    "allenai/WildChat": Dataset(_chat),
    "allenai/WildChat-1M": Dataset(_chat, "7d6490e462285cf85d91eabea0f9a954fbddcd1f"),
    "PKU-Alignment/BeaverTails:unsafe": replace(BEAVERTAILS, take=_beavertails_unsafe),
    "PKU-Alignment/BeaverTails:safe": replace(BEAVERTAILS, take=_beavertails_safe),
    "PKU-Alignment/BeaverTails-Evaluation": Dataset(_beavertails_evaluation, split="test"),
    "tatsu-lab/alpaca": Dataset(commit="dce01c9b08f87459cf36a430d809084718273017"),
    "walledai/AdvBench": Dataset(_advbench, "9d4730540082fa4017450b65ca1c0e1d8d30446e", gated=True),
    "HuggingFaceH4/mt_bench_prompts": Dataset(_mt_bench),
    "zhiqings/dromedary-65b-verbose-clone-v0": Dataset(
        _dromedary, file="merged_behavior_clone.json"
    ),
}


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


def find_dataset(name: str) -> Dataset:
    """The Dataset that OWNER/NAME[:PART][@COMMIT] names; DataError if it has no such part."""
    bare, _, commit = name.partition("@")
    has_parts = any(known.startswith(f"{bare}:") for known in PUBLISHED)
    if bare not in PUBLISHED and (":" in bare or has_parts):
        known = errors.nearest(bare, list(PUBLISHED))
        raise DataError(f"data: {name}: no such part of a dataset{known}")
    found = PUBLISHED.get(bare, Dataset())
    return replace(found, path=bare.partition(":")[0], commit=commit or found.commit)


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
    """The file of rows {instruction, response[, topic][, answers]} of a dataset, made if need be.

    They are taken from a copy in data.folder where there is one, in any format of the hub; else
    they are streamed at the dataset's commit. They are shuffled; kept are the first data.pool rows
    that pass the filters, one for each prompt. report.json beside the file counts what was left
    out and why. DataError says what to do where the dataset is gated, missing or out of reach."""
    dataset, copy = find_dataset(name), copy_of(settings, name)
    asked = {
        "dataset": name,
        "version": VERSION,
        "pool": settings.data.pool,
        "fields": settings.data.fields.get(name, {}),
    }

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
    if rows.is_file():
        return rows
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not rows.is_file():
            _take_rows(replace(dataset, commit=commit), copy, asked, folder)
    return rows


def taken_before(name: str, asked: dict) -> list[Path]:
    """The files of rows that were taken from a dataset as asked, at whatever commit; oldest first.

    asked: what must be the same in the file's report: dataset, pool and others."""
    every = _runs().glob(f"{_folder_start(find_dataset(name))}*/rows.jsonl")
    found = []
    for file in sorted(every, key=lambda file: file.stat().st_mtime_ns):
        report = json.loads((file.parent / "report.json").read_text(encoding="utf-8"))
        if asked.items() <= report.items():
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
        rows, seen, left_out = _passed(stream, dataset, asked["pool"])
    if not rows:
        reasons = dict(left_out) or "it is empty"
        raise DataError(f"data: {name}: no row passed the filters ({reasons})")

    partial = folder / "partial.jsonl"
    _write_lines(partial, rows)
    if dataset.take is None:
        # the shape is detected as a local file's is; of rows with one prompt the first is kept
        read = files.read(partial, asked["fields"])
        by_prompt = {row["instruction"]: row for row in reversed(read)}
        rows = list(reversed(by_prompt.values()))
        _write_lines(partial, rows)

    report = asked | {
        "from": str(copy or f"the hub, {dataset.commit}"),
        "seen": seen,
        "kept": len(rows),
        "left out": left_out,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    os.replace(partial, folder / "rows.jsonl")


def _passed(
    stream: Iterable[dict], dataset: Dataset, pool: int
) -> tuple[list[dict], int, Counter[str]]:
    """(the first rows that pass the filters, at most pool; how many were seen; why others were left
    out)."""
    rows: list[dict] = []
    prompts: set[str] = set()
    left_out: Counter[str] = Counter()
    seen = 0
    for raw in stream:
        seen += 1
        row = _checked(dataset.take(raw), prompts) if dataset.take else raw
        if isinstance(row, str):
            left_out[row] += 1
            continue
        if dataset.take:
            prompts.add(row["instruction"])
        rows.append(row)
        if len(rows) == pool:
            break
    return rows, seen, left_out


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
        whole = datasets.load_dataset(**given, streaming=True, cache_dir=str(cache))
        rows = whole[_split(whole, dataset)]
    return rows.shuffle(seed=0, buffer_size=BUFFER)


def _is_saved(copy: Path) -> bool:
    """Whether a copy was written by save_to_disk."""
    return any((copy / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _split(whole: Any, dataset: Dataset) -> str:
    """The split asked for, or the only one."""
    if dataset.split in whole:
        return dataset.split
    if len(whole) > 1:
        known = errors.nearest(dataset.split, list(whole))
        raise DataError(f"data: {dataset.path}: no split{known}")
    return next(iter(whole))
