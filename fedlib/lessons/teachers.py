"""The teacher's copies of the lessons: the student's notebook, with solutions, minutes and answers.

    python -m fedlib.lessons.teachers     # write notebooks/class/teacher anew

The student's notebook and a guide beside the teacher's copy (a YAML file) are what one edits; the
copy is made from both, and a test says so where it was not. A guide holds, by the cells' ids,
solutions {id: code}, minutes {id: number} and notes {id: text}; and asked: what students ask, a
list of {question, answer}."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedlib.lessons import recording
from fedlib.settings import machine

CLASS = machine.ROOT / "notebooks" / "class"
TEACHER = CLASS / "teacher"
EXERCISE, ADDED = "exercise", "teacher"  # tags of the cells to answer, and of the teacher's


def lesson_files() -> list[Path]:
    """The students' notebooks, in their order."""
    return [CLASS / f"{name}.ipynb" for name in recording.LESSONS]


def cell_tags(cell: Mapping[str, Any]) -> list[str]:
    """A cell's tags."""
    return cell["metadata"].get("tags", [])


def teachers_copy(student: Mapping[str, Any], guide: Mapping[str, Any]) -> dict[str, Any]:
    """The teacher's notebook: each cell to answer is solved, and notes stand below the texts.

    ValueError where the guide names a cell that is not there, or leaves an exercise unsolved."""
    _check_ids(student, guide)
    cells: list[dict[str, Any]] = []
    for cell in student["cells"]:
        name = cell["id"]
        if EXERCISE in cell_tags(cell):
            cell = cell | {"source": _lines(guide["solutions"][name])}
        cells.append(dict(cell))
        if not cells[1:]:
            cells.append(_added(name, _plan(student, guide)))
        if name in guide["minutes"]:
            note = guide.get("notes", {}).get(name, "")
            minutes = f"**Teacher, {guide['minutes'][name]} minutes.** {note}".strip()
            cells.append(_added(f"{name}-minutes", f"> {minutes}"))
    asked = [f"**{one['question']}** {one['answer']}" for one in guide["asked"]]
    text = "## Teacher: what students ask\n\n" + "\n\n".join(asked)
    cells.append(_added("asked", text))
    return dict(student) | {"cells": cells}


def _check_ids(student: Mapping[str, Any], guide: Mapping[str, Any]) -> None:
    """Whether guide and notebook speak of the same cells."""
    ids = {cell["id"] for cell in student["cells"]}
    exercises = {cell["id"] for cell in student["cells"] if EXERCISE in cell_tags(cell)}
    named = set(guide["minutes"]) | set(guide.get("notes", {})) | set(guide["solutions"])
    if named - ids:
        raise ValueError(f"the guide names cells that are not there: {sorted(named - ids)}")
    if exercises != set(guide["solutions"]):
        raise ValueError(f"exercises {sorted(exercises)}, solved {sorted(guide['solutions'])}")
    without = set(guide.get("notes", {})) - set(guide["minutes"])
    if without:
        raise ValueError(f"notes without minutes: {sorted(without)}")


def _plan(student: Mapping[str, Any], guide: Mapping[str, Any]) -> str:
    """The lesson at a glance: its parts and their minutes."""
    total = sum(guide["minutes"].values())
    lines = [f"## Teacher: {total} minutes", "", "| part | minutes |", "|---|---|"]
    for cell in student["cells"]:
        if cell["id"] in guide["minutes"]:
            title = "".join(cell["source"]).splitlines()[0].lstrip("# ")
            lines.append(f"| {title} | {guide['minutes'][cell['id']]} |")
    return "\n".join(lines)


def _added(name: str, text: str) -> dict[str, Any]:
    """A markdown cell of the teacher's."""
    metadata = {"tags": [ADDED]}
    return {
        "cell_type": "markdown",
        "id": f"{name}-teacher",
        "metadata": metadata,
        "source": _lines(text),
    }


def _lines(text: str) -> list[str]:
    """A cell's source as notebooks keep it: lines with their ends, the last without."""
    return text.rstrip("\n").splitlines(keepends=True)


def read_lesson(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the student's notebook, the teacher's guide) of a lesson."""
    student = json.loads(file.read_text(encoding="utf-8"))
    guide = yaml.safe_load((TEACHER / f"{file.stem}.yaml").read_text(encoding="utf-8"))
    return student, guide


def write_copies(files: Sequence[Path]) -> None:
    """Write the teacher's copy of each of these lessons."""
    for file in files:
        copy = teachers_copy(*read_lesson(file))
        text = json.dumps(copy, indent=1, sort_keys=True, ensure_ascii=False)
        (TEACHER / file.name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_copies(lesson_files())
