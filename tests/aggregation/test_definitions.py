"""The same rules written by others: by peers, and from each paper's and release's definition."""

import math

import matrices
import numpy as np
import pytest
import torch

from fedlib.aggregation import aggregate

PAPER = pytest.mark.parametrize("clients, size, f, seed", matrices.TABLE)


@pytest.fixture(scope="module")
def byzfl():
    try:
        return matrices.benchmark().byzfl()  # without its __init__, which wants more packages
    except ImportError:
        pytest.skip("ByzFL is only a peer to compare with: pip install --no-deps byzfl")


@pytest.fixture(scope="module")
def flower():
    return pytest.importorskip(
        "flwr.server.strategy.aggregate", reason="Flower is an extra: -e .[flower]"
    )


@PAPER
def test_byzfl_agrees(byzfl, clients, size, f, seed):
    u, _ = matrices.table(clients, size, f, seed)
    t = torch.from_numpy(u)
    assert matrices.same(aggregate("fedavg", t)[0], byzfl.Average()(u))
    assert matrices.same(aggregate("trimmed_mean", t, f=f)[0], byzfl.TrMean(f=f)(u))
    assert matrices.same(aggregate("median", t)[0], byzfl.Median()(u))
    # its Krum scores n-f-1 others, the paper's n-f-2: it is the paper's for one attacker fewer
    assert matrices.same(aggregate("krum", t, f=f - 1)[0], byzfl.Krum(f=f)(u))


@PAPER
def test_flower_agrees(flower, clients, size, f, seed):
    u, sizes = matrices.table(clients, size, f, seed)
    t, alike = torch.from_numpy(u), [([row], 1) for row in u]
    assert matrices.same(
        aggregate("fedavg", t, sizes=sizes)[0],
        flower.aggregate([([row], n) for row, n in zip(u, sizes.tolist(), strict=True)])[0],
    )
    assert matrices.same(aggregate("median", t)[0], flower.aggregate_median(alike)[0])
    assert matrices.same(
        aggregate("trimmed_mean", t, f=f)[0],
        flower.aggregate_trimmed_avg(alike, (f + 0.5) / clients)[0],
    )  # which rounds the share down
    assert matrices.same(aggregate("krum", t, f=f)[0], flower.aggregate_krum(alike, f, 0)[0])
    # sizes all alike: its Multi-Krum weighs by size, the paper's is a plain mean
    assert matrices.same(
        aggregate("multi_krum", t, f=f)[0], flower.aggregate_krum(alike, f, clients - f)[0]
    )


def test_multi_krum_differs_from_the_peers_as_written():
    """Six clients and f = 1: squared distances to the 3 nearest others.

    0: 1+4+16, 1: 1+1+9, 2: 1+4+4, 4: 4+9+16, 9: 25+49+64; 30 has more and is left out."""
    u = np.array([[0.0], [1.0], [2.0], [4.0], [9.0], [30.0]])
    step, weights = aggregate("multi_krum", torch.from_numpy(u), f=1, sizes=[9, 1, 1, 1, 1, 1])
    assert step.item() == pytest.approx(16 / 5)
    assert weights.tolist() == pytest.approx([0.2] * 5 + [0])


def plain_krum(u, near):
    """Every client's score, from the definition."""
    scores = []
    for i, own in enumerate(u):
        others = [((own - other) ** 2).sum() for j, other in enumerate(u) if j != i]
        scores.append(sum(sorted(others)[:near]))
    return scores


@PAPER
def test_krum_and_multi_krum_from_the_paper(clients, size, f, seed):
    u, _ = matrices.table(clients, size, f, seed)
    scores = plain_krum(u, clients - f - 2)
    assert matrices.same(aggregate("krum", torch.from_numpy(u), f=f)[0], u[np.argmin(scores)])
    best = sorted(range(clients), key=lambda i: scores[i])[: clients - f]
    assert matrices.same(
        aggregate("multi_krum", torch.from_numpy(u), f=f)[0],
        sum(u[i] for i in best) / (clients - f),
    )


@PAPER
def test_krum_from_the_release(clients, size, f, seed):
    """Distances unsquared, n-f-1 others, and the mean of the winner's neighbourhood."""
    u, _ = matrices.table(clients, size, f, seed)
    distances = [[math.dist(a, b) for b in u] for a in u]
    scores = [sum(sorted(row)[: clients - f]) for row in distances]  # with itself, at 0
    winner = scores.index(min(scores))
    near = sorted(range(clients), key=lambda j: distances[winner][j])[: clients - f]
    assert matrices.same(
        aggregate("krum", torch.from_numpy(u), f=f, variant="published")[0],
        u[near].mean(axis=0),
    )


@PAPER
def test_median_and_trimmed_mean_from_the_release(clients, size, f, seed):
    """The lower of two middle values, as torch's median; one client off each end for any f."""
    u, _ = matrices.table(clients, size, f, seed)
    t, ordered = torch.from_numpy(u), np.sort(u, axis=0)
    assert matrices.same(aggregate("median", t, variant="published")[0], t.median(dim=0).values)
    assert matrices.same(
        aggregate("trimmed_mean", t, f=f, variant="published")[0], ordered[1:-1].mean(axis=0)
    )


@PAPER
def test_dnc_from_the_paper(clients, size, f, seed):
    """All coordinates, so that nothing is random: the singular vector of the whole matrix."""
    u, _ = matrices.table(clients, size, f, seed)
    for c in (0.5, 1.0, 1.5):
        direction = np.linalg.svd(u - u.mean(axis=0))[2][0]
        scores = [float(np.dot(row - u.mean(axis=0), direction)) ** 2 for row in u]
        kept = sorted(range(clients), key=lambda i: scores[i])[: clients - round(c * f)]
        step, weights = aggregate("dnc", torch.from_numpy(u), f=f, c=c, niters=2)
        assert matrices.same(step, sum(u[i] for i in kept) / len(kept))
        assert sorted(kept) == weights.nonzero().flatten().tolist()


def cosine(one, other):
    return float(one @ other / math.sqrt((one @ one) * (other @ other)))


def plain_foolsgold(seen):
    """Algorithm 1 of Fung et al. with the confidence 1.

    A trust of 1 counts as 0.99, as in the authors' code."""
    n = len(seen)
    similarity = [[cosine(one, other) for other in seen] for one in seen]
    for i in range(n):
        similarity[i][i] = 0.0

    # pardoning
    top = [max(row) for row in similarity]
    trust = []
    for i in range(n):
        for j in range(n):
            if i != j and top[j] > top[i]:
                similarity[i][j] *= top[i] / top[j]
        trust.append(min(max(1 - max(similarity[i]), 0), 1))

    # rescaling and logit
    weights = []
    for value in trust:
        t = min(value / max(trust), 0.99)
        weights.append(0.0 if t <= 0 else min(max(math.log(t / (1 - t)) + 0.5, 0), 1))
    return weights


@PAPER
def test_foolsgold_from_the_paper(clients, size, f, seed):
    u, _ = matrices.table(clients, size, f, seed)
    history = u + matrices.table(clients, size, f, seed + 100)[0]
    for variant, seen in (("paper", history), ("published", u)):
        weights = np.array(plain_foolsgold(seen))
        expected = sum(w * row for w, row in zip(weights, u, strict=True))
        if variant == "published":
            expected = expected / sum(w > 0 for w in weights)
        step, shares = aggregate(
            "foolsgold", torch.from_numpy(u), history=torch.from_numpy(history), variant=variant
        )
        assert matrices.same(step, expected)
        assert matrices.same(shares, weights / weights.sum())
