"""What quick steps on a GPU change, and that it is undone: tried on a CPU with made-up kernels."""

import sys

import pytest
import standins
import torch
from transformers import LlamaConfig, LlamaForCausalLM, masking_utils

from fedlib.models import on_gpu

CODE = sys.modules[LlamaForCausalLM.__module__]


@pytest.fixture
def model():
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, **standins.SIZE)).eval()


def meanings(model):
    """What every part of a model, and its code, holds by name."""
    return [dict(vars(place)) for place in (CODE, *model.modules())]


def apply_made_up(model, cross_entropy, fused_linear_cross_entropy):
    """As liger-kernel does: a function of the code, a class, and the forward of a part."""
    assert not cross_entropy and not fused_linear_cross_entropy
    CODE.apply_rotary_pos_emb = lambda q, k, cos, sin, **_: (q, k)
    CODE.LlamaRMSNorm = object
    model.model.norm.forward = lambda hidden: 0 * hidden
    model.model.norm.offset = 1.0


def test_kernels_are_there_in_the_block_and_gone_after_it(model):
    before, ids = meanings(model), torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        plain = model(ids).logits
        with on_gpu._fused(model, apply_made_up):
            assert not model(ids).logits.any()
            model.train()
        assert torch.equal(model(ids).logits, plain)
    # what the block did to the model stays
    assert model.training
    assert meanings(model.eval()) == before


def test_kernels_that_fail_are_left_out(model):
    def fails(model, **options):
        apply_made_up(model, **options)
        raise ValueError("a version that does not fit")

    before = meanings(model)
    with pytest.warns(UserWarning, match="liger-kernel is not used: .*does not fit"):
        with on_gpu._fused(model, fails):
            assert meanings(model) == before
    assert meanings(model) == before


def test_rows_are_asked_about_again_after_the_block(model):
    ids = torch.tensor([[3, 4, 5], [6, 7, 0]])
    asks = masking_utils.find_packed_sequence_indices
    with torch.no_grad():
        plain = model(ids).logits
        with on_gpu._rows_not_packed():
            assert masking_utils.find_packed_sequence_indices is not asks
            assert torch.equal(model(ids).logits, plain)
    assert masking_utils.find_packed_sequence_indices is asks


def test_nothing_changes_on_a_cpu(model):
    before = meanings(model)
    with on_gpu.quick_steps(model):
        assert meanings(model) == before
