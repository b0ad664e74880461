"""The key of a run: it changes with what changes the run, and with nothing else."""

import shutil

import pytest
from tiny_runs import changed, leaves, local_settings, tiny_settings

from fedlib.lab import keys
from fedlib.models import checkpoints
from fedlib.settings import identity, machine

# Every setting: another value, and whether the run is then another.
FIELDS = {
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
    "model.lora_layers": (1, True),
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
    # Without a trigger there is no poison; tests/attack has the others.
    "data.poison.target": ("append", False),
    "data.poison.share": (0.3, False),
    "data.poison.spread": ("capped", False),
    "data.poison.clients": (2, False),
    "data.poison.natural": (0.3, False),
    "data.poison.dataset": ("two.csv", False),
    "data.poison.rounds": (9, False),
    "data.poison.steps": (9, False),
    "data.poison.batch_size": (2, False),
    "data.poison.learning_rate": (0.1, False),
    "federation.expected": (1, True),
    "defense.filter": ("gradient", True),
    # Level 0 without generated rows writes none; tests/defense has the others.
    "data.generator": ("world:base", False),
    "data.prompts": ("chat", False),
    "data.generated": (7, False),
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
    "data.over_refusal": ("two.csv", False),
    # It is the rows that count.
    "data.pool": (3, False),
    # A file with bad rows is used or it is not; the rows are the same.
    "data.bad_rows": ("stop", False),
    "data.bad_share": (0.2, False),
    "data.fields": ({"a.csv": {"instruction": "q"}}, True),
    "data.rows": (5, True),
    "data.partition": ("iid", True),
    "data.alpha": (0.5, True),
    "data.sizes": ([4] * 10, True),
    "federation.clients": (9, True),
    "federation.malicious": (2, True),
    "federation.sampled": (3, True),
    "federation.rounds": (4, True),
    "federation.min_clients": (1, False),
    "federation.engine": ("flower", False),
    "federation.aggregator": ("krum", True),
    "federation.also_full": (False, False),
    "federation.compare": (["dnc"], False),
    # fedavg has one variant, but rounds record what other rules would do.
    "federation.variant": ("paper", True),
    "training.steps": (2, True),
    "training.batch_size": (4, True),
    "training.accumulation": (2, True),
    "training.together": (2, True),
    "training.learning_rate": (1e-3, True),
    "training.learning_rate_min": (1e-4, True),
    "training.weight_decay": (0.1, True),
    "training.clip": (0.5, True),
    "defense.before": (1, True),
    "swat.warmup": (1, True),
    # Without SWAT's warm-up nobody asks what is robust; tests/swat has the others.
    "swat.modules": ("random", False),
    "swat.noise": (0.1, False),
    "swat.draws": (2, False),
    "swat.window": (2, False),
    "swat.share": (0.3, False),
    "swat.threshold": (0.3, False),
    "swat.pairs": ("two.csv", False),
    "swat.models": ([], False),
    "swat.tasks": (["two.csv"], False),
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
    "evaluation.verdict": ("yes is unsafe", False),
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

# data.source changes too much for one line; see below.
APART = {"data.source"}
# Not asked about where only Rule judges.
UNUSED = ("show_responses", "guard", "guard_template", "verdict", "reward")
UNUSED += ("grader", "grader_model")


@pytest.fixture
def tiny(smoke):
    return tiny_settings(smoke)


@pytest.fixture
def local(tmp_path, smoke):
    return local_settings(tmp_path, smoke)


def other_settings(local, tmp_path, name):
    """The settings with another value of a field."""
    value, _ = FIELDS[name]
    return changed(local, name, str(tmp_path / "moved") if value == "MOVED" else value)


def test_every_setting_has_its_place_in_the_table(local):
    known = set(FIELDS) | APART
    assert set(leaves(local)) == known, "say above whether the new setting changes a run"


@pytest.mark.parametrize("name", FIELDS)
def test_the_key_changes_with_what_changes_a_run_and_with_nothing_else(local, tmp_path, name):
    _, matters = FIELDS[name]
    other = other_settings(local, tmp_path, name)
    assert other != local
    assert (keys.key(other) != keys.key(local)) == matters
    # and on a base that no setting made, or its key would stand in for the run's
    if name != "model.base":
        on_world = [changed(settings, "model.base", "world:base") for settings in (other, local)]
        first, second = (keys.key(settings) for settings in on_world)
        assert (first != second) == (matters and "scratch" not in name)


@pytest.mark.parametrize("name", [name for name in FIELDS if name.startswith("evaluation.")])
def test_an_evaluations_name_changes_with_all_but_what_is_shown(local, tmp_path, name):
    other = other_settings(local, tmp_path, name)
    same = keys.evaluation_folder(other) == keys.evaluation_folder(local)
    assert same == (name.partition(".")[2] in UNUSED)


def test_an_evaluations_name_changes_with_the_judges_models(smoke, tmp_path):
    for field in ("guard", "reward"):
        shutil.copytree(checkpoints.WORLD_MODELS / field, tmp_path / field)
        (tmp_path / field / "more.txt").write_text("other content")
        other = smoke.replace(evaluation={field: str(tmp_path / field)})
        assert keys.evaluation_folder(other) != keys.evaluation_folder(smoke)


def test_the_key_heeds_what_is_no_setting(local, tiny, monkeypatch):
    assert keys.key(local) != keys.key(tiny)  # data.source

    # the commit of a model on the hub
    hub = [changed(tiny, "model.base", f"someone/model@{digit * 40}") for digit in "ab"]
    assert len({keys.key(settings) for settings in (tiny, *hub)}) == 3

    # a GPU, where auto means another precision
    gpu = changed(tiny, "model.device", "auto")
    fixed = changed(gpu, "model.dtype", "float32")
    before = keys.key(gpu), keys.key(fixed)
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    assert keys.key(gpu) != before[0]
    assert keys.key(fixed) == before[1]

    # this code's version
    before = keys.key(tiny)
    monkeypatch.setattr(identity, "CODE_VERSION", identity.CODE_VERSION + 1)
    assert keys.key(tiny) != before


def test_a_base_is_known_by_its_content_and_not_by_its_place(tiny, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(checkpoints.WORLD_MODELS / "base", tmp_path / name)
    one, two = (tiny.replace(model={"base": str(tmp_path / name)}) for name in ("one", "two"))
    assert keys.key(one) == keys.key(two)
    config = tmp_path / "two" / "config.json"
    config.write_text(config.read_text() + " ")
    assert keys.key(one) != keys.key(two)


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "model.base"])
def test_a_base_from_scratch_is_known_by_what_it_is_made_of(local, tmp_path, name):
    other = other_settings(local, tmp_path, name)
    matters = "scratch" in name or name in ("model.max_length", "model.template", "data.fields")
    assert (keys.base_folder(other) != keys.base_folder(local)) == matters


NAMES = [  # datasets, how a run's name begins
    (["lmsys-like"], "lmsys-like-fedavg-"),
    (["one.csv", "two.csv"], "one-two-fedavg-"),
    (
        [f"client_{i:02d}_instructions_en.json" for i in range(12)],
        "client_00_instructions_en-and11more-",
    ),
    (["n" * 200 + ".csv"], "n" * 180 + "-"),
    (["ä" * 120 + ".csv"], "ä" * 90 + "-"),
    (["ä" * 120 + ".csv", "b.csv"], "ä" * 20 + "-and1more-fedavg"),
]


@pytest.mark.parametrize("names, start", NAMES, ids=lambda value: str(value)[:30])
def test_a_run_has_a_name_that_a_file_system_takes(smoke, monkeypatch, names, start):
    monkeypatch.setattr(keys, "key", lambda _: "0123456789ab")
    folder = keys.run_folder(changed(smoke, "data.benign", names))
    assert folder.name.startswith(start) and folder.name.endswith("-0123456789ab")
    # the lock of its evaluation is called after both folders
    folder.mkdir(parents=True)
    (folder.parent / f"{folder.name}.eval-0123456789ab").touch()


def test_a_name_makes_no_folders(smoke, monkeypatch):
    monkeypatch.setattr(keys, "key", lambda _: "0")
    own = changed(smoke, "federation.aggregator", "rules/own.py:mine")
    assert keys.run_folder(own).parent == machine.outputs() / "runs"
