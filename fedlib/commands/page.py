"""outputs/<preset>/index.html: the claims and every notebook's results, nothing else needed."""

import base64
import hashlib
import itertools
import json
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlib.commands import page_cells, rendering
from fedlib.papers import claim_picture, claims, output
from fedlib.settings import machine
from fedlib.settings.errors import DataError, SettingsError
from fedlib.settings.schema import Settings

NOTEBOOKS = machine.ROOT / "notebooks"
# The menu: a notebook stands under the first of these with which its name begins.
GROUPS = {
    "0": "Start here",
    "1": "Paper S: safety",
    "2": "Paper B: backdoors",
    "3": "Paper W: warm-up",
    "": "All papers",
}


@dataclass(frozen=True)
class Part:
    """One notebook on the page: its file's name, its first heading, how it stands, its HTML.

    state: done, failed, unfinished, waiting or not run; note: when, or what that means."""

    name: str
    title: str
    state: str
    note: str
    body: str = ""


class Page:
    """The page of a preset's notebooks, written again and again while they are executed.

    A notebook whose file has not changed since is not read again."""

    def __init__(self, settings: Settings, executed: Path, names: Iterable[str]) -> None:
        self.settings = settings
        self.executed = executed
        self.names = list(names)
        self.file = output.preset_folder(settings) / "index.html"
        self._read: dict[str, tuple[int, Part]] = {}

    def changed(self) -> bool:
        """Whether a notebook's file is another than when the page was written."""
        return any(self._stamp(name) != self._known(name) for name in self.names)

    def write(self, coming: Collection[str] = (), again: str = "") -> Path:
        """Write the page; returns its path.

        coming: names of the notebooks that are still to be executed, or being executed; again: the
        command that goes on, where there are notebooks without a result."""
        parts = [self._part(name, coming) for name in self.names]
        papers = _claims(self.settings)
        said = [one.said for paper in papers for family in paper.families for one in family.claims]
        script = rendering.render("page.js.j2")
        text = rendering.render(
            "page.html.j2",
            settings=self.settings,
            parts=parts,
            groups=[(title, list(some)) for title, some in itertools.groupby(parts, _group)],
            claims=papers,
            total=claim_picture.count_said(said),
            marks=claim_picture.MARKS,
            going=bool(coming),
            again=again,
            first_look=len(self.settings.seeds) < claims.ENOUGH_SEEDS,
            now=time.strftime("%Y-%m-%d %H:%M"),
            style=rendering.render("page.css.j2"),
            script=script,
            digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
        output.save(self.file, lambda file: file.write_text(text, encoding="utf-8"))
        return self.file

    def _stamp(self, name: str) -> int:
        """When a notebook was executed last, as its file says; 0 where there is none."""
        file = self.executed / f"{name}.ipynb"
        return file.stat().st_mtime_ns if file.exists() else 0

    def _known(self, name: str) -> int:
        return self._read[name][0] if name in self._read else 0

    def _part(self, name: str, coming: Collection[str]) -> Part:
        """A notebook's part: of its executed copy, or of what is known without one."""
        stamp = self._stamp(name)
        if stamp and stamp != self._known(name):
            try:
                part = _executed_part(self.executed / f"{name}.ipynb", self.file.parent / "figures")
            except ValueError:
                # cut off while it is written: what was read before stays, until it is whole
                part = None
            if part:
                self._read[name] = (stamp, part)
        if name in self._read:
            return self._read[name][1]
        state = "waiting" if name in coming else "not run"
        return Part(name, _committed_title(name), state, "")


def write_page(settings: Settings, executed: Path, names: Iterable[str]) -> Path:
    """Write the page of these notebooks, as they stand; returns its path."""
    return Page(settings, executed, names).write()


def _group(part: Part) -> str:
    """The heading of the menu that a notebook stands under."""
    return next(title for start, title in GROUPS.items() if part.name.startswith(start))


def _claims(settings: Settings) -> list[claim_picture.Paper]:
    """The claims; none where the settings name data or models that are not here."""
    try:
        return claim_picture.claim_papers(claims.claim_verdicts(settings))
    except (SettingsError, DataError) as error:
        print(f"the page has no picture of the claims: {error}")
        return []


def _executed_part(file: Path, figures: Path) -> Part:
    """A notebook's part of the page; ValueError if its file is not whole."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    cells = list(page_cells.notebook_cells(notebook, file.stem, figures))
    body = rendering.render("page_cells.html.j2", cells=cells)
    title = page_cells.notebook_title(notebook, file.stem)
    return Part(file.stem, title, *_state(notebook), body)


def _committed_title(name: str) -> str:
    """The title of a notebook that has not been executed."""
    file = NOTEBOOKS / f"{name}.ipynb"
    if not file.exists():
        return name
    return page_cells.notebook_title(json.loads(file.read_text(encoding="utf-8")), name)


def _state(notebook: Mapping[str, Any]) -> tuple[str, str]:
    """(whether a notebook is done, failed or unfinished; when it was executed)."""
    made = notebook["metadata"].get("papermill", {})
    began = (made.get("start_time") or "?")[:16].replace("T", " ")
    if made.get("exception"):
        return "failed", f"executed {began}"
    if made.get("end_time"):
        return "done", f"executed {began}"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    executed = sum(bool(cell["execution_count"]) for cell in code)
    return "unfinished", f"begun {began}, {executed} of {len(code)} cells so far"
