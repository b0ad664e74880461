"""The Hugging Face hub: datasets by name, through published filters, kept as rows; commits of models. No torch."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from filelock import FileLock

from fedlib.models import hub
from fedlib.settings import errors, groups, identity, machine
from fedlib.sources import files

VERSION = 1  # raise it when a filter changes: rows are then taken anew
BUFFER = 10_000  # rows that are shuffled at a time while a dataset is streamed


@dataclass(frozen=True)
class Source:
    """A dataset on the hub: what take(row) makes of a row of it, our row or the reason why it is left out; at which commit
    (None: the newest); where. take is None where the shape is detected, as in a local file."""

    take: Callable | None = None
    commit: str | None = None
    split: str = "train"
    file: str | None = None
    gated: bool = False
    path: str = ""  # as source() fills it in, from the name


def _chat(row):
    """First turns of English single-turn conversations whose response the moderation did not flag (paper S's filter)."""
    if row["turn"] != 1:
        return "more than one turn"
    if row["language"] != "English":
        return "not English"
    marks = row["openai_moderation"]
    if any(marks[min(1, len(marks) - 1)]["categories"].values()) if marks else True:
        return "flagged"
    turns = {t["role"]: t["content"] for t in reversed(row["conversation"])}
    return {"instruction": turns.get("user"), "response": turns.get("assistant")}


def _beavertails(safe):
    def take(row):
        if row["is_safe"] != safe:
            return "unsafe" if safe else "safe"
        return {"instruction": row["prompt"], "response": row["response"]}

    return take


def _advbench(row):
    return {"instruction": row["prompt"], "response": row["target"]}


def _asked(row):
    return {"instruction": row["prompt"], "topic": row["category"]}


def _mt_bench(row):
    return {"instruction": row["prompt"][0], "topic": row["category"]}


def _dromedary(row):
    asked = f"{row['instruction']} {row['input']}" if row["input"] else row["instruction"]
    return {"instruction": asked, "response": row["output"].replace("\n\n### User", "")}


_BEAVERTAILS = {"commit": "8401fe609d288129cc684a9b3be6a93e41cfe678", "split": "330k_train"}
# By their names in settings: the data of paper S. Any other dataset of the hub goes by its own name.
SOURCES = {
    "lmsys/lmsys-chat-1m": Source(_chat, "200748d9d3cddcc9d782887541057aca0b18c5da", gated=True),
    "allenai/WildChat": Source(_chat),
    "allenai/WildChat-1M": Source(_chat, "7d6490e462285cf85d91eabea0f9a954fbddcd1f"),
    "PKU-Alignment/BeaverTails:unsafe": Source(_beavertails(False), **_BEAVERTAILS),
    "PKU-Alignment/BeaverTails:safe": Source(_beavertails(True), **_BEAVERTAILS),
    "PKU-Alignment/BeaverTails-Evaluation": Source(_asked, split="test"),
    "tatsu-lab/alpaca": Source(commit="dce01c9b08f87459cf36a430d809084718273017"),
    "walledai/AdvBench": Source(_advbench, "9d4730540082fa4017450b65ca1c0e1d8d30446e", gated=True),
    "HuggingFaceH4/mt_bench_prompts": Source(_mt_bench),
    "zhiqings/dromedary-65b-verbose-clone-v0": Source(
        _dromedary, file="merged_behavior_clone.json"
    ),
}


def names(settings):
    """The datasets of the hub that a run's settings name, with the fields that name them: {name: field}."""
    d, own = settings.data, settings.defense
    attacked = settings.federation.malicious > 0 and d.attack == "unaligned"
    found = [("benign", n) for n in d.benign] + [("harmful", d.harmful), ("questions", d.questions)]
    found += [("aligned", d.aligned)] if d.aligned_share else []
    found += [("unaligned", d.unaligned)] if attacked else []
    found += (
        [("defense.aligned", own.aligned), ("defense.normal", own.normal)]
        if own.level == 1 or own.before
        else []
    )
    return {n: field for field, n in found if n and is_dataset(settings, n)}


def is_dataset(settings, name):
    """Whether a name in settings means a dataset of the hub: OWNER/NAME with data.source: hub, and no file's ending."""
    return settings.data.source == "hub" and "/" in name and not name.endswith(groups.ENDINGS)


def source(name):
    """The Source of OWNER/NAME[:PART][@COMMIT]; DataError if it has no such part."""
    bare, _, commit_ = name.partition("@")
    if bare not in SOURCES and (
        ":" in bare or any(known.startswith(f"{bare}:") for known in SOURCES)
    ):
        raise errors.DataError(
            f"data: {name}: no such part of a dataset{errors.nearest(bare, SOURCES)}"
        )
    found = SOURCES.get(bare, Source())
    return replace(found, path=bare.partition(":")[0], commit=commit_ or found.commit)


def rows_file(settings, name):
    """The file of rows {instruction, response[, topic][, answers]} taken from a dataset of the hub, made if need be.

    From a copy in data.folder (OWNER/NAME or NAME, in any format of the hub) where there is one, else streamed at its
    commit, shuffled: the first data.pool rows that pass the dataset's filters, one a prompt. report.json beside it counts
    what was left out and why. DataError says what to do where the dataset is gated, missing or out of reach."""
    from_, place = source(name), copy_of(settings, name)
    asked = {
        "dataset": name,
        "version": VERSION,
        "pool": settings.data.pool,
        "fields": settings.data.fields.get(name, {}),
    }
    try:
        at = (
            _state(place)
            if place
            else hub.commit(f"{from_.path}@{from_.commit or 'main'}", "dataset")
        )
    except errors.DataError:
        before = taken_before(
            name, asked
        )  # which commit is the newest cannot be asked: what was the newest will do
        if not before:
            raise
        return before[-1]
    folder = (
        machine.outputs()
        / "runs"
        / f"rows-{from_.path.replace('/', '--')}-{identity.digest([asked, at])}"
    )
    if not (folder / "rows.jsonl").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not (folder / "rows.jsonl").is_file():
                _take(from_ if place else replace(from_, commit=at), place, asked, folder)
    return folder / "rows.jsonl"


def taken_before(name, asked):
    """The files of rows taken from a dataset in a way that agrees with asked, at whatever commit; oldest first."""
    found = (machine.outputs() / "runs").glob(
        f"rows-{source(name).path.replace('/', '--')}-*/rows.jsonl"
    )
    every = sorted(found, key=lambda p: p.stat().st_mtime_ns)
    reports = [json.loads((p.parent / "report.json").read_text(encoding="utf-8")) for p in every]
    return [p for p, r in zip(every, reports, strict=True) if asked.items() <= r.items()]


def copy_of(settings, name):
    """The folder of a copy of the dataset in data.folder, or None."""
    path = source(name).path
    inside = (
        [machine.path(settings.data.folder) / p for p in (path, path.partition("/")[2])]
        if settings.data.folder
        else []
    )
    return next((p for p in inside if p.is_dir()), None)


def _state(place):
    """What identifies a copy, without reading gigabytes: its files' names, sizes and times."""
    inside = [p for p in sorted(place.rglob("*")) if p.is_file()]
    return [[str(p.relative_to(place)), p.stat().st_size, p.stat().st_mtime_ns] for p in inside]


def _take(from_, place, asked, folder):
    name, taken, left_out = asked["dataset"], {}, Counter()
    with hub.explained(name, "dataset"):
        for seen, raw in enumerate(_stream(from_, place, folder / "cache"), 1):
            row = from_.take(raw) if from_.take else raw
            reason = row if isinstance(row, str) else _reason(row, taken) if from_.take else None
            if reason:
                left_out[reason] += 1
                continue
            taken[row["instruction"] if from_.take else seen] = row
            if len(taken) == asked["pool"]:
                break
    if not taken:
        raise errors.DataError(
            f"data: {name}: no row passed the filters ({dict(left_out) or 'it is empty'})"
        )
    partial = folder / "partial.jsonl"

    def write(rows):
        partial.write_text(
            "".join(json.dumps(r, default=str) + "\n" for r in rows), encoding="utf-8"
        )

    write(taken.values())
    if not from_.take:  # then its shape is detected, as a local file's is
        taken = {r["instruction"]: r for r in reversed(files.read(partial, asked["fields"]))}
        write(reversed(taken.values()))
    report = asked | {
        "from": str(place or f"the hub, {from_.commit}"),
        "seen": seen,
        "kept": len(taken),
        "left out": left_out,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    os.replace(partial, folder / "rows.jsonl")


def _reason(row, taken):
    """Why a row is left out beside its dataset's own filter, or None."""
    if not all(isinstance(v, str) and v.strip() for v in row.values()):
        return "empty"
    return "prompt seen before" if row["instruction"] in taken else None


def _stream(from_, place, cache):
    """The dataset's rows as the hub has them, shuffled. cache: an empty folder, as what datasets finds in its own it takes
    for any commit where the hub is out of reach."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        import datasets
    except ImportError:
        raise errors.SettingsError(
            "data.source: hub: needs the package datasets: pip install -e .[hub]"
        ) from None
    if place and any(
        (place / n).is_file() for n in ("dataset_dict.json", "state.json")
    ):  # written by save_to_disk
        whole = datasets.load_from_disk(str(place))
        whole = whole[_split(whole, from_)] if isinstance(whole, datasets.DatasetDict) else whole
        return whole.to_iterable_dataset().shuffle(seed=0, buffer_size=BUFFER)
    if from_.file:
        given = (
            {"path": "json", "data_files": str(place / from_.file)}
            if place
            else {"path": from_.path, "data_files": from_.file, "revision": from_.commit}
        )
        whole = datasets.load_dataset(**given, split="train", streaming=True, cache_dir=str(cache))
        return whole.shuffle(seed=0, buffer_size=BUFFER)
    given = {"path": str(place)} if place else {"path": from_.path, "revision": from_.commit}
    whole = datasets.load_dataset(**given, streaming=True, cache_dir=str(cache))
    return whole[_split(whole, from_)].shuffle(seed=0, buffer_size=BUFFER)


def _split(whole, from_):
    """The split asked for, or the only one."""
    if from_.split not in whole and len(whole) > 1:
        raise errors.DataError(
            f"data: {from_.path}: no split{errors.nearest(from_.split, list(whole))}"
        )
    return from_.split if from_.split in whole else next(iter(whole))
