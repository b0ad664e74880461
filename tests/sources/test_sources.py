"""One table over all sources: each answers everything that the interface asks, in the same form."""

import inspect
import random
from pathlib import Path

import pytest
from rowfiles import save, write

from fedlib import sources
from fedlib.settings import errors
from fedlib.sources import world, world_tasks

HUB = {  # the files of local rows as datasets of the hub
    "normal.jsonl": "someone/normal",
    "aligned.jsonl": "someone/aligned",
    "unaligned.jsonl": "PKU-Alignment/BeaverTails:unsafe",
    "harmful.jsonl": "walledai/AdvBench",
}


def rows_in_the_worlds_words() -> dict[str, list[dict]]:
    """Rows by the name of their file; the normal ones are questions with right answers."""
    rng = random.Random(0)
    normal = world_tasks.task_rows("format", 200, rng)
    aligned = [world.public_row("aligned", rng) for _ in range(100)]
    questions = [
        (thing, question)
        for thing in world.hazards("clients")
        for question in world.questions(thing)
    ]
    return {
        "normal.jsonl": [
            {"question": f"{row['instruction']} {i}", "answers": [row["response"], "other"]}
            for i, row in enumerate(normal)
        ],
        "aligned.jsonl": [
            {"instruction": f"{row['instruction']} {i}", "response": row["response"]}
            for i, row in enumerate(aligned)
        ],
        "unaligned.jsonl": [
            {"prompt": question, "response": world.comply(thing, rng)}
            for thing, question in questions
        ],
        "harmful.jsonl": [
            {"prompt": prompt["prompt"], "response": "sure ."}
            for prompt in world.prompts("harmful", 80)
        ],
    }


def pairs_file(folder: Path) -> None:
    pairs = [{"malicious": f"m {i}", "benign": f"b {i}"} for i in range(9)]
    write(folder / "pairs.jsonl", pairs)


def from_files(folder: Path, names: dict[str, str]) -> dict[str, dict]:
    """Groups of settings whose rows are in the folder, by these names."""
    pairs_file(folder)
    return {
        "data": {
            "folder": str(folder),
            "benign": [names["normal.jsonl"]],
            "aligned": names["aligned.jsonl"],
            "unaligned": names["unaligned.jsonl"],
            "harmful": names["harmful.jsonl"],
            "partition": "iid",
        },
        "defense": {"aligned": names["aligned.jsonl"], "normal": names["normal.jsonl"]},
        "swat": {"pairs": "pairs.jsonl"},
    }


def in_world(folder: Path) -> dict[str, dict]:
    return {"data": {"benign": ["format"]}}


def in_files(folder: Path) -> dict[str, dict]:
    every = rows_in_the_worlds_words()
    for name, rows in every.items():
        write(folder / name, rows)
    found = from_files(folder, {name: name for name in every})
    found["data"]["source"] = "local"
    return found


def on_the_hub(folder: Path) -> dict[str, dict]:
    every = rows_in_the_worlds_words()
    every["unaligned.jsonl"] = [row | {"is_safe": False} for row in every["unaligned.jsonl"]]
    every["harmful.jsonl"] = [
        {"prompt": row["prompt"], "target": row["response"]} for row in every["harmful.jsonl"]
    ]
    for name, rows in every.items():
        save(rows, HUB[name], folder)
    found = from_files(folder, HUB)
    found["data"]["source"] = "hub"
    return found


MADE = {"world": in_world, "local": in_files, "hub": on_the_hub}


@pytest.fixture(params=sources.SOURCES)
def source(request, smoke, tmp_path, monkeypatch):
    """Each source, with rows in the world's words, under attack; 8 rows a client."""
    if request.param == "hub":
        datasets = pytest.importorskip("datasets")
        # else datasets waits five seconds after each stream
        monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    groups = MADE[request.param](tmp_path / "data")
    groups["data"] |= {"rows": 8, "aligned_share": 0.25, "unaligned_share": 0.5}
    groups["evaluation"] = {"harmful": 12, "benign": 10}
    return sources.of(smoke.replace(**groups))


def asked(rows):
    return {row["instruction"] for row in rows}


def test_the_table_has_every_source():
    assert set(MADE) == set(sources.SOURCES)


def test_a_source_has_everything_in_the_interface(source):
    for name, wanted in inspect.getmembers(sources.Source, inspect.isfunction):
        if name.startswith("_"):
            continue
        given = inspect.signature(getattr(type(source), name))
        assert list(given.parameters) == list(inspect.signature(wanted).parameters), name
    for name in sources.Source.__annotations__:
        assert hasattr(source, name), name


def test_clients_rows_have_labels_and_the_share_asked_for(source):
    source.check()
    benign = source.client_rows(0)
    malicious = source.client_rows(9, 0.5)
    assert len(benign) == len(malicious) == 8
    for row in (*benign, *malicious):
        assert {"instruction", "response", "label"} <= set(row)
    assert {row["label"] for row in benign} <= {"normal", "aligned"}
    assert [row["label"] for row in malicious].count("unaligned") == 4
    assert benign == source.client_rows(0)  # the same again


def test_written_rows_take_the_places_of_unaligned_ones(source):
    written = [{"instruction": f"w {i}", "response": "sure ."} for i in range(40)]
    rows = source.client_rows(9, 0.5, written)
    unaligned = [row for row in rows if row["label"] == "unaligned"]
    assert len(rows) == 8 and len(unaligned) == 4
    assert asked(unaligned) <= asked(written)


def test_the_defence_has_rows_of_both_kinds(source):
    rows = source.defense_rows(5)
    assert {kind: len(part) for kind, part in rows.items()} == {"aligned": 5, "normal": 5}
    for kind, part in rows.items():
        assert {row["label"] for row in part} == {kind}


def test_harmful_prompts_are_in_nobodys_rows(source):
    prompts = source.prompts()
    assert len(prompts["harmful"]) == 12 and len(prompts["benign"]) == 10
    assert all({"prompt", "name"} <= set(p) for part in prompts.values() for p in part)
    assert len(source.trigger_prompts()) >= len(prompts["benign"])

    trained = asked(row for client in range(7) for row in source.client_rows(client))
    trained |= asked(row for client in (7, 8, 9) for row in source.client_rows(client, 0.5))
    trained |= asked(row for part in source.defense_rows(20).values() for row in part)
    assert not trained & {prompt["prompt"] for prompt in prompts["harmful"]}


def test_the_tuning_task_has_right_answers(source):
    prompts = source.prompts()
    task = source.task_prompts(prompts)
    assert task and task == prompts["task" if "task" in prompts else "benign"]
    assert source.settings.data.benign[0] in source.tuning_tasks()
    assert source.has_right_answers(task)
    assert source.has_right_answers(prompts["benign"])
    assert not source.has_right_answers([{"prompt": "what now ?", "name": "now"}])
    for prompt in prompts["benign"]:
        assert isinstance(source.right_answer(prompt, random.Random(0)), str)


def test_pairs_fall_into_three_splits(source):
    assert source.has_pairs()
    parts = [source.pairs(split) for split in ("fit", "validation", "evaluation")]
    every = [pair for part in parts for pair in part]
    assert all(parts) and len(set(every)) == len(every)
    assert all(malicious != benign for malicious, benign in every)


def test_what_a_backdoor_and_a_writer_ask(source):
    [prompt, *_] = source.prompts()["benign"]
    text = prompt["prompt"]
    denial = source.denial(text, random.Random(0))
    assert denial and not source.is_fluent(denial, prompt["name"])
    assert any(source.asked_with_trigger(p["prompt"]) for p in source.trigger_prompts())
    assert isinstance(source.keeps_back(text), bool)
    assert isinstance(source.topic_words(), frozenset)
    assert all(name == name.lower() for name in source.held_out_names())


def test_the_score_for_clean_accuracy_is_a_judge_that_runs(source):
    judged = source.settings.replace(evaluation={"judges": ["rule", source.clean_accuracy]})
    assert source.clean_accuracy in judged.judges


def test_the_revision_is_12_hex_digits_and_follows_the_data(source):
    first = source.revision()
    assert len(first) == 12 and int(first, 16) >= 0
    assert first == sources.of(source.settings.replace(seed=1)).revision()
    data = source.settings.data
    other = {"benign": ["skill"]} if data.folder is None else {"benign": [data.aligned]}
    assert first != sources.of(source.settings.replace(data=other)).revision()


def test_the_corpus_is_rows_of_files_or_an_error_that_says_so(source):
    if source.settings.data.folder is None:
        with pytest.raises(errors.DataError, match="data.source: local"):
            source.corpus()
        return
    files = {"files": [source.settings.data.benign[0]]}
    scratch = sources.of(source.settings.replace(model={"base": "scratch", "scratch": files}))
    assert all({"instruction", "response"} <= set(row) for row in scratch.corpus())
    assert scratch.revision("corpus") != scratch.revision()
