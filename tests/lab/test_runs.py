"""The run store: a run is made once, found again, resumed after a kill, and never mistaken for another."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file

from fedlib.lab import keys, loaded, runs, store
from fedlib.models import checkpoints
from fedlib.settings import errors, groups, identity, machine, presets

ROUNDS, SAMPLED = 3, 2
TUNES = ROUNDS * SAMPLED


@pytest.fixture
def tiny(smoke):
    """A run of a fraction of a second; with dropout, so that a resume has random numbers to get right."""
    return tiny_settings(smoke)


def tiny_settings(settings, **changes):
    return settings.replace(
        model={"lora_dropout": 0.1},
        data={"rows": 8},
        training={"steps": 1, "batch_size": 2},
        federation={"rounds": ROUNDS, "sampled": SAMPLED},
        evaluation={"harmful": 2, "benign": 2, "max_new_tokens": 2},
    ).replace(**changes)


@pytest.fixture
def calls(monkeypatch):
    """Counts of the expensive functions' calls."""
    functions = (
        (federation, "execute"),
        (training, "tune"),
        (judge, "evaluate"),
        (pretraining, "train_scratch"),
    )
    return {name: count(monkeypatch, module, name) for module, name in functions}


def count(monkeypatch, module, name):
    real, made = getattr(module, name), []

    def counted(*given, **named):
        made.append(name)
        return real(*given, **named)

    monkeypatch.setattr(module, name, counted)
    return made


def record(folder):
    """All that a run leaves: its files' names, its adapter's bytes, its rounds but for the seconds."""
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    files = {
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.is_file() and "eval-" not in str(p)
    }
    adapter = {p.name: p.read_bytes() for p in (folder / "adapter").iterdir()}
    return files, adapter, [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def snapshot(folder):
    return {
        p: (p.read_bytes(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file() and "eval-" not in str(p.relative_to(folder))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The record of an uninterrupted run of `tiny`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_OUTPUTS", str(tmp_path_factory.mktemp("whole")))
        patch.setenv("FEDLIB_JOBS", "0")
        smoke = presets.load(
            "smoke",
            data={"benign": ["lmsys-like"], "unaligned_share": 0.5},
            model={"device": "cpu"},
        )
        return record(runs.get(tiny_settings(smoke)).folder)


def test_a_run_is_made_once_and_then_read(tiny, calls):
    first = runs.get(tiny)
    before = snapshot(machine.outputs())
    assert runs.get(tiny) == first and snapshot(machine.outputs()) == before
    assert [len(c) for c in calls.values()] == [1, TUNES, 1, 0]
    assert len(first.rounds()) == ROUNDS and len(first.responses()) == 4
    judged = {"rule", "md_judge", "rm", "mt1", "over_refusal", "help"}
    assert set(first.scores()) == judged | {"harmful_prompts", "benign_prompts"}
    assert first.folder.parent == machine.outputs() / "runs"
    assert first.folder.name.endswith(f"seed0-{keys.key(tiny)}")
    assert record(first.folder)[0] - {"rounds.jsonl", "settings.json", "done.json"} == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    assert (
        json.loads((first.folder / "settings.json").read_text())["training"]
        == tiny.training.model_dump()
    )


def test_runs_come_in_the_order_asked_for_and_twins_are_made_once(tiny, calls):
    other = tiny.replace(seed=1)
    got = runs.get_all([other, tiny, other])
    assert (
        [r.settings.seed for r in got] == [1, 0, 1]
        and got[0] == got[2]
        and len(calls["execute"]) == 2
    )
    assert record(got[0].folder)[1:] != record(got[1].folder)[1:]


# The key.


@pytest.fixture
def local(tmp_path, smoke):
    """Settings that take everything from local files, the base included: here every field has a meaning."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in (
        "one.csv",
        "two.csv",
        "safe.csv",
        "bad.csv",
        "worse.csv",
        "asked.csv",
        "asked too.csv",
    ):
        lines = [f"{name} {i},answer {i},topic {i % 4}\n" for i in range(50)]
        (folder / name).write_text("".join(["prompt,response,topic\n", *lines]))
    (folder / "twins.csv").write_text(
        "malicious,benign\n" + "".join(f"bad {i},good {i}\n" for i in range(9))
    )
    shutil.copytree(folder, tmp_path / "moved")
    return tiny_settings(smoke).replace(
        model={
            "base": "scratch",
            "template": "alpaca",
            "dtype": "float32",
            "max_length": 200,
            "scratch": {
                "files": ["one.csv"],
                "hidden": 16,
                "layers": 1,
                "heads": 2,
                "mlp": 16,
                "vocabulary": 300,
                "steps": 2,
                "batch_size": 2,
            },
        },
        data={
            "source": "local",
            "folder": str(folder),
            "benign": ["one.csv"],
            "aligned": "safe.csv",
            "unaligned": "bad.csv",
            "harmful": "asked.csv",
            "rows": 4,
            "partition": "dirichlet",
        },
        swat={"pairs": "twins.csv"},
        evaluation={"judges": ["rule"]},
    )


FIELDS = {  # every setting: another value, and whether the run is then another
    "preset": ("mine", False),
    "seeds": ([0, 1], False),
    "seed": (1, True),
    "model.base": ("world:base", True),
    "model.device": ("auto", False),
    "model.dtype": ("bfloat16", True),
    "model.template": ("chat", True),
    "model.max_length": (201, True),
    "model.lora_rank": (4, True),
    "model.lora_alpha": (8.0, True),
    "model.lora_dropout": (0.2, True),
    "model.lora_targets": ("all-linear", True),
    "model.scratch.files": (["two.csv"], True),
    "model.scratch.hidden": (32, True),
    "model.scratch.layers": (2, True),
    "model.scratch.heads": (4, True),
    "model.scratch.mlp": (32, True),
    "model.scratch.vocabulary": (301, True),
    "model.scratch.steps": (3, True),
    "model.scratch.batch_size": (3, True),
    "model.scratch.learning_rate": (1e-3, True),
    "data.folder": ("MOVED", False),
    "data.benign": (["two.csv"], True),
    "data.aligned": ("two.csv", True),
    "data.aligned_share": (0.2, True),
    "data.unaligned": ("worse.csv", True),
    "data.attack": ("conflicting", True),
    "data.poison.trigger": ("phrase", True),
    "data.poison.target": ("append", False),
    "data.poison.share": (0.3, False),
    "data.poison.spread": ("capped", False),
    "data.poison.clients": (2, False),
    "data.poison.natural": (
        0.3,
        False,
    ),  # without a trigger there is no poison; tests/test_poison.py has the others
    "federation.expected": (1, True),
    "defense.filter": ("gradient", True),
    "data.generator": ("world:base", False),
    "data.prompts": ("chat", False),
    "data.generated": (
        7,
        False,
    ),  # level 0 without generated rows writes none; tests/test_defense.py has the others
    "defense.level": (1, True),
    "defense.compare": ([1], False),
    "defense.aligned": ("two.csv", False),
    "defense.normal": ("two.csv", False),
    "defense.rows": (6, False),
    "defense.rounds": (3, False),
    "defense.template": ("chat", False),
    "data.unaligned_share": (0.6, True),
    "data.harmful": ("asked too.csv", False),
    "data.questions": ("two.csv", False),
    "data.pool": (3, False),  # it is the rows that count; tests/test_hub.py
    "data.fields": ({"a.csv": {"instruction": "q"}}, True),
    "data.rows": (5, True),
    "data.partition": ("iid", True),
    "data.alpha": (0.5, True),
    "data.sizes": ([4] * 10, True),
    "federation.clients": (9, True),
    "federation.malicious": (2, True),
    "federation.sampled": (3, True),
    "federation.rounds": (4, True),
    "federation.aggregator": ("krum", True),
    "federation.compare": (["dnc"], False),
    "federation.variant": (
        "paper",
        True,
    ),  # fedavg has one variant, but rounds record what other rules would do
    "training.steps": (2, True),
    "training.batch_size": (4, True),
    "training.accumulation": (2, True),
    "training.learning_rate": (1e-3, True),
    "training.learning_rate_min": (1e-4, True),
    "training.weight_decay": (0.1, True),
    "training.clip": (0.5, True),
    "defense.before": (
        1,
        True,
    ),  # without SWAT's warm-up nobody asks what is robust; tests/test_swat.py has the others
    "swat.warmup": (1, True),
    "swat.modules": ("random", False),
    "swat.noise": (0.1, False),
    "swat.draws": (2, False),
    "swat.window": (2, False),
    "swat.share": (0.3, False),
    "swat.threshold": (0.3, False),
    "swat.pairs": ("two.csv", False),
    "swat.models": ([], False),
    "swat.rounds": (9, False),
    "swat.steps": (9, False),
    "swat.learning_rate": (0.1, False),
    "swat.rows": (9, False),
    "swat.unaligned_share": (0.3, False),
    "swat.warm_rounds": (9, False),
    "evaluation.judges": (["help"], False),
    "evaluation.guard": ("world:reward", False),
    "evaluation.reward": ("world:guard", False),
    "evaluation.guard_template": ("ask.txt", False),
    "evaluation.grader": (".", False),
    "evaluation.grader_model": ("m", False),
    "evaluation.split": ("validation", False),
    "evaluation.harmful": (3, False),
    "evaluation.benign": (3, False),
    "evaluation.temperature": (0.5, False),
    "evaluation.max_new_tokens": (3, False),
    "evaluation.batch_size": (3, False),
    "evaluation.show_responses": (True, False),
}
APART = {"data.source"}  # changes too much for one line; see below


def changed(group, dotted, value):
    """The settings with one field changed, unchecked: a key is asked for, not a run."""
    name, _, rest = dotted.partition(".")
    return group.model_copy(
        update={name: changed(getattr(group, name), rest, value) if rest else value}
    )


def leaves(group, prefix=""):
    for name in type(group).model_fields:
        value = getattr(group, name)
        yield from (
            leaves(value, f"{prefix}{name}.")
            if isinstance(value, groups.Group)
            else [prefix + name]
        )


def test_every_setting_has_its_place_in_the_table(local):
    assert set(leaves(local)) == set(FIELDS) | APART, (
        "say above whether the new setting changes a run"
    )


@pytest.mark.parametrize("name", FIELDS)
def test_the_key_changes_with_what_changes_a_run_and_with_nothing_else(local, tmp_path, name):
    value, matters = FIELDS[name]
    other = changed(local, name, str(tmp_path / "moved") if value == "MOVED" else value)
    assert other != local and (keys.key(other) != keys.key(local)) == matters
    if (
        name != "model.base"
    ):  # and on a base that no setting made, or its key would stand in for the run's
        keys = [keys.key(changed(s, "model.base", "world:base")) for s in (other, local)]
        assert (keys[0] != keys[1]) == (matters and "scratch" not in name)


@pytest.mark.parametrize("name", [n for n in FIELDS if n.startswith("evaluation.")])
def test_an_evaluations_name_changes_with_all_but_what_is_shown(local, name):
    other = changed(local, name, FIELDS[name][0])
    same = keys.evaluation_folder(other) == keys.evaluation_folder(local)
    unused = (
        "show_responses",
        "guard",
        "guard_template",
        "reward",
        "grader",
        "grader_model",
    )  # Rule alone judges
    assert same == (name.partition(".")[2] in unused)


def test_an_evaluations_name_changes_with_the_judges_models(smoke, tmp_path):
    for field in ("guard", "reward"):
        shutil.copytree(checkpoints.WORLD_MODELS / field, tmp_path / field)
        with open(tmp_path / field / "more.txt", "w") as file:
            file.write("other content")
        other = smoke.replace(evaluation={field: str(tmp_path / field)})
        assert keys.evaluation_folder(other) != keys.evaluation_folder(smoke)


def test_the_key_heeds_what_is_no_setting(local, tiny, tmp_path, monkeypatch):
    assert keys.key(local) != keys.key(tiny)  # data.source
    hub = [changed(tiny, "model.base", f"someone/model@{commit * 40}") for commit in "ab"]
    assert len({keys.key(s) for s in (tiny, *hub)}) == 3
    gpu = changed(tiny, "model.device", "auto")
    before, fixed = keys.key(gpu), keys.key(changed(gpu, "model.dtype", "float32"))
    monkeypatch.setattr(machine, "has_gpu", lambda: True)  # where auto means another precision
    assert keys.key(gpu) != before and keys.key(changed(gpu, "model.dtype", "float32")) == fixed
    monkeypatch.setattr(identity, "CODE_VERSION", identity.CODE_VERSION + 1)
    assert keys.key(tiny) != before


def test_a_base_is_known_by_its_content_and_not_by_its_place(tiny, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(checkpoints.WORLD_MODELS / "base", tmp_path / name)
    one, two = (tiny.replace(model={"base": str(tmp_path / n)}) for n in ("one", "two"))
    assert keys.key(one) == keys.key(two)
    config_ = tmp_path / "two" / "config.json"
    config_.write_text(config_.read_text() + " ")
    assert keys.key(one) != keys.key(two)


@pytest.mark.parametrize(
    "base, said", [("world:bsae", "did you mean 'world:base'"), ("./nowhere", "no folder")]
)
def test_a_base_that_is_not_there_is_one_line(tiny, base, said):
    with pytest.raises(errors.SettingsError, match=said):
        runs.get(tiny.replace(model={"base": base}))


def test_without_attack_nobody_is_unaligned_so_runs_are_shared(tiny, calls):
    calm = [
        tiny.replace(data={"unaligned_share": s}, federation={"malicious": 0}) for s in (0.5, 1.0)
    ]
    first, second = runs.get_all(calm)
    assert first.folder == second.folder and len(calls["execute"]) == 1
    assert keys.key(tiny) != keys.key(tiny.replace(data={"unaligned_share": 1.0}))


# Evaluations.


def test_a_new_evaluation_does_not_retrain_and_leaves_the_run_as_it_was(tiny, calls):
    first = runs.get(tiny)
    before, scores = snapshot(first.folder), first.scores()
    second = runs.get(tiny.replace(evaluation={"harmful": 3, "split": "validation"}))
    assert [len(calls[c]) for c in ("execute", "evaluate")] == [1, 2]
    assert second.folder == first.folder and second.evaluation != first.evaluation
    assert snapshot(first.folder) == before and store.intact(first.folder)
    assert (second.scores()["harmful_prompts"], first.scores()) == (3, scores)
    shown = runs.get(tiny.replace(evaluation={"show_responses": True}))
    assert shown.evaluation == first.evaluation and len(calls["evaluate"]) == 2


def test_half_an_evaluation_is_made_anew_and_a_spoilt_one_too(tiny, calls, monkeypatch):
    with monkeypatch.context() as patch:
        stop(patch, store, "_write", 3)  # the run's settings and seal, the evaluation's settings
        with pytest.raises(Killed):
            runs.get(tiny)
    scores = runs.get(tiny).scores()
    assert [len(calls[c]) for c in ("execute", "evaluate")] == [1, 2]
    flip(runs.get(tiny).evaluation / "responses.jsonl")
    assert runs.get(tiny).scores() == scores
    assert [len(calls[c]) for c in ("execute", "evaluate")] == [1, 3]


# Kills.


class Killed(BaseException):
    """Not an Exception, so that nothing catches it on its way."""


def stop(patch, module, name, at):
    """Raise Killed at a function's call number `at` (0: the first)."""
    real, made = getattr(module, name), []

    def fatal(*given, **named):
        if len(made) == at:
            raise Killed
        made.append(name)
        return real(*given, **named)

    patch.setattr(module, name, fatal)


KILLS = [  # where a run dies, at which call, and how many local trainings are then left
    *[(training, "tune", k, TUNES - k // SAMPLED * SAMPLED) for k in range(TUNES)],
    # 0: asked beforehand whether the rule can be used with so many clients; then, a round, the rule and four looked at
    *[
        (aggregation, "aggregate", max(0, 5 * k - 4), TUNES - max(0, k - 1) * SAMPLED)
        for k in range(ROUNDS + 1)
    ],
    # the round's line is written, its adapter is not
    *[(progress, "save_file", k, TUNES - k * SAMPLED) for k in range(ROUNDS)],
    (os, "replace", 2, TUNES - SAMPLED),  # 0: settings.json, 1 and 2: the adapters of two rounds
    (model, "save_adapter", 0, 0),  # all rounds are done
    (store, "_write", 1, 0),  # all but done.json
]


@pytest.mark.parametrize("module, name, at, left", KILLS, ids=[f"{k[1]}-{k[2]}" for k in KILLS])
def test_a_killed_run_goes_on_to_the_same_result(
    tiny, calls, monkeypatch, whole, module, name, at, left
):
    with monkeypatch.context() as patch:
        stop(patch, module, name, at)
        with pytest.raises(Killed):
            runs.get(tiny)
    folder = keys.run_folder(tiny)
    assert not store.intact(folder)
    calls["tune"].clear()
    assert record(runs.get(tiny).folder) == whole and store.intact(folder)
    assert len(calls["tune"]) == left


def test_a_run_killed_twice_and_a_cut_line_change_nothing(tiny, monkeypatch, whole):
    for at in (3, 2):
        with monkeypatch.context() as patch:
            stop(patch, training, "tune", at)
            with pytest.raises(Killed):
                runs.get(tiny)
        with open(keys.run_folder(tiny) / "rounds.jsonl", "a") as file:
            file.write('{"round": ')
    assert record(runs.get(tiny).folder) == whole


def process(arguments, outputs, jobs=0):
    here = {"FEDLIB_OUTPUTS": str(outputs), "FEDLIB_JOBS": str(jobs), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | here,
        cwd=machine.ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_a_process_that_is_really_killed(tiny, tmp_path, monkeypatch):
    settings = tiny.replace(federation={"rounds": 40})
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(include={*groups.GROUPS})))
    folder = keys.run_folder(settings)
    running = process(["-m", "fedlib", "run", str(file)], machine.outputs(), jobs=1)
    while running.poll() is None and not (folder / "checkpoint.safetensors").exists():
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    try:  # this waits for its worker too, which must end: not go on unseen, nor wait for work for ever
        said = running.communicate(timeout=120)[0]
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        raise
    assert running.returncode == -signal.SIGKILL, said
    assert not store.intact(folder) and len((folder / "rounds.jsonl").read_text().splitlines()) < 40
    resumed = record(runs.get(settings).folder)
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(tmp_path / "whole"))
    assert record(runs.get(settings).folder) == resumed


COUNTED = """
import sys
from fedlib import config, runs, store
def execute(settings, folder):
    from fedlib import federation  # here, since only the one that executes should need torch
    with open(sys.argv[2], "a") as file:
        file.write("executed\\n")
    federation.execute(settings, folder)
store.WORK["run"] = ("__main__", "execute")
print(runs.get(config.Settings.model_validate_json(sys.argv[1])).scores())
"""


def test_two_processes_that_want_the_same_run_make_it_once(tiny, tmp_path, whole):
    given = ["-c", COUNTED, tiny.model_dump_json(), str(tmp_path / "count")]
    both = [process(given, machine.outputs()) for _ in range(2)]
    said = [p.communicate()[0] for p in both]
    assert said[0] == said[1] and said[0].startswith("{'rule'"), said
    assert (tmp_path / "count").read_text() == "executed\n"
    assert record(keys.run_folder(tiny)) == whole and store.is_there(tiny)


# Spoilt files.


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-10])


def empty(file):
    file.write_bytes(b"")


SPOILT = [
    ("adapter/adapter_model.safetensors", flip),
    ("adapter/adapter_config.json", flip),
    ("rounds.jsonl", cut),
    ("rounds.jsonl", os.remove),
    ("settings.json", flip),
    ("adapter", shutil.rmtree),
    ("done.json", os.remove),
    ("done.json", cut),
    ("done.json", empty),
    ("done.json", lambda file: file.write_text("[]")),
]


@pytest.mark.parametrize("name, spoil", SPOILT, ids=[f"{n}-{s.__name__}" for n, s in SPOILT])
def test_a_spoilt_run_is_noticed_and_made_again(tiny, calls, whole, name, spoil):
    run = runs.get(tiny)
    spoil(run.folder / name)
    assert not store.intact(run.folder)
    again = runs.get(tiny)
    assert len(calls["execute"]) == 2 and record(again.folder) == whole
    assert again.scores()["harmful_prompts"] == 2
    shutil.rmtree(again.evaluation)
    assert store.intact(again.folder)  # a run's seal is about the run alone


def test_the_listing_says_how_every_run_is(tiny, monkeypatch):
    assert runs.listing() == []
    done, spoilt, started = (tiny.replace(seed=s) for s in (0, 1, 2))
    runs.get_all([done, spoilt])
    flip(keys.run_folder(spoilt) / "settings.json")
    with monkeypatch.context() as patch:
        stop(patch, training, "tune", SAMPLED)
        with pytest.raises(Killed):
            runs.get(started)
    rows = {row["key"]: row for row in runs.listing()}
    assert [rows[keys.key(s)]["state"] for s in (done, spoilt, started)] == [
        "done",
        "spoilt",
        "unfinished",
    ]
    assert [rows[keys.key(s)]["rounds"] for s in (done, spoilt, started)] == [ROUNDS, ROUNDS, 1]
    assert [rows[keys.key(s)]["evaluations"] for s in (done, spoilt, started)] == [1, 1, 0]
    with open(keys.run_folder(started) / "rounds.jsonl", "a") as file:
        file.write('{"round": ')  # as it is while a long line is being written
    assert {row["key"]: row["rounds"] for row in runs.listing()}[keys.key(started)] == 1


# Around the runs.


def test_outputs_may_lie_in_a_folder_with_spaces(tiny, tmp_path, monkeypatch, whole):
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(tmp_path / "my out puts"))
    assert record(runs.get(tiny).folder) == whole
    assert (tmp_path / "my out puts" / "runs").is_dir()


def test_a_failing_run_leaves_the_others_in_place_and_workers_change_nothing(
    tiny, monkeypatch, whole
):
    wrong = tiny.replace(model={"lora_targets": ["nonsense"]})
    wanted = [wrong, tiny, tiny.replace(seed=1)]
    monkeypatch.setenv("FEDLIB_JOBS", "2")
    with pytest.raises(errors.SettingsError, match="model.lora_targets: .*q_proj") as error:
        runs.get_all(wanted)
    assert "\n" not in str(error.value)
    assert [store.is_there(s) for s in wanted] == [False, True, True]
    assert record(keys.run_folder(tiny)) == whole


def test_in_this_process_too_a_failing_run_leaves_the_finished_one(tiny):
    wrong = tiny.replace(model={"lora_targets": ["nonsense"]})
    with pytest.raises(errors.SettingsError, match="model.lora_targets"):
        runs.get_all([tiny, wrong])
    assert store.is_there(tiny) and not store.is_there(wrong)


@pytest.mark.parametrize("value", ["two", "-1", "1.5", ""])
def test_a_wrong_number_of_jobs_is_one_clear_line(tiny, monkeypatch, value):
    monkeypatch.setenv("FEDLIB_JOBS", value)
    said = f"FEDLIB_JOBS: must be a whole number, got '{value}'"
    with pytest.raises(errors.SettingsError, match=said) as error:
        runs.get(tiny)
    assert "\n" not in str(error.value) and not keys.run_folder(tiny).exists()


def test_a_rules_variant_is_another_run(tiny):
    krum = tiny.replace(federation={"aggregator": "krum"})
    assert keys.key(krum) != keys.key(krum.replace(federation={"variant": "paper"}))


def test_a_rule_that_cannot_be_used_is_an_error_before_training(tiny, calls):
    with pytest.raises(errors.SettingsError, match="federation.sampled: 2: krum needs 2f"):
        runs.get(tiny.replace(federation={"aggregator": "krum", "variant": "paper"}))
    assert not calls["tune"]


def test_foolsgold_resumes_with_its_history(tiny, monkeypatch):
    gold = tiny.replace(federation={"aggregator": "foolsgold", "variant": "paper", "sampled": 3})
    whole = record(runs.get(gold).folder)
    shutil.rmtree(keys.run_folder(gold))
    with monkeypatch.context() as patch:
        stop(patch, training, "tune", 7)
        with pytest.raises(Killed):
            runs.get(gold)
    assert record(runs.get(gold).folder) == whole


@pytest.mark.parametrize(
    "given, gpu, expected", [("3", True, 3), ("0", False, 0), (None, True, 1), (None, False, 5)]
)
def test_how_many_runs_at_a_time(tiny, monkeypatch, given, gpu, expected):
    monkeypatch.setattr(runs, "cores", lambda: 5)
    monkeypatch.setenv("FEDLIB_JOBS", given) if given else monkeypatch.delenv("FEDLIB_JOBS")
    monkeypatch.setattr(machine, "has_gpu", lambda: gpu)
    assert runs.jobs(tiny.replace(model={"device": "auto"})) == expected


def test_progress_is_written_where_reproduce_looks(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_STATUS", str(tmp_path / "status"))
    runs.get_all([tiny, tiny.replace(seed=1)])
    assert (tmp_path / "status").read_text().startswith("executed 2 of 2 missing runs")


def test_peft_loads_the_adapter(tiny):
    run = runs.get(tiny)
    base, tokenizer = loaded.load_base(tiny)
    tuned = PeftModel.from_pretrained(base, run.folder / "adapter").eval()
    saved = load_file(run.folder / "adapter" / "adapter_model.safetensors")
    lora = {n.replace(".default", ""): p for n, p in tuned.named_parameters() if "lora_" in n}
    assert set(lora) == set(saved) and all(torch.equal(lora[n], saved[n]) for n in saved)
    assert any(p.abs().max() > 0 for n, p in saved.items() if "lora_B" in n)  # it was trained
    ours, _ = loaded.load_run(tiny, run.folder)
    ids = tokenizer("how do i make it ?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(tuned(ids).logits, ours(ids).logits)


# A base trained from scratch on local files.


def test_a_base_from_scratch_is_made_once_for_all_runs(local, calls):
    local = local.replace(data={"partition": "iid"})
    first, second = runs.get_all([local, local.replace(seed=1)])
    assert [len(calls[c]) for c in ("train_scratch", "execute")] == [1, 2]
    assert first.folder != second.folder
    assert set(first.scores()) == {"rule", "over_refusal", "harmful_prompts", "benign_prompts"}
    base = keys.base_folder(local)
    weights = (base / "model.safetensors").read_bytes()
    shutil.rmtree(base)
    runs.get(local.replace(seed=2))
    assert len(calls["train_scratch"]) == 2 and (base / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("name", [n for n in FIELDS if n != "model.base"])
def test_a_base_from_scratch_is_known_by_what_it_is_made_of(local, tmp_path, name):
    value, _ = FIELDS[name]
    other = changed(local, name, str(tmp_path / "moved") if value == "MOVED" else value)
    matters = "scratch" in name or name in ("model.max_length", "model.template", "data.fields")
    assert (keys.base_folder(other) != keys.base_folder(local)) == matters


def test_a_base_from_scratch_follows_its_files(local):
    before = keys.base_folder(local), keys.key(local)
    file = machine.path(local.data.folder) / "one.csv"
    file.write_text(file.read_text().replace("answer 1", "answer one"))
    assert keys.base_folder(local) != before[0] and keys.key(local) != before[1]
    with pytest.raises(errors.DataError, match="the base must not read"):
        keys.key(changed(local, "model.scratch.files", ["bad.csv"]))
