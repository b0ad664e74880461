"""Settings from anybody: values of any kind, YAML's traps, names that lead elsewhere, secrets."""

import json

import pytest
import yaml
from fuzzing import fuzzed, tried
from hypothesis import given
from hypothesis import strategies as st

from fedlib.lab import keys
from fedlib.models import templates
from fedlib.settings import groups, presets, yaml_text
from fedlib.settings.errors import DataError, SettingsError

FIELDS = {group: list(presets.load("smoke").model_dump()[group]) for group in groups.GROUPS}
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
NAMES = st.sampled_from(
    ["", "..", "/", "../../x", "/etc/passwd", "a/b", "\0", "\ud800/a", "é" * 200]
)
VALUES = st.recursive(
    PLAIN | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=2),
    max_leaves=5,
)


@fuzzed(50, "values of settings")
@given(place=st.sampled_from(sorted((g, f) for g in FIELDS for f in FIELDS[g])), value=VALUES)
def test_any_value_of_any_field_is_used_or_refused_in_one_line(place, value):
    group, field = place
    settings = tried(lambda: presets.load("smoke", **{group: {field: value}}))
    if settings is not None:
        # what passes can stand in a file
        json.dumps(settings.model_dump(), ensure_ascii=False).encode()


@fuzzed(40, "presets")
@given(text=st.text("ab:-[]{}&*!<?|>'\" \n\t#,0123.e~", max_size=40))
def test_any_text_as_a_preset(tmp_path, text):
    file = tmp_path / "own.yaml"
    file.write_text(f"preset: smoke\n{text}")
    tried(lambda: presets.load(str(file)))


def nested(times):
    """A text whose aliases make 10 ** times values of a few."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for i in range(1, times):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "\n".join(lines)


TRAPS = {  # text: what the line says
    "model: &m {base: *m}": "a value contains itself",
    nested(9): "more than 100,000 values",
    "model: " + "[" * 5000: "nested too deep",
    "model: {base: a\0b}": "special characters are not allowed",
    "federation: {rounds: " + "9" * 5000 + "}": "a number of 5,000 digits",
    "seeds: [010]": "YAML reads 010 as 8",
    "federation: {rounds: 1:30}": "YAML reads 1:30 as 90",
    "model: {base: 2020-99-99}": "month must be in 1..12",
    "model: !!python/object/apply:os.system ['echo']": "could not determine a constructor",
}


@pytest.mark.parametrize("text", TRAPS, ids=lambda text: TRAPS[text])
def test_yamls_traps(text):
    with pytest.raises(SettingsError) as error:
        yaml_text.parsed("own.yaml", text)
    assert str(error.value).startswith("own.yaml: line ")
    assert TRAPS[text] in str(error.value)


def test_aliases_and_merges_of_usual_size_still_work():
    text = "a: &a {x: 1, y: [0, 2.5, 0x10]}\nb: {<<: *a, x: 2}\nc: [*a, *a]"
    assert yaml_text.parsed("own.yaml", text) == yaml.safe_load(text)


REFUSED = {  # groups of settings: what the line says
    "level": ({"defense": {"level": True}}, "defense.level: True is none"),
    "control": ({"model": {"base": "a\nb/c"}}, "model.base: 'a\\nb/c': a name must not hold"),
    "surrogate": ({"model": {"base": "\ud800/c"}}, "model.base: holds half of a character"),
    "long": ({"model": {"base": "x" * 300}}, "model.base: the name 'xxx"),
    "long list": ({"data": {"benign": ["é" * 200]}}, "data.benign: the name 'ééé"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_texts_that_no_file_could_have(name):
    given, line = REFUSED[name]
    with pytest.raises(SettingsError) as error:
        presets.load("smoke", **given)
    assert str(error.value).startswith(line)


def test_a_preset_never_writes_outside_the_outputs(tmp_path):
    file = tmp_path / "...yaml"
    file.write_text("preset: smoke")
    with pytest.raises(SettingsError, match="preset: '..' cannot be the name of a folder"):
        presets.load(str(file))
    with pytest.raises(SettingsError, match="preset: 'a/b' cannot be the name"):
        presets.load("smoke").replace(preset="a/b")


@pytest.mark.parametrize("name", ["../other/rows.jsonl", "a/../../rows.jsonl", "{outside}"])
def test_a_file_outside_of_the_folder_is_not_read(tmp_path, name):
    inside, outside = tmp_path / "inside", tmp_path / "other" / "rows.jsonl"
    inside.mkdir()
    outside.parent.mkdir()
    outside.write_text('{"instruction": "a", "response": "b"}\n' * 30)
    name = name.format(outside=outside)
    data = {"source": "local", "folder": str(inside), "benign": [name], "aligned_share": 0.0}
    settings = presets.load("smoke", data=data | {"harmful": name}, federation={"malicious": 0})
    with pytest.raises(DataError, match="leads out of data.folder"):
        keys.run_folder(settings)


@pytest.mark.parametrize("name", ["../../etc", "a/..", "./x", "/etc/passwd", "a/b/c", "a b/c"])
def test_a_dataset_of_the_hub_is_no_path(tmp_path, name):
    data = {"source": "hub", "folder": str(tmp_path), "benign": [name], "aligned_share": 0.0}
    settings = presets.load("smoke", data=data | {"harmful": name}, federation={"malicious": 0})
    with pytest.raises(DataError, match="no name of a dataset"):
        keys.run_folder(settings)


@pytest.mark.parametrize("place", ["{topic:>1000000000}", "{topic.__class__}", "{topic!r}", "{}"])
def test_a_prompts_places_hold_a_name_and_no_more(tmp_path, place):
    pair = {"instruction": place, "response": "answer {instruction}"}
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(dict.fromkeys(templates.PAIRS, pair)))
    with pytest.raises(DataError, match="braces may only hold"):
        templates.prompts_file(str(file))
