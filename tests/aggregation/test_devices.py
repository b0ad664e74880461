"""What a rule asks of a GPU: no wait and no copy to the host. The meta device would refuse both."""

import crossings
import pytest
import torch

from fedlib.aggregation import RULES, ranks, residuals

NEVER_READS = ("fedavg", "median", "trimmed_mean", "krum", "multi_krum", "clipping", "residual")


@pytest.mark.parametrize("clients", [10, 40])
@pytest.mark.parametrize("rule", NEVER_READS)
def test_the_host_reads_nothing(rule, clients, monkeypatch):
    """In several blocks."""
    monkeypatch.setattr(residuals, "ON_DEVICE", clients * clients * 16)
    monkeypatch.setattr(ranks, "BLOCK_ON_DEVICE", clients * 16)
    u = torch.empty(clients, 50, device="meta")
    sizes = torch.ones(clients, dtype=torch.float64, device="meta")
    update, _ = RULES[rule](u, f=2, variant="paper", sizes=sizes)
    assert update.is_meta and update.shape == (50,) and update.dtype == u.dtype


def test_a_read_is_refused():
    with pytest.raises((RuntimeError, NotImplementedError)):
        RULES["dnc"](torch.empty(10, 50, device="meta"), f=2, generator=None)


@pytest.mark.parametrize("n", [1, 2, 33, 40])
def test_a_sort_gives_what_a_network_gives(n):
    rows = torch.randn(n, 30, generator=torch.Generator().manual_seed(n)).round(decimals=1)
    network = ranks.order_statistics(rows, range(n))
    found = ranks.sorted_statistics(rows, range(n))
    assert all(torch.equal(found[rank], network[rank]) for rank in range(n))


WAYS_TO_THE_HOST = {
    "cpu": lambda u: u.cpu(),
    "to": lambda u: u.to("cpu", torch.float64),
    "not waited for": lambda u: u.to("cpu", non_blocking=True),
    "into": lambda u: torch.empty(10, 50).copy_(u),
    "rows": lambda u: [row.cpu() for row in u],
    "list": lambda u: u.tolist(),
    "each": lambda u: torch._foreach_copy_([torch.empty(10, 50)], [u]),
}


@pytest.mark.parametrize("way", WAYS_TO_THE_HOST)
def test_copies_to_the_host_are_seen(way):
    """As tests/test_gpu.py looks for them. The meta device has nothing to copy, so it refuses."""
    u = torch.empty(10, 50, device="meta")
    with crossings.Crossings() as seen, pytest.raises((NotImplementedError, RuntimeError)):
        WAYS_TO_THE_HOST[way](u)
    assert seen.larger_than(49) and not seen.larger_than(500)


def test_a_number_that_is_read_is_seen_and_small():
    with crossings.Crossings() as seen, pytest.raises(RuntimeError):
        float(torch.empty(10, 50, device="meta").sum())
    assert len(seen.found) == 1 and not seen.larger_than(1)


@pytest.mark.parametrize("way", [lambda u: u[u > 0], lambda u: (u > 0).nonzero()])
def test_a_count_that_the_host_waits_for_is_seen(way):
    with crossings.Crossings() as seen, pytest.raises((NotImplementedError, RuntimeError)):
        way(torch.empty(10, 50, device="meta"))
    assert [size for _, size in seen.found] == [1]


def test_what_stays_on_its_device_or_goes_there_is_no_copy_to_the_host():
    with crossings.Crossings() as seen:
        u = torch.ones(10, 50).to("meta")
        u.copy_(torch.zeros(10, 50))
        (u.double() @ u.double().T).sum(dim=0)
        u[:, torch.tensor([1, 3])]
        torch.ones(10, 50).double().sum().item()
        torch.ones(10, 50).nonzero()
    assert not seen.found
