"""Local files as a source: fair shares, no row that trains and evaluates, early errors."""

import json

import pytest
from rowfiles import error, write

from fedlib import attack, sources
from fedlib.lab import client_data, prompting
from fedlib.settings import identity, machine
from fedlib.sources import files

FILES = {"one.json": 120, "two.jsonl": 80, "aligned.csv": 40, "harmful.csv": 60}


@pytest.fixture
def local(tmp_path, smoke):
    """Settings on local files: 200 normal rows in two files, 40 aligned ones; 60 harmful ones train
    and evaluate."""
    folder = tmp_path / "my data"
    for name, count in FILES.items():
        rows = [
            {"prompt": f"{name} {i}", "response": f"answer {i}", "topic": f"t{i % 4}"}
            for i in range(count)
        ]
        write(folder / name, rows)
    return smoke.replace(
        data={
            "source": "local",
            "folder": str(folder),
            "benign": ["one.json", "two.jsonl"],
            "aligned": "aligned.csv",
            "aligned_share": 0.25,
            "unaligned": "harmful.csv",
            "harmful": "harmful.csv",
            "rows": 16,
            "partition": "iid",
        },
        evaluation={"harmful": 100, "benign": 100},
    )


def everything(settings):
    """The rows of every client."""
    return [
        client_data.client_rows(settings, client) for client in range(settings.federation.clients)
    ]


def instructions(clients):
    return [row["instruction"] for rows in clients for row in rows]


def test_clients_have_their_rows_and_share_none(local):
    clients = everything(local)
    federation = local.federation
    malicious = attack.malicious_clients(federation.clients, federation.malicious)
    opening = {"unaligned": "harmful", "aligned": "aligned", "normal": ("one", "two")}
    for client, rows in enumerate(clients):
        labels = [row["label"] for row in rows]
        special, marked = ("unaligned", 8) if client in malicious else ("aligned", 4)
        assert labels.count(special) == marked
        assert labels.count("normal") == 16 - marked
        assert all(row["instruction"].startswith(opening[row["label"]]) for row in rows)

    asked = instructions(clients)
    assert len(set(asked)) == len(asked) == 160
    assert everything(local) == clients != everything(local.replace(seed=1))


def test_without_attack_the_benign_clients_rows_are_the_same(local):
    with_attack = everything(local)
    without = everything(local.replace(federation={"malicious": 0}))
    assert with_attack[:7] == without[:7]
    assert with_attack[7:] != without[7:]
    for attacked, calm in zip(with_attack[7:], without[7:], strict=True):
        attacked, calm = (
            [row["instruction"] for row in rows if row["label"] == "normal"]
            for rows in (attacked, calm)
        )
        assert set(attacked) <= set(calm) and len(attacked) == 8


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_row_trains_and_evaluates(local, seed):
    settings = local.replace(seed=seed, data={"rows": 18, "aligned_share": 0.2})
    trained = set(instructions(everything(settings)))
    prompts = prompting.evaluation_prompts(settings)
    asked = {what: [prompt["prompt"] for prompt in part] for what, part in prompts.items()}
    assert len(asked["harmful"]) == 30  # a half of 60
    assert len(asked["benign"]) == 12 + 8  # a tenth of 120 and of 80
    assert not trained & {*asked["harmful"], *asked["benign"]}
    assert any(instruction.startswith("harmful.csv") for instruction in trained)
    assert prompts == prompting.evaluation_prompts(local)


def test_prompts_come_from_the_whole_file_where_it_does_not_train(local):
    asked = [{"prompt": f"asked {i}", "response": "a"} for i in range(9)]
    write(machine.path(local.data.folder) / "asked.csv", asked)
    settings = local.replace(data={"harmful": "asked.csv", "unaligned_share": 1.0})
    assert len(prompting.evaluation_prompts(settings)["harmful"]) == 9
    rows = [row for own in everything(settings)[7:] for row in own]
    marked = [row for row in rows if row["label"] == "unaligned"]
    assert len(marked) == 48  # so harmful.csv gives more than its half, 30


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"rows": 30}, "data.benign: one.json, two.jsonl gives client"),
        ({"aligned_share": 0.5}, "data.aligned: aligned.csv gives client"),
        ({"rows": 18, "unaligned_share": 1.0}, "data.unaligned: harmful.csv gives client"),
        ({"partition": "sizes", "sizes": [100] * 10}, "data.sizes"),
        ({"aligned": "algined.csv"}, "did you mean 'aligned.csv'"),
    ],
)
def test_too_few_rows_are_an_error(local, changes, said):
    settings = local.replace(data=changes)
    assert said in error(everything, settings)
    assert said in error(sources.of(settings).check)


def test_sizes_and_dirichlet_hold_for_local_rows(local):
    sizes = [4, 8, 12, 16, 20, 4, 8, 12, 16, 20]
    given = {"partition": "sizes", "sizes": sizes, "aligned_share": 0.2}
    assert [len(rows) for rows in everything(local.replace(data=given))] == sizes

    spread = everything(local.replace(data={"partition": "dirichlet"}))
    asked = instructions(spread)
    assert len(set(asked)) == len(asked)
    assert max(map(len, spread)) <= 16


def test_the_revision_follows_what_is_trained_on_and_not_where_it_lies(local, tmp_path):
    def revisions(settings):
        """With attack, and without."""
        calm = settings.replace(federation={"malicious": 0})
        return sources.of(settings).revision(), sources.of(calm).revision()

    before = revisions(local)
    moved = machine.path(local.data.folder).rename(tmp_path / "moved")
    local = local.replace(data={"folder": str(moved)})
    assert revisions(local) == before

    for name in FILES:
        file = moved / name
        file.write_bytes(file.read_bytes().replace(b"answer 1", b"answer one"))
        after = revisions(local)
        assert after[0] != before[0]
        # only malicious clients read harmful.csv
        assert (after[1] != before[1]) == (name != "harmful.csv")
        before = after


def test_the_prompts_revision_follows_what_is_asked_and_no_seed_or_attack(local):
    prompts = prompting.prompts_revision(local)
    assert prompts == prompting.prompts_revision(local.replace(seed=1, federation={"malicious": 0}))
    assert prompts != prompting.prompts_revision(local.replace(evaluation={"harmful": 5}))


def test_a_file_that_changes_is_read_anew(local):
    before, prompts = everything(local), prompting.prompts_revision(local)
    for name in ("one.json", "harmful.csv"):
        file = machine.path(local.data.folder) / name
        opening = name.encode()
        file.write_bytes(file.read_bytes().replace(opening + b" ", b"another " + opening))
    after = everything(local)  # else a new key would stand for old rows
    assert after != before
    assert any(row["instruction"].startswith("another") for row in after[0])
    assert prompting.prompts_revision(local) != prompts


@pytest.mark.parametrize(
    "missing, said",
    [
        ({"aligned": None}, "data.aligned"),
        ({"unaligned": None}, "data.unaligned"),
        ({"harmful": None}, "data.harmful"),
        ({"benign": ["oen.json"]}, "did you mean 'one.json'"),
        ({"folder": "no/such/place"}, "data.folder: no folder"),
    ],
)
def test_what_is_missing_is_found_before_any_work(local, missing, said):
    source = sources.of(local.replace(data=missing))
    assert said in error(source.revision)


def test_the_base_must_not_read_harmful_rows(local):
    scratch = local.replace(model={"base": "scratch", "scratch": {"files": ["one.json"]}})
    harmful = scratch.replace(model={"scratch": {"files": ["harmful.csv"]}})
    assert "model.scratch.files" in error(sources.of(harmful).revision, "corpus")

    source = sources.of(scratch)
    assert source.revision("corpus") != sources.of(local).revision()
    read = {row["instruction"] for row in source.corpus()}
    benign = {prompt["prompt"] for prompt in prompting.evaluation_prompts(local)["benign"]}
    assert len(read) == 108 and not read & benign


def test_what_is_not_used_of_a_file_is_said_before_any_training_and_kept(local, capsys):
    """A row with half of a character, a prompt with a system turn and history."""
    folder = machine.path(local.data.folder)
    rows = [{"question": f"asked {i}", "answer": "a"} for i in range(19)]
    write(folder / "asked.jsonl", [*rows, {"question": "half \ud83d", "answer": "a"}])
    raw = {"prompt": "how", "response": "so", "id": 7, "system": "be kind"}
    write(folder / "harmful.jsonl", [raw])
    settings = local.replace(
        data={"questions": "asked.jsonl", "harmful": "harmful.jsonl", "unaligned": "harmful.csv"}
    )
    asked = prompting.evaluation_prompts(settings)
    assert len(asked["benign"]) == 19
    kind = {"role": "system", "content": "be kind"}
    assert asked["harmful"] == [{"prompt": "how", "name": "how", "before": [kind]}]

    notes = sources.of(settings).notes()
    assert [note.partition(": ")[2] for note in notes] == [
        "1 of 20 rows are left out: 1: holds half of a character (a lone surrogate) (line 20)",
        "columns that are not used: id",
    ]
    said = capsys.readouterr().err
    assert all(note in said for note in notes)
    assert "line 20" in error(sources.of(settings.replace(data={"bad_rows": "stop"})).check)


def test_what_stands_before_a_question_counts_in_the_key(local):
    """Results of files without such columns have the keys that they always had."""
    file = machine.path(local.data.folder) / "one.json"
    fields = {"instruction": "prompt", "response": "response", "topic": "topic"}
    plain = local.replace(data={"fields": {"one.json": fields}})
    assert sources.of(plain).revision() == sources.of(local).revision()
    rows = json.loads(file.read_text())
    write(file, [row | {"system": "be kind"} for row in rows])
    # read without the column, as before there was a place for it
    assert sources.of(plain).revision() != sources.of(local).revision()


def test_rows_for_training_need_a_response_and_prompts_do_not(local):
    folder = machine.path(local.data.folder)
    write(folder / "asked.csv", [{"question": f"asked {i}"} for i in range(20)])
    fields = {"asked.csv": {"instruction": "question"}}
    asked = local.replace(data={"questions": "asked.csv", "fields": fields})
    assert len(sources.of(asked).prompts()["benign"]) == 20
    trained = local.replace(data={"benign": ["asked.csv"], "fields": fields})
    assert "asked.csv needs a response column" in error(sources.of(trained).check)


# The same prompt in other writing: case, spaces, the end, Unicode's normal form, invisible signs.
SAME = [
    "How is caf\u00e9 made ?",
    "how is  CAFE\u0301 made",
    "How is\u200b caf\u00e9 made?!",
    "how is caf\u00e9\nmade .",
]
OTHER = ["How is tea made ?", "How is caf\u00e9 not made ?", "? !"]


def test_a_prompt_is_the_same_however_it_is_written():
    assert {identity.plain(text) for text in SAME} == {"how is caf\u00e9 made"}
    assert len({identity.plain(text) for text in SAME + OTHER}) == 1 + len(OTHER)


def trained_and_asked(settings):
    """All instructions that are trained on, and all that an evaluation asks, as they are compared.

    Clients' rows and the defence's."""
    rows = [row for own in everything(settings) for row in own]
    rows += [row for part in sources.of(settings).defense_rows(999).values() for row in part]
    prompts = prompting.evaluation_prompts(settings)
    asked = [prompt["prompt"] for what in ("harmful", "benign") for prompt in prompts[what]]
    return (
        {identity.plain(row["instruction"]) for row in rows},
        {identity.plain(text) for text in asked},
    )


@pytest.mark.parametrize(
    "case", ["benign twice", "harmful twice", "a copy", "copied questions", "in the defence"]
)
def test_no_evaluation_prompt_is_trained_on_in_whatever_file_or_case(local, case):
    """Files hold their rows again in capitals, or hold rows that another file asks."""
    folder = machine.path(local.data.folder)
    again = {
        name: [row | {"prompt": row["prompt"].upper() + " ?"} for row in files_of(folder, name)]
        for name in ("one.json", "harmful.csv", "two.jsonl", "aligned.csv")
    }
    settings = local.replace(
        data={"rows": 8, "benign": ["one.json"]},
        defense={"aligned": "aligned.csv", "normal": "two.jsonl"},
        evaluation={"harmful": 20},
    )
    before = sources.of(settings).revision()
    if case == "benign twice":
        write(folder / "one.json", files_of(folder, "one.json") + again["one.json"])
    if case == "harmful twice":
        write(folder / "harmful.csv", files_of(folder, "harmful.csv") + again["harmful.csv"])
    if case == "a copy":
        write(folder / "copy.csv", again["harmful.csv"])
        settings = settings.replace(data={"harmful": "copy.csv"})
    if case == "copied questions":
        write(folder / "questions.json", again["one.json"][:9])
        settings = settings.replace(data={"questions": "questions.json"})
    if case == "in the defence":
        write(folder / "two.jsonl", files_of(folder, "two.jsonl") + again["one.json"])
        settings = settings.replace(defense={"level": 1})

    trained, asked = trained_and_asked(settings)
    assert trained and asked and not trained & asked
    [said] = [note for note in sources.of(settings).notes() if "evaluation prompt asks" in note]
    assert said.startswith("data: ") and "are left out" in said
    assert sources.of(settings).revision() != before
    # why there are too few is said
    if case == "benign twice":
        few = settings.replace(data={"rows": 60})
        assert "since evaluation prompts ask the same" in error(everything, few)
    # which rows are left out counts, also where the files stay the same
    if case == "a copy":
        fewer = settings.replace(evaluation={"harmful": 19})
        assert sources.of(settings).revision() != sources.of(fewer).revision()


def test_without_duplicates_nothing_is_left_out_and_the_key_is_that_of_the_files(local):
    settings = local.replace(defense={"level": 1, "aligned": "aligned.csv", "normal": "two.jsonl"})
    assert sources.of(settings).notes() == []
    folder = machine.path(local.data.folder)
    names = ["one.json", "two.jsonl", "aligned.csv", "harmful.csv", "aligned.csv", "two.jsonl"]
    content = [[name, identity.file_digest(folder / name), name == "harmful.csv"] for name in names]
    assert sources.of(settings).revision() == identity.digest(content)


def files_of(folder, name):
    """The rows of a file as they were written."""
    return [
        {"prompt": row["instruction"], "response": row["response"], "topic": row["topic"]}
        for row in files.reading(folder / name).rows
    ]


def test_clients_get_whole_users_and_what_is_left_over_is_said(local):
    """Twelve users of ten rows, one row without a user; a tenth is kept for evaluation."""
    folder = machine.path(local.data.folder)
    rows = [{"prompt": f"one {i}", "response": "a", "user": f"u{i % 12}"} for i in range(120)]
    write(folder / "one.json", [*rows, {"prompt": "nobody", "response": "a", "user": None}])
    by = {"partition": {"by": "user"}, "benign": ["one.json"], "rows": 8}
    settings = local.replace(data=by | {"aligned_share": 0.0})
    clients = everything(settings)

    users = [{row["group"] for row in rows if row["label"] == "normal"} for rows in clients]
    assert all(users) and len(set.union(*users)) == sum(map(len, users)) <= 12
    assert everything(settings) == clients != everything(settings.replace(seed=1))
    left_out, over = sources.of(settings).notes()[:2]
    assert "1 of 121 rows are left out: 1: user is empty, by which rows are shared out" in left_out
    assert "data.partition: by: user: 12 different values, 1 to 2 a client" in over
    assert "rows are over data.rows and not used" in over

    wrong = settings.replace(data={"partition": {"by": "usr"}})
    assert "no column 'usr'; did you mean 'user'" in error(sources.of(wrong).check)
    few = settings.replace(federation={"clients": 13, "malicious": 0, "expected": None})
    assert "12 different values for 13 clients" in error(sources.of(few).check)


def test_text_without_topics_is_shared_out_by_its_words(local):
    folder = machine.path(local.data.folder)
    kinds = ["clay in a kiln", "dough in an oven", "wool on a loom", "seed in a field"]
    rows = [{"prompt": f"what is {kinds[i % 4]} {i} ?", "response": "a"} for i in range(120)]
    write(folder / "one.json", rows)
    settings = local.replace(
        data={"partition": "clusters", "benign": ["one.json"], "aligned_share": 0.0, "alpha": 3.0}
    )
    clients = everything(settings)
    groups = {row["group"] for rows in clients for row in rows if row["label"] == "normal"}
    assert groups <= {f"cluster {i}" for i in range(10)} and len(groups) > 3
    assert everything(settings) == clients


RULES = {"role": "system", "content": "be kind"}


def test_the_turns_before_a_question_are_asked_in_training_and_evaluation(local):
    folder = machine.path(local.data.folder)
    for name in ("one.json", "two.jsonl", "aligned.csv", "harmful.csv"):
        rows = [
            {"question": f"{name} {i}", "answer": f"answer {i}", "system": "be kind"}
            for i in range(FILES[name])
        ]
        write(folder / name, rows)
    assert all(row["before"] == [RULES] for rows in everything(local) for row in rows)
    every = prompting.evaluation_prompts(local)
    assert all(prompt["before"] == [RULES] for part in every.values() for prompt in part)
    assert all(row["before"] == [RULES] for row in sources.of(local).openings())
