"""Residual-based reweighting, coordinate by coordinate, in the words of its definition."""

import math
import statistics

import matrices
import numpy as np
import pytest
import torch

from fedlib.aggregation import aggregate, ranks, residuals


@pytest.mark.parametrize("n", [4, 5, 9, 10, 31, 32, 33])
def test_residual_line_against_a_plain_computation(n):
    """The repeated-median slope, coordinate by coordinate, in the words of its definition."""
    y = np.sort(np.random.default_rng(n).normal(size=(n, 20)).round(1), axis=0)  # with ties
    found = residuals.repeated_median_slope(y)
    for b in range(20):
        inner = [
            statistics.median((y[j, b] - y[i, b]) / (j - i) for j in range(n) if j != i)
            for i in range(n)
        ]
        assert found[b] == pytest.approx(statistics.median(inner), abs=1e-12)


def test_three_clients_make_residual_a_plain_mean():
    """As there: no line can be told from three values. Four clients are weighed."""
    u = matrices.updates()[[0, 1, 9]]
    step, weights = aggregate("residual", u)
    assert torch.allclose(step, u.mean(dim=0))
    assert weights.tolist() == pytest.approx([1 / 3] * 3)
    assert aggregate("residual", matrices.updates()[[0, 1, 2, 9]])[1][3] < 0.05


def plain_lines(u):
    """(order of the clients, their values in it, slope, intercept) of each coordinate's line."""
    n, size = u.shape
    lines = []
    for b in range(size):
        order = sorted(range(n), key=lambda k: u[k, b])
        y = [u[k, b] for k in order]
        slope = statistics.median(
            statistics.median((y[j] - y[i]) / (j - i) for j in range(n) if j != i) for i in range(n)
        )
        lines.append((order, y, slope, statistics.median(y) - slope * (n - 1) / 2))
    return lines


def plain_residual(lines, threshold, strength=2.0):
    """Fu et al., one coordinate after the other, with the hat matrix written out."""
    n, size = len(lines[0][0]), len(lines)
    x = np.stack([np.ones(n), np.arange(n)], axis=1)
    leverage = np.diag(x @ np.linalg.inv(x.T @ x) @ x.T)
    summed, moved = np.zeros(n), np.zeros((n, size))
    for b, (order, y, slope, intercept) in enumerate(lines):
        away = [y[i] - intercept - slope * i for i in range(n)]
        scale = (
            1.4826 * (1 + 5 / (n - 1)) * statistics.median(sorted(abs(r) for r in away)[1:]) + 1e-7
        )
        reach, confidence = strength * math.sqrt(2 / n), []
        for i in range(n):
            e = away[i] / scale / math.sqrt(1 - leverage[i])
            confidence.append(1.0 if e == 0 else max(-reach, min(reach, e)) / e)
        spread = statistics.stdev(confidence)
        for i, k in enumerate(order):
            summed[k] += confidence[i] * spread
            moved[k, b] = y[i] if confidence[i] >= threshold else intercept + slope * i
    weights = (summed / summed.max()) ** 2
    return weights @ moved / weights.sum(), weights / weights.sum()


@pytest.mark.parametrize("clients, size, f, seed", [(4, 20, 1, 0), *matrices.TABLE])
def test_residual_from_the_paper(clients, size, f, seed):
    u, _ = matrices.table(clients, size, f, seed)
    u[:f] *= 3
    u = u.round(1) if seed == 2 else u  # with ties, which go by the clients' order
    lines = plain_lines(u)
    for variant, threshold in (("paper", 0.1), ("published", 0.05)):
        step, weights = aggregate("residual", torch.from_numpy(u), variant=variant)
        expected, shares = plain_residual(lines, threshold)
        assert matrices.same(step, expected)
        assert matrices.same(weights, shares)
    step, _ = aggregate("residual", torch.from_numpy(u), threshold=0.6, strength=1.0)
    assert matrices.same(step, plain_residual(lines, 0.6, strength=1.0)[0])


def test_residual_by_blocks_and_threads(monkeypatch):
    u, threads, found = matrices.updates(10, 501), torch.get_num_threads(), []
    whole = aggregate("residual", u)
    monkeypatch.setattr(ranks, "BLOCK", 3000)
    for n in (1, 3):
        torch.set_num_threads(n)
        found.append(aggregate("residual", u))
    torch.set_num_threads(threads)
    for part in (0, 1):
        assert torch.allclose(found[0][part], whole[part], atol=1e-7)
        assert torch.equal(found[0][part], found[1][part])


@pytest.mark.parametrize("n", [4, 9, 10, 40])
def test_the_way_for_a_gpu_gives_the_same(n, monkeypatch):
    """In several blocks; ties and outliers too."""
    monkeypatch.setattr(residuals, "ON_DEVICE", n * n * 7)
    u = torch.from_numpy(np.random.default_rng(n).normal(size=(n, 50)).round(1)).float()
    u[0] *= 30
    step, weights = residuals.residual(u, variant="paper")
    found, found_weights = residuals.residual_in_torch(u, residuals.THRESHOLDS["paper"], 2.0)
    assert torch.allclose(found, step, atol=1e-5)
    assert torch.allclose(found_weights, weights, atol=1e-5)
