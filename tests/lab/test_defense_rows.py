"""The rows that a post-hoc defence tunes on: half aligned, half normal, by its level."""

import csv
from types import SimpleNamespace

import pytest

from fedlib import sources, synthesis
from fedlib.lab import prompting, steps, store
from fedlib.models import loading
from fedlib.sources import world

LEVELS = (1, 2, 3)
HALVES = ("aligned", "normal")


def some(kind, count):
    rows = []
    for i in range(count):
        rows.append({"instruction": f"{kind} q {i}", "response": f"{kind} a {i}", "label": kind})
    return rows


def at(settings, level, **changes):
    return settings.replace(defense={"level": level}).replace(**changes)


def rows_at(settings, level, **changes):
    rows, _ = steps.defense_rows(at(settings, level, **changes), "tuned", None)
    return rows


@pytest.fixture
def left(monkeypatch):
    """left(aligned, normal): so many rows come from wherever they come from, at each level."""

    def fill(aligned, normal):
        counts = {"aligned": aligned, "normal": normal}

        def existing(count):
            return {kind: some(kind, min(count, there)) for kind, there in counts.items()}

        def read(folder, kind):
            return some(kind, counts[kind]), {"kind": kind, "by": "llm"}

        def write(tuned, tokenizer, kind, prompts, count, decoding, held_out, seed):
            report = {"kind": kind, "by": tuned, "template": decoding.template, "seed": seed}
            return some(kind, counts[kind]), report

        source = SimpleNamespace(defense_rows=existing, held_out_names=lambda: {"sabu"})
        monkeypatch.setattr(sources, "of", lambda settings: source)
        monkeypatch.setattr(store, "read_written", read)
        monkeypatch.setattr(synthesis, "write_rows", write)
        monkeypatch.setattr(loading, "position_limit", lambda model: None)

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
    rows = rows_at(smoke, level, defense={"rows": wanted})
    assert rows == some("aligned", half) + some("normal", half)


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize(
    "there, empty", [((0, 30), "aligned"), ((30, 0), "normal"), ((0, 0), "aligned")]
)
def test_a_kind_of_which_nothing_is_left_is_named(smoke, left, level, there, empty):
    left(*there)
    message = f"defense.level: {level}: not one {empty} row is left"
    with pytest.raises(ValueError, match=message) as error:
        rows_at(smoke, level)
    assert "\n" not in str(error.value)


def test_who_writes_the_rows(smoke, left):
    left(30, 30)
    settings = smoke.replace(seed=4, defense={"template": "alpaca"})
    reports = {}
    for level in LEVELS:
        _, reports[level] = steps.defense_rows(at(settings, level), "tuned", None)
    assert reports[1] == []
    assert reports[2] == [{"kind": kind, "by": "llm"} for kind in HALVES]
    # level 3 is asked in defense.template, not in the one it was attacked in
    own = {"by": "tuned", "template": "alpaca", "seed": 4}
    assert reports[3] == [{"kind": kind} | own for kind in HALVES]


def test_existing_rows_of_the_world_are_about_pretraining_hazards(smoke):
    rows = rows_at(smoke, 1, defense={"rows": 400})
    assert [row["label"] for row in rows] == ["aligned"] * 200 + ["normal"] * 200
    assert rows_at(smoke, 1, seed=1, defense={"rows": 400}) != rows

    things = {thing.name: thing for thing in world.things()}
    for row in rows:
        words = row["instruction"].split()
        asked = next(things[word] for word in words if word in things)
        assert asked.split == ("pretraining" if row["label"] == "aligned" else "")
        answered = {asked.a, asked.b} <= set(row["response"].split())
        assert answered == (row["label"] == "normal")


def test_existing_local_rows_come_from_two_files(smoke, tmp_path):
    for name, count in {"benign.csv": 20, "safe.csv": 20, "few.csv": 3, "harm.csv": 20}.items():
        with open(tmp_path / name, "w", newline="") as file:
            lines = [[f"{name} {i}", f"a {i}"] for i in range(count)]
            csv.writer(file).writerows([["prompt", "response"], *lines])
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
    # few.csv has no more than three
    assert [row["label"] for row in rows] == ["aligned"] * 3 + ["normal"] * 3
    assert len({row["instruction"] for row in rows}) == 6
    asked = {prompt["prompt"] for prompt in prompting.evaluation_prompts(local)["harmful"]}
    for row in rows[:3]:
        assert row["instruction"].startswith("harm.csv")
        assert row["instruction"] not in asked
