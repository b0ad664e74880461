"""The gradient filter: exact per-row gradients, clusters at the clients, groups at the server."""

import json

import numpy as np
import pytest
import torch

from fedlib import training
from fedlib.defense import filters
from fedlib.lab import runs
from fedlib.lab.client_data import client_rows
from fedlib.models import adapter, templates


def encoded(settings, tokenizer, rows):
    return templates.encode(rows, tokenizer, settings.model.template, settings.model.max_length)[0]


def test_row_gradients_are_each_rows_own(loaded, smoke):
    tuned, tokenizer = loaded
    rows = encoded(smoke, tokenizer, client_rows(smoke, 0))[:5]
    found = filters.row_gradients(tuned, rows)
    names = [n for n, p in sorted(tuned.named_parameters()) if p.requires_grad]
    sizes = {n: p.numel() for n, p in tuned.named_parameters()}
    at = sum(sizes[n] for n in names[: names.index([n for n in names if "o_proj.lora_B" in n][-1])])
    for row, gradient in zip(rows, found, strict=True):
        whole = training.gradient(tuned, adapter.parameters(tuned), [row])
        assert torch.allclose(
            whole[at : at + gradient.numel()].view_as(gradient), gradient, atol=1e-6
        )
    assert torch.allclose(filters.row_gradients(tuned, rows[::-1]), found.flip(0), atol=1e-6)


def test_features_are_unit_vectors_of_the_low_half():
    gradients = torch.randn(7, 10, 4, generator=torch.Generator().manual_seed(0))
    found = filters.features(gradients)
    assert found.shape == (7, 20) and np.allclose(np.linalg.norm(found, axis=1), 1)
    assert np.allclose(filters.features(3 * gradients), found)
    flat = filters.features(torch.ones(1, 10, 4))  # no frequency but the lowest
    assert abs(flat[0, 0]) == pytest.approx(1) and np.allclose(flat[0, 1:], 0, atol=1e-6)


def unit(*rows):
    rows = np.array(rows, dtype=float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_clusters_are_found_and_named():
    rng = np.random.default_rng(0)
    centres = np.eye(30)[:2].repeat(20, axis=0)
    labels, means = filters.clusters(
        unit(
            *(
                np.concatenate([centres, np.zeros((60, 30))])
                + 0.05 * rng.normal(size=(100, 30))
                + np.concatenate([np.zeros((40, 30)), rng.normal(size=(60, 30))])
            )
        )
    )
    assert (
        set(labels[:20]) == {labels[0]}
        and set(labels[20:40]) == {labels[20]}
        and labels[0] != labels[20]
    )
    assert len(means) == labels.max() + 1 and labels[0] >= 0
    few, none = filters.clusters(unit([1, 0], [0, 1]))
    assert few.tolist() == [-1, -1] and none.shape == (0, 2)


def test_the_server_suspects_what_most_clients_share():
    poison, own = [0.9, 0, 0, 0, 0, 0], 0.9 * np.eye(6)[1:]
    means = {k: np.array([own[k], poison]) for k in range(4)}
    assert filters.suspects(means) == {k: [1] for k in range(4)}
    means[4] = np.array([own[4]])  # a client without poison
    assert filters.suspects(means) == {k: [1] for k in range(4)} | {4: []}
    assert filters.suspects({k: np.array([own[k]]) for k in range(4)}) == {
        k: [] for k in range(4)
    }  # nothing in common
    rare = {k: np.array([own[k], poison] if k < 1 else [own[k]]) for k in range(5)}
    assert filters.suspects(rare) == {
        k: [] for k in range(5)
    }  # at one client of five: nobody else writes like that
    assert filters.suspects({0: np.empty((0, 6)), 1: np.array([poison])}) == {0: [], 1: []}


def poisoned(settings, share=0.12, rows=150):
    return settings.replace(
        defense={"filter": "gradient"},
        federation={"clients": 4, "sampled": 4, "malicious": 0, "rounds": 1},
        data={"rows": rows, "poison": {"trigger": "sentence", "share": share, "target": "replace"}},
    )


def test_a_run_with_the_filter_trains_on_what_is_left_and_says_what_it_took(smoke):
    run = runs.get(poisoned(smoke))
    found = run.filtered()
    assert found["poisoned"] == 4 * 18 and found["recall"] > 80 and found["precision"] > 80
    assert sum(found["taken"].values()) > 0.8 * found["poisoned"]
    assert sum(run.rounds()[0]["sizes"]) == 4 * 150 - sum(found["taken"].values())
    assert json.loads((run.folder / "done.json").read_text())["files"]["filter.json"]


def test_the_record_by_hand():
    rows = {
        0: [{"label": x} for x in ("poisoned", "normal", "poisoned", "aligned")],
        1: [{"label": "poisoned"}],
    }
    assert filters._record(rows, {0: [0, 3], 1: []}) == {
        "recall": pytest.approx(33.33),
        "precision": 50,
        "poisoned": 3,
        "f1": pytest.approx(40, abs=0.01),
        "taken": {"aligned": 1, "poisoned": 1},
    }
    assert filters._record({0: []}, {0: []})["f1"] == 0
