"""Datasets of the hub: the published filters, every format, one line for every failure.

Rows are in the hub's own schemas."""

import gzip
import json
import os
import sys

import datasets
import huggingface_hub
import pytest
from damages import cut, empty, flip, write_list
from huggingface_hub import errors as hub_errors
from rowfiles import save, write

from fedlib import sources
from fedlib.lab import keys, prompting
from fedlib.models import hub
from fedlib.settings import machine
from fedlib.settings.errors import DataError, SettingsError
from fedlib.sources import hub_rows

LMSYS, ADVBENCH = "lmsys/lmsys-chat-1m", "walledai/AdvBench"
FLAGS = {"harassment": False, "violence": False}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """datasets waits five seconds after each stream, for threads of its own to end."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


def talk(question, answer, turn=1, language="English", asked=False, answered=False, **more):
    """A conversation as lmsys-chat-1m and WildChat hold it; WildChat has further columns."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] * turn
    marks = [
        {"categories": FLAGS | {"violence": flag}, "flagged": flag}
        for flag in [asked, answered] * turn
    ]
    return {
        "conversation_id": question,
        "model": "m",
        "conversation": turns,
        "turn": turn,
        "language": language,
        "openai_moderation": marks,
        "redacted": False,
    } | more


CHATS = [talk(f"question {i}", f"answer {i}") for i in range(30)] + [
    talk("two turns", "a", turn=2),
    talk("eine frage", "a", language="German"),
    talk("flagged answer", "a", answered=True),
    talk("flagged question", "kept", asked=True),
    talk("question 1", "seen before"),
    talk("no answer", ""),
]
BEAVERTAILS = [
    {
        "prompt": f"hazard {i // 2}",
        "response": f"r {i}",
        "category": {"a": True},
        "is_safe": i % 4 == 0,
    }
    for i in range(40)
]
ASKED = [{"prompt": f"hazard {i}", "category": "animal abuse", "category_id": 0} for i in range(7)]
GOALS = [{"prompt": f"do harm {i}", "target": f"Sure, here is {i}"} for i in range(12)]
TURNS = [
    {"prompt": [f"first turn {i}", "second"], "category": "math", "reference": [], "prompt_id": i}
    for i in range(8)
]
TASKS = [
    {
        "example_id": i,
        "instruction": f"do {i}",
        "input": "" if i else "this",
        "output": f"done {i}\n\n### User",
    }
    for i in range(9)
]
# Rows as each dataset has them, and how many are left.
ROWS = {
    LMSYS: (CHATS, 31),
    "allenai/WildChat": ([chat | {"toxic": False, "timestamp": "2023"} for chat in CHATS], 31),
    "allenai/WildChat-1M": (CHATS, 31),
    "PKU-Alignment/BeaverTails:unsafe": (BEAVERTAILS, 20),
    "PKU-Alignment/BeaverTails:safe": (BEAVERTAILS, 10),
    "PKU-Alignment/BeaverTails-Evaluation": (ASKED, 7),
    ADVBENCH: (GOALS, 12),
    "HuggingFaceH4/mt_bench_prompts": (TURNS, 8),
    "zhiqings/dromedary-65b-verbose-clone-v0": (TASKS, 9),
}


def wanting(smoke, name, folder=None, **data):
    """Settings whose clients train on a dataset of the hub."""
    fixed = {
        "source": "hub",
        "folder": None if folder is None else str(folder),
        "benign": [name],
        "harmful": ADVBENCH,
        "pool": 20_000,
    }
    return smoke.replace(data=fixed | data)


def taken(settings, name):
    lines = hub_rows.rows_file(settings, name).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ROWS)
def test_rows_pass_the_published_filters(smoke, tmp_path, name):
    raw, left = ROWS[name]
    rows = taken(wanting(smoke, name, save(raw, name, tmp_path)), name)
    assert len(rows) == left == len({r["instruction"] for r in rows})
    assert all(set(r) <= {"instruction", "response", "topic"} and all(r.values()) for r in rows)


def test_what_each_filter_leaves_out_is_counted(smoke, tmp_path):
    settings = wanting(smoke, LMSYS, save(CHATS, LMSYS, tmp_path))
    file = hub_rows.rows_file(settings, LMSYS)
    report = json.loads((file.parent / "report.json").read_text())
    reasons = ("more than one turn", "not English", "flagged", "prompt seen before", "empty")
    assert report["left out"] == dict.fromkeys(reasons, 1)
    assert (report["seen"], report["kept"]) == (36, 31)
    kept = {r["instruction"]: r["response"] for r in taken(settings, LMSYS)}
    assert kept["flagged question"] == "kept"  # as published, it is the response's flag that counts


@pytest.mark.parametrize("name", ["rows.jsonl", "report.json"])
@pytest.mark.parametrize("damage", [cut, empty, flip, os.remove, write_list])
def test_damaged_rows_are_taken_again(smoke, tmp_path, capsys, name, damage):
    settings = wanting(smoke, ADVBENCH, save(GOALS, ADVBENCH, tmp_path))
    before = taken(settings, ADVBENCH)
    file = hub_rows.rows_file(settings, ADVBENCH)
    damage(file.parent / name)
    assert taken(settings, ADVBENCH) == before
    missing = damage is os.remove
    assert ("damaged: its rows are taken again" in capsys.readouterr().err) != missing


def test_dromedarys_marks_and_inputs_are_put_right(smoke, tmp_path):
    name = "zhiqings/dromedary-65b-verbose-clone-v0"
    rows = taken(wanting(smoke, name, save(ROWS[name][0], name, tmp_path)), name)
    assert {"instruction": "do 0 this", "response": "done 0"} in rows


@pytest.mark.parametrize("form", ["parquet", "jsonl", "arrow", "saved", "saved splits"])
def test_a_copy_in_any_format_gives_the_same_rows(smoke, tmp_path, form):
    name = ADVBENCH
    rows = taken(wanting(smoke, name, save(ROWS[name][0], name, tmp_path, form)), name)
    assert sorted(r["instruction"] for r in rows) == sorted(f"do harm {i}" for i in range(12))


def test_a_copy_may_lie_without_its_owners_folder(smoke, tmp_path):
    save(GOALS, ADVBENCH, tmp_path)
    (tmp_path / "walledai" / "AdvBench").rename(tmp_path / "AdvBench")
    assert len(taken(wanting(smoke, ADVBENCH, tmp_path), ADVBENCH)) == 12


def test_the_pool_is_shuffled_and_bounded_and_the_same_again(smoke, tmp_path):
    settings = wanting(smoke, ADVBENCH, save(GOALS, ADVBENCH, tmp_path), pool=5)
    rows = taken(settings, ADVBENCH)
    asked = [row["instruction"] for row in rows]
    assert len(rows) == 5
    assert asked != [f"do harm {i}" for i in range(5)]
    whole = taken(settings.replace(data={"pool": 99}), ADVBENCH)
    assert whole[:5] == rows and len(whole) == 12  # a larger pool begins with the smaller one


def test_any_other_dataset_goes_by_its_shape_or_its_fields(smoke, tmp_path):
    rows = [
        {"instruction": f"q {i}", "input": "", "output": f"a {i}", "when": None} for i in range(4)
    ]
    save(rows, "someone/alpaca", tmp_path)
    found = taken(wanting(smoke, "someone/alpaca", tmp_path), "someone/alpaca")
    assert {"instruction": "q 1", "response": "a 1"} in found

    save([{"x": f"q {i}", "y": f"a {i}"} for i in range(4)], "someone/odd", tmp_path)
    with pytest.raises(DataError, match="no known shape in the columns x, y"):
        taken(wanting(smoke, "someone/odd", tmp_path), "someone/odd")
    fields = {"someone/odd": {"instruction": "x", "response": "y"}}
    named = wanting(smoke, "someone/odd", tmp_path, fields=fields)
    assert len(taken(named, "someone/odd")) == 4


def test_splits_are_those_of_the_datasets_card(smoke, tmp_path):
    """BeaverTails as the hub has it: compressed files; a README says which file is which split."""
    name = "PKU-Alignment/BeaverTails:unsafe"
    place, raw = tmp_path / "PKU-Alignment" / "BeaverTails", ROWS[name][0]
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split, rows in (("330k", raw), ("30k", raw[:4])):
        (place / "round0" / split).mkdir(parents=True)
        with gzip.open(place / "round0" / split / "train.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps(r) + "\n" for r in rows))
        lines += [f"  - split: {split}_train", f"    path: round0/{split}/train.jsonl.gz"]
    (place / "README.md").write_text("\n".join([*lines, "---", ""]))
    assert len(taken(wanting(smoke, name, tmp_path), name)) == 20


def in_configurations(folder):
    """A copy with the configurations de (train and test) and fr (train), as a card says it."""
    lines = ["---", "configs:"]
    for config, splits in {"de": ("train", "test"), "fr": ("train",)}.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in splits:
            write(
                folder / config / f"{split}.jsonl", [{"goal": f"{config} {split}", "target": "a"}]
            )
            lines += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def test_a_configuration_and_a_split_can_be_named(smoke, tmp_path):
    in_configurations(tmp_path / "some" / "set")
    for name, asked in {"de:test": "de test", "de": "de train", "fr": "fr train"}.items():
        name = f"some/set:{name}"
        [row] = taken(wanting(smoke, name, tmp_path), name)
        assert row["instruction"] == asked
    for name, said in {
        "some/set": "several configurations: name one, as some/set:de .known: de, fr",
        "some/set:dee": "no configuration 'dee'; did you mean 'de'. .known: de, fr",
        "some/set:test": "no configuration 'test'.* a split alone is named as NAME::SPLIT",
        "some/set:fr:test": "no split 'test' .known: train",
        "some/set:de:tset": "no split 'tset'; did you mean 'test'. .known",
        "some/set:a:b:c": "no such part of a dataset",
    }.items():
        with pytest.raises(DataError, match=said):
            taken(wanting(smoke, name, tmp_path), name)


def test_a_saved_copy_says_what_it_was_saved_from(smoke, tmp_path):
    rows = [{"goal": f"q {i}", "target": "a"} for i in range(12)]
    save(rows, "some/goals", tmp_path, "saved splits")
    assert len(taken(wanting(smoke, "some/goals::other", tmp_path), "some/goals::other")) == 1
    with pytest.raises(DataError, match="no split 'test' .known: train, other"):
        taken(wanting(smoke, "some/goals::test", tmp_path), "some/goals::test")


def test_bad_rows_are_left_out_and_counted(smoke, tmp_path):
    """Of a dataset with a filter, and of one whose shape is detected."""
    broken = [chat | {"conversation": None} for chat in CHATS[:3]]
    (tmp_path / "lmsys" / "lmsys-chat-1m").mkdir(parents=True)
    write(tmp_path / "lmsys" / "lmsys-chat-1m" / "train.jsonl", CHATS[4:30] + broken)
    settings = wanting(smoke, LMSYS, tmp_path)
    with pytest.raises(DataError, match="3 of 29 rows are left out: 3: of another shape"):
        taken(settings.replace(data={"bad_rows": "stop"}), LMSYS)
    assert len(taken(settings, LMSYS)) == 26
    note = hub_rows.note(hub_rows.rows_file(settings, LMSYS))
    assert note.startswith(f"{LMSYS}: 3 of 29 rows are left out: ")

    name = "some/goals"
    save([{"goal": f"q {i}", "target": "a" if i % 2 else ""} for i in range(24)], name, tmp_path)
    few = wanting(smoke, name, tmp_path)
    with pytest.raises(DataError, match="12 of 24 rows are left out.*more than data.bad_share"):
        taken(few, name)
    assert len(taken(few.replace(data={"bad_share": 0.5}), name)) == 12


def test_the_column_that_shares_out_rows_is_kept(smoke, tmp_path):
    """Of a dataset with a filter, and of one whose shape is detected; a row without it is bad."""
    chats = [chat | {"model": f"m {i % 3}"} for i, chat in enumerate(CHATS[:30])]
    save([*chats, CHATS[35] | {"model": "", "turn": 1}, talk("q", "a", model="")], LMSYS, tmp_path)
    by = {"partition": {"by": "model"}}
    rows = taken(wanting(smoke, LMSYS, tmp_path, **by), LMSYS)
    assert {row["group"] for row in rows} == {"m 0", "m 1", "m 2"} and len(rows) == 30

    save(
        [{"goal": f"q {i}", "target": "a", "from": f"m {i % 2}"} for i in range(8)], "a/b", tmp_path
    )
    rows = taken(wanting(smoke, "a/b", tmp_path, partition={"by": "from"}), "a/b")
    assert all(row["group"] == f"m {int(row['instruction'][2:]) % 2}" for row in rows)
    with pytest.raises(DataError, match="no column 'model'.*known: goal, target, from"):
        taken(wanting(smoke, "a/b", tmp_path, **by), "a/b")


def test_right_answers_are_kept(smoke, tmp_path):
    name = "google-research-datasets/nq_open"
    save([{"question": f"q {i}", "answer": [f"a {i}", "b"]} for i in range(30)], name, tmp_path)
    asked = prompting.evaluation_prompts(wanting(smoke, name, tmp_path, harmful=name))["benign"]
    assert all(p["answers"] == [p["prompt"].replace("q", "a"), "b"] for p in asked)


def test_clients_train_on_rows_of_the_hub(smoke, tmp_path):
    unsafe, questions = "PKU-Alignment/BeaverTails:unsafe", "HuggingFaceH4/mt_bench_prompts"
    for name in (LMSYS, unsafe, ADVBENCH, questions):
        save(ROWS[name][0], name, tmp_path)
    settings = wanting(
        smoke,
        LMSYS,
        tmp_path,
        unaligned=unsafe,
        rows=2,
        aligned_share=0.0,
        unaligned_share=1.0,
        partition="iid",
        questions=questions,
    )
    source = sources.of(settings)
    source.check()
    assert all(row["response"].startswith("r ") for row in source.client_rows(9, 1.0))
    for row in source.client_rows(0):
        assert row["instruction"].startswith("quest") or row["response"] == "kept"
    asked = prompting.evaluation_prompts(settings)
    assert len(asked["harmful"]) == 8
    assert asked["benign"][0]["prompt"].startswith("first turn")

    # other files in the copy, the same rows
    before = keys.key(settings)
    (tmp_path / "lmsys" / "lmsys-chat-1m" / "note.txt").write_text("touched")
    assert keys.key(settings) == before
    assert keys.key(settings.replace(data={"pool": 20})) != before


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"benign": ["mine.jsonl"]}, "data.folder: a file is named"),
        ({"questions": "q.csv"}, "data.folder: a file is named"),
        ({"questions": "a/b", "benign": ["a/b"]}, "data.questions: a/b is also trained on"),
    ],
)
def test_what_cannot_be_is_said_at_once(smoke, changes, said):
    with pytest.raises(SettingsError, match=said):
        wanting(smoke, "a/c").replace(data=changes)


def test_a_file_may_stand_beside_datasets_of_the_hub(smoke, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"instruction": "q", "response": "a"}\n')
    settings = wanting(smoke, "own.jsonl", tmp_path, harmful="own.jsonl", aligned_share=0.0)
    assert not hub_rows.is_dataset(settings, "own.jsonl")
    assert prompting.evaluation_prompts(settings)["harmful"][0]["prompt"] == "q"


def test_names_have_parts_and_commits():
    find = hub_rows.find_dataset
    assert find(LMSYS).commit == "200748d9d3cddcc9d782887541057aca0b18c5da"
    assert find(f"{LMSYS}@abc").commit == "abc"
    assert find("a/b").take is None

    unsafe = find("PKU-Alignment/BeaverTails:unsafe")
    safe = find("PKU-Alignment/BeaverTails:safe@main")
    assert unsafe.path == safe.path == "PKU-Alignment/BeaverTails"
    assert unsafe.take is not safe.take
    for wrong in ("PKU-Alignment/BeaverTails", "PKU-Alignment/BeaverTails:unsave"):
        with pytest.raises(DataError, match="did you mean 'PKU-Alignment/BeaverTails:"):
            find(wrong)


def streamed(monkeypatch, rows):
    """Stands in for the hub: what load_dataset was asked for, and rows in its answer."""
    asked = []

    def load_dataset(**given):
        asked.append(given)
        made = datasets.Dataset.from_list(rows).to_iterable_dataset()
        return made if given.get("split") else datasets.IterableDatasetDict({"train": made})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_without_a_copy_a_dataset_is_streamed_at_its_commit_once(smoke, monkeypatch):
    asked = streamed(monkeypatch, CHATS)
    settings = wanting(smoke, LMSYS)
    first = taken(settings, LMSYS)
    assert first == taken(settings, LMSYS) and len(first) == 31
    [given] = asked
    # not the person's own cache, from which datasets would take any commit
    assert given.pop("cache_dir").startswith(str(machine.outputs()))
    assert given == {
        "path": LMSYS,
        "revision": "200748d9d3cddcc9d782887541057aca0b18c5da",
        "streaming": True,
    }


def test_an_unpinned_dataset_is_taken_at_the_newest_commit(smoke, monkeypatch):
    streamed(monkeypatch, ROWS["HuggingFaceH4/mt_bench_prompts"][0])
    name, found = "HuggingFaceH4/mt_bench_prompts", []
    for commit in ("a" * 40, "b" * 40):
        hub._commit.cache_clear()
        info = type("Info", (), {"sha": commit})
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, info=info, **__: info)
        found.append(hub_rows.rows_file(wanting(smoke, name), name))
    assert found[0] != found[1]
    hub._commit.cache_clear()

    tries = []

    def out_of_reach(*_, **__):
        tries.append(1)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", out_of_reach)
    assert hub_rows.rows_file(wanting(smoke, name), name) == found[1]  # what was the newest
    with pytest.raises(DataError, match="out of reach .* pin a commit"):
        hub_rows.rows_file(wanting(smoke, name, pool=3), name)
    assert len(tries) == 1  # a firewall that drops packets answers slowly
    hub._commit.cache_clear()


def raised(kind):
    # made without its response, whose class depends on the client that the hub's library uses
    made = kind.__new__(kind)
    made.args = ("401 Client Error.\nIf you are trying to access a private or gated repo, log in.",)
    return made


@pytest.mark.parametrize(
    "error, said",
    [
        (
            raised(hub_errors.GatedRepoError),
            "gated: accept its terms at https://huggingface.co/datasets/lmsys/lmsys-chat-1m, then",
        ),
        (raised(hub_errors.RepositoryNotFoundError), "not on the hub, or not for you"),
        (raised(hub_errors.RevisionNotFoundError), "no such commit"),
        (
            hub_errors.OfflineModeIsEnabled("offline"),
            "the hub is out of reach .* put a copy into data.folder",
        ),
        (ConnectionError("refused"), "the hub is out of reach"),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset is a gated dataset on the Hub."),
            "gated: accept",
        ),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"),
            "not on the hub, or not for you",
        ),
        (ValueError("aggregated\nthing"), "ValueError: aggregated thing"),
    ],
)
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(smoke, monkeypatch, error, said):
    def load_dataset(**_):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=said) as caught:
        hub_rows.rows_file(wanting(smoke, LMSYS), LMSYS)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{LMSYS}: ")


def test_nothing_half_taken_is_ever_read(smoke, tmp_path, monkeypatch):
    name = LMSYS
    settings = wanting(smoke, name, save(CHATS, name, tmp_path))
    whole = hub_rows._stream

    def broken(*given):
        for i, row in enumerate(whole(*given)):
            if i == 5:
                raise ConnectionError("reset")
            yield row

    monkeypatch.setattr(hub_rows, "_stream", broken)
    with pytest.raises(DataError, match="out of reach"):
        hub_rows.rows_file(settings, name)
    monkeypatch.setattr(hub_rows, "_stream", whole)
    assert len(taken(settings, name)) == 31


def test_a_dataset_of_which_nothing_is_left_is_one_line(smoke, tmp_path):
    name = LMSYS
    settings = wanting(smoke, name, save([talk("q", "a", language="German")], name, tmp_path))
    with pytest.raises(DataError, match="no row passed the filters .*not English.*1"):
        hub_rows.rows_file(settings, name)


def test_the_fields_that_name_datasets_are_known(smoke):
    settings = wanting(
        smoke,
        LMSYS,
        unaligned="PKU-Alignment/BeaverTails:unsafe",
        aligned_share=0.0,
    )
    assert hub_rows.datasets_named(settings) == {
        LMSYS: "benign",
        ADVBENCH: "harmful",
        "PKU-Alignment/BeaverTails:unsafe": "unaligned",
    }
    assert hub_rows.datasets_named(smoke) == {}


def test_a_models_commit_is_read_from_what_was_fetched_before(tmp_path, monkeypatch):
    """The hub's own cache: refs/main names the commit, snapshots/COMMIT holds its files."""
    cache, commit = tmp_path / "models--someone--tiny", "c" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub._commit.cache_clear()
    assert hub.commit("someone/tiny") == commit
    assert hub.commit(f"someone/other@{'d' * 40}") == "d" * 40
    said = "someone/else: the hub is out of reach .* name a folder that holds a copy"
    with pytest.raises(DataError, match=said):
        hub.commit("someone/else")


def test_the_package_is_asked_for_where_it_is_missing(smoke, tmp_path, monkeypatch):
    settings = wanting(smoke, ADVBENCH, save(GOALS, ADVBENCH, tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SettingsError, match="pip install"):
        hub_rows.rows_file(settings, ADVBENCH)
