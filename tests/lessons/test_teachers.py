"""The teacher's copies: made from the student's notebooks and guides, and never out of step."""

import json

import pytest

from fedlib.lessons import teachers

MINUTES = 45
FILES = teachers.lesson_files()


def text_cell(name, text="## Part"):
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": [text]}


def code_cell(name, text, tags):
    cell = {"cell_type": "code", "id": name, "metadata": {"tags": tags}, "source": [text]}
    return cell | {"outputs": [], "execution_count": None}


STUDENT = {
    "cells": [
        text_cell("title", "# Lesson"),
        text_cell("part"),
        code_cell("answer", "x = ...", ["exercise"]),
        code_cell("check", "check(x)", []),
    ],
    "metadata": {},
}
GUIDE = {
    "minutes": {"part": 45},
    "notes": {"part": "Slowly."},
    "solutions": {"answer": "x = 1\ny = 2\n"},
    "asked": [{"question": "Why?", "answer": "So."}],
}


def test_a_copy_is_solved_and_has_minutes_and_answers():
    cells = teachers.teachers_copy(STUDENT, GUIDE)["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    assert "| Part | 45 |" in texts[1] and texts[3] == "> **Teacher, 45 minutes.** Slowly."
    assert texts[4:6] == ["x = 1\ny = 2", "check(x)"] and "**Why?** So." in texts[6]
    assert "".join(STUDENT["cells"][2]["source"]) == "x = ..."  # the student's is left alone


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"minutes": {"prat": 45}}, "not there.*prat"),
        ({"solutions": {}}, "answer.*solved"),
        ({"solutions": {"answer": "x = 1", "check": "y"}}, "solved"),
        ({"minutes": {}}, "without minutes.*part"),
    ],
    ids=str,
)
def test_a_guide_of_another_notebook_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        teachers.teachers_copy(STUDENT, GUIDE | changes)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_copy_is_the_students_notebook_but_for_answers_and_notes(file):
    student, guide = teachers.read_lesson(file)
    copy = json.loads((teachers.TEACHER / file.name).read_text(encoding="utf-8"))
    assert copy == teachers.teachers_copy(student, guide), "python -m fedlib.lessons.teachers"

    own = [c for c in copy["cells"] if teachers.ADDED not in teachers.cell_tags(c)]
    assert len(own) == len(student["cells"])
    for theirs, ours in zip(student["cells"], own, strict=True):
        if teachers.EXERCISE not in teachers.cell_tags(theirs):
            assert theirs == ours
        else:
            assert theirs["source"] != ours["source"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_lesson_takes_its_time_and_asks(file):
    student, guide = teachers.read_lesson(file)
    assert sum(guide["minutes"].values()) == MINUTES and len(guide["asked"]) >= 5
    # every part has its minutes: each text but the title
    texts = [c["id"] for c in student["cells"] if c["cell_type"] == "markdown"]
    assert list(guide["minutes"]) == texts[1:]
