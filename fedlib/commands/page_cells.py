"""A notebook's cells as HTML: prose, code that opens, tables that are labelled, figures."""

import base64
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlib.papers import tables

# What a tag may keep: what was shown in a notebook brings styles, ids and more of its own.
KEPT = {"href", "alt", "colspan", "rowspan"}
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours of a terminal
NUMBER = re.compile(r"[-+]?\d[\d.,]*(e-?\d+)?( *\[.*\])?")  # with its interval
SHORT = 30  # letters of a cell that is kept on one line
IMAGES = ("image/png", "image/jpeg", "image/svg+xml")


@dataclass(frozen=True)
class Shown:
    """One output. kind: html, text, error or figure; of a figure its address, words and size."""

    kind: str
    body: str
    words: str = ""
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Cell:
    """prose: HTML of a text cell; else code (highlighted HTML) with its outputs."""

    prose: str = ""
    code: str = ""
    outputs: Sequence[Shown] = field(default_factory=tuple)


def notebook_title(notebook: Mapping[str, Any], name: str) -> str:
    """A notebook's first heading, or its file's name."""
    for cell in notebook["cells"]:
        for line in "".join(cell["source"]).splitlines():
            if line.startswith("# ") and cell["cell_type"] == "markdown":
                return line.lstrip("# ")
    return name


def notebook_cells(notebook: Mapping[str, Any], name: str, figures: Path) -> Iterator[Cell]:
    """The cells of an executed notebook, without its title.

    figures: the folder that its figures were saved in; they hold their own words."""
    from nbconvert.filters import highlight, markdown_mistune

    colour = highlight.Highlight2HTML()
    heading, titled = notebook_title(notebook, name), False
    code = ""  # of the cells before that showed nothing: it opens with that of the next
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            soup = _clean(markdown_mistune.markdown2html_mistune(source))
            # the title stands above already
            if not titled and soup.h1:
                soup.h1.extract()
                titled = True
            heading = _number_headings(soup, name) or heading
            _label_tables(soup, heading)
            if code:
                yield Cell(code=code)
                code = ""
            if soup.get_text(strip=True):
                yield Cell(prose=str(soup))
        elif cell["cell_type"] == "code" and source.strip():
            words = _figure_words(source, cell["outputs"], figures)
            shown = [_shown(output, heading, words) for output in cell["outputs"]]
            code += colour(source, "python").replace("<pre>", '<pre tabindex="0">')
            if any(shown):
                yield Cell(code=code, outputs=[one for one in shown if one])
                code = ""
    if code:
        yield Cell(code=code)


def _clean(text: str) -> Any:
    """Parsed HTML that loads and runs nothing; links to notebooks lead to their parts."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    for tag in soup(["script", "style", "iframe", "link", "object", "embed", "form"]):
        tag.decompose()
    for tag in soup(class_="anchor-link"):
        tag.decompose()
    for tag in soup(True):
        source = str(tag.get("src", ""))
        tag.attrs = {name: value for name, value in tag.attrs.items() if name in KEPT}
        if source.startswith("data:image/"):
            tag["src"] = source
    for block in soup("pre"):
        block["tabindex"] = "0"  # it may scroll
    for link in soup("a"):
        address = re.sub(r"^(\w+)\.ipynb(#.*)?$", r"#\1", str(link.get("href", "")))
        link["href"] = address
        # a file beside the notebook is not beside the page
        if not address.startswith(("#", "https://", "http://")):
            link.unwrap()
    return soup


def _number_headings(soup: Any, name: str) -> str:
    """Headings one level lower, with names for links; returns the last one's text."""
    text = ""
    for tag in soup(re.compile("^h[1-5]$")):
        text = tag.get_text(strip=True)
        tag.name = f"h{int(tag.name[1]) + 1}"
        tag["id"] = f"{name}-" + re.sub(r"\W+", "-", text.lower()).strip("-")
    return text


def _label_tables(soup: Any, heading: str) -> None:
    """Tables in a frame that scrolls; heads say which direction is good, numbers stand right."""
    for table in soup("table"):
        frame = soup.new_tag("div", attrs={"class": "table", "role": "group", "tabindex": "0"})
        frame["aria-label"] = f"Table: {heading}"
        table.wrap(frame)
        for tag in table.find_all("th"):
            # above the names of rows, a head says nothing
            if tag.find_parent("thead") and not tag.get_text(strip=True):
                tag.name = "td"
                continue
            tag["scope"] = "col" if tag.find_parent("thead") else "row"
        for cell in table.find_all("td"):
            text = cell.get_text(strip=True)
            if NUMBER.fullmatch(text):
                cell["class"] = "number"
            elif len(text) <= SHORT:
                cell["class"] = "short"
        for head in table.select("thead th"):
            said = tables.BETTER.get(head.get_text(strip=True).removesuffix(" (paper)"))
            if said:
                note = soup.new_tag("small")
                note.string = said
                head.append(note)


def _figure_words(source: str, outputs: Sequence[Mapping], figures: Path) -> list[str]:
    """What a cell's figures show, in words, as their files say; [] where it is not sure which.

    A name with {...} stands for several files, saved one after the other."""
    from PIL import Image

    names = re.findall(r'save_figure\([^\n]*"([^"]+)"\)', source)
    files: list[Path] = []
    for name in names:
        found = figures.glob(re.sub(r"{.*?}", "*", name) + ".png")
        files += sorted(found, key=lambda file: file.stat().st_mtime)
    drawn = sum("image/png" in output.get("data", {}) for output in outputs)
    if len(files) != drawn:
        return []
    words = []
    for file in files:
        with Image.open(file) as image:
            words.append(str(image.info.get("Description", "")))
    return words


def _shown(output: Mapping[str, Any], heading: str, words: list[str]) -> Shown | None:
    """One output; None where there is nothing to show. words: of the figures that follow."""
    kind = output["output_type"]
    if kind == "error":
        trace = ESCAPES.sub("", "\n".join(output["traceback"]))
        return Shown("error", trace, f"{output['ename']}: {output['evalue']}")
    if kind == "stream":
        text = ESCAPES.sub("", "".join(output["text"])).strip()
        return Shown("text", text) if text else None

    data = {name: _joined(value) for name, value in output["data"].items()}
    for name in IMAGES:
        if name in data:
            said = words.pop(0) if words else ""
            return _figure(name, data[name], said or f"Figure: {heading}")
    if "text/html" in data:
        soup = _clean(data["text/html"])
        _label_tables(soup, heading)
        return Shown("html", str(soup))
    text = data.get("text/plain", "").strip()
    return Shown("text", text) if text else None


def _joined(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def _figure(kind: str, data: str, words: str) -> Shown:
    if kind == "image/svg+xml":
        data = base64.b64encode(data.encode()).decode()
    data = "".join(data.split())
    size = None
    if kind == "image/png":
        # the header of a PNG: width and height
        size = struct.unpack(">II", base64.b64decode(data[:44])[16:24])
    return Shown("figure", f"data:{kind};base64,{data}", words, size)
