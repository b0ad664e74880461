"""A person's own methods: found by FILE.py:NAME or package.module:NAME, and checked in one line."""

import sys

import pytest

from fedlib.settings import machine, own_methods, presets
from fedlib.settings.errors import DataError, SettingsError

FIELD = "data.attack"


@pytest.fixture
def file(tmp_path):
    """A file in a folder with a space in its name."""
    folder = tmp_path / "my lab"
    folder.mkdir()
    return folder / "mine.py"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a package that can be imported, and that no other test has imported."""
    monkeypatch.setattr(own_methods, "_loaded", {})
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "ownlab"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "helper.py").write_text("VALUE = 1\n")
    text = "from ownlab.helper import VALUE\n\ndef flip(rows):\n    return VALUE\n"
    (folder / "rules.py").write_text(text)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownlab"]:
        del sys.modules[name]


def line(call, *given):
    with pytest.raises((SettingsError, DataError)) as error:
        call(*given)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_names_an_own_method():
    for name in ("mine.py:trigger", "a b/mine.py:trigger", "~/mine.py:_f", "lab.rules:f", "lab:f"):
        assert own_methods.is_own(name)
    for name in ("phrase", "mine.py", "mine.py:", "mine.py:a-b", ":f", 2, None, "my lab:f"):
        assert not own_methods.is_own(name)


def test_the_file_is_read_anew_when_it_changes(file):
    for value in (1, 2):
        file.write_text(f"method = {value}\n")
        assert own_methods.find(FIELD, f"{file}:method") == value


def test_the_home_folder_is_found(file, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    file.write_text("method = 1\n")
    assert own_methods.find(FIELD, "~/mine.py:method") == 1


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("1 / 0\n", "{file}: ZeroDivisionError: division by zero (mine.py, line 1)"),
        ("x = 1\nx.y\n", "AttributeError: 'int' object has no attribute 'y' (mine.py, line 2)"),
        ("def f(:\n", "{file}: SyntaxError: invalid syntax (mine.py, line 1)"),
        ("import nothere\n", "ModuleNotFoundError: No module named 'nothere' (mine.py, line 1)"),
        ("def flap(rows): pass\n", "mine.py has no 'flip'; did you mean 'flap'? (known: flap)"),
        ("import math\nfrom math import sin\n", "mine.py has no 'flip' (known: sin)"),
        ("flip = 3\n", "mine.py:flip: must be a function, is int"),
    ],
)
def test_a_file_that_does_not_give_it_is_one_line(file, text, wanted):
    file.write_text(text)
    said = line(own_methods.method, FIELD, f"{file}:flip")
    assert said.startswith(f"{FIELD}: ") and wanted.format(file=file) in said


def test_a_dataclass_in_a_file_works(file):
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Flip:\n    text: str = 'no'\n\n"
        "    def __call__(self, rows):\n        return self.text\n\nflip = Flip()\n"
    )
    assert own_methods.method(FIELD, f"{file}:flip")([]) == "no"


HANDED = "; it is handed rows, and by name what it asks for of client, rng, source"


@pytest.mark.parametrize(
    "parameters, asks",
    [
        ("rows", ()),
        ("rows, rng", ("rng",)),
        ("r, *, source, client", ("client", "source")),
        ("rows, factor=2", ()),
        ("rows, **given", ("client", "rng", "source")),
        ("*rows", ()),
    ],
)
def test_a_function_asks_by_name(file, parameters, asks):
    file.write_text(f"def flip({parameters}): return 'made'\n")
    own = own_methods.method(FIELD, f"{file}:flip")
    assert own.asks == asks
    assert own([], client=1, rng=2, source=3) == "made"


@pytest.mark.parametrize(
    "parameters, problem",
    [
        ("", "too many positional arguments"),
        ("rows, factor", "missing a required argument: 'factor'"),
        ("client, rng", "its first parameter is 'client'"),
        ("*, rows", "too many positional arguments"),
    ],
)
def test_a_signature_that_does_not_fit_says_what_is_handed(file, parameters, problem):
    file.write_text(f"def flip({parameters}): pass\n")
    said = line(own_methods.method, FIELD, f"{file}:flip")
    assert said == f"{FIELD}: {file}:flip: {problem}{HANDED}"


def test_what_raises_is_named_with_its_line_and_place(file):
    file.write_text("import json\n\ndef flip(rows):\n    return json.loads('{')\n")
    own = own_methods.method(FIELD, f"{file}:flip").within("client 3")
    said = line(own, [])
    assert said.startswith(f"{FIELD}: {file}:flip: client 3: JSONDecodeError: Expecting property")
    assert said.endswith("(mine.py, line 4)")


# Content.


def test_content_is_the_files_and_empty_for_other_names(file):
    file.write_text("method = 1\n")
    first = own_methods.content(f"{file}:method")
    file.write_text("method = 2\n")
    assert first != own_methods.content(f"{file}:method") != ""
    assert own_methods.content("phrase") == own_methods.content(None) == ""
    said = line(own_methods.content, f"{file.parent}/mime.py:method", FIELD)
    assert said.startswith(f"{FIELD}: {file.parent}/mime.py: no such file; did you mean 'mine.py'?")


def test_of_a_name_only_its_last_part_counts(file):
    file.write_text("method = 1\n")
    elsewhere = file.parent / "other.py"
    elsewhere.write_text("method = 1\n")
    here, there = (own_methods.counted(FIELD, f"{place}:method") for place in (file, elsewhere))
    assert here == there == ["method", own_methods.content(f"{file}:method")]
    assert own_methods.counted(FIELD, "krum") == "krum"


def test_a_module_is_found_and_its_whole_package_counts(package):
    name = "ownlab.rules:flip"
    first = own_methods.content(name)
    assert own_methods.method(FIELD, name)([]) == 1
    (package / "helper.py").write_text("VALUE = 200\n")
    assert own_methods.content(name) != first
    assert own_methods.method(FIELD, name)([]) == 200


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("ownlib.rules:flip", "no module 'ownlib': install it, or put it in"),
        ("ownlab.rule:flip", "no module 'ownlab.rule'; did you mean 'rules'? (known: helper, rul"),
        ("ownlab.rules:flop", "ownlab.rules has no 'flop'; did you mean 'flip'?"),
        ("ownlab.bad:flip", "ownlab.bad: ModuleNotFoundError: No module named 'nothere' (bad.py"),
        ("math:sin", "module 'math' has no Python source"),
    ],
)
def test_a_module_that_does_not_give_it_is_one_line(package, name, wanted):
    if "bad" in name:
        (package / "bad.py").write_text("import nothere\n")
    said = line(own_methods.method, FIELD, name)
    assert said.startswith(f"{FIELD}: ") and wanted in said


# Settings.

NAMED = """\
preset: smoke
federation: {aggregator: "mine.py:f", compare: [krum, "mine.py:f"]}
defense: {level: "sub dir/mine.py:f", compare: [2, "lab.rules:g"]}
evaluation: {judges: [rule, "mine.py:f"]}
"""


def test_a_file_beside_the_settings_file_is_found(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (file.parent / "sub dir").mkdir()
    for place in (file, file.parent / "sub dir" / "mine.py"):
        place.write_text("def f(rows): pass\n")
    settings = file.with_name("own.yaml")
    settings.write_text(NAMED)
    loaded = presets.load(str(settings))
    assert loaded.federation.aggregator == f"{file}:f"
    assert loaded.federation.compare == ["krum", f"{file}:f"]
    assert loaded.defense.level == f"{file.parent}/sub dir/mine.py:f"
    assert loaded.defense.compare == [2, "lab.rules:g"]
    assert loaded.evaluation.judges == ["rule", f"{file}:f"]
    assert type(loaded).model_validate_json(loaded.model_dump_json()) == loaded  # as workers do


def test_a_file_in_the_root_is_named_as_it_is(file, monkeypatch, tmp_path):
    settings = file.with_name("own.yaml")
    settings.write_text("preset: smoke\nfederation: {aggregator: 'mine.py:f'}\n")
    assert presets.load(str(settings)).federation.aggregator == "mine.py:f"

    monkeypatch.setattr(machine, "ROOT", tmp_path)
    for place in (file, tmp_path / "mine.py"):
        place.write_text("def f(rows): pass\n")
    named = {"federation": {"aggregator": "mine.py:f"}}
    assert f"which of the two, {file} or {tmp_path}/mine.py?" in line(
        own_methods.beside, named, settings
    )


@pytest.mark.parametrize(
    "group, fields, wanted",
    [
        ("federation", {"aggregator": "mine"}, "federation.aggregator: 'mine' is not allowed"),
        ("federation", {"compare": ["krun"]}, "'krun' is not allowed; did you mean 'krum'?"),
        ("data", {"attack": "mine.py"}, "data.attack: 'mine.py' is not allowed"),
        (
            "defense",
            {"level": "x"},
            "defense.level: 'x' is not allowed (known: 0, 1, 2, 3, project",
        ),
        ("defense", {"filter": "mine.py:a b"}, "defense.filter: 'mine.py:a b' is not allowed"),
        (
            "evaluation",
            {"judges": ["rule", "rules"]},
            "evaluation.judges.1: 'rules' is not allowed",
        ),
    ],
)
def test_a_wrong_name_says_how_to_name_ones_own(group, fields, wanted):
    said = line(lambda: presets.load("smoke", **{group: fields}))
    assert wanted in said and said.endswith("; your own: FILE.py:NAME")


@pytest.mark.parametrize(
    "group, fields",
    [
        ("federation", {"compare": ["a.py:f", "b.py:f"]}),
        ("federation", {"aggregator": "a.py:f", "compare": ["b.py:f"]}),
        ("defense", {"compare": ["a.py:f", "lab.b:f"]}),
        ("evaluation", {"judges": ["rule", "a.py:f", "b.py:f"]}),
    ],
)
def test_two_of_one_name_are_refused(group, fields):
    said = line(lambda: presets.load("smoke", **{group: fields}))
    assert f"{group}." in said and "two methods have one name: a.py:f, " in said
