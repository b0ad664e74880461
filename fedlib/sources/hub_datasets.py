"""Datasets of the Hugging Face hub: how they are named, and the filters of those of paper S."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedlib.settings import errors
from fedlib.settings.errors import DataError

OWNER_AND_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Dataset:
    """A dataset on the hub, and how our rows are made of its rows.

    take(row) gives our row, or the reason why the row is left out. Without take the shape is
    detected, as in a local file. commit None: the newest; config None: the only one; where a
    dataset has one split only, that one is taken, unless settings name another."""

    take: Callable[[dict], dict | str] | None = None
    commit: str | None = None
    config: str | None = None
    split: str = "train"
    split_is_named: bool = False  # in settings: then no other one will do
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


def find_dataset(name: str) -> Dataset:
    """The Dataset that OWNER/NAME[:CONFIG[:SPLIT]][@COMMIT] names; OWNER/NAME::SPLIT gives a split
    of the only configuration.

    Of a published dataset in two parts, OWNER/NAME:PART is one. DataError if it has no such
    part."""
    bare, _, commit = name.partition("@")
    path = bare.partition(":")[0]
    if not OWNER_AND_NAME.fullmatch(path):
        raise DataError(
            f"data: {name}: no name of a dataset: OWNER/NAME, in letters, digits, . _ -"
        )
    found = PUBLISHED.get(bare)
    if found is None:
        parts = [known for known in PUBLISHED if known.startswith(f"{path}:")]
        named = bare.split(":")[1:]
        if parts or len(named) > 2:
            hint = errors.nearest(bare, parts or [f"{path}:CONFIG:SPLIT"])
            raise DataError(f"data: {name}: no such part of a dataset{hint}")
        config, split, *_ = [*named, "", ""]
        found = PUBLISHED.get(path, Dataset())
        found = replace(found, config=config or None, split=split or found.split)
        found = replace(found, split_is_named=bool(split))
    return replace(found, path=path, commit=commit or found.commit)
