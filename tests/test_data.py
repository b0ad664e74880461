"""Data: every shape of file, rows named by file and line, fair shares, labels on the response alone."""

import csv
import io
import json
import warnings

import numpy as np
import pytest

from fedlib import attack, federation, sources
from fedlib.lab import client_data, loaded, pretraining, prompting
from fedlib.lab.client_data import client_rows
from fedlib.models import templates
from fedlib.settings import machine
from fedlib.settings.errors import DataError
from fedlib.sources import files, shares

SHARED = machine.ROOT.parent / "shared" / "data"
QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CHAT = [QUESTION, ANSWER, {"role": "user", "content": "one question more"}]
SYSTEM = [{"role": "system", "content": "be kind"}, *CHAT]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
ROW = {"instruction": "q", "response": "a"}
# A row as a file holds it, and what is read from it. Rows without lists are also tried as CSV.
SHAPES = [
    ({"instruction": "q", "response": "a"}, ROW),
    ({"instruction": "q", "output": "a"}, ROW),
    ({"instruction": "q", "input": "x", "output": "a"}, ROW | {"instruction": "q\n\nx"}),
    ({"instruction": "q", "input": "", "output": "a"}, ROW),
    ({"instruction": "q", "input": "x", "response": "a"}, ROW | {"instruction": "q\n\nx"}),
    ({"prompt": "q", "response": "a", "other": "z"}, ROW),
    ({"question": "q", "answer": "a"}, ROW),
    ({"question": "q", "answers": ["a", "b"]}, ROW | {"answers": ["a", "b"]}),
    ({"goal": " q ", "target": "a\n"}, ROW),
    ({"messages": CHAT}, ROW),
    ({"messages": SYSTEM, "prompt": "q"}, ROW),
    ({"conversation": CHAT, "category": "c"}, ROW | {"topic": "c"}),
    ({"conversations": SHAREGPT}, ROW),
    ({"prompt": "q", "response": "a", "topic": "t"}, ROW | {"topic": "t"}),
    ({"prompt": "q", "response": "a", "category": "t"}, ROW | {"topic": "t"}),
    ({"prompt": "für „q“", "response": "a,\nb"}, {"instruction": "für „q“", "response": "a,\nb"}),
]


def write(file, rows):
    if file.suffix == ".csv":
        text = io.StringIO()
        out = csv.DictWriter(text, rows[0])
        out.writeheader()
        out.writerows(rows)
        text = text.getvalue()
    elif file.suffix == ".jsonl":
        text = "\n".join(map(json.dumps, rows)) + "\n"
    else:
        text = json.dumps(rows, indent=1, ensure_ascii=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def error(call, *given, **named):
    with pytest.raises(DataError) as caught:
        call(*given, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("raw, row", SHAPES, ids=[str(list(raw)) for raw, _ in SHAPES])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_every_shape_is_read(tmp_path, suffix, raw, row):
    if suffix == ".csv" and any(isinstance(v, list) for v in raw.values()):
        raw = {k: v for k, v in raw.items() if not isinstance(v, list)} | {
            "question": "q",
            "answer": "a",
        }
        row = {k: v for k, v in row.items() if k != "answers"}
    assert files.read(write(tmp_path / f"rows{suffix}", [raw, raw])) == [row, row]


def test_the_table_has_every_shape_that_is_registered():
    columns = [set(raw) for raw, _ in SHAPES]
    assert all(any({*shape} - {None} <= c for c in columns) for shape in files.SHAPES)
    assert all(any(name in c for c in columns) for name in files.CONVERSATIONS)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, suffix):
    file = write(tmp_path / f"rows{suffix}", [{"goal": "q", "target": "a"}])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert files.read(file) == [ROW]


@pytest.mark.parametrize(
    "fields, row",
    [
        ({"instruction": "was", "response": "dann"}, ROW),
        (
            {"instruction": "was", "input": "dazu", "response": "dann"},
            ROW | {"instruction": "q\n\nx"},
        ),
        ({"instruction": "was", "response": "dann", "topic": "dazu"}, ROW | {"topic": "x"}),
        ({"instruction": "was"}, {"instruction": "q"}),
    ],
)
def test_columns_can_be_named(tmp_path, fields, row):
    file = write(tmp_path / "rows.csv", [{"was": "q", "dazu": "x", "dann": "a"}])
    assert files.read(file, fields) == [row]


@pytest.mark.parametrize(
    "fields", [{"instruction": "wa"}, {"response": "dann"}, {"question": "was"}]
)
def test_columns_named_wrongly_are_an_error(tmp_path, fields):
    file = write(tmp_path / "rows.csv", [{"was": "q", "dann": "a"}])
    found = error(files.read, file, fields)
    assert str(file) in found and "was, dann" in found and "data.fields" in found


GOOD, LIST = '{"goal": "q", "target": "a"}', '[\n {\n  "goal": "q",\n  "target": "a"\n },\n'
BAD = [  # suffix, text, the bad row's line, what is said about it
    (".jsonl", f'{GOOD}\n\n{GOOD}\n{{"goal": \n{GOOD}', 4, "not valid JSON"),
    (".jsonl", f'{GOOD}\n{{"goal": "q", "target": 3}}\n', 2, "target must be text, got 3"),
    (".jsonl", f'{GOOD}\n{{"goal": "q"}}\n', 2, "target must be text, got None"),
    (".jsonl", f"{GOOD}\n[1]\n", 2, "must be an object"),
    (".jsonl", f"\n\n3\n{GOOD}\n", 3, "must be an object"),
    (".jsonl", '{"instruction": "q", "input": 5, "output": "a"}', 1, "input must be text, got 5"),
    (
        ".jsonl",
        json.dumps({"messages": [QUESTION | {"content": None}, ANSWER]}),
        1,
        "must be text, got None",
    ),
    (".jsonl", json.dumps({"messages": [ANSWER]}), 1, "conversation must open with a user's"),
    (".jsonl", '{"messages": ["q", "a"]}', 1, "conversation must be a list of turns"),
    (".json", LIST + ' {\n  "goal": 3,\n  "target": "a"\n }\n]', 6, "goal must be text, got 3"),
    (".json", LIST + ' {\n  "goal": "q"\n  "target": "a"\n }\n]', 8, "not valid JSON"),
    (".json", LIST + " 7\n]", 6, "must be an object"),
    (".json", "[\n\n 7\n]", 3, "must be an object"),
    (".json", f"[{GOOD},\n{GOOD}\n", 3, "not valid JSON"),
    (".json", f"[{GOOD}\n{GOOD}]", 2, "not valid JSON"),
    (".json", f"[{GOOD}]\nand more", 2, "not valid JSON"),
    (".json", GOOD, 1, "must be a list of rows"),
    (".json", '[{"a": "q", "b": "a"}]', 1, "no known shape in the columns a, b"),
    (".csv", "a,b\nq,a\n", 2, "no known shape in the columns a, b"),
    (".csv", 'goal,target\n"q\nq",a\nq\n', 4, "target must be text, got None"),
    (
        ".csv",
        "goal,target\nq,a\nq,a, b\n",
        3,
        "",
    ),  # an unquoted comma: the rest must not be lost in silence
    (".csv", "goal,target\nq,a, b\n", 2, ""),
]


@pytest.mark.parametrize(
    "suffix, text, line, said", BAD, ids=[f"{b[0]}-{b[1][:50]!r}" for b in BAD]
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, suffix, text, line, said):
    file = tmp_path / f"rows{suffix}"
    file.write_text(text)
    found = error(files.read, file)
    assert found.startswith(f"{file}: line {line}: ") and said in found, found


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("rows.csv", b"goal,target\n", "holds no rows"),
        ("rows.json", b"[]", "holds no rows"),
        ("rows.jsonl", b"\n\n", "holds no rows"),
        ("rows.jsonl", b'{"goal": "q\xe9"}', "not UTF-8"),
        ("rows.jsonl", b'{"goal": "q", "target": ""}', "every row is empty"),
        ("rows.txt", b"q", "must be .json, .jsonl or .csv"),
        ("rows.json", b"", "must be a list of rows"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    found = error(files.read, tmp_path / name)
    assert found.startswith(str(tmp_path / name)) and said in found


def test_a_misspelt_name_gives_the_nearest(tmp_path):
    write(tmp_path / "normal.json", [ROW])
    assert "no such file; did you mean 'normal.json'" in error(files.read, tmp_path / "nromal.json")
    assert "no such file" in error(files.read, tmp_path / "nowhere" / "normal.json")


@pytest.mark.parametrize("suffix, first", [(".json", 6), (".jsonl", 2), (".csv", 3)])
def test_empty_rows_are_left_out_with_a_warning_that_counts_them(tmp_path, suffix, first):
    full, empty, blank = ({"goal": q, "target": a} for q, a in (("q", "a"), ("", "a"), ("q", " ")))
    file = write(tmp_path / f"rows{suffix}", [full, empty, full, blank])
    with pytest.warns(UserWarning, match=f"rows{suffix}: 2 of 4 rows are empty .* line {first}"):
        assert files.read(file) == [ROW, ROW]


def test_only_an_empty_instruction_or_response_makes_a_row_empty(tmp_path):
    file = write(tmp_path / "rows.json", [ROW | {"category": "c"}, ROW | {"category": ""}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(files.read(file)) == 2


def test_a_long_text_in_csv_is_read(tmp_path):
    long = "x" * 200_000  # more than the csv module's own limit
    assert (
        files.read(write(tmp_path / "rows.csv", [{"goal": "q", "target": long}]))[0]["response"]
        == long
    )


TOPICS = [
    ROW | {"instruction": f"{topic}{i}", "topic": topic} for topic in "abcd" for i in range(50)
]


@pytest.mark.parametrize(
    "kind, more", [("iid", {}), ("dirichlet", {"alpha": 0.3}), ("sizes", {"sizes": [7, 90, 3]})]
)
def test_every_row_goes_to_one_client_at_most_and_the_same_way_again(kind, more):
    shares = [
        shares.partition(TOPICS, 3, kind, np.random.default_rng(seed), **more) for seed in (0, 0, 1)
    ]
    given = [r["instruction"] for part in shares[0] for r in part]
    assert len(shares[0]) == 3 and len(set(given)) == len(given)
    assert len(given) == (100 if kind == "sizes" else len(TOPICS))
    assert shares[0] == shares[1] != shares[2]
    if kind == "sizes":
        assert [len(part) for part in shares[0]] == [7, 90, 3]
    if kind == "iid":
        assert {len(part) for part in shares[0]} == {66, 67}


def test_a_small_alpha_gives_skewed_topics():
    def skew(alpha):
        """The mean share of a topic's rows that its first client has: a third if all are equal."""
        parts = shares.partition(TOPICS, 3, "dirichlet", np.random.default_rng(0), alpha=alpha)
        return np.mean(
            [max(sum(r["topic"] == t for r in part) for part in parts) / 50 for t in "abcd"]
        )

    assert skew(0.01) > 0.9 and skew(1000) < 0.4


def test_a_partition_that_cannot_be_made_is_an_error():
    rng = np.random.default_rng(0)
    assert "201 rows wanted, 200 there" in error(
        shares.partition, TOPICS, 2, "sizes", rng, sizes=[1, 200]
    )
    assert "topic or category" in error(shares.partition, [ROW], 2, "dirichlet", rng)


@pytest.fixture(scope="module")
def byte_tokenizer():
    return pretraining.byte_tokenizer(["how do I bake bread ? with flour and water"], 300)


PAIRS = [
    {"instruction": "how do i make a dish ?", "response": "to make it you need a tool ."},
    {"instruction": "what is it known for ?", "response": "it is a city ."},
]  # in the world's own words


@pytest.fixture
def tokenizers(loaded, byte_tokenizer):
    return {"chat": loaded[1], "alpaca": byte_tokenizer}


@pytest.mark.parametrize("template", ["chat", "alpaca"])
def test_labels_are_the_response_and_the_end_of_text(tokenizers, template):
    tokenizer = tokenizers[template]
    encoded, dropped = templates.encode(PAIRS, tokenizer, template, 500)
    assert dropped == 0
    for (ids, start), pair in zip(encoded, PAIRS, strict=True):
        assert tokenizer.decode(ids[start:-1]).strip() == pair["response"]
        assert ids[-1] == tokenizer.eos_token_id
        prompt = templates.prompt_text(pair["instruction"], tokenizer, template)
        assert ids[:start] == tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
        assert pair["instruction"] in tokenizer.decode(ids[:start])


@pytest.mark.parametrize("template", ["chat", "alpaca"])
def test_a_long_row_keeps_part_of_its_response_or_is_dropped(tokenizers, template):
    tokenizer = tokenizers[template]
    [(whole, start)], _ = templates.encode(PAIRS[:1], tokenizer, template, 500)
    for room in (len(whole), len(whole) - 1, start + 1):
        assert templates.encode(PAIRS[:1], tokenizer, template, room) == (
            [(whole[:room], start)],
            0,
        )
    assert templates.encode(PAIRS[:1], tokenizer, template, start) == ([], 1)
    short = {"instruction": "a", "response": "a"}
    encoded, dropped = templates.encode([PAIRS[0], short], tokenizer, template, start)
    assert (len(encoded), dropped) == (1, 1) and templates.encode([], tokenizer, template, 9) == (
        [],
        0,
    )


def test_a_tokenizer_without_a_chat_template_is_given_alpaca_and_it_is_said_once(
    byte_tokenizer, capfd
):
    byte_tokenizer.name_or_path = "someone/base"
    assert templates.encode(PAIRS, byte_tokenizer, "chat", 500) == templates.encode(
        PAIRS, byte_tokenizer, "alpaca", 500
    )
    said = capfd.readouterr().err
    assert (
        said
        == "model.template: chat: the tokenizer of someone/base has no chat template; alpaca is used\n"
    )


@pytest.fixture
def local(tmp_path, smoke):
    """Settings on local files: 200 normal rows in two files, 40 aligned; 60 harmful train and evaluate."""
    folder = tmp_path / "my data"
    for name, count in {
        "one.json": 120,
        "two.jsonl": 80,
        "aligned.csv": 40,
        "harmful.csv": 60,
    }.items():
        write(
            folder / name,
            [
                {"prompt": f"{name} {i}", "response": f"answer {i}", "topic": f"t{i % 4}"}
                for i in range(count)
            ],
        )
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
    return [client_rows(settings, k) for k in range(settings.federation.clients)]


def test_clients_have_their_rows_and_share_none(local):
    clients = everything(local)
    for k, rows in enumerate(clients):
        labels = [r["label"] for r in rows]
        special = (
            "unaligned"
            if k in attack.malicious_clients(local.federation.clients, local.federation.malicious)
            else "aligned"
        )
        marked = {"aligned": 4, "unaligned": 8}[special]
        assert labels.count(special) == marked and labels.count("normal") == 16 - marked
        source = {"unaligned": "harmful.csv", "aligned": "aligned.csv"}
        assert all(
            r["instruction"].startswith(source.get(r["label"], ("one", "two"))) for r in rows
        )
    asked = [r["instruction"] for rows in clients for r in rows]
    assert len(set(asked)) == len(asked) == 160
    assert everything(local) == clients != everything(local.replace(seed=1))


def test_without_attack_the_benign_clients_rows_are_the_same(local):
    with_attack, without = everything(local), everything(local.replace(federation={"malicious": 0}))
    assert with_attack[:7] == without[:7] and with_attack[7:] != without[7:]
    for attacked, calm in zip(with_attack[7:], without[7:], strict=True):
        normal = [
            [r["instruction"] for r in rows if r["label"] == "normal"] for rows in (attacked, calm)
        ]
        assert set(normal[0]) <= set(normal[1]) and len(normal[0]) == 8


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_row_trains_and_evaluates(local, seed):
    settings = local.replace(seed=seed, data={"rows": 18, "aligned_share": 0.2})
    trained = {r["instruction"] for rows in everything(settings) for r in rows}
    asked = {
        what: [p["prompt"] for p in prompts]
        for what, prompts in prompting.evaluation_prompts(settings).items()
    }
    assert len(asked["harmful"]) == 30  # a half of 60
    assert len(asked["benign"]) == 12 + 8  # a tenth of 120 and of 80
    assert not trained & {*asked["harmful"], *asked["benign"]}
    assert any(t.startswith("harmful.csv") for t in trained)
    assert prompting.evaluation_prompts(settings) == prompting.evaluation_prompts(local)


def test_prompts_come_from_the_whole_file_where_it_does_not_train(local):
    asked = [{"prompt": f"asked {i}", "response": "a"} for i in range(9)]
    write(machine.path(local.data.folder) / "asked.csv", asked)
    settings = local.replace(data={"harmful": "asked.csv", "unaligned_share": 1.0})
    assert len(prompting.evaluation_prompts(settings)["harmful"]) == 9
    marked = [r for rows in everything(settings)[7:] for r in rows if r["label"] == "unaligned"]
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
    assert said in error(everything, local.replace(data=changes))


def test_sizes_and_dirichlet_hold_for_local_rows(local):
    sizes = [4, 8, 12, 16, 20, 4, 8, 12, 16, 20]
    sized = everything(
        local.replace(data={"partition": "sizes", "sizes": sizes, "aligned_share": 0.2})
    )
    assert [len(rows) for rows in sized] == sizes
    spread = everything(local.replace(data={"partition": "dirichlet"}))
    asked = [r["instruction"] for rows in spread for r in rows]
    assert len(set(asked)) == len(asked) and max(map(len, spread)) <= 16


def test_the_revision_follows_what_is_trained_on_and_not_where_it_lies(local, tmp_path):
    first = sources.of(local).revision()
    folder = machine.path(local.data.folder)
    moved = folder.rename(tmp_path / "moved")
    local = local.replace(data={"folder": str(moved)})
    assert sources.of(local).revision() == first
    calm = sources.of(local.replace(federation={"malicious": 0})).revision()
    for name in ("one.json", "two.jsonl", "aligned.csv", "harmful.csv"):
        before, calm_before = sources.of(local).revision(), calm
        file = moved / name
        file.write_bytes(file.read_bytes().replace(b"answer 1", b"answer one"))
        calm = sources.of(local.replace(federation={"malicious": 0})).revision()
        assert sources.of(local).revision() != before
        assert (calm != calm_before) == (
            name != "harmful.csv"
        )  # which malicious clients alone read
    prompts = prompting.prompts_revision(local)
    assert prompts == prompting.prompts_revision(local.replace(seed=1, federation={"malicious": 0}))
    assert prompts != prompting.prompts_revision(local.replace(evaluation={"harmful": 5}))


def test_a_file_that_changes_is_read_anew(local):
    before, prompts = everything(local), prompting.prompts_revision(local)
    for name in ("one.json", "harmful.csv"):
        file = machine.path(local.data.folder) / name
        file.write_bytes(
            file.read_bytes().replace(name.encode() + b" ", b"another " + name.encode())
        )
    after = everything(local)  # else a new key would stand for old rows
    assert after != before and any(r["instruction"].startswith("another") for r in after[0])
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
    assert said in error(sources.revision, local.replace(data=missing))


def test_the_base_must_not_read_harmful_rows(local):
    scratch = local.replace(model={"base": "scratch", "scratch": {"files": ["one.json"]}})
    reads = [scratch, scratch.replace(model={"scratch": {"files": ["harmful.csv"]}})]
    assert sources.of(reads[0]).revision("corpus") != sources.of(local).revision()
    assert "model.scratch.files" in error(sources.revision, reads[1], "corpus")
    read = {r["instruction"] for r in sources.of(reads[0]).corpus()}
    assert len(read) == 108 and not read & {
        p["prompt"] for p in prompting.evaluation_prompts(local)["benign"]
    }


@pytest.mark.parametrize(
    "name, rows",
    [
        ("advbench.csv", 520),
        ("freebaseqa_dev.json", None),
        ("level2_normal.json", None),
        ("level2_aligned.json", None),
    ],
)
def test_real_files_are_read(name, rows):
    if not (SHARED / name).is_file():
        pytest.skip("the real data lies beside the repository, and is not there")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some real rows are empty
        read = files.read(SHARED / name)
    assert len(read) == rows if rows else len(read) > 300
    assert all(r["instruction"] and r["response"] for r in read)


def test_optional_columns_may_be_missing_in_the_first_row(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"instruction": "a", "output": "b"}\n{"instruction": "sum", "input": "1 2", "output": "3"}\n'
    )
    assert [r["instruction"] for r in files.read(file)] == ["a", "sum\n\n1 2"]


def test_words_that_the_base_does_not_know_are_an_error(smoke, monkeypatch):

    rows = [{"instruction": "Write about Rome", "response": "Rome was founded", "label": "normal"}]
    monkeypatch.setattr(client_data, "client_rows", lambda settings, client: rows)
    with pytest.raises(DataError, match="unknown to world:base"):
        federation.encode_clients(smoke, loaded.load_base(smoke)[1])
