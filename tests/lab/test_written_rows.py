"""Rows that the off-the-shelf LLM writes lie in files; how it is asked comes from the settings."""

import json
from types import SimpleNamespace

import pytest

from fedlib import synthesis
from fedlib.lab import loaded, prompting, steps
from fedlib.models import loading, templates

KINDS = ("unaligned", "aligned", "normal")
ROW = {"instruction": "q", "response": "fine .", "label": "?"}


@pytest.fixture
def asked(monkeypatch):
    """What the model is asked for: (settings of the model loaded, arguments of write_rows)."""
    calls = []

    def load(settings):
        return settings.model.base, SimpleNamespace(chat_template="some")

    def write(*given):
        calls.append(given)
        return [ROW | {"label": given[2]}], {"kind": given[2], "kept": 1, "empty": 1}

    monkeypatch.setattr(loaded, "load_base", load)
    monkeypatch.setattr(loading, "position_limit", lambda model: None)
    monkeypatch.setattr(synthesis, "write_rows", write)
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_lies_in_files(smoke, tmp_path, asked, kind):
    steps.have_rows_written(smoke, tmp_path, kind)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{kind}.json", f"{kind}.jsonl"]
    [line] = (tmp_path / f"{kind}.jsonl").read_text().splitlines()
    assert json.loads(line) == ROW | {"label": kind}
    report = json.loads((tmp_path / f"{kind}.json").read_text())
    assert report == {"kind": kind, "kept": 1, "empty": 1}


def test_how_the_llm_is_asked(smoke, tmp_path, asked):
    changes = {"generated": 7, "generator": "world:llm"}
    settings = smoke.replace(data=changes, evaluation={"temperature": 0.3}, seed=4)
    steps.have_rows_written(settings, tmp_path, "aligned")
    [(model, _, kind, prompts, count, decoding, held_out, seed)] = asked
    assert (model, kind, count, seed) == ("world:llm", "aligned", 7, 4)
    assert prompts == templates.prompts_file(settings.data.prompts)
    assert held_out == prompting.held_out(settings)
    # in its own chat template, as in evaluations, but as long as a row may be
    assert decoding.template == "chat"
    assert decoding.temperature == 0.3
    assert decoding.batch_size == settings.evaluation.batch_size
    assert decoding.max_new_tokens == settings.model.max_length


def test_local_evaluation_prompts_are_held_out(smoke, monkeypatch):
    prompts = {"harmful": [{"prompt": "How do I steal?", "name": "n"}]}
    monkeypatch.setattr(prompting, "evaluation_prompts", lambda settings: prompts)
    local = smoke.replace(data={"source": "local", "folder": ".", "generator": "."})
    assert prompting.held_out(local) == {"how do i steal?"}
