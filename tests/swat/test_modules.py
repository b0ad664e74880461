"""The linear modules of a model: named, perturbed, chosen, trained by themselves."""

import chat_model
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from fedlib.lab.loaded import load_base
from fedlib.swat import modules


@pytest.fixture(scope="module")
def chat():
    return load_base(chat_model.chat_settings())[0]


@pytest.fixture
def tuned():
    return chat_model.with_adapter(chat_model.chat_settings(), 0.02)


def trainable(model):
    return [name for name, p in model.named_parameters() if p.requires_grad]


def test_a_fused_attention_matrix_is_refused():
    fused = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10))
    with pytest.raises(ValueError, match="GPT2LMHeadModel: no modules called q_proj"):
        modules.cells(fused)


def test_windows_hold_several_layers(chat):
    parts = modules.cells(chat, 4)
    assert set(parts) == {(kind, layer) for kind in modules.TYPES for layer in (0, 4)}
    assert parts["v_proj", 4] == [f"model.layers.{i}.self_attn.v_proj" for i in (4, 5)]
    both = modules.adapter_cost(chat, [("v_proj", 4)], 4)
    assert both == 2 * modules.adapter_cost(chat, [("v_proj", 4)])


def test_noise_has_the_norm_asked_for(chat):
    name = "model.layers.1.mlp.up_proj"
    drawn = modules.noise(chat, [name], 0.7, torch.Generator().manual_seed(0))[name]
    weight = chat.get_submodule(name).weight.detach()
    assert torch.isclose(drawn.norm(), 0.7 * weight.norm())


def test_a_shift_is_there_and_then_gone(chat):
    name = "model.layers.1.mlp.up_proj"
    weight = chat.get_submodule(name).weight.detach().clone()
    delta = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError), modules.shifted(chat, {name: delta}):
        assert torch.equal(chat.get_submodule(name).weight.data, weight + delta)
        raise RuntimeError
    assert torch.equal(chat.get_submodule(name).weight.data, weight)


def test_update_norms_are_those_of_the_whole_matrices(tuned):
    norms, whole = modules.update_norms(tuned), modules.lora_updates(tuned)
    assert len(norms) == len(whole) == chat_model.CELLS
    for name, delta in whole.items():
        _, _, layer, _, kind = name.split(".")
        assert norms[f"{kind}/{layer}"] == pytest.approx(delta.norm().item(), rel=1e-3)


# What is chosen, and the warm-up.

SIZES = {"q_proj": 10, "k_proj": 10, "v_proj": 20, "o_proj": 30}
HARM = {"q_proj": 0.1, "k_proj": 0.2, "v_proj": 0.3, "o_proj": 0.4}
FOUND = {
    "cells": [{"type": t, "layer": 0, "size": SIZES[t], "loss": HARM[t]} for t in SIZES],
    "robust": [["q_proj", 0], ["k_proj", 0], ["v_proj", 0]],
}


def test_mods_rob_is_what_was_found():
    wanted = [("q_proj", 0), ("k_proj", 0), ("v_proj", 0)]
    assert modules.choose_cells(FOUND, "robust", 0) == wanted


def test_controls_are_as_large_as_mods_rob():
    # the most harmful first, up to 40
    assert modules.choose_cells(FOUND, "fragile", 0) == [("o_proj", 0), ("k_proj", 0)]
    draws = {tuple(modules.choose_cells(FOUND, "random", seed)) for seed in range(20)}
    assert len(draws) > 3
    for chosen in draws:
        assert sum(SIZES[kind] for kind, _ in chosen) <= 40


def test_trained_only_frees_everything_again(tuned):
    before = trainable(tuned)
    robust = modules.choose_cells(FOUND, "robust", 0)
    names = modules.module_names(tuned, robust, 1)
    with pytest.raises(RuntimeError), modules.trained_only(tuned, names):
        free = {name.partition(".lora_")[0] for name in trainable(tuned)}
        assert free == names
        assert {name.rpartition(".")[2] for name in free} == {"q_proj", "k_proj", "v_proj"}
        raise RuntimeError
    assert trainable(tuned) == before
