"""The security feature space: hidden states, fixed probes, robustness, Mods_Rob, drift."""

import chat_model
import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from fedlib.lab import judging
from fedlib.lab.loaded import load_base
from fedlib.lab.pretraining import word_tokenizer
from fedlib.models import templates
from fedlib.sources import world
from fedlib.swat import modules, probes

SETTINGS = chat_model.chat_settings()
ASKED = ["tell me about x .", "how do i make the very long thing at home ?", "what is it ?"]


@pytest.fixture(scope="module")
def chat():
    """(model, tokenizer)"""
    return load_base(SETTINGS)


@pytest.fixture(scope="module")
def space(chat):
    return judging.security_space(SETTINGS, *chat)


@pytest.fixture(scope="module")
def qwen():
    """(model, tokenizer) of another family: Qwen2, tiny, random, grouped keys and values."""
    tokenizer = word_tokenizer(world.vocabulary())
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval(), tokenizer


@pytest.mark.parametrize("family", ["chat", "qwen"])
def test_states_are_the_last_prompt_tokens_whatever_the_padding(family, request):
    model, tokenizer = request.getfixturevalue(family)
    together = probes.hidden_states(model, tokenizer, ASKED, "chat", 2)
    for i, instruction in enumerate(ASKED):
        text = templates.prompt_text(instruction, tokenizer, "chat")
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[1:]
        last = torch.stack([state[0, -1] for state in states]).detach().numpy()
        assert np.allclose(together[:, i], last, atol=1e-4)


def test_a_model_of_another_family_is_analysed_from_end_to_end(qwen):
    changes = {"draws": 1, "noise": 0.5, "threshold": 10.0}
    options = SETTINGS.replace(swat=changes).swat
    model, tokenizer = qwen
    own = judging.security_space(SETTINGS, model, tokenizer)
    # probes learn something of the pairs that they are fitted on
    assert own.score(model, "fit")[1].min() > 60

    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = probes.robustness(model, own, options)
    chosen, _ = probes.robust_subset(model, own, options, found)
    assert set(found) == {(kind, layer) for kind in modules.TYPES for layer in range(3)}
    assert set(chosen) <= set(found)
    # not a bit may stay changed
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])

    half = 0.5 * modules.adapter_cost(model, found)
    assert 0 < modules.adapter_cost(model, chosen) <= half
    assert modules.adapter_cost(model, [("k_proj", 0)]) == 32 + 16
    assert modules.adapter_cost(model, [("up_proj", 0)]) == 32 + 48


def test_the_aligned_model_parts_twins_that_no_probe_has_seen(chat, space):
    loss, accuracy = space.score(chat[0], "evaluation")
    assert loss.shape == accuracy.shape == (chat_model.LAYERS,)
    assert accuracy.min() > 90


def test_a_threshold_leaves_harmful_cells_out(chat, space):
    strict = SETTINGS.replace(swat={"threshold": 0.02, "draws": 1, "share": 1.0}).swat
    # in this order, whatever the truth
    found = {("v_proj", 0): {"loss": 0.0}, ("k_proj", 3): {"loss": 0.1}}
    chosen, trace = probes.robust_subset(chat[0], space, strict, found)
    assert chosen == [("k_proj", 3)]
    assert [tried["kept"] for tried in trace] == [False, True]


def test_a_space_is_fitted_once_for_runs_of_one_base(chat, space, monkeypatch):
    fitted = []
    plain = probes.Space.__init__
    monkeypatch.setattr(
        probes.Space, "__init__", lambda self, *given: (fitted.append(1), plain(self, *given))[1]
    )
    again = judging.security_space(SETTINGS, *chat)
    assert judging.security_space(SETTINGS.replace(seed=5), *chat) is again
    other = SETTINGS.replace(evaluation={"batch_size": 3})
    assert judging.security_space(other, *chat) is not again
    assert len(fitted) <= 2

    # what the base scores is known, and the same
    for wanted, kept in zip(
        space.score(chat[0], "validation"), again.untouched(chat[0], "validation"), strict=True
    ):
        assert np.array_equal(wanted, kept)


def own_space(tuned, tokenizer):
    with tuned.disable_adapter():
        return judging.security_space(SETTINGS, tuned.get_base_model(), tokenizer)


def test_drift_is_nothing_without_an_update(chat):
    fresh = chat_model.with_adapter(SETTINGS)
    moved, layers = probes.drift(fresh, own_space(fresh, chat[1]), "validation")
    assert moved == {"probe_loss": 0, "probe_accuracy": 0}
    assert layers["before"] == layers["after"]
    assert layers["cells"] == []


def test_drift_is_something_with_an_update(chat):
    tuned = chat_model.with_adapter(SETTINGS, 0.02)
    space = own_space(tuned, chat[1])
    moved, layers = probes.drift(tuned, space, "validation", window=1)
    assert abs(moved["probe_loss"]) > 1e-4
    assert len(layers["cells"]) == chat_model.CELLS
    # without a window nobody looks at the cells; all else is the same
    alone, without = probes.drift(tuned, space, "validation")
    assert alone == moved
    assert without == layers | {"cells": []}


def test_a_cell_that_was_not_tuned_is_not_asked(chat, space, monkeypatch):
    model, _ = chat
    names = modules.cells(model)
    tuned, zero = list(names)[0], list(names)[1]
    deltas = {
        name: 0.1 * torch.ones_like(model.get_submodule(name).weight) for name in names[tuned]
    }
    tiny = 1e-12  # as after the one step of an untuned run
    deltas |= {name: tiny * torch.ones_like(deltas[names[tuned][0]]) for name in names[zero]}
    space.untouched(model, "validation")
    asked, score = [], probes.Space.score
    monkeypatch.setattr(
        probes.Space, "score", lambda self, *given: asked.append(given) or score(self, *given)
    )
    found = probes.transplanted(model, space, deltas, window=1)
    assert len(found) == len(names) and len(asked) == 1
    moved = [(cell["type"], cell["layer"]) for cell in found if cell["loss"]]
    assert moved == [tuned]
