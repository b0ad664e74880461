"""Clients trained at once: each as if it were trained by itself, and untouched by the others."""

import copy

import pytest
import torch
from torch import nn

from fedlib import federation, stacked
from fedlib.lab import client_data
from fedlib.models import adapter
from fedlib.settings.errors import SettingsError

RATE = 4.0e-3


@pytest.fixture
def clients(loaded, smoke):
    """(model, the global adapter [D], encoded rows of three clients of unlike lengths)."""
    tuned, tokenizer = loaded
    if not hasattr(tuned, "_start"):
        tuned._start = adapter.get_vector(tuned)
    rows = {k: client_data.client_rows(smoke, k) for k in range(3)}
    encoded, _ = federation.encode_clients(rows, tokenizer, smoke.model)
    longest_first = sorted(encoded[2], key=lambda row: -len(row[0]))
    return tuned, tuned._start, [encoded[0], encoded[1], longest_first[: len(encoded[2]) // 2]]


def one_by_one(tuned, start, clients, options, seeds):
    """What each client's training gives by itself: (updates [K, D], losses, tokens)."""
    return joined(
        federation.client_update(tuned, start, rows, options, RATE, seed)
        for rows, seed in zip(clients, seeds, strict=True)
    )


def joined(made):
    """What several trainings gave: (updates [K, D], losses, tokens)."""
    updates, losses, tokens = zip(*made, strict=True)
    return torch.stack(updates), list(losses), list(tokens)


def at_once(tuned, start, clients, options, seeds):
    """The same, trained at once."""
    return joined(stacked.tune_together(tuned, start, clients, options, RATE, seeds))


@pytest.mark.parametrize(("parts", "clip"), [(1, 1.0), (2, 0.05)])
def test_clients_trained_at_once_are_as_if_trained_by_themselves(clients, smoke, parts, clip):
    """In float64: AdamW may turn the rounding of a gradient that is almost 0 into a whole step."""
    tuned, start, rows = clients
    tuned = copy.deepcopy(tuned).double()
    changes = {"steps": 4, "batch_size": 4, "accumulation": parts, "clip": clip}
    options = smoke.replace(training=changes).training
    before = copy.deepcopy(dict(tuned.named_parameters()))
    updates, losses, tokens = at_once(tuned, start, rows, options, [3, 4, 5])
    # the model is as it was, and goes forward by itself again
    assert all(torch.equal(p, before[name]) for name, p in tuned.named_parameters())

    wanted, wanted_losses, wanted_tokens = one_by_one(tuned, start, rows, options, [3, 4, 5])
    assert tokens == wanted_tokens
    for own, alone in zip(losses, wanted_losses, strict=True):
        assert own == pytest.approx(alone, rel=1e-5)
    difference = (updates - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert difference.max() < 1e-5
    # else it would not show if two were mixed up
    assert (wanted[0] - wanted[1]).norm() > 0.5 * wanted[0].norm()


def test_a_client_that_diverges_does_not_touch_the_others(clients, smoke, monkeypatch):
    tuned, start, rows = clients
    options = smoke.replace(training={"steps": 2, "batch_size": 2}).training
    wanted, _, _ = at_once(tuned, start, rows, options, [1, 2, 3])

    def losses(*arguments):
        return plain(*arguments) * torch.tensor([1.0, float("nan"), 1.0])

    plain = stacked._token_losses
    monkeypatch.setattr(stacked, "_token_losses", losses)
    updates, _, _ = at_once(tuned, start, rows, options, [1, 2, 3])
    assert updates[1].isnan().any()
    assert torch.equal(updates[[0, 2]], wanted[[0, 2]])


def test_a_round_trains_so_many_at_once_and_the_rest_by_themselves(clients, smoke, monkeypatch):
    tuned, start, rows = clients
    settings = smoke.replace(training={"steps": 2, "batch_size": 2, "together": 2})
    both = {}
    for together in (1, 2):
        one = settings.replace(training={"together": together})
        both[together] = federation.local_updates(
            tuned, dict(enumerate(rows)), [0, 1, 2], start, one, 0
        )
    for client in (0, 1, 2):
        here, there = both[1][0][client], both[2][0][client]
        assert (here - there).norm() < 1e-3 * here.norm()
    assert both[1][2] == both[2][2]

    # those with whom it fails are trained one by one, and a line says so
    monkeypatch.setattr(stacked, "_gradient", lambda *given: 1 / 0)
    with pytest.warns(UserWarning, match="training.together: .* go one by one"):
        updates, _, _ = federation.local_updates(
            tuned, dict(enumerate(rows)), [0, 1, 2], start, settings, 0
        )
    assert all(torch.equal(updates[client], both[1][0][client]) for client in (0, 1, 2))


def test_what_cannot_be_trained_at_once_is_one_line(clients, smoke):
    tuned, start, rows = clients
    assert stacked.can_stack(tuned)
    part = next(iter(stacked._adapted(tuned).values()))
    part.lora_dropout["default"] = nn.Dropout(0.1)
    try:
        assert not stacked.can_stack(tuned)
        options = smoke.replace(training={"together": 2}).training
        with pytest.raises(SettingsError, match="training.together: 2: .* set it to 1"):
            stacked.client_updates(tuned, start, {0: rows[0]}, options, RATE, {0: 1})
    finally:
        part.lora_dropout["default"] = nn.Identity()
