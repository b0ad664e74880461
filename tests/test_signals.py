"""Similarity of updates and the BSNR, on matrices small enough to check by hand."""

import pytest
import torch

from fedlib import signals


def test_cosine_by_hand():
    u = torch.tensor([[1.0, 0.0], [3.0, 3.0], [0.0, -2.0], [0.0, 0.0]])
    r = 0.5**0.5
    # the last one, zero, is similar to nothing
    expected = [[1, r, 0, 0], [r, 1, -r, 0], [0, -r, 1, 0], [0, 0, 0, 0]]
    assert torch.allclose(signals.cosine(u), torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_cosine_heeds_no_scale_and_stays_in_bounds(dtype):
    u = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    factors = [1, 2, 4, 1024, 2.0**-10, 0.5]  # exact in all dtypes
    scale = torch.tensor(factors, dtype=dtype)[:, None]
    assert torch.allclose(signals.cosine(u), signals.cosine(u * scale), atol=1e-6)
    same = signals.cosine(u[:1].repeat(4, 1))
    assert (same <= 1).all()
    assert torch.allclose(same, torch.ones(4, 4))


# BSNR: two clients of three rows each, one poisoned; gradients as a person can add them up.

POISONED = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
CLEAN_ROWS = torch.tensor([[[0.0, 2.0], [2.0, 0.0]], [[4.0, -2.0], [2.0, 0.0]]])
CLEAN = CLEAN_ROWS.mean(dim=1)  # (1, 1) and (3, -1)


def test_bsnr_by_hand():
    found = signals.bsnr(POISONED, CLEAN, [3, 3], [1 / 3, 1 / 3])
    # signal: 1/2 * 1/3 * ((1, 0) + (1, 1)) = (1/3, 1/6), squared 5/36
    # clean ones less their mean (2, 0): (-1, 1), (1, -1)
    # noise: 2/(2-1) * 2 clients * (1/2)^2 * (2/3)^2 * 2 = 8/9
    assert found["bsnr"] == pytest.approx(5 / 36 / (8 / 9))
    assert found["alignment"] == pytest.approx(0.5**0.5)
    assert found["cancellation"] == pytest.approx(2 / (0.5 * 2**0.5 + 0.5 * 10**0.5))


def test_bsnr_heeds_weights_shares_and_no_common_scale():
    base = signals.bsnr(POISONED, CLEAN, [1, 1], [0.1, 0.1])["bsnr"]
    assert signals.bsnr(7 * POISONED, 7 * CLEAN, [5, 5], [0.1, 0.1])["bsnr"] == pytest.approx(base)
    assert signals.bsnr(POISONED, CLEAN, [1, 1], [0.2, 0.2])["bsnr"] > 4 * base  # (p / (1-p))^2
    apart = signals.bsnr(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), CLEAN, [1, 1], [0.2, 0.0])
    assert apart["alignment"] is None
    assert 0 < apart["bsnr"]
    assert signals.bsnr(POISONED, CLEAN, [1, 1], [0.0, 0.0])["bsnr"] == 0


def test_more_clients_that_share_a_trigger_have_a_higher_bsnr():
    """The clean parts cancel, the poisoned one adds up: the ratio grows as the clients' number."""
    g = torch.Generator().manual_seed(0)
    found = []
    for k in (2, 8, 32):
        clean = 20 * torch.randn(k, 500, generator=g)
        found.append(signals.bsnr(torch.ones(k, 500), clean, [1] * k, [0.1] * k)["bsnr"])
    assert found[1] / found[0] == pytest.approx(4, rel=0.3)
    assert found[2] / found[1] == pytest.approx(4, rel=0.3)


def test_bsnr_needs_two_clients():
    with pytest.raises(ValueError, match="two clients"):
        signals.bsnr(POISONED[:1], CLEAN[:1], [1], [0.1])
