"""Every notebook, found by glob: thin and clean as committed, then executed at preset smoke."""

import ast
import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from fedlib.commands import reproduce
from fedlib.lab import keys, store
from fedlib.lessons import teachers
from fedlib.papers import claims, grids
from fedlib.settings import errors, groups, machine, presets

NOTEBOOKS = sorted(reproduce.NOTEBOOKS.glob("*.ipynb"))
NAMES = [p.stem for p in NOTEBOOKS]
LESSONS = sorted((reproduce.NOTEBOOKS / "class").glob("*.ipynb"))
EVERY = NOTEBOOKS + LESSONS
EVERY_NAME = [p.stem for p in EVERY]
DEFAULTS = {"preset": "mini", "seeds": None} | {group: {} for group in groups.GROUPS}
# It does a round by hand, so it needs torch even when everything is there.
TRAINS = {"00_tour"}
# A word with two capitals is an abbreviation, and these are defined where they first occur: in
# bold or italics, in brackets, or with what they stand for in brackets behind them.
ABBREVIATION = re.compile(r"(?<![\w`./-])[A-Z][\w-]*[A-Z][\w-]*(?![\w/])")
NO_ABBREVIATIONS = {"Llama-2-7B", "MT-Bench", "Signal-to-Noise"}


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def code_cells(notebook):
    return [c for c in notebook["cells"] if c["cell_type"] == "code"]


def parameters(notebook):
    return [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]


def nodes(notebook):
    """Every node of the code's syntax trees."""
    for cell in code_cells(notebook):
        yield from ast.walk(ast.parse("".join(cell["source"])))


def prose(notebook):
    """The text of each markdown cell."""
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]


def run_cells(name, **changes):
    """A notebook's code in this very process, as a script: far quicker than a kernel.

    What a cell would show is made too: a table is drawn only then."""
    scope = {}
    for cell in code_cells(read(reproduce.NOTEBOOKS / f"{name}.ipynb")):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), scope)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), scope)
            if hasattr(value, "_repr_html_"):
                value._repr_html_()
        if "parameters" in cell["metadata"].get("tags", []):
            scope |= {"preset": "smoke"} | changes
    return scope


def papermill(*arguments, cwd):
    command = [sys.executable, "-m", "papermill", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


# ---- as committed


def test_there_are_notebooks():
    assert NAMES, "no notebook found: every test below would pass without looking at one"
    assert {"00_tour", "90_claims"} <= set(NAMES)
    assert len(LESSONS) >= 3


@pytest.mark.parametrize("file", EVERY, ids=EVERY_NAME)
def test_committed_clean(file):
    notebook = read(file)
    for cell in code_cells(notebook):
        assert cell["outputs"] == [] and cell["execution_count"] is None, "strip it: nbstripout"
    kernel = notebook["metadata"]["kernelspec"]
    assert (kernel["name"], kernel["language"]) == ("python3", "python")  # papermill needs both
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    first = notebook["cells"][0]
    assert first["cell_type"] == "markdown" and "".join(first["source"]).startswith("# ")
    ids = [c["id"] for c in notebook["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("file", EVERY, ids=EVERY_NAME)
def test_one_parameters_cell_the_same_everywhere(file):
    cells = parameters(read(file))
    assert len(cells) == 1
    assert "".join(cells[0]["source"]) == "".join(parameters(read(NOTEBOOKS[0]))[0]["source"])
    scope = {}
    exec("".join(cells[0]["source"]), scope)
    assert {k: v for k, v in scope.items() if k != "__builtins__"} == DEFAULTS


@pytest.mark.parametrize("file", EVERY, ids=EVERY_NAME)
def test_notebooks_call_and_show_they_define_nothing(file):
    for cell in code_cells(read(file)):
        if "exercise" in cell["metadata"].get("tags", []):
            continue  # there a student writes a function
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= 15, source
        kinds = {type(node) for node in ast.walk(ast.parse(source))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.While}, source
        assert not re.search(r"^\s*[%!]", source, re.M), "plain Python, that other tools can run"


@pytest.mark.parametrize("file", EVERY, ids=EVERY_NAME)
def test_every_group_reaches_the_settings(file):
    """presets.load gets each name of the parameters cell: a group left out would change nothing."""
    calls = [
        node
        for node in nodes(read(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "presets.load"
    ]
    assert len(calls) == 1 and [a.id for a in calls[0].args] == ["preset"]
    given = {k.arg: k.value.id for k in calls[0].keywords}
    assert given == {name: name for name in DEFAULTS if name != "preset"}


@pytest.mark.parametrize("file", EVERY, ids=EVERY_NAME)
def test_no_cell_takes_a_parameters_name(file):
    """An import or a variable called like a parameter would hide what was asked for."""
    notebook = read(file)
    rest = [cell for cell in notebook["cells"] if cell not in parameters(notebook)]
    taken = set()
    for node in nodes({"cells": rest}):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            taken.add(node.id)
        if isinstance(node, ast.Import | ast.ImportFrom):
            taken |= {alias.asname or alias.name for alias in node.names}
    assert taken and not taken & set(DEFAULTS)


@pytest.mark.parametrize("file", EVERY, ids=EVERY_NAME)
def test_prose_fits_a_screen_and_explains_its_abbreviations(file):
    cells = prose(read(file))
    assert all(len(cell) <= 1300 and len(cell.splitlines()) <= 16 for cell in cells)
    text = "\n".join(cells)
    # code, links and what is set off as code are no prose
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)|^    .*$", "", text, flags=re.M)
    used = set(ABBREVIATION.findall(plain)) - NO_ABBREVIATIONS
    defined = r"{0}\*{{0,2}},? \(|\((?:the [^)]*)?\*{{0,2}}{0}\*{{0,2}}[,):]|\*{0}\*"
    assert {word for word in used if not re.search(defined.format(re.escape(word)), text)} == set()


def test_only_examples_show_responses():
    """What a run answered reaches a notebook through `papers.examples`, which redacts."""
    for file in EVERY:
        assert not re.search(r"\.responses\(|responses\.jsonl", file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", teachers.lesson_files(), ids=lambda file: file.stem)
def test_a_lesson_asks(file):
    """tests/lessons has the rest: its exercises, and the teacher's copy with the answers."""
    cells = prose(read(file))
    assert sum("**Predict:**" in cell for cell in cells) >= 3
    assert sum("**Exercise " in cell for cell in cells) >= 4
    assert all(re.search(rf"^{number}\. ", cells[-1], re.M) for number in (1, 2, 3))


# ---- reproduce, once for this module


@pytest.fixture(scope="module")
def smoke_outputs(tmp_path_factory):
    """The outputs folder after `fedlib reproduce --preset smoke`, which must have ended with 0."""
    folder = tmp_path_factory.mktemp("reproduce")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_OUTPUTS", str(folder))
        patch.setenv("FEDLIB_JOBS", "2")  # workers that all notebooks share, as a person has them
        assert reproduce.reproduce_notebooks("smoke", jobs=2) == 0
    return folder


def test_every_notebook_is_executed_and_unharmed(smoke_outputs):
    executed = smoke_outputs / "smoke" / "executed"
    assert sorted(p.stem for p in executed.iterdir()) == NAMES
    for name in NAMES:
        cells = code_cells(read(executed / f"{name}.ipynb"))
        assert all(c["execution_count"] for c in cells)
        text = json.dumps([c["outputs"] for c in cells])
        assert '"output_type": "error"' not in text and "Warning" not in text


def saved(name, function):
    """The names under which a notebook saves with one seed, as patterns.

    Each is the last argument of output.save_figure or output.save_table."""
    cells = code_cells(read(reproduce.NOTEBOOKS / f"{name}.ipynb"))
    sources = ["".join(cell["source"]) for cell in cells]
    source = "\n".join(s for s in sources if "if len(settings.seeds) > 1 and" not in s)
    found = re.findall(rf'output\.{function}\([^\n]*?"([^"]+)"\)', source)
    return [re.sub(r"{.*?}", "*", n) for n in found]


def test_figures_and_tables_are_there(smoke_outputs):
    figures = [n for name in NAMES for n in saved(name, "save_figure")]
    tables = [n for name in NAMES for n in saved(name, "save_table")]
    assert len(figures) >= 9 and len(tables) >= 12
    folder = smoke_outputs / "smoke"
    for what, wanted, kinds in (
        ("figures", figures, ("png", "pdf")),
        ("tables", tables, ("csv", "md")),
    ):
        files = list((folder / what).iterdir())
        patterns = [f"{n}.{k}" for n in wanted for k in kinds]
        assert all(any(p.match(pattern) for pattern in patterns) for p in files)
        assert all(any(p.match(pattern) for p in files) for pattern in patterns)
        assert all(p.stat().st_size > 50 and p.name[:2] in {n[:2] for n in NAMES} for p in files)


def test_the_page_is_self_contained(smoke_outputs):
    page = (smoke_outputs / "smoke" / "index.html").read_text(encoding="utf-8")
    for name in NAMES:
        assert f'<section id="{name}" ' in page and f'<a href="#{name}">' in page
    assert page.count("<img") >= 5 and page.count("<table") >= 3
    assert all(
        source.startswith("data:") for source in re.findall(r'<img[^>]*\bsrc="([^"]{0,20})', page)
    )
    loads = r'<script[^>]*\bsrc=|<link[^>]*\bhref=|<iframe|@import|url\(\s*["\']?(?:https?:)?//'
    assert not re.search(loads, page) and page.count("<script") == 1  # its own
    links = set(re.findall(r'href="([^"]*)"', page))
    assert all(link.startswith(("#", "http")) for link in links), "a file not beside it"
    assert {link[1:] for link in links if link[0] == "#"} <= set(re.findall(r'id="(.*?)"', page))


def test_examples_show_what_the_runs_answered(smoke_outputs):
    """The world's words are shown, beside the judges' verdicts, in notebooks and on the page.

    tests/papers/test_examples.py has what is redacted: words that may be real."""
    files = smoke_outputs.glob("runs/*/eval-*/responses.jsonl")
    lines = [json.loads(line) for f in files for line in f.read_text(encoding="utf-8").splitlines()]
    asked = {html.escape(line["prompt"]) for line in lines if line["set"] == "harmful"}
    for name in ("10_safety_table1", "30_swat_drift"):
        cells = code_cells(read(smoke_outputs / "smoke" / "executed" / f"{name}.ipynb"))
        outputs = [o for c in cells for o in c["outputs"]]
        text = "".join("".join(o.get("data", {}).get("text/html", "")) for o in outputs)
        assert asked & set(re.findall(r"<td[^>]*>(.*?)</td>", text, re.S))
        assert ">unsafe<" in text or ">safe<" in text
    page = (smoke_outputs / "smoke" / "index.html").read_text(encoding="utf-8")
    assert asked & set(re.findall(r"<td[^>]*>(.*?)</td>", page, re.S))


def test_claims_are_written(smoke_outputs):
    with open(smoke_outputs / "smoke" / "claims.csv", encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [r["id"] for r in rows] == [c["id"] for c in claims.all_claims()]
    open_ = {r["id"] for r in rows if r["status"] != "preliminary"}
    # one seed: every claim is measured, none decided
    assert {r["status"] for r in rows} == {"preliminary", "not run"}
    # smoke has only the first dataset and few rules, and next to no attack success whose ranks
    # could be compared
    untried = {f"B5-{rule}" for rule in ("median", "trimmed_mean", "dnc", "foolsgold", "residual")}
    elsewhere = {r["id"] for r in rows if "wild-like" in r["id"]}
    assert open_ - {"B6-asr"} == untried | elsewhere


def test_runs_are_shared_between_notebooks(smoke_outputs, monkeypatch):
    """Every run that some notebook wants is there, and nothing else: they name runs alike."""
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(smoke_outputs))
    settings = presets.load("smoke")
    wanted = [s for name in grids.GRIDS for s in grids.notebook_runs(settings, name)]
    folders = {keys.run_folder(s) for s in wanted}
    folders |= {keys.written_folder(s, kind) for s in wanted for kind in keys.written_kinds(s)}
    folders |= {keys.robustness_folder(s) for s in wanted if s.swat.warmup}
    assert len(folders) < len(wanted)
    there = {p for p in (smoke_outputs / "runs").iterdir() if p.name[0] != "."}
    assert there == folders
    assert all(store.intact(folder) for folder in folders)


WARM = """
import sys
sys.path.insert(0, {tests!r})
from fedlib.papers import output
from test_notebooks import run_cells
output.save_figure = lambda *_: None  # the files are there already
for name in {names}:
    run_cells(name)
print("torch" in sys.modules)
"""


def test_a_warm_notebook_needs_no_torch(smoke_outputs, tmp_path):
    there = set((smoke_outputs / "runs").iterdir())
    warm = [name for name in NAMES if name not in TRAINS]
    script = tmp_path / "warm.py"
    script.write_text(WARM.format(tests=os.path.dirname(__file__), names=warm), encoding="utf-8")
    environment = os.environ | {"FEDLIB_OUTPUTS": str(smoke_outputs), "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "False"
    assert set((smoke_outputs / "runs").iterdir()) == there


# ---- papermill itself, from another folder


def test_papermill_with_a_file_and_a_changed_group(smoke_outputs, tmp_path, store):
    """-f gives federation, -y replaces that group, and its other fields stay the preset's.

    That is so because fedlib reads the preset again."""
    changed = presets.load("smoke", federation={"rounds": 1}).preset
    shutil.copytree(smoke_outputs / "smoke" / "measures", store / changed / "measures")
    done = papermill(
        reproduce.NOTEBOOKS / "90_claims.ipynb",
        "out.ipynb",
        "-f",
        machine.ROOT / "params" / "smoke.yaml",
        "-y",
        "federation: {rounds: 1}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cells = code_cells(read(tmp_path / "out.ipynb"))
    injected = next(c for c in cells if "injected-parameters" in c["metadata"]["tags"])
    assert "federation = {'rounds': 1}" in "".join(injected["source"]).replace('"', "'")
    with open(store / changed / "claims.csv", encoding="utf-8", newline="") as f:
        statuses = {row["status"] for row in csv.DictReader(f)}
    assert statuses == {"not run"}  # measured with 2 rounds, not 1


def test_a_wrong_setting_ends_with_one_line(tmp_path):
    done = papermill(
        reproduce.NOTEBOOKS / "90_claims.ipynb",
        "out.ipynb",
        "-p",
        "preset",
        "smoke",
        "-p",
        "federation",
        "{rounds: 5}",
        cwd=tmp_path,
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "federation: arrived as a string" in line]
    assert said and all('use -y "federation: {' in line for line in said)
    outputs = [o for c in code_cells(read(tmp_path / "out.ipynb")) for o in c["outputs"]]
    errors = [o for o in outputs if o["output_type"] == "error"]
    assert len(errors) == 1 and len(errors[0]["traceback"]) == 1, "the line, not the way to it"


# ---- settings that a person may well try


@pytest.fixture
def quiet(monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setenv("MPLBACKEND", "agg")
    plt.switch_backend("agg")
    yield
    plt.close("all")


ONLY_RULE = {"evaluation": {"judges": ["rule"]}, "defense": {"compare": [2]}}
NOTHING_COMPARED = {"federation": {"compare": []}, "defense": {"compare": []}}


@pytest.mark.parametrize(
    "name, changes",
    [
        ("10_safety_table1", {"seeds": [0, 1]} | ONLY_RULE),
        ("10_safety_table1", NOTHING_COMPARED),
        ("12_safety_table3", {"evaluation": {"judges": ["rule", "help"]}}),
        ("13_safety_table4", {"seeds": [0, 1]} | ONLY_RULE),
    ],
    ids=str,
)
def test_notebooks_take_other_settings(quiet, smoke_outputs, store, name, changes):
    shutil.copytree(smoke_outputs / "runs", store / "runs")  # what need not be trained again
    run_cells(name, **changes)


@pytest.mark.parametrize(
    "name", ["10_safety_table1", "11_safety_figure3", "12_safety_table3", "13_safety_table4"]
)
def test_without_malicious_clients_there_is_one_clear_line(quiet, name):
    with pytest.raises(errors.SettingsError, match="federation.malicious: 0"):
        run_cells(name, federation={"malicious": 0})


def test_a_run_that_two_axes_name_counts_once(quiet, store):
    """Under full participation both samplings are the same runs: one seed must not become two."""
    everybody = {"sampled": 10, "compare": []}
    run_cells("10_safety_table1", federation=everybody, defense={"compare": []})
    (results,) = store.glob("smoke+*")
    with open(results / "tables" / "10_table1.csv", encoding="utf-8", newline="") as f:
        assert [row["seeds"] for row in csv.DictReader(f)] == ["1"] * 2
    assert read(results / "measures" / "S1-md_judge-lmsys-like-full.json")["seeds"] == 1
    assert not (results / "measures" / "S1-md_judge-lmsys-like-sampled.json").exists()
