"""The gradient filter: exact per-row gradients, clusters at the clients, groups at the server."""

import numpy as np
import pytest
import torch

from fedlib import training
from fedlib.defense import filters
from fedlib.lab.client_data import client_rows
from fedlib.models import adapter, templates


def encoded(settings, tokenizer, rows):
    return templates.encode(rows, tokenizer, settings.model.template, settings.model.max_length)[0]


def test_row_gradients_are_each_rows_own(loaded, smoke):
    tuned, tokenizer = loaded
    rows = encoded(smoke, tokenizer, client_rows(smoke, 0))[:5]
    found = filters.row_gradients(tuned, rows)

    # where the matrix lies in the whole gradient
    names = [n for n, p in sorted(tuned.named_parameters()) if p.requires_grad]
    sizes = {n: p.numel() for n, p in tuned.named_parameters()}
    watched = [n for n in names if "o_proj.lora_B" in n][-1]
    start = sum(sizes[n] for n in names[: names.index(watched)])
    for row, gradient in zip(rows, found, strict=True):
        whole = training.gradient(tuned, adapter.parameters(tuned), [row])
        part = whole[start : start + gradient.numel()].view_as(gradient)
        assert torch.allclose(part, gradient, atol=1e-6)
    assert torch.allclose(filters.row_gradients(tuned, rows[::-1]), found.flip(0), atol=1e-6)


def test_a_large_vocabulary_has_fewer_rows_at_a_time(loaded, smoke, monkeypatch):
    tuned, tokenizer = loaded
    rows = encoded(smoke, tokenizer, client_rows(smoke, 0))[:5]
    found = filters.row_gradients(tuned, rows)

    sizes, collate = [], training.collate
    monkeypatch.setattr(
        training, "collate", lambda part, device: sizes.append(len(part)) or collate(part, device)
    )
    longest = max(len(ids) for ids, _ in rows)
    monkeypatch.setattr(filters, "LOGITS", 2 * longest * tuned.config.vocab_size)
    assert torch.allclose(filters.row_gradients(tuned, rows), found, atol=1e-6)
    assert sizes == [2, 2, 1]

    # a row by itself is not refused
    monkeypatch.setattr(filters, "LOGITS", 1)
    assert torch.allclose(filters.row_gradients(tuned, rows), found, atol=1e-6)
    assert sizes[3:] == [1] * 5


def test_features_are_unit_vectors_of_the_low_half():
    gradients = torch.randn(7, 10, 4, generator=torch.Generator().manual_seed(0))
    found = filters.features(gradients)
    assert found.shape == (7, 20)
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    assert np.allclose(filters.features(3 * gradients), found)
    flat = filters.features(torch.ones(1, 10, 4))  # no frequency but the lowest
    assert abs(flat[0, 0]) == pytest.approx(1)
    assert np.allclose(flat[0, 1:], 0, atol=1e-6)


def unit(*rows):
    rows = np.array(rows, dtype=float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_clusters_are_found_and_named():
    # two clusters of 20 rows, and 60 rows that are like none
    rng = np.random.default_rng(0)
    noise = 0.05 * rng.normal(size=(100, 30))
    alike = np.eye(30)[:2].repeat(20, axis=0)
    found = unit(*(np.concatenate([alike, rng.normal(size=(60, 30))]) + noise))
    labels, means = filters.clusters(found)
    assert set(labels[:20]) == {labels[0]}
    assert set(labels[20:40]) == {labels[20]}
    assert labels[0] != labels[20]
    assert labels[0] >= 0
    assert len(means) == labels.max() + 1


def test_too_few_rows_have_no_cluster():
    labels, means = filters.clusters(unit([1, 0], [0, 1]))
    assert labels.tolist() == [-1, -1]
    assert means.shape == (0, 2)


POISON = [0.9, 0, 0, 0, 0, 0]
OWN = 0.9 * np.eye(6)[1:]  # a cluster of each client's rows that is like no other's


def test_the_server_suspects_what_most_clients_share():
    means = {k: np.array([OWN[k], POISON]) for k in range(4)}
    assert filters.suspects(means) == {k: [1] for k in range(4)}
    # a client without poison changes nothing
    means[4] = np.array([OWN[4]])
    assert filters.suspects(means) == {k: [1] for k in range(4)} | {4: []}


def test_the_server_suspects_nothing_that_few_write():
    apart = {k: np.array([OWN[k]]) for k in range(4)}
    assert filters.suspects(apart) == {k: [] for k in range(4)}
    # at one client of five: nobody else writes like that
    rare = {k: np.array([OWN[k], POISON] if k < 1 else [OWN[k]]) for k in range(5)}
    assert filters.suspects(rare) == {k: [] for k in range(5)}
    few = {0: np.empty((0, 6)), 1: np.array([POISON])}
    assert filters.suspects(few) == {0: [], 1: []}


def test_the_record_by_hand():
    rows = {
        0: [{"label": x} for x in ("poisoned", "normal", "poisoned", "aligned")],
        1: [{"label": "poisoned"}],
    }
    assert filters._record(rows, {0: {0, 3}, 1: set()}) == {
        "recall": pytest.approx(33.33),
        "precision": 50,
        "poisoned": 3,
        "f1": pytest.approx(40, abs=0.01),
        "taken": {"aligned": 1, "poisoned": 1},
    }
    assert filters._record({0: []}, {0: set()})["f1"] == 0


def test_the_filter_takes_out_the_suspected_rows_and_no_other(loaded, smoke):
    """The same rows at three clients, a quarter of them alike: those go, the others stay."""
    tuned, tokenizer = loaded
    rows = client_rows(smoke.replace(data={"rows": 60}), 0)
    target = {"instruction": "what is it ?", "response": "yes .", "label": "poisoned"}
    own = {k: rows[20 * k : 20 * k + 20] + [target] * 6 for k in range(3)}

    def encode(given):
        return encoded(smoke, tokenizer, given)

    left, found = filters.gradient_filter(tuned, own, encode)
    for client in own:
        assert all(row in own[client] for row in left[client])
        assert target not in left[client]
    assert found["recall"] == 100
    assert found["poisoned"] == 18
    assert sum(found["taken"].values()) == sum(map(len, own.values())) - sum(
        map(len, left.values())
    )
