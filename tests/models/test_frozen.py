"""Layers below the lowest adapter: kept once for each row, and nothing comes out otherwise."""

import copy

import pytest
import torch
import transformers
from safetensors.torch import load_file

from fedlib import training
from fedlib.lab.loaded import load_base, load_run, save_adapter
from fedlib.models import adapter, frozen
from fedlib.settings.errors import SettingsError

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
SHAPES = {
    "llama": transformers.LlamaConfig(**SIZES),
    "qwen2": transformers.Qwen2Config(**SIZES),
    "mistral": transformers.MistralConfig(**SIZES),
    # its embedding is scaled inside the decoder, and its layers look at different widths
    "gemma3": transformers.Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=4),
    # positions are added to the embedding
    "gpt2": transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=4, n_head=2, n_positions=32, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, summary_first_dropout=0.0,
    ),
}  # fmt: skip
# ids and the prompt's length
ROWS = [([1, 7, 8, 9, 10, 11, 2], 4), ([1, 20, 21, 2], 1), ([1, *range(30, 44), 2], 9)]


def built(shape, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = copy.deepcopy(SHAPES[shape])
        for name, value in changes.items():
            setattr(config, name, value)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def losses_and_slopes(model):
    """The loss over ROWS, and its gradient by the weights of the last layer."""
    loss, _ = training.response_loss(model, *training.collate(ROWS))
    weights = list(frozen.decoder_layers(model)[-1].parameters())
    return loss.item(), torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient_are_those_of_the_whole_model(shape):
    model = built(shape)
    loss, slope = losses_and_slopes(model)

    frozen.keep_lower_layers(model, 2, shape)
    assert hasattr(model, "frozen_layers")
    for _ in range(2):  # the second time nothing below is computed
        kept_loss, kept_slope = losses_and_slopes(model)
        assert kept_loss == pytest.approx(loss, rel=1e-5)
        assert torch.allclose(kept_slope, slope, rtol=1e-4, atol=1e-5)


def test_lower_layers_are_computed_once_for_each_row():
    model = built("llama")
    frozen.keep_lower_layers(model, 1, "once")
    seen = []
    first = frozen.decoder_layers(model)[0]
    first.register_forward_hook(lambda _layer, given, _made: seen.append(given[0].shape[1]))

    training.likelihood(model, ROWS)
    # the end of a row predicts nothing; then the pass itself, in which lower layers do nothing
    assert seen == [len(ids) - 1 for ids, _ in ROWS] + [16]
    training.likelihood(model, ROWS[:2])
    assert seen[4:] == [7]


def test_what_is_kept_does_not_depend_on_the_other_rows_of_a_batch():
    alone, together = built("llama"), built("llama")
    frozen.keep_lower_layers(alone, 2, "alone")
    training.likelihood(alone, ROWS[:1])
    [wanted] = frozen.KEPT.hidden.values()
    frozen.keep_lower_layers(together, 2, "together")
    training.likelihood(together, ROWS)
    assert torch.equal(frozen.KEPT.hidden[(1, 7, 8, 9, 10, 11)], wanted)


def test_rows_of_another_base_are_forgotten():
    first, other = built("llama"), built("qwen2")
    frozen.keep_lower_layers(first, 2, "first")
    training.likelihood(first, ROWS)
    assert len(frozen.KEPT.hidden) == 3
    frozen.keep_lower_layers(built("llama"), 2, "first")
    assert len(frozen.KEPT.hidden) == 3
    frozen.keep_lower_layers(other, 2, "other")
    training.likelihood(other, ROWS[:1])
    assert len(frozen.KEPT.hidden) == 1


def test_two_models_in_turn_read_their_own_rows():
    first, other = built("llama"), built("qwen2")
    wanted = [training.likelihood(model, ROWS) for model in (first, other)]
    frozen.keep_lower_layers(first, 2, "first of two")
    frozen.keep_lower_layers(other, 1, "second of two")
    for _ in range(2):
        found = [training.likelihood(model, ROWS) for model in (first, other)]
        assert found == [pytest.approx(one, rel=1e-5) for one in wanted]


def test_experts_drawn_at_random_are_run_whole():
    config = transformers.MixtralConfig(
        **SIZES, num_local_experts=2, num_experts_per_tok=1, router_jitter_noise=0.3
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    frozen.keep_lower_layers(model, 2, "jitter")
    assert not hasattr(model, "frozen_layers") and not model.training


def test_bfloat16_is_kept_too():
    model = built("llama").bfloat16()
    frozen.keep_lower_layers(model, 2, "bfloat16")
    assert hasattr(model, "frozen_layers")


def test_an_adapter_in_a_lower_layer_ends_the_keeping(smoke, tmp_path):
    everywhere = smoke.replace(model={"lora_layers": None})
    base, _ = load_base(everywhere)
    save_adapter(adapter.attach_lora(base, everywhere.model, 0), everywhere, tmp_path)
    tuned, _ = load_run(smoke.replace(model={"lora_layers": 1}), tmp_path)
    assert not hasattr(tuned.get_base_model(), "frozen_layers")


def test_rows_without_a_label_are_no_error():
    model = built("llama")
    frozen.keep_lower_layers(model, 2, "no label")
    loss, count = training.response_loss(model, *training.collate([([1, 2, 3], 3)]))
    assert (loss.item(), int(count)) == (0.0, 0)


def test_no_more_is_kept_than_has_room(monkeypatch):
    model = built("llama")
    frozen.keep_lower_layers(model, 2, "room")
    whole = training.likelihood(model, ROWS)
    frozen.keep_lower_layers(model, 2, "room again")
    monkeypatch.setattr(frozen, "KEPT_BYTES", 16 * 16 * 4)
    assert training.likelihood(model, ROWS) == whole
    assert len(frozen.KEPT.hidden) == 1


def test_a_model_that_drops_at_random_is_run_whole():
    model = built("llama", attention_dropout=0.1)
    frozen.keep_lower_layers(model, 2, "drops")
    assert not hasattr(model, "frozen_layers")


def raise_type_error(*_given, **_named):
    raise TypeError("a layer that takes something else")


@pytest.mark.parametrize(
    ("where", "name", "instead"),
    [
        (frozen, "_unchanged", raise_type_error),
        (frozen.FrozenLayers, "_computed", lambda _self, row: torch.zeros(len(row), 16)),
    ],
)
def test_layers_that_cannot_be_skipped_are_run(monkeypatch, where, name, instead):
    monkeypatch.setattr(where, name, instead)
    model = built("llama")
    frozen.keep_lower_layers(model, 2, "odd")
    assert not hasattr(model, "frozen_layers")
    assert training.likelihood(model, ROWS) == training.likelihood(built("llama"), ROWS)


def test_the_adapter_sits_in_the_upper_layers_only_and_comes_back_from_disk(smoke, tmp_path):
    two = smoke.replace(model={"lora_layers": 2, "lora_targets": "all-linear"})
    base, _ = load_base(two)
    count = len(frozen.decoder_layers(base))
    tuned = adapter.attach_lora(base, two.model, 0)
    vector = adapter.get_vector(tuned)
    adapter.set_vector(tuned, torch.arange(len(vector)) / len(vector))
    save_adapter(tuned, two, tmp_path)

    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    layers = {name.split("layers.")[1].split(".")[0] for name in names}
    assert layers == {str(count - 2), str(count - 1)}
    again, _ = load_run(two, tmp_path)
    read = {name: part for name, part in again.named_parameters() if ".lora_" in name}
    assert len(read) == len(names) == 2 * 7 * 2


def test_rounds_come_out_as_with_all_layers_computed(smoke):
    """Training with kept rows is training with the whole model, except for rounding."""
    two = smoke.replace(model={"lora_layers": 2})
    rows = [([1, 5, 6, 7, 8, 9], 3), ([1, 9, 8, 7, 2], 2), ([1, 4, 4, 2], 2)]
    found = []
    for kept in (True, False):
        base, _ = load_base(two)
        assert hasattr(base, "frozen_layers")
        if not kept:
            del base.frozen_layers
        tuned = adapter.attach_lora(base, two.model, 0)
        losses, _ = training.tune(tuned, rows, two.training, 1e-3, 0)
        found.append((losses, adapter.get_vector(tuned)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)


def test_more_layers_than_there_are_is_one_line(smoke):
    base, _ = load_base(smoke)
    with pytest.raises(SettingsError, match=r"model.lora_layers: 99 is more than the \d+ layers"):
        adapter.attach_lora(base, smoke.replace(model={"lora_layers": 99}).model, 0)
