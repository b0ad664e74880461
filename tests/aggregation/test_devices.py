"""What a rule asks of a GPU: no wait and no copy to the host. The meta device would refuse both."""

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
