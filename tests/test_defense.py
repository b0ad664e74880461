"""The server's post-hoc defence: its rows, what it leaves, its key, and what must be made before it."""

import csv
import json
import math
import threading

import pytest
import torch
from safetensors.torch import load_file

from fedlib import sources, synthesis, training
from fedlib.lab import keys, prompting, runs, steps, store
from fedlib.settings import identity, presets
from fedlib.sources import world

LEVELS = (1, 2, 3)
HALVES = ("aligned", "normal")


def some(kind, count):
    return [
        {"instruction": f"{kind} q {i}", "response": f"{kind} a {i}", "label": kind}
        for i in range(count)
    ]


def at(settings, level, **changes):
    return settings.replace(defense={"level": level}).replace(**changes)


# Its rows.


@pytest.fixture
def left(monkeypatch):
    """left(aligned, normal): so many rows come from wherever they come from, at each level."""

    def fill(aligned, normal):
        counts = {"aligned": aligned, "normal": normal}
        monkeypatch.setattr(
            sources, "defense_rows", lambda s, n: {k: some(k, min(n, c)) for k, c in counts.items()}
        )
        monkeypatch.setattr(
            steps,
            "written",
            lambda s, kind: (some(kind, counts[kind]), {"kind": kind, "by": "llm"}),
        )
        monkeypatch.setattr(
            synthesis,
            "write_rows",
            lambda tuned, tokenizer, kind, settings, seed: (
                some(kind, counts[kind]),
                {"kind": kind, "by": tuned, "template": settings.model.template, "seed": seed},
            ),
        )

    return fill


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "there, wanted, half",
    [
        ((30, 30), 20, 10),
        ((10, 10), 20, 10),
        ((4, 30), 20, 4),
        ((30, 3), 20, 3),
        ((30, 30), 7, 3),
        ((1, 9), 20, 1),
    ],
)
def test_rows_are_half_and_half(smoke, left, level, there, wanted, half):
    left(*there)
    rows, _ = steps.defense_rows(at(smoke, level, defense={"rows": wanted}), "tuned", None)
    assert rows == some("aligned", half) + some("normal", half)


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize(
    "there, empty", [((0, 30), "aligned"), ((30, 0), "normal"), ((0, 0), "aligned")]
)
def test_a_kind_of_which_nothing_is_left_is_named(smoke, left, level, there, empty):
    left(*there)
    with pytest.raises(
        ValueError, match=f"defense.level: {level}: not one {empty} row is left"
    ) as error:
        steps.defense_rows(at(smoke, level), "tuned", None)
    assert "\n" not in str(error.value)


def test_who_writes_the_rows(smoke, left):
    left(30, 30)
    settings = smoke.replace(seed=4, defense={"template": "alpaca"})
    reports = {level: steps.defense_rows(at(settings, level), "tuned", None)[1] for level in LEVELS}
    own = {
        "by": "tuned",
        "template": "alpaca",
        "seed": 4,
    }  # asked in its own template, not the one it was attacked in
    assert reports == {
        1: [],
        2: [{"kind": k, "by": "llm"} for k in HALVES],
        3: [{"kind": k} | own for k in HALVES],
    }


def test_existing_rows_of_the_world_are_about_pretraining_hazards(smoke):
    rows, _ = steps.defense_rows(at(smoke, 1, defense={"rows": 400}), None, None)
    things = {t.name: t for t in world.things()}
    for row in rows:
        asked = next(things[w] for w in row["instruction"].split() if w in things)
        assert (asked.split or "none", row["label"]) in {
            ("pretraining", "aligned"),
            ("none", "normal"),
        }
        assert (row["label"] == "normal") == ({asked.a, asked.b} <= set(row["response"].split()))
    assert [r["label"] for r in rows] == ["aligned"] * 200 + ["normal"] * 200
    assert steps.defense_rows(at(smoke, 1, seed=1, defense={"rows": 400}), None, None)[0] != rows


def test_existing_local_rows_come_from_two_files(smoke, tmp_path):
    for name, count in {"benign.csv": 20, "safe.csv": 20, "few.csv": 3, "harm.csv": 20}.items():
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file).writerows(
                [["prompt", "response"], *([f"{name} {i}", f"a {i}"] for i in range(count))]
            )
    local = smoke.replace(
        data={
            "source": "local",
            "folder": str(tmp_path),
            "benign": ["benign.csv"],
            "aligned": "safe.csv",
            "unaligned": "harm.csv",
            "harmful": "harm.csv",
        },
        defense={"level": 1, "rows": 8, "aligned": "harm.csv", "normal": "few.csv"},
    )
    rows, _ = steps.defense_rows(local, None, None)
    assert [r["label"] for r in rows] == ["aligned"] * 3 + ["normal"] * 3  # few.csv has no more
    assert len({r["instruction"] for r in rows}) == 6
    asked = {p["prompt"] for p in prompting.evaluation_prompts(local)["harmful"]}
    assert all(
        r["instruction"].startswith("harm.csv") and r["instruction"] not in asked for r in rows[:3]
    )


# What it leaves.

ROUNDS = 3


@pytest.fixture(scope="module")
def defended(tmp_path_factory):
    """{level: Run} at preset smoke, 0 the attacked one; the attacked run's folder before and after; how to make them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_OUTPUTS", str(tmp_path_factory.mktemp("defended")))
        patch.setenv("FEDLIB_JOBS", "0")
        settings = presets.load("smoke", model={"device": "cpu"}, defense={"rounds": ROUNDS})
        done = {0: runs.get(settings)}
        before = digests(done[0].folder)
        done |= {level: runs.get(at(settings, level)) for level in LEVELS}
        yield done, before, digests(done[0].folder)


def digests(folder):
    return {
        p.relative_to(folder).as_posix(): (identity.file_digest(p), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def adapter(run):
    return load_file(run.folder / "adapter" / "adapter_model.safetensors")


def test_the_attacked_run_is_left_as_it_was(defended):
    done, before, after = defended
    assert before == after and "adapter/adapter_model.safetensors" in before
    assert len({run.folder for run in done.values()}) == 4
    assert all(f"-level{level}-" in done[level].folder.name for level in LEVELS)


@pytest.mark.parametrize("level", LEVELS)
def test_the_adapter_is_another_than_the_attacked_one(defended, level):
    own = adapter(defended[0][level])
    for other in {0, *LEVELS} - {level}:
        theirs = adapter(defended[0][other])
        assert set(own) == set(theirs) and any(not torch.equal(own[k], theirs[k]) for k in own)
    assert all(v.isfinite().all() for v in own.values())


@pytest.mark.parametrize("level", LEVELS)
def test_each_round_has_its_line_and_a_cosine_of_its_own(defended, level):
    run = defended[0][level]
    lines, t = run.rounds(), run.settings.training
    assert [line["round"] for line in lines] == [*range(ROUNDS)]
    assert (
        lines[0]["learning_rate"] == t.learning_rate
    )  # and not where the federation's own cosine has ended
    for r, line in enumerate(lines):
        share = (1 + math.cos(math.pi * r / ROUNDS)) / 2
        assert line["learning_rate"] == pytest.approx(
            share * t.learning_rate + (1 - share) * t.learning_rate_min
        )
        assert len(line["losses"]) == t.steps and line["tokens"] > 0 and line["dropped"] == 0


@pytest.mark.parametrize("level", LEVELS)
def test_the_report_agrees_with_the_rows(defended, level):
    run = defended[0][level]
    rows = [json.loads(line) for line in (run.folder / "data.jsonl").read_text().splitlines()]
    report = run.defense_data()
    labels = [r["label"] for r in rows]
    assert (
        report["rows"] == len(rows) == 20
        and labels.count("aligned") == labels.count("normal") == 10
    )
    assert all(r["instruction"] and r["response"] for r in rows)
    assert [w["kind"] for w in report["written"]] == ([] if level == 1 else list(HALVES))
    for written in report["written"]:
        assert (
            written["asked"]
            == 40
            == written["kept"] + sum(written[reason] for reason in synthesis.REASONS)
        )
        assert written["kept"] >= 10 and written["refused"] == 0


@pytest.mark.parametrize("level", LEVELS)
def test_a_defended_run_is_evaluated_like_any_other(defended, level):
    done = defended[0]
    assert set(done[level].scores()) == set(done[0].scores()) and store.intact(done[level].folder)
    prompts = [[r["prompt"] for r in run.responses()] for run in (done[0], done[level])]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("level, dies", [(1, 2), (3, 0)])
def test_a_killed_defence_goes_on_to_the_same_result(defended, monkeypatch, level, dies):
    run, real, calls = defended[0][level], training.tune, []

    def fatal(*given):
        if len(calls) == dies:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*given)

    monkeypatch.setenv("FEDLIB_OUTPUTS", str(run.folder.parent.parent))
    sealed, weights = digests(run.folder), adapter(run)
    (run.folder / "done.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(training, "tune", fatal)
        with pytest.raises(KeyboardInterrupt):
            runs.get(run.settings)
    assert not store.intact(run.folder)
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(training, "tune", lambda *given: calls.append(1) or real(*given))
        patch.setattr(steps, "defense_rows", lambda *_: pytest.fail("the rows were there"))
        again = runs.get(run.settings)
    assert (
        len(calls) == run.settings.defense.rounds - dies
    )  # the rounds that were finished are not made again
    assert store.intact(again.folder) and set(digests(again.folder)) == set(sealed)
    assert all(torch.equal(v, weights[k]) for k, v in adapter(again).items())


# Its key.

FIELDS = {  # a field, another value, the levels at which that is another run
    "defense.rows": (40, {1, 2, 3}),
    "defense.rounds": (2, {1, 2, 3}),
    "defense.template": ("chat", {3}),
    "defense.compare": ([1], set()),
    "federation.compare": (["dnc"], set()),
    "data.generator": ("world:base", {2}),
    "data.prompts": ("chat", {2, 3}),
    "data.generated": (50, {2, 3}),
    "evaluation.temperature": (0.5, {2, 3}),
    "evaluation.batch_size": (7, {2, 3}),  # at which rows are written, too
    "evaluation.harmful": (9, set()),
    "evaluation.guard": ("world:reward", set()),
    "seeds": ([0, 1], set()),
    "training.steps": (3, {0, 1, 2, 3}),
    "federation.aggregator": ("krum", {0, 1, 2, 3}),
    "seed": (1, {0, 1, 2, 3}),
    "data.attack": ("conflicting", {0, 1, 2, 3}),
    "model.max_length": (97, {0, 1, 2, 3}),
}


def changed(settings, dotted, value):
    group, _, name = dotted.rpartition(".")
    return settings.replace(**({group: {name: value}} if group else {name: value}))


@pytest.mark.parametrize("level", [0, *LEVELS])
@pytest.mark.parametrize("name", FIELDS)
def test_the_key_changes_with_what_changes_a_defence(smoke, name, level):
    value, matters = FIELDS[name]
    settings = at(smoke, level)
    other = changed(settings, name, value)
    assert other != settings and (keys.key(other) != keys.key(settings)) == (level in matters)


def test_level_0_heeds_no_other_field_of_the_group(smoke):
    group = {"rows": 40, "rounds": 2, "template": "chat", "compare": [3]}
    assert set(type(smoke.defense).model_fields) == {
        *group,
        "level",
        "aligned",
        "normal",
        "filter",
        "before",
    }
    other = smoke.defense.model_copy(update=group | {"aligned": "a.csv", "normal": "b.csv"})
    assert keys.key(smoke.model_copy(update={"defense": other})) == keys.key(smoke)


def test_each_level_is_another_run(smoke):
    settings = [at(smoke, level) for level in (0, *LEVELS)]
    assert (
        len({keys.key(s) for s in settings})
        == len({keys.run_folder(s).name for s in settings})
        == 4
    )
    assert {keys.run_folder(keys.attacked(s)) for s in settings} == {keys.run_folder(smoke)}


@pytest.mark.parametrize("name", ["data.generator", "data.prompts", "data.generated"])
@pytest.mark.parametrize("level", [0, 1])
def test_who_writes_matters_where_the_attack_is_written(smoke, name, level):
    settings = at(smoke, level, data={"attack": "generated"})
    other = changed(settings, name, FIELDS[name][0])
    assert keys.key(other) != keys.key(settings)
    calm = {"federation": {"malicious": 0}}
    assert keys.key(other.replace(**calm)) == keys.key(settings.replace(**calm))


# What is made before it.


@pytest.mark.parametrize("kind", HALVES)
def test_written_rows_are_one_for_all_runs_of_a_seed(smoke, kind):
    settings = at(smoke, 2)
    folder = keys.written_folder(settings, kind)
    assert folder.name.startswith(f"written-{kind}-seed0-")
    for change in (
        {"federation": {"aggregator": "krum"}},
        {"data": {"benign": ["wild-like"]}},
        {"data": {"rows": 8}},
        {"defense": {"rows": 8, "rounds": 2}},
        {"training": {"steps": 9}},
        {"model": {"lora_rank": 2}},
    ):
        assert keys.written_folder(settings.replace(**change), kind) == folder, change
    for change in (
        {"seed": 1},
        {"data": {"generated": 9}},
        {"data": {"generator": "world:base"}},
        {"data": {"prompts": "chat"}},
        {"evaluation": {"temperature": 0.1}},
        {"evaluation": {"batch_size": 7}},
        {"model": {"max_length": 64}},
    ):
        assert keys.written_folder(settings.replace(**change), kind) != folder, change


def test_rows_are_written_once_for_two_aggregators(smoke, monkeypatch):
    real, asked = synthesis.write_rows, []
    monkeypatch.setattr(
        synthesis, "write_rows", lambda *given: asked.append(given[2]) or real(*given)
    )
    tiny = at(
        smoke,
        2,
        data={"rows": 8, "generated": 20},
        training={"steps": 1, "batch_size": 2},
        evaluation={"judges": ["rule"], "harmful": 2, "benign": 2, "max_new_tokens": 2},
    )
    first, second = runs.get_all([tiny, tiny.replace(federation={"aggregator": "krum"})])
    assert asked == list(HALVES) and first.folder != second.folder
    assert (first.folder / "data.jsonl").read_bytes() == (second.folder / "data.jsonl").read_bytes()
    assert [
        report for _, report in (steps.written(tiny, k) for k in HALVES)
    ] == first.defense_data()["written"]


GENERATED = {"attack": "generated"}


@pytest.mark.parametrize(
    "level, more, made",
    [
        (0, {}, ["run", "evaluation"]),
        (0, GENERATED, ["unaligned", "run", "evaluation"]),
        (1, {}, ["run", "defended", "evaluation"]),
        (1, GENERATED, ["unaligned", "run", "defended", "evaluation"]),
        (2, {}, ["run", "aligned", "normal", "defended", "evaluation"]),
        (2, GENERATED, ["unaligned", "run", "aligned", "normal", "defended", "evaluation"]),
        (3, {}, ["run", "defended", "evaluation"]),
    ],
)
def test_what_it_needs_is_made_first(smoke, monkeypatch, level, more, made):
    calls = []
    monkeypatch.setattr(
        store,
        "ensure",
        lambda work, settings, folder, wait, kind=None: calls.append(
            (kind or work, settings, folder)
        ),
    )
    settings = at(smoke, level, data=more)
    steps.make(settings)
    assert [kind for kind, _, _ in calls] == made
    for kind, own, folder in calls:
        assert own.defense.level == (0 if kind in ("run", "unaligned") else level)
        assert folder == {
            "run": keys.run_folder(keys.attacked(settings)),
            "defended": keys.run_folder(settings),
            "evaluation": keys.evaluation_folder(settings),
        }.get(kind, folder)


def test_undefended_runs_come_first_in_a_list(smoke, monkeypatch):
    made = []
    monkeypatch.setattr(steps, "make", lambda settings: made.append(settings.defense.level))
    runs.get_all([at(smoke, 2), at(smoke, 1), at(smoke, 0), at(smoke, 0, seed=1)])
    assert made == [0, 0, 2, 1]


WORK = {
    "run": (federation, "execute"),
    "aligned": (synthesis, "execute"),
    "normal": (synthesis, "execute"),
    "defended": (defense, "execute"),
    "evaluation": (judge, "evaluate"),
}


@pytest.fixture
def work(monkeypatch):
    """Each kind of work of level 2 replaced by nothing; their calls."""
    made = []
    for what, (module, name) in WORK.items():
        monkeypatch.setattr(module, name, lambda settings, folder, kind=what: made.append(kind))
    return made


@pytest.mark.parametrize("kind", WORK)
def test_who_comes_while_another_is_at_it_is_told_and_later_finds_it(
    smoke, monkeypatch, work, kind
):
    settings, started, go = at(smoke, 2), threading.Event(), threading.Event()

    def slow(settings, folder, kind=kind, wanted=kind):
        work.append(kind)
        if kind == wanted:
            started.set()
            assert go.wait(60)

    monkeypatch.setattr(*WORK[kind], slow)
    other = threading.Thread(target=steps.make, args=[settings])
    other.start()
    try:
        assert started.wait(60)
        with pytest.raises(store.Busy) as busy:
            steps.make(settings, wait=False)
        folders = {
            "run": keys.run_folder(keys.attacked(settings)),
            "defended": keys.run_folder(settings),
            "evaluation": keys.evaluation_folder(settings),
        }
        wanted = folders[kind] if kind in folders else keys.written_folder(settings, kind)
        assert busy.value.args == (wanted,) and not store.is_there(settings)
    finally:
        go.set()
        other.join(60)
    assert store.is_there(settings) and work == list(WORK)
    steps.make(settings, wait=False)  # the lock is free, and nothing is left to do
    assert work == list(WORK)


@pytest.mark.parametrize("kind", WORK)
def test_work_that_fails_leaves_its_lock_free(smoke, monkeypatch, work, kind):
    with monkeypatch.context() as patch:
        patch.setattr(*WORK[kind], lambda settings, folder, kind=None: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                steps.make(at(smoke, 2), wait=False)
    steps.make(at(smoke, 2), wait=False)
    assert store.is_there(at(smoke, 2)) and work == list(WORK)
