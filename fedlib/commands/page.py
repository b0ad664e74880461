"""outputs/<preset>/index.html: every executed notebook's prose and results, nothing else needed."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedlib.commands import rendering
from fedlib.papers import output
from fedlib.settings.schema import Settings


@dataclass(frozen=True)
class Part:
    """One notebook on the page: its file's name, its first heading, how it ended, its HTML."""

    name: str
    title: str
    state: str
    body: str


def write_page(settings: Settings, executed: Path, names: Iterable[str]) -> Path:
    """Write the page of the executed notebooks of these names, figures inside; returns its path."""
    parts = [part for name in names if (part := _part(executed / f"{name}.ipynb"))]
    text = rendering.render("page.html.j2", settings=settings, parts=parts)
    page = output.preset_folder(settings) / "index.html"
    output.save(page, lambda file: file.write_text(text, encoding="utf-8"))
    return page


def _part(file: Path) -> Part | None:
    """A notebook's part of the page; None if its file was cut off while it was written."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    try:
        notebook = json.loads(file.read_text(encoding="utf-8"))
        body, _ = exporter.from_filename(str(file))
    except ValueError:
        return None
    # nothing is run, and links to other notebooks lead to their parts
    body = re.sub(r"<script.*?</script>", "", body, flags=re.DOTALL)
    body = re.sub(r'href="(\w+)\.ipynb"', r'href="#\1"', body)
    return Part(file.stem, _title(notebook, file.stem), _state(notebook), body)


def _title(notebook: Mapping, name: str) -> str:
    """A notebook's first heading, or its file's name."""
    for cell in notebook["cells"]:
        for line in "".join(cell["source"]).splitlines():
            if line.startswith("# "):
                return line.lstrip("# ")
    return name


def _state(notebook: Mapping) -> str:
    """When a notebook was executed, and whether it failed or was left unfinished."""
    made = notebook["metadata"].get("papermill", {})
    began = (made.get("start_time") or "?")[:16]
    if made.get("exception"):
        return f"executed {began}, failed"
    return f"executed {began}" if made.get("end_time") else f"executed {began}, unfinished"
