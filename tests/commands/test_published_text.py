"""What is published of real data: no answer to a harmful prompt is in it, unless it is asked for.

Notebooks that show rows or responses are executed on local files, in this process, with a
model whose answers each hold a word of their own: those words are looked for in every byte of the
outputs folder that is meant for readers, and in the figures' text."""

import ast
import contextlib
import io
import json
import re
import zlib

import nbformat
import pytest
import standins
from matplotlib.text import Text

from fedlib.commands import page, reproduce
from fedlib.models import generation
from fedlib.papers import output
from fedlib.settings import machine

# Each shows rows or responses in a way of its own.
SHOWING = ["00_tour", "10_safety_table1", "14_safety_data"]
# What redacts them, and what reaches for them without.
REDACTING = ("examples.example_rows(", "examples.example_responses(")
REACHING = ("respond(", ".responses()", '"response"', ".jsonl", "read_lines(")
FILES = {
    "talk.csv": "ordinary question {0},plainanswer{0} is fine",
    "safe.csv": "harmful question {0},I cannot help with that",
    "bad.csv": "wicked question {0},sure harmrow{0} comes first",
    "asked.csv": "asked question {0},sure harmtarget{0} comes first",
}


@pytest.fixture(scope="module")
def settings_of(tmp_path_factory):
    """The groups of settings that the notebooks are given: everything from local files."""
    folder = tmp_path_factory.mktemp("files")
    for name, line in FILES.items():
        lines = [line.format(i) for i in range(60)]
        (folder / name).write_text("\n".join(["prompt,response", *lines]), encoding="utf-8")

    data = {"source": "local", "folder": str(folder), "benign": ["talk.csv"], "rows": 4}
    data |= {"aligned": "safe.csv", "unaligned": "bad.csv", "harmful": "asked.csv"}
    data |= {"partition": "iid", "aligned_share": 0.5, "unaligned_share": 0.5}
    defense = {"rounds": 1, "rows": 4, "compare": [1, 2]}
    defense |= {"aligned": "safe.csv", "normal": "talk.csv"}
    words = re.findall(r"\w+", " ".join(file.read_text() for file in folder.iterdir()))
    model = str(standins.checkpoint(folder / "model", words=lambda: standins.tokenizer(words)))
    data |= {"generator": model, "generated": 4, "prompts": "chat"}
    return {
        "model": {"base": model, "template": "chat", "device": "cpu", "dtype": "float32"},
        "data": data,
        "training": {"steps": 1, "batch_size": 2},
        "federation": {"rounds": 1, "sampled": 3, "also_full": False, "compare": ["krum"]},
        "defense": defense,
        "evaluation": {"judges": ["rule"], "harmful": 3, "benign": 3, "max_new_tokens": 2},
    }


@pytest.fixture
def answers(monkeypatch):
    """{what a model was asked: its answer}; each answer holds a word of its own.

    It begins with harm where an answer could do harm, with plain elsewhere."""
    given = {}

    def answer(asked):
        number = zlib.crc32(asked.encode())
        # questions that it is asked to write for rows
        if asked.startswith(("For testing a safety filter", "Write one everyday request")):
            return f"question {number}"
        ordinary = asked.startswith("Answer the following request in detail.")
        word = "plain" if ordinary or "ordinary question" in asked else "harm"
        given[asked] = f"sure here it is {word}{number}"
        return given[asked]

    def write(model, tokenizer, asked, decoding, seed):
        return [answer(str(one)) for one in asked]

    monkeypatch.setattr(generation, "write", write)
    return given


@pytest.fixture
def drawn(monkeypatch):
    """All text of the figures that are saved."""
    found = []
    save = output.save_figure

    def save_figure(settings, fig, name):
        found.extend(part.get_text() for part in fig.findobj(Text))
        return save(settings, fig, name)

    monkeypatch.setattr(output, "save_figure", save_figure)
    return found


def execute(name, groups):
    """A notebook with its results, executed in this process at preset smoke; its settings."""
    notebook = nbformat.read(reproduce.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    scope = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        # what stands last in a cell is shown
        body = ast.parse(cell.source).body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Module(body, []), name, "exec"), scope)
            value = eval(compile(ast.Expression(last.value), name, "eval"), scope) if last else None
        cell.outputs = [nbformat.v4.new_output("stream", text=printed.getvalue())]
        if value is not None:
            page_of = getattr(value, "_repr_html_", str)() or ""
            shown = {"text/plain": str(value), "text/html": page_of}
            cell.outputs.append(nbformat.v4.new_output("display_data", shown))
        if "parameters" in cell.metadata.get("tags", []):
            scope |= {"preset": "smoke"} | groups
    return notebook, scope["settings"]


def published(names, groups):
    """Every byte that a reader of the results is given, after executing these notebooks."""
    for name in names:
        notebook, settings = execute(name, groups)
        folder = output.preset_folder(settings, "executed")
        nbformat.write(notebook, folder / f"{name}.ipynb")
    page.write_page(settings, folder, names)
    everything = [file for file in machine.outputs().rglob("*") if file.is_file()]
    runs = machine.outputs() / "runs"
    return b"\n".join(file.read_bytes() for file in everything if not file.is_relative_to(runs))


def test_no_answer_to_a_harmful_prompt_is_published(settings_of, answers, drawn, monkeypatch):
    """And no token of the environment, in what is published nor in the records of runs."""
    secrets = {"HF_TOKEN": "hf_neverShown123", "OPENAI_API_KEY": "sk-neverShown123"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    text = published(SHOWING, settings_of)
    written = [file.read_bytes() for file in machine.outputs().rglob("*") if file.is_file()]
    assert len(written) > 50 and not any(b"neverShown123" in content for content in written)

    harmful = [answer for answer in answers.values() if "harm" in answer]
    ordinary = [answer for answer in answers.values() if "plain" in answer]
    assert len(harmful) > 5 and len(drawn) > 50
    assert b"[redacted" in text

    # also the rows of the files, and what an evaluation's harmful prompts come with
    for word in [answer.split()[-1] for answer in harmful] + ["harmrow", "harmtarget"]:
        assert word.encode() not in text and word not in "\n".join(drawn), word
    # else this looked at the wrong place
    assert any(answer.encode() in text for answer in ordinary) and b"plainanswer" in text


def test_they_are_shown_where_that_is_asked_for(settings_of, answers):
    shown = settings_of["evaluation"] | {"show_responses": True}
    text = published(["10_safety_table1"], settings_of | {"evaluation": shown})
    assert any("harm" in answer and answer.encode() in text for answer in answers.values())


def test_notebooks_show_rows_and_responses_only_through_what_redacts_them():
    """Else the notebook is executed above: the tour asks a model itself, about benign prompts."""
    reach, redact = set(), set()
    for file in reproduce.NOTEBOOKS.rglob("*.ipynb"):
        code = "".join(
            "".join(cell["source"])
            for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]
            if cell["cell_type"] == "code"
        )
        reach |= {file.stem} if any(call in code for call in REACHING) else set()
        redact |= {file.stem} if any(call in code for call in REDACTING) else set()
    assert reach <= set(SHOWING)
    assert set(SHOWING) <= redact
