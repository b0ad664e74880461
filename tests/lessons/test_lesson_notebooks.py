"""The lessons as a class meets them: solved, by papermill; unanswered, from top to bottom."""

import ast
import json
import re

import matplotlib.pyplot as plt
import papermill
import pytest

from fedlib.lessons import exercises, recording, teachers

FILES = teachers.lesson_files()
NAMES = [file.stem for file in FILES]
LARGEST = 3_000_000  # bytes of all records together


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def code_of(notebook):
    return [c for c in notebook["cells"] if c["cell_type"] == "code"]


def checks(notebook):
    """The cells that check an answer."""
    return [c for c in code_of(notebook) if re.search(r"exercises\.check_", "".join(c["source"]))]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_solved_lesson_is_right_in_every_check(file, tmp_path):
    out = tmp_path / "out.ipynb"
    # lesson 1 trains live: the preset says for how long; the records are those of mini
    papermill.execute_notebook(
        teachers.TEACHER / file.name, out, {"preset": "smoke"}, cwd=tmp_path, progress_bar=False
    )
    notebook = read(out)
    said = ["".join(c["outputs"][-1]["data"]["text/plain"]) for c in checks(notebook)]
    assert len(said) >= 4
    assert all(text.startswith(exercises.RIGHT) for text in said), said
    # sliders are there, and below each the picture or table of its starting values
    moved = [c for c in code_of(notebook) if "controls.explore" in "".join(c["source"])]
    assert len(moved) >= 3
    for cell in moved:
        first, second = (output["data"] for output in cell["outputs"])
        assert "application/vnd.jupyter.widget-view+json" in first
        assert {"image/png", "text/html"} & set(second)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_an_unanswered_lesson_runs_through(file, monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda value, display_id=False: None)
    monkeypatch.setenv("MPLBACKEND", "agg")
    plt.switch_backend("agg")
    scope, verdicts = {}, []
    for cell in code_of(read(file)):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, file.stem, "exec"), scope)
        if "parameters" in teachers.cell_tags(cell):
            scope["preset"] = "smoke"  # what is trained live is trained for less long
        if last is not None:
            verdicts.append(eval(compile(ast.Expression(last.value), file.stem, "eval"), scope))
    plt.close("all")
    states = [one.state for one in verdicts if isinstance(one, exercises.Verdict)]
    # a check for each exercise, and what waits for its answer
    assert len(states) >= len(checks(read(file))) and set(states) == {exercises.MISSING}


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_exercise_has_its_check_right_below(file):
    cells = read(file)["cells"]
    asked = [i for i, c in enumerate(cells) if teachers.EXERCISE in teachers.cell_tags(c)]
    assert len(asked) >= 4
    assert all(cells[i + 1] in checks(read(file)) for i in asked)
    # the answers are left open, and one of them is a function to write
    sources = ["".join(cells[i]["source"]) for i in asked]
    assert all("..." in source for source in sources)
    assert any("def " in source for source in sources)


@pytest.mark.parametrize("name", NAMES)
def test_a_record_says_where_it_is_from(name):
    about = recording.read_record(name)["about"]
    assert about["preset"] == recording.PRESET and about["made_by"].endswith(name)


def test_the_records_are_small():
    files = list(recording.RECORDS.iterdir())
    assert sum(file.stat().st_size for file in files) < LARGEST
    assert {file.stem for file in files} == set(NAMES)


def test_no_lesson_looks_into_the_store(store):
    """A class needs no run: what lessons show is in their records."""
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert "runs.get" not in text and "example_responses" not in text
