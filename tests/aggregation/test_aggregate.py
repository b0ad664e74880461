"""Every rule under one contract, in tables over all that are registered; and each rule by hand."""

import inspect
import os
from pathlib import Path

import matrices
import pytest
import torch

from fedlib.aggregation import RULES as REGISTERED
from fedlib.aggregation import aggregate

RULES = sorted(REGISTERED)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
PARAMETERS = ["name", "updates", "sizes", "f", "history", "generator", "variant", "options"]
KEYWORDS = ["sizes", "f", "history", "generator", "variant"]
SUMS = {"foolsgold"}  # its own formula is a sum, not a mean
ZERO_IS_SPECIAL = {"foolsgold", "clipping", "flame"}


def test_signature_is_the_contract():
    found = inspect.signature(aggregate).parameters
    assert list(found) == PARAMETERS
    only = inspect.Parameter.KEYWORD_ONLY
    assert [name for name, p in found.items() if p.kind is only] == KEYWORDS
    assert found["f"].default == 0
    assert found["variant"].default == "paper"


@pytest.mark.parametrize(
    "sizes, expected, weights",
    [
        (None, [2.0, 2.0], [0.5, 0.5]),  # the mean of (1, 0) and (3, 4)
        ([1, 1], [2.0, 2.0], [0.5, 0.5]),
        ([3, 1], [1.5, 1.0], [0.75, 0.25]),  # (3*1 + 1*3)/4, (3*0 + 1*4)/4
        (torch.tensor([0.5, 1.5]), [2.5, 3.0], [0.25, 0.75]),
    ],
)
def test_fedavg_by_hand(sizes, expected, weights):
    step, shares = aggregate("fedavg", torch.tensor([[1.0, 0.0], [3.0, 4.0]]), sizes=sizes)
    assert step.tolist() == pytest.approx(expected)
    assert shares.tolist() == pytest.approx(weights)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype_is_kept_and_half_precision_is_summed_in_float32(rule, dtype):
    u = matrices.updates(dtype=dtype)
    step, weights = matrices.call(rule, u)
    exact, exact_weights = matrices.call(rule, u.double())
    if weights is not None:
        assert torch.allclose(weights.double(), exact_weights, atol=1e-6)
    assert step.dtype == dtype
    assert step.shape == (u.shape[1],)
    eps = torch.finfo(dtype).eps
    assert torch.allclose(step.double(), exact, rtol=2 * eps, atol=4 * eps)


@pytest.mark.parametrize("rule", RULES)
def test_inputs_are_not_changed(rule):
    u, sizes, generator = (
        matrices.updates(),
        torch.arange(1, 11).float(),
        torch.Generator().manual_seed(0),
    )
    before, before_sizes, history = u.clone(), sizes.clone(), u.clone()
    aggregate(rule, u, sizes=sizes, f=2, history=history, generator=generator)
    assert torch.equal(u, before)
    assert torch.equal(sizes, before_sizes)
    assert torch.equal(history, before)


@pytest.mark.parametrize("rule", RULES)
def test_the_result_is_a_copy(rule):
    u = matrices.updates(clients=10)
    before = u.clone()
    matrices.call(rule, u)[0].fill_(99)
    assert torch.equal(u, before)


@pytest.mark.parametrize("rule", RULES)
def test_weights_are_shares(rule):
    _, weights = matrices.call(rule, matrices.updates())
    if weights is not None:  # a rule that works coordinate by coordinate has none
        assert weights.shape == (10,)
        assert (weights >= 0).all()
        assert float(weights.sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_clients_does_not_matter(rule):
    u, order = matrices.updates(), torch.tensor([3, 9, 0, 7, 1, 8, 5, 2, 6, 4])
    step, weights = matrices.call(rule, u)
    permuted, permuted_weights = matrices.call(rule, u, order=order)
    assert torch.allclose(step, permuted, atol=1e-6)
    if weights is not None:
        assert torch.allclose(weights[order], permuted_weights, atol=1e-6)


@pytest.mark.parametrize("rule", sorted(set(RULES) - SUMS))
def test_equal_updates_give_that_update(rule):
    u = torch.full((10, 4), 0.25)
    assert torch.allclose(matrices.call(rule, u, sizes=[5] * 10)[0], u[0], atol=1e-6)


def test_median_and_trimmed_mean_by_hand():
    u = torch.tensor([[1.0], [2.0], [4.0], [100.0]])
    assert aggregate("median", u)[0].item() == 3
    assert aggregate("median", u, variant="published")[0].item() == 2
    assert aggregate("trimmed_mean", u, f=1)[0].item() == 3
    assert aggregate("trimmed_mean", u, f=0)[0].item() == 26.75
    assert aggregate("trimmed_mean", u, f=0, variant="published")[0].item() == 3


def test_krum_by_hand():
    """Five clients and f = 1: the paper scores the 2 nearest others by squared distance.

    The scores are 1+4, 1+1, 1+4, and more for the rest."""
    u = torch.tensor([[0.0], [1.0], [2.0], [5.0], [50.0]])
    step, weights = aggregate("krum", u, f=1)
    assert step.item() == 1
    assert weights.tolist() == [0, 1, 0, 0, 0]
    step, weights = aggregate("multi_krum", u, f=1)
    assert step.item() == 2
    assert weights.tolist() == [0.25, 0.25, 0.25, 0.25, 0]

    # published: the 3 nearest others, unsquared: 8, 6, 6 (the second client comes first);
    # the mean of that client and its 3 nearest
    step, weights = aggregate("krum", u, f=1, variant="published")
    assert step.item() == 2
    assert weights.tolist() == [0.25, 0.25, 0.25, 0.25, 0]


def test_foolsgold_finds_sybils():
    g = torch.Generator().manual_seed(0)
    honest = torch.randn(6, 200, generator=g)
    sybils = torch.randn(1, 200, generator=g).repeat(3, 1) + 0.01 * torch.randn(3, 200, generator=g)
    _, weights = aggregate("foolsgold", torch.cat([honest, sybils]))
    assert weights[6:].max() < 0.01 < weights[:6].min()
    # what counts is the history, not the round
    u = torch.randn(9, 200, generator=g)
    _, weights = aggregate("foolsgold", u, history=torch.cat([honest, sybils]))
    assert weights[6:].max() < 0.01


@pytest.mark.parametrize("rule", RULES)
def test_scaling_all_scales_the_result(rule):
    u = matrices.updates().double()
    for scale in (1e-3, 3, 1e6):  # residual adds 1e-7 to its scale, against a division by 0
        assert torch.allclose(
            matrices.call(rule, scale * u)[0],
            scale * matrices.call(rule, u)[0],
            rtol=1e-3 if rule == "residual" else 1e-9,
        )


@pytest.mark.parametrize("rule", sorted(set(RULES) - ZERO_IS_SPECIAL))
def test_moving_all_moves_the_result(rule):
    u, shift = matrices.updates().double(), torch.linspace(-1, 1, 40).double()
    assert torch.allclose(matrices.call(rule, u + shift)[0], matrices.call(rule, u)[0] + shift)


def test_three_clients_make_a_trimmed_mean_the_median():
    """FedLLM-Attack always drops one at each end, and its example samples three clients."""
    u = matrices.updates()[:3]
    expected = aggregate("median", u)[0]
    assert torch.equal(aggregate("trimmed_mean", u, variant="published")[0], expected)
    assert torch.equal(aggregate("trimmed_mean", u, f=1)[0], expected)


def test_dnc_takes_b_coordinates_by_its_generator():
    u = torch.randn(12, 300, generator=torch.Generator().manual_seed(0))
    chosen = [
        aggregate("dnc", u, f=3, b=2, generator=torch.Generator().manual_seed(s))[1]
        for s in (0, 0, 1, 2)
    ]
    assert torch.equal(chosen[0], chosen[1])
    assert not all(torch.equal(chosen[0], x) for x in chosen[2:])
    u[5, 7] = 1e6  # the one coordinate in which it can be seen
    kept = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        _, weights = aggregate("dnc", u, f=1, b=150, generator=generator)
        kept += int(weights[5] > 0)
    assert 5 < kept < 35  # half of the coordinates, half of the time


def test_clipping_by_hand():
    u = torch.tensor([[3.0, 4.0], [0.0, 10.0], [1.0, 0.0]])  # norms 5, 10, 1: the median is 5
    step, weights = aggregate("clipping", u)
    assert step.tolist() == pytest.approx([(3 + 0 + 1) / 3, (4 + 5 + 0) / 3])
    assert weights.tolist() == pytest.approx([1 / 2.5, 0.5 / 2.5, 1 / 2.5])


def test_flame_admits_the_largest_cluster_and_clips_it():
    along, across = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 7.0])
    jitter = 0.01 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    u = torch.cat([along + jitter, across.repeat(2, 1)])
    step, weights = aggregate("flame", u, noise=0.0)
    assert (weights[:5] > 0).all()
    assert weights[5:].tolist() == [0, 0]
    assert torch.allclose(step, along, atol=0.02)


def test_flames_noise_has_the_stated_size_and_is_the_generators():
    u = 2 + torch.zeros(6, 20_000)
    quiet, _ = aggregate("flame", u, noise=0.0)
    found = [
        aggregate("flame", u, noise=0.01, generator=torch.Generator().manual_seed(s))[0]
        for s in (0, 0, 1)
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert float((found[0] - quiet).std()) == pytest.approx(0.01 * float(u[0].norm()), rel=0.05)


@pytest.mark.parametrize("rule", ["clipping", "flame"])
def test_one_boosted_client_moves_these_no_further_than_a_usual_one(rule):
    u = matrices.updates().double()
    boosted = torch.cat([u[:-1], 1e6 * u[-1:]])
    assert float(matrices.call(rule, boosted)[0].norm()) <= 1.01 * float(u.norm(dim=1).median())
    for rows in (u[:1], u[:2], torch.zeros(4, 3)):  # few clients, or none that moved
        quiet = {"noise": 0.0} if rule == "flame" else {}
        step, _ = aggregate(rule, rows, **quiet)
        clipped, _ = aggregate("clipping", rows)
        assert torch.allclose(step, clipped, atol=1e-9)


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is read from Linux's /proc"
)
@pytest.mark.parametrize("rule", RULES)
def test_extra_memory_is_one_copy_at_most(rule):
    """Residual keeps what it moves values by; no other rule needs as much.

    30 MiB are for blocks and the result."""
    benchmark = matrices.benchmark()
    u = torch.randn(10, 2_000_000)
    copy = u.numel() * 4 / 2**20
    aggregate(rule, u[:, :100], f=3)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = benchmark.resident("VmRSS")
    aggregate(rule, u, f=3)
    copies = 1.0 if rule == "residual" else 0.5
    assert benchmark.resident("VmHWM") - before < copies * copy + 30
