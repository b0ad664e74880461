"""The keys of a defended run and of rows that are written for it."""

import pytest

from fedlib.lab import keys

LEVELS = (1, 2, 3)
ALL = {0, 1, 2, 3}
FIELDS = {  # a field: another value, the levels at which that is another run
    "defense.rows": (40, {1, 2, 3}),
    "defense.rounds": (2, {1, 2, 3}),
    "defense.template": ("chat", {3}),
    "defense.compare": ([1], set()),
    "federation.also_full": (False, set()),
    "federation.compare": (["dnc"], set()),
    "data.generator": ("world:base", {2}),
    "data.prompts": ("chat", {2, 3}),
    "data.generated": (50, {2, 3}),
    "evaluation.temperature": (0.5, {2, 3}),
    "evaluation.batch_size": (7, {2, 3}),  # at which rows are written, too
    "evaluation.harmful": (9, set()),
    "evaluation.guard": ("world:reward", set()),
    "seeds": ([0, 1], set()),
    "training.steps": (3, ALL),
    "federation.aggregator": ("krum", ALL),
    "seed": (1, ALL),
    "data.attack": ("conflicting", ALL),
    "model.max_length": (97, ALL),
}
SAME_ROWS = [
    {"federation": {"aggregator": "krum"}},
    {"data": {"benign": ["wild-like"]}},
    {"data": {"rows": 8}},
    {"defense": {"rows": 8, "rounds": 2}},
    {"training": {"steps": 9}},
    {"model": {"lora_rank": 2}},
]
OTHER_ROWS = [
    {"seed": 1},
    {"data": {"generated": 9}},
    {"data": {"generator": "world:base"}},
    {"data": {"prompts": "chat"}},
    {"evaluation": {"temperature": 0.1}},
    {"evaluation": {"batch_size": 7}},
    {"model": {"max_length": 64}},
]


def at(settings, level, **changes):
    return settings.replace(defense={"level": level}).replace(**changes)


def changed(settings, dotted, value):
    group, _, name = dotted.rpartition(".")
    change = {group: {name: value}} if group else {name: value}
    return settings.replace(**change)


@pytest.mark.parametrize("level", [0, *LEVELS])
@pytest.mark.parametrize("name", FIELDS)
def test_the_key_changes_with_what_changes_a_defence(smoke, name, level):
    value, matters = FIELDS[name]
    settings = at(smoke, level)
    other = changed(settings, name, value)
    assert other != settings
    assert (keys.key(other) != keys.key(settings)) == (level in matters)


def test_level_0_heeds_no_other_field_of_the_group(smoke):
    group = {"rows": 40, "rounds": 2, "template": "chat", "compare": [3]}
    group |= {"aligned": "a.csv", "normal": "b.csv"}
    assert set(type(smoke.defense).model_fields) == {*group, "level", "filter", "before"}
    other = smoke.defense.model_copy(update=group)
    assert keys.key(smoke.model_copy(update={"defense": other})) == keys.key(smoke)


def test_each_level_is_another_run(smoke):
    levels = [at(smoke, level) for level in (0, *LEVELS)]
    assert len({keys.key(settings) for settings in levels}) == 4
    assert len({keys.run_folder(settings).name for settings in levels}) == 4
    attacked = {keys.run_folder(keys.attacked(settings)) for settings in levels}
    assert attacked == {keys.run_folder(smoke)}


@pytest.mark.parametrize("name", ["data.generator", "data.prompts", "data.generated"])
@pytest.mark.parametrize("level", [0, 1])
def test_who_writes_matters_where_the_attack_is_written(smoke, name, level):
    settings = at(smoke, level, data={"attack": "generated"})
    other = changed(settings, name, FIELDS[name][0])
    assert keys.key(other) != keys.key(settings)
    calm = {"federation": {"malicious": 0}}
    assert keys.key(other.replace(**calm)) == keys.key(settings.replace(**calm))


@pytest.mark.parametrize("kind", ["aligned", "normal"])
def test_written_rows_are_one_for_all_runs_of_a_seed(smoke, kind):
    settings = at(smoke, 2)
    folder = keys.written_folder(settings, kind)
    assert folder.name.startswith(f"written-{kind}-seed0-")
    for change in SAME_ROWS:
        assert keys.written_folder(settings.replace(**change), kind) == folder, change
    for change in OTHER_ROWS:
        assert keys.written_folder(settings.replace(**change), kind) != folder, change
