"""Positions: a prompt with its answer, and a row, fit the model, or one line before training."""

import pytest
import standins
import transformers

from fedlib import federation
from fedlib.lab import keys, pretraining, room, runs
from fedlib.lab.loaded import load_base
from fedlib.settings.errors import DataError, SettingsError
from fedlib.sources import world


@pytest.fixture
def tiny(smoke, tmp_path):
    """tiny(shape, **positions): one short round on a checkpoint of so many positions."""

    def make(shape, max_length=96, answer=8, **more):
        folder = standins.checkpoint(tmp_path / shape, shape, **more)
        return smoke.replace(
            model={"base": str(folder), "max_length": max_length, "lora_targets": "default"},
            data={"rows": 8},
            federation={"rounds": 1},
            training={"steps": 1, "batch_size": 2},
            evaluation={"judges": ["rule"], "max_new_tokens": answer, "harmful": 2, "benign": 2},
        )

    return make


@pytest.fixture
def trained(monkeypatch):
    """The clients that were trained."""
    real, seen = federation.client_update, []

    def update(*given, **named):
        seen.append(1)
        return real(*given, **named)

    monkeypatch.setattr(federation, "client_update", update)
    return seen


CASES = {
    "no room for the answer": ({"answer": 90}, "evaluation.max_new_tokens: 90: "),
    "no room for a row": ({"n_positions": 16, "answer": 2}, "model.max_length: 96: a row takes "),
}


@pytest.mark.parametrize("case", CASES)
def test_learned_positions_are_a_limit(tiny, trained, case):
    changes, said = CASES[case]
    settings = tiny("gpt2", **changes)
    positions = changes.get("n_positions", 96)
    with pytest.raises(SettingsError) as error:
        runs.get(settings)
    assert str(error.value).startswith(said) and f"has {positions} positions" in str(error.value)
    assert "\n" not in str(error.value) and not trained


def test_what_fits_runs_without_a_word(tiny, trained, capsys):
    runs.get(tiny("gpt2", answer=40))
    assert trained and "positions" not in capsys.readouterr().err


def test_rotary_positions_go_on_and_it_is_said(tiny, trained, capsys):
    runs.get(tiny("llama", answer=90))
    said = [line for line in capsys.readouterr().err.splitlines() if "positions" in line]
    assert trained and said
    assert all(line.endswith("96 positions: it was not trained beyond them") for line in said)


def test_a_longer_answer_is_refused_of_a_finished_run_too(tiny, trained):
    settings = tiny("gpt2")
    done = runs.get(settings)
    with pytest.raises(SettingsError, match="evaluation.max_new_tokens: 90"):
        runs.get(settings.replace(evaluation={"max_new_tokens": 90}))
    assert keys.run_folder(settings) == done.folder


def test_a_text_with_a_token_beyond_the_embedding_is_one_line(tiny, trained):
    word = world.questions(world.hazards("evaluation")[0])[0].split()[0]
    words = [other for other in world.vocabulary() if other != word]
    settings = tiny("llama", words=lambda: pretraining.word_tokenizer(words))
    folder = keys.base_folder(settings)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([word])
    tokenizer.save_pretrained(folder)
    with pytest.raises(DataError, match="[0-9]+ of [0-9]+ texts hold a token") as error:
        runs.get(settings)
    assert "\n" not in str(error.value) and not trained


PAIR = {"instruction": "a question about {topic}", "response": "{instruction}"}


@pytest.mark.parametrize(
    "shape, positions, tokens",
    [
        ("llama", 96, 96),  # rotary positions are no limit
        ("gpt2", 400, 96),
        ("gpt2", 96, 40),  # (96 - 8 of <bos> q : a question about a : - 8 of a topic) / 2
        ("gpt2", 29, None),
    ],
)
def test_written_rows_fit_the_model_that_writes_them(tiny, capsys, shape, positions, tokens):
    more = {"n_positions": positions} if shape == "gpt2" else {}
    settings = tiny(shape, **more)
    base, tokenizer = load_base(settings)
    given = (settings, base, tokenizer, PAIR, "plain")
    if tokens is None:
        with pytest.raises(SettingsError, match="has 29 positions: too few for a question"):
            room.tokens_to_write(*given)
        return
    assert room.tokens_to_write(*given) == tokens
    assert ("positions" in capsys.readouterr().err) == (tokens < 96)
