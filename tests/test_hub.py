"""Datasets of the hub: the published filters on rows in the hub's own schemas, every format, one line for every failure."""

import gzip
import json

import datasets
import huggingface_hub
import pytest
from huggingface_hub import errors

from fedlib import sources
from fedlib.lab import keys, prompting
from fedlib.models import hub
from fedlib.settings import errors, machine
from fedlib.settings.errors import DataError
from fedlib.sources import files, hub_rows

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
ROWS = {  # rows as each dataset has them, and what is left: instructions and responses
    "lmsys/lmsys-chat-1m": (CHATS, 31),
    "allenai/WildChat": ([c | {"toxic": False, "timestamp": "2023"} for c in CHATS], 31),
    "allenai/WildChat-1M": (CHATS, 31),
    "PKU-Alignment/BeaverTails:unsafe": (
        [
            {
                "prompt": f"hazard {i // 2}",
                "response": f"r {i}",
                "category": {"a": True},
                "is_safe": i % 4 == 0,
            }
            for i in range(40)
        ],
        20,
    ),
    "PKU-Alignment/BeaverTails:safe": (
        [
            {
                "prompt": f"hazard {i // 2}",
                "response": f"r {i}",
                "category": {"a": True},
                "is_safe": i % 4 == 0,
            }
            for i in range(40)
        ],
        10,
    ),
    "PKU-Alignment/BeaverTails-Evaluation": (
        [{"prompt": f"hazard {i}", "category": "animal abuse", "category_id": 0} for i in range(7)],
        7,
    ),
    "walledai/AdvBench": (
        [{"prompt": f"do harm {i}", "target": f"Sure, here is {i}"} for i in range(12)],
        12,
    ),
    "HuggingFaceH4/mt_bench_prompts": (
        [
            {
                "prompt": [f"first turn {i}", "second"],
                "category": "math",
                "reference": [],
                "prompt_id": i,
            }
            for i in range(8)
        ],
        8,
    ),
    "zhiqings/dromedary-65b-verbose-clone-v0": (
        [
            {
                "example_id": i,
                "instruction": f"do {i}",
                "input": "" if i else "this",
                "output": f"done {i}\n\n### User",
            }
            for i in range(9)
        ],
        9,
    ),
}


def save(rows, name, folder, form="parquet"):
    """A dataset in a folder as the hub has it, or as datasets writes it."""
    source, made = hub_rows.source(name), datasets.Dataset.from_list(rows)
    place = folder / source.path
    place.mkdir(parents=True, exist_ok=True)
    if source.file:
        (place / source.file).write_text(json.dumps(rows))
    elif form == "parquet":
        (place / "data").mkdir()
        made.to_parquet(
            place / "data" / f"{source.split.replace('330k_', '')}-00000-of-00001.parquet"
        )
    elif form == "jsonl":
        made.to_json(place / "train.jsonl")
    elif form == "arrow":
        made.save_to_disk(folder / "elsewhere")
        (folder / "elsewhere" / "data-00000-of-00001.arrow").rename(
            place / "train-00000-of-00001.arrow"
        )
    elif form == "saved":
        made.save_to_disk(place)
    elif form == "saved splits":
        datasets.DatasetDict({source.split: made, "other": made.select([0])}).save_to_disk(place)
    return folder


def wanting(smoke, name, folder=None, pool=20_000, **data_):
    return smoke.replace(
        data={
            "source": "hub",
            "folder": None if folder is None else str(folder),
            "benign": [name],
            "harmful": "walledai/AdvBench",
            "pool": pool,
        }
        | data_
    )


def taken(settings, name):
    return [
        json.loads(line) for line in hub_rows.rows_file(settings, name).read_text().splitlines()
    ]


@pytest.mark.parametrize("name", ROWS)
def test_rows_pass_the_published_filters(smoke, tmp_path, name):
    raw, left = ROWS[name]
    rows = taken(wanting(smoke, name, save(raw, name, tmp_path)), name)
    assert len(rows) == left == len({r["instruction"] for r in rows})
    assert all(set(r) <= {"instruction", "response", "topic"} and all(r.values()) for r in rows)


def test_what_each_filter_leaves_out_is_counted(smoke, tmp_path):
    settings = wanting(smoke, "lmsys/lmsys-chat-1m", save(CHATS, "lmsys/lmsys-chat-1m", tmp_path))
    file = hub_rows.rows_file(settings, "lmsys/lmsys-chat-1m")
    report = json.loads((file.parent / "report.json").read_text())
    reasons = ("more than one turn", "not English", "flagged", "prompt seen before", "empty")
    assert report["left out"] == dict.fromkeys(reasons, 1)
    assert (report["seen"], report["kept"]) == (36, 31)
    kept = {r["instruction"]: r["response"] for r in taken(settings, "lmsys/lmsys-chat-1m")}
    assert kept["flagged question"] == "kept"  # as published, it is the response's flag that counts


def test_dromedarys_marks_and_inputs_are_put_right(smoke, tmp_path):
    name = "zhiqings/dromedary-65b-verbose-clone-v0"
    rows = taken(wanting(smoke, name, save(ROWS[name][0], name, tmp_path)), name)
    assert {"instruction": "do 0 this", "response": "done 0"} in rows


@pytest.mark.parametrize("form", ["parquet", "jsonl", "arrow", "saved", "saved splits"])
def test_a_copy_in_any_format_gives_the_same_rows(smoke, tmp_path, form):
    name = "walledai/AdvBench"
    rows = taken(wanting(smoke, name, save(ROWS[name][0], name, tmp_path, form)), name)
    assert sorted(r["instruction"] for r in rows) == sorted(f"do harm {i}" for i in range(12))


def test_a_copy_may_lie_without_its_owners_folder(smoke, tmp_path):
    save(ROWS["walledai/AdvBench"][0], "walledai/AdvBench", tmp_path)
    (tmp_path / "walledai" / "AdvBench").rename(tmp_path / "AdvBench")
    assert len(taken(wanting(smoke, "walledai/AdvBench", tmp_path), "walledai/AdvBench")) == 12


def test_the_pool_is_shuffled_and_bounded_and_the_same_again(smoke, tmp_path):
    settings = wanting(
        smoke,
        "walledai/AdvBench",
        save(ROWS["walledai/AdvBench"][0], "walledai/AdvBench", tmp_path),
        pool=5,
    )
    rows = taken(settings, "walledai/AdvBench")
    assert len(rows) == 5 and rows != [
        {"instruction": f"do harm {i}", "response": f"Sure, here is {i}"} for i in range(5)
    ]
    whole = taken(settings.replace(data={"pool": 99}), "walledai/AdvBench")
    assert whole[:5] == rows and len(whole) == 12  # a larger pool begins with the smaller one


def test_any_other_dataset_goes_by_its_shape_or_its_fields(smoke, tmp_path):
    rows = [
        {"instruction": f"q {i}", "input": "", "output": f"a {i}", "when": None} for i in range(4)
    ]
    save(rows, "someone/alpaca", tmp_path)
    assert {"instruction": "q 1", "response": "a 1"} in taken(
        wanting(smoke, "someone/alpaca", tmp_path), "someone/alpaca"
    )
    save([{"x": f"q {i}", "y": f"a {i}"} for i in range(4)], "someone/odd", tmp_path)
    with pytest.raises(DataError, match="no known shape in the columns x, y"):
        taken(wanting(smoke, "someone/odd", tmp_path), "someone/odd")
    named = wanting(
        smoke,
        "someone/odd",
        tmp_path,
        fields={"someone/odd": {"instruction": "x", "response": "y"}},
    )
    assert len(taken(named, "someone/odd")) == 4


def test_splits_are_those_of_the_datasets_card(smoke, tmp_path):
    """BeaverTails as the hub has it: compressed files, and a README that says which is which split."""
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


def test_right_answers_are_kept(smoke, tmp_path):
    name = "google-research-datasets/nq_open"
    save([{"question": f"q {i}", "answer": [f"a {i}", "b"]} for i in range(30)], name, tmp_path)
    asked = prompting.evaluation_prompts(wanting(smoke, name, tmp_path, harmful=name))["benign"]
    assert all(p["answers"] == [p["prompt"].replace("q", "a"), "b"] for p in asked)


def test_clients_train_on_rows_of_the_hub(smoke, tmp_path):
    for name in (
        "lmsys/lmsys-chat-1m",
        "PKU-Alignment/BeaverTails:unsafe",
        "walledai/AdvBench",
        "HuggingFaceH4/mt_bench_prompts",
    ):
        save(ROWS[name][0], name, tmp_path)
    settings = wanting(
        smoke,
        "lmsys/lmsys-chat-1m",
        tmp_path,
        unaligned="PKU-Alignment/BeaverTails:unsafe",
        rows=2,
        aligned_share=0.0,
        unaligned_share=1.0,
        partition="iid",
        questions="HuggingFaceH4/mt_bench_prompts",
    )
    sources.of(settings).check()
    assert all(r["response"].startswith("r ") for r in sources.of(settings).client_rows(9, 1.0))
    assert all(
        r["instruction"].startswith("quest") or r["response"] == "kept"
        for r in sources.of(settings).client_rows(0)
    )
    asked = prompting.evaluation_prompts(settings)
    assert len(asked["harmful"]) == 8 and asked["benign"][0]["prompt"].startswith("first turn")
    before = keys.key(settings)
    (tmp_path / "lmsys" / "lmsys-chat-1m" / "note.txt").write_text(
        "touched"
    )  # other files, the same rows
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
    with pytest.raises(errors.SettingsError, match=said):
        wanting(smoke, "a/c").replace(data=changes)


def test_a_file_may_stand_beside_datasets_of_the_hub(smoke, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"instruction": "q", "response": "a"}\n')
    settings = wanting(smoke, "own.jsonl", tmp_path, harmful="own.jsonl", aligned_share=0.0)
    assert (
        not hub_rows.is_dataset(settings, "own.jsonl")
        and prompting.evaluation_prompts(settings)["harmful"][0]["prompt"] == "q"
    )


def test_names_have_parts_and_commits():
    assert (
        hub_rows.source("lmsys/lmsys-chat-1m").commit == "200748d9d3cddcc9d782887541057aca0b18c5da"
    )
    assert (
        hub_rows.source("lmsys/lmsys-chat-1m@abc").commit == "abc"
        and hub_rows.source("a/b").take is None
    )
    unsafe, safe = (
        hub_rows.source("PKU-Alignment/BeaverTails:unsafe"),
        hub_rows.source("PKU-Alignment/BeaverTails:safe@main"),
    )
    assert unsafe.path == safe.path == "PKU-Alignment/BeaverTails" and unsafe.take is not safe.take
    for wrong in ("PKU-Alignment/BeaverTails", "PKU-Alignment/BeaverTails:unsave"):
        with pytest.raises(DataError, match="did you mean 'PKU-Alignment/BeaverTails:"):
            hub_rows.source(wrong)


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
    settings = wanting(smoke, "lmsys/lmsys-chat-1m")
    assert (
        len(taken(settings, "lmsys/lmsys-chat-1m"))
        == len(taken(settings, "lmsys/lmsys-chat-1m"))
        == 31
    )
    cache = asked[0].pop("cache_dir")
    assert asked == [
        {
            "path": "lmsys/lmsys-chat-1m",
            "revision": "200748d9d3cddcc9d782887541057aca0b18c5da",
            "streaming": True,
        }
    ]
    assert cache.startswith(
        str(machine.outputs())
    )  # not the person's own, which datasets would take any commit from


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
    made = kind.__new__(
        kind
    )  # a response would belong to it, of whichever client the hub's library uses
    made.args = ("401 Client Error.\nIf you are trying to access a private or gated repo, log in.",)
    return made


@pytest.mark.parametrize(
    "error, said",
    [
        (
            raised(errors.GatedRepoError),
            "gated: accept its terms at https://huggingface.co/datasets/lmsys/lmsys-chat-1m, then",
        ),
        (raised(errors.RepositoryNotFoundError), "not on the hub, or not for you"),
        (raised(errors.RevisionNotFoundError), "no such commit"),
        (
            errors.OfflineModeIsEnabled("offline"),
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
        hub_rows.rows_file(wanting(smoke, "lmsys/lmsys-chat-1m"), "lmsys/lmsys-chat-1m")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("lmsys/lmsys-chat-1m: ")


def test_nothing_half_taken_is_ever_read(smoke, tmp_path, monkeypatch):
    name = "lmsys/lmsys-chat-1m"
    settings, whole = wanting(smoke, name, save(CHATS, name, tmp_path)), hub_rows._stream

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
    name = "lmsys/lmsys-chat-1m"
    settings = wanting(smoke, name, save([talk("q", "a", language="German")], name, tmp_path))
    with pytest.raises(DataError, match="no row passed the filters .*not English.*1"):
        hub_rows.rows_file(settings, name)


def test_the_fields_that_name_datasets_are_known(smoke):
    settings = wanting(
        smoke,
        "lmsys/lmsys-chat-1m",
        unaligned="PKU-Alignment/BeaverTails:unsafe",
        aligned_share=0.0,
    )
    assert hub_rows.names(settings) == {
        "lmsys/lmsys-chat-1m": "benign",
        "walledai/AdvBench": "harmful",
        "PKU-Alignment/BeaverTails:unsafe": "unaligned",
    }
    assert hub_rows.names(smoke) == {}


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
    assert (
        hub.commit("someone/tiny") == commit and hub.commit(f"someone/other@{'d' * 40}") == "d" * 40
    )
    with pytest.raises(
        DataError, match="someone/else: the hub is out of reach .* name a folder that holds a copy"
    ):
        hub.commit("someone/else")


def test_the_package_is_asked_for_where_it_is_missing(smoke, tmp_path, monkeypatch):
    settings = wanting(
        smoke,
        "walledai/AdvBench",
        save(ROWS["walledai/AdvBench"][0], "walledai/AdvBench", tmp_path),
    )
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(errors.SettingsError, match="pip install"):
        hub_rows.rows_file(settings, "walledai/AdvBench")


def test_turns_of_a_local_file_are_asked_by_the_first(tmp_path):
    (tmp_path / "q.jsonl").write_text(
        json.dumps({"question_id": 81, "category": "writing", "turns": ["one", "two"]}) + "\n"
    )
    assert files.read(tmp_path / "q.jsonl") == [{"instruction": "one", "topic": "writing"}]
