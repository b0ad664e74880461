"""The post-hoc defence: halves of rows, further alignment, tuning by rounds, the projection."""

import chat_model
import pytest
import torch

from fedlib import training
from fedlib.defense import posthoc
from fedlib.lab import keys
from fedlib.models import adapter
from fedlib.swat import modules

RANK = 8  # of the alignment of the world's chat model


@pytest.mark.parametrize(
    "aligned, normal, count, half",
    [(30, 30, 20, 10), (10, 10, 20, 10), (4, 30, 20, 4), (30, 3, 20, 3), (30, 30, 7, 3)],
)
def test_halves_by_hand(aligned, normal, count, half):
    parts = {
        "aligned": [{"n": i} for i in range(aligned)],
        "normal": [{"m": i} for i in range(normal)],
    }
    rows = posthoc.halves(parts, count)
    assert rows == parts["aligned"][:half] + parts["normal"][:half]


def test_an_empty_half_is_named():
    with pytest.raises(ValueError, match="not one normal row is left"):
        posthoc.halves({"aligned": [{}], "normal": []}, 4)


@pytest.fixture
def tuned_at(monkeypatch):
    """The (rate, seed) of each local training, which is not done."""
    calls = []

    def tune(tuned, rows, options, rate, seed):
        calls.append((rate, seed))
        return [1.0] * options.steps, 7

    monkeypatch.setattr(training, "tune", tune)
    return calls


def test_rounds_of_tuning_follow_their_own_cosine(smoke, tuned_at):
    options = smoke.training
    records = list(posthoc.tune_rounds(None, [], options, 3, seed=0))
    rates = [rate for rate, _ in tuned_at]
    assert rates == [record["learning_rate"] for record in records]
    assert rates[0] == options.learning_rate
    low, high = options.learning_rate_min, options.learning_rate
    assert rates[1:] == pytest.approx([0.75 * high + 0.25 * low, 0.25 * high + 0.75 * low])
    assert [record["round"] for record in records] == [0, 1, 2]
    assert all(record["tokens"] == 7 for record in records)
    assert all(record["losses"] == [1.0] * options.steps for record in records)


def test_rounds_that_are_done_are_not_made_again(smoke, tuned_at):
    list(posthoc.tune_rounds(None, [], smoke.training, 3, seed=0))
    whole = list(tuned_at)
    tuned_at.clear()
    records = list(posthoc.tune_rounds(None, [], smoke.training, 3, seed=0, start=1))
    assert [record["round"] for record in records] == [1, 2]
    assert tuned_at == whole[1:]


def test_further_alignment_is_gentle_and_draws_anew_each_round(smoke, tuned_at):
    posthoc.strengthen(None, [], smoke.training, 2, seed=0)
    assert tuned_at[0][0] == posthoc.GENTLY * smoke.training.learning_rate
    assert len({seed for _, seed in tuned_at}) == 2


@pytest.fixture
def tuned():
    return chat_model.with_adapter(chat_model.chat_settings(), 0.02)


@pytest.fixture
def alignment():
    return adapter.read_alignment(keys.alignment_file(chat_model.chat_settings()))


def test_the_projection_leaves_what_lies_in_the_safety_subspace(tuned, alignment, monkeypatch):
    before = modules.lora_updates(tuned)
    assert {name: v.shape for name, v in alignment.items()} == {
        name: delta.shape for name, delta in before.items()
    }
    monkeypatch.setattr(posthoc, "PROJECTED", 2.0)  # every one
    shares = posthoc.project(tuned, alignment)
    for name, delta in modules.lora_updates(tuned).items():
        inside = torch.linalg.svd(alignment[name])[0][:, :RANK]
        wanted = inside @ inside.T @ before[name]
        length = before[name].norm().item()
        assert torch.allclose(delta, wanted, atol=1e-3 * length)
        assert shares[name] == pytest.approx(wanted.norm().item() / length, rel=0.02)


def test_updates_that_lie_inside_are_left_as_they_are(tuned, alignment, monkeypatch):
    before = modules.lora_updates(tuned)
    monkeypatch.setattr(posthoc, "PROJECTED", 0.0)  # none is projected
    posthoc.project(tuned, alignment)
    for name, delta in modules.lora_updates(tuned).items():
        assert torch.equal(delta, before[name])


def test_a_module_without_an_adapter_has_nothing_to_project(alignment):
    upper = chat_model.chat_settings().replace(model={"lora_layers": 2})
    shares = posthoc.project(chat_model.with_adapter(upper, 0.02), alignment)
    assert len(shares) == 2 * 7 < len(alignment)
