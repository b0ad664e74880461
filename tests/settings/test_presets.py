"""Presets: files that extend each other, groups on top of them, and errors that name the place."""

import re
import subprocess
import sys

import nbformat
import pytest
import yaml
from dotted import TEXT, changes, message, missing

from fedlib.settings import groups, injected, machine
from fedlib.settings.presets import load

KERNEL = {"name": "python3", "language": "python", "display_name": "Python 3"}
PRESETS = sorted(file.stem for file in (machine.ROOT / "params").glob("*.yaml"))

FILES = [  # a file's text, what the line must hold besides the file's name
    ("preset: smoke\nfederation: {roundz: 3}", ["federation.roundz: no such field", "'rounds'"]),
    ("fedration: {rounds: 3}", ["fedration: no such group", "'federation'"]),
    ("seed: 3", ["seed: no such group", "'seeds'"]),
    ("3: {rounds: 3}", ["3: no such group"]),
    ("preset: smok", ["preset: no preset 'smok'", "'smoke'"]),
    ("preset: [smoke]", ["preset: no preset"]),
    ("training:\n  steps: 3\n  learning_rate: 2e-5", ["training.learning_rate", "write 2.0e-5"]),
    ("training:", ["training"]),
    ("seeds: 3", ["seeds", "list"]),
    ("data: {rows: 3", ["line 1", "not valid YAML"]),
    ("data:\n\trows: 3", ["line 2", "not valid YAML"]),
    ("data: {rows: 3}\ndata: {rows: 4}", ["line 1", "a key stands twice"]),
    ("data: {<<: {rows: 3}, rows: 4, rows: 5}", ["line 1", "a key stands twice"]),
    ("data: {<<: 3}", ["line 1", "not valid YAML"]),
    ("- data", ["must hold groups", "list"]),
    ("", ["must hold groups", "nothing"]),
    (b"preset: sm\xe9", ["cannot be read"]),
]


@pytest.mark.parametrize("text, parts", FILES, ids=[str(text) for text, _ in FILES])
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, parts):
    file = tmp_path / "own.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = message(load, str(file))
    assert line.startswith(f"{file}: ")
    assert missing(parts, line) == [], line


PARAMETERS = [  # what load is given, what its one line must hold
    (dict(fedration={}), ["parameters: fedration: no such group", "'federation'", "evaluation"]),
    (
        dict(federation="{rounds: 5}"),
        ["parameters: federation: arrived as a string", "-p", '-y "federation'],
    ),
    (dict(seeds="[0]"), ["parameters: seeds: must be a list", "'[0]'", "-y"]),
    (dict(seeds=3), ["parameters: seeds: must be a list", "3"]),
    (dict(seeds=1.5), ["parameters: seeds: must be a list", "1.5"]),
    (dict(preset="smok"), ["parameters: preset: no preset 'smok'", "'smoke'", "mini"]),
    (dict(preset="nowhere/own.yaml"), ["parameters: preset: no file 'nowhere/own.yaml'"]),
    (dict(preset=None), ["parameters: preset", "None", "smoke"]),
]


@pytest.mark.parametrize("given, parts", PARAMETERS, ids=[str(given) for given, _ in PARAMETERS])
def test_a_wrong_parameter_is_one_clear_line(given, parts):
    line = message(load, **given)
    assert missing(parts, line) == [], line


def test_the_line_names_the_layer_that_set_the_field(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("federation: {rounds: 0}")
    assert message(load, str(file)).startswith(f"{file}: federation.rounds")

    on_top = message(load, str(file), federation={"rounds": -1})
    assert on_top.startswith("parameters: federation.rounds")

    replaced = message(load("smoke").replace, federation={"roundz": 1})
    assert replaced.startswith("replace(): federation.roundz")


@pytest.mark.parametrize("name", PRESETS)
def test_every_shipped_preset_loads(name):
    settings = load(name, data=TEXT if name == "text" else {})
    assert settings.preset == name
    assert settings.seed == settings.seeds[0]


def test_mini_is_the_complete_list():
    """Nothing has a default that the file does not show."""
    content = yaml.safe_load((machine.ROOT / "params" / "mini.yaml").read_text())
    assert load().model_dump(exclude={"seed"}) == content


def test_claims_is_mini_with_five_seeds():
    assert load("claims") == load("mini", seeds=[0, 1, 2, 3, 4]).replace(preset="claims")


@pytest.mark.parametrize("name", ["smoke", "text"])
def test_a_parameters_file_and_one_group_keep_all_else(name):
    """papermill -f params/X.yaml -y "federation: {rounds: 5}": -y's group replaces the file's."""
    content = yaml.safe_load((machine.ROOT / "params" / f"{name}.yaml").read_text())
    preset = content.pop("preset")
    extra = TEXT if name == "text" else {}
    given = content | {"federation": {"rounds": 5}, "data": content["data"] | extra}
    settings = load(preset, **given)
    assert changes(load(name, data=extra), settings) == {"federation.rounds", "preset"}
    assert settings == load(name, data=extra, federation={"rounds": 5})


def test_groups_merge_deeply_and_lists_are_replaced():
    before = load("text", data=TEXT)
    after = load("text", data=TEXT | {"benign": ["mine.json"]}, model={"scratch": {"steps": 7}})
    assert changes(before, after) == {"data.benign", "model.scratch.steps", "preset"}
    assert after.data.benign == ["mine.json"]


def test_empty_groups_and_no_seeds_change_nothing():
    empty = dict.fromkeys(groups.GROUPS, {})
    assert load("smoke", None, **empty) == load("smoke")
    assert load("smoke", None, **dict.fromkeys(groups.GROUPS)) == load("smoke")


def test_a_single_run_has_the_first_seed():
    settings = load("smoke", [3, 1])
    assert (settings.seeds, settings.seed) == ([3, 1], 3)


EXTENDED = [("smoke", 2), ("own", 20), (None, 20), ("claims", 20)]  # preset named, its rounds


@pytest.mark.parametrize("parent, rounds", EXTENDED)
def test_a_file_extends_the_preset_it_names(tmp_path, parent, rounds):
    file = tmp_path / "own.yaml"
    named = f"preset: {parent}" if parent else ""
    file.write_text(f"{named}\ntraining: {{steps: 3}}")
    settings = load(str(file))
    assert settings.preset == "own"
    assert settings.training.steps == 3
    assert settings.federation.rounds == rounds
    assert len(settings.seeds) == (5 if parent == "claims" else 1)


def test_a_file_named_as_the_preset_it_extends_extends_it(tmp_path):
    file = tmp_path / "smoke.yaml"
    file.write_text("preset: smoke\ntraining: {steps: 3}")
    assert load(str(file)).federation.rounds == load("smoke").federation.rounds  # not those of mini


def test_a_file_called_like_a_preset_has_results_apart(tmp_path):
    for name in ("mini", "runs"):
        file = tmp_path / f"{name}.yaml"
        file.write_text("preset: mini\nseeds: [7]\n")
        assert load(str(file)).preset == f"own-{name}"


def test_a_file_is_found_absolute_then_from_here_then_from_the_root(tmp_path, monkeypatch):
    file = tmp_path / "smoke.yml"
    file.write_text("federation: {rounds: 7}")
    monkeypatch.chdir(tmp_path)
    assert load(str(file)).federation.rounds == 7
    assert load("smoke.yml").federation.rounds == 7
    assert load("params/smoke.yaml") == load("smoke")


MERGED = [  # YAML's merge key: swat's lines, then its steps and rounds
    ("{<<: *t, rounds: 5}", 3, 5),
    ("{<<: *t, steps: 4, rounds: 5}", 4, 5),
    ("{<<: [*t, {rounds: 6, steps: 7}]}", 3, 6),
    ("{<<: {<<: *t, rounds: 6}, rounds: 5}", 3, 5),
]


@pytest.mark.parametrize("swat, steps, rounds", MERGED)
def test_a_file_may_merge_mappings(tmp_path, swat, steps, rounds):
    file = tmp_path / "own.yaml"
    file.write_text(f"preset: smoke\ntraining: &t {{steps: 3}}\nswat: {swat}")
    settings = load(str(file))
    assert (settings.training.steps, settings.swat.steps, settings.swat.rounds) == (
        3,
        steps,
        rounds,
    )


# --- the name of the results' folder

SAME = [  # what changes no result, or nothing at all
    {},
    {"seeds": [5, 6]},
    {"federation": {}, "data": None},
    {"federation": {"rounds": 2}},
    {"data": {"folder": None}, "model": {"device": "cpu"}},
]


@pytest.mark.parametrize("given", SAME, ids=str)
def test_an_unchanged_preset_keeps_its_name(given):
    assert load("smoke", **given).preset == "smoke"


def test_changed_settings_have_a_name_of_their_own(tmp_path):
    names = [
        load("smoke", federation={"rounds": 3}).preset,
        load("smoke", federation={"rounds": 4}).preset,
        load("smoke", training={"steps": 4}).preset,
        load("smoke", federation={"rounds": 3}, training={"steps": 4}).preset,
        load("claims", federation={"rounds": 3}).preset,
    ]
    assert len(set(names)) == 5
    assert [re.sub(r"\+[0-9a-f]{6}$", "+", name) for name in names] == ["smoke+"] * 4 + ["claims+"]

    same = load("smoke", seeds=[4], federation={"rounds": 3}, model={"device": "cpu"})
    assert same.preset == same.replace(seed=1).preset == names[0]


# --- what papermill was given


def in_a_kernel(monkeypatch, cells, texts=()):
    monkeypatch.setattr(injected, "_executed_cells", lambda: cells)
    monkeypatch.setattr(injected, "given_texts", lambda: list(texts))


CELL = "preset = 'mini'  # a name\nseeds = None\n"
CELL += "".join(f"{group} = {{}}\n" for group in groups.GROUPS)


@pytest.mark.parametrize(
    "cells, said",
    [
        (
            [CELL, "# Parameters\nsed = 3\n"],
            "parameters: sed: no such parameter; did you mean 'seed",
        ),
        ([CELL, "# Parameters\npreset = 'smoke'\nfedration = {}\n"], "did you mean 'federation'"),
        ([CELL, "# Parameters\npreset = 'smoke'\n"], None),
        ([CELL + "mine = 1\n", "# Parameters\nmine = 3\n"], None),  # a notebook of one's own
        ([CELL, "sed = 3\n"], None),  # a person's cell
        (["alpha = 1", "# Parameters\nbeta = 3\n"], None),  # a person's notebook
        (["%load_ext x", "# Parameters\nbeta = 3\n"], None),
        ([], None),
    ],
)
def test_an_unknown_parameter_of_papermill_is_one_line(monkeypatch, cells, said):
    in_a_kernel(monkeypatch, ["", "import os", *cells, "presets.load(preset)"])
    if said:
        assert said in message(load, "smoke")
    else:
        assert load("smoke").preset == "smoke"


OWN = "preset: smoke\nfederation: {clients: 20, malicious: 6, rounds: 2}\n"
OWN += "data: {poison: {share: 0.2}}"


@pytest.mark.parametrize(
    "texts, given, lost",
    [
        # -f with -y: rounds is changed on purpose, the others are lost
        (
            [("own.yaml", OWN)],
            {"federation": {"rounds": 1}, "data": {"poison": {"share": 0.2}}},
            "federation.clients, federation.malicious of own.yaml",
        ),
        ([("own.yaml", OWN)], {"data": {"poison": {"share": 0.2}}}, "clients, federation.mal"),
        # of the preset itself nothing is lost: it is read again
        ([("smoke.yaml", "federation: {rounds: 2}")], {"federation": {"sampled": 2}}, None),
        # two -y with one group
        (
            [("-y", "training: {steps: 9}"), ("-y", "training: {batch_size: 3}")],
            {"training": {"batch_size": 3}},
            "training.steps of -y",
        ),
        (
            [("-y", "training: {steps: 9}"), ("-y", "training: {steps: 3}")],
            {"training": {"steps": 3}},
            None,
        ),
        ([("own.yaml", "[1]"), ("-y", "3"), ("-y", "seeds: [1]")], {}, None),
    ],
)
def test_a_field_that_papermill_drops_is_one_line(monkeypatch, texts, given, lost):
    in_a_kernel(monkeypatch, [], texts)
    given = dict.fromkeys(groups.GROUPS) | given
    if lost:
        line = message(load, "smoke", **given)
        assert missing([lost, "did not arrive", "-p preset FILE.yaml"], line) == [], line
        # a call that does not pass on what the notebook was given says nothing of that
        assert load("smoke", training={"steps": 5}).training.steps == 5
    else:
        assert load("smoke", **given).preset.startswith("smoke")


def test_what_papermill_was_given_is_read_from_its_command(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1")
    (tmp_path / "b.yaml").write_text("b: 2")
    command = (
        "python -m papermill in.ipynb out.ipynb -k python3 -p preset smoke -fa.yaml -y".split()
    )
    command += ["c: 3", "--parameters_file=b.yaml", "--parameters_yaml", "d: 4", "-f", "s3://x/y"]
    found = [("a.yaml", "a: 1"), ("b.yaml", "b: 2"), ("-y", "c: 3"), ("-y", "d: 4")]
    assert injected._texts(command, tmp_path) == found


def test_papermill_itself_with_a_file_and_a_change(tmp_path):
    """A small notebook in a real kernel: what papermill drops is found out from there."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL})
    call = ", ".join(f"{name}={name}" for name in ("seeds", *groups.GROUPS))
    load_cell = f"from fedlib.settings import presets\npresets.load(preset, {call})"
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (CELL, load_cell)]
    notebook.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    (tmp_path / "own.yaml").write_text(OWN)

    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--no-progress-bar"]
    command += ["-f", "own.yaml", "-y", "federation: {rounds: 1}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "federation.clients, federation.malicious of own.yaml did not arrive" in done.stderr


def test_presets_in_a_circle_are_an_error(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    for name, parent in {"mini": "mini", "one": "two", "two": "one"}.items():
        (tmp_path / "params" / f"{name}.yaml").write_text(f"preset: {parent}")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert "circle" in message(load, "one")


def test_a_chain_through_every_preset_is_no_circle(tmp_path, monkeypatch):
    parents = {"mini": "mini", "one": "mini", "two": "one", "three": "two"}
    (tmp_path / "params").mkdir()
    content = yaml.safe_load((machine.ROOT / "params" / "mini.yaml").read_text())
    for name, parent in parents.items():
        values = (content if name == "mini" else {}) | {"preset": parent}
        (tmp_path / "params" / f"{name}.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "own.yaml").write_text("preset: three\ntraining: {steps: 3}")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert load(str(tmp_path / "own.yaml")).training.steps == 3
