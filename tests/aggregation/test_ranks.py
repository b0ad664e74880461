"""Order statistics by sorting networks, against a sort."""

import pytest
import torch

from fedlib.aggregation import ranks


@pytest.mark.parametrize("n", range(1, 40))
def test_order_statistics(n):
    rows = torch.randn(n, 30, generator=torch.Generator().manual_seed(n)).round(
        decimals=1
    )  # with ties
    ordered = rows.sort(dim=0).values
    assert all(
        torch.equal(v, ordered[k]) for k, v in ranks.order_statistics(rows, range(n)).items()
    )
    assert torch.equal(ranks.order_statistics(rows, [n // 2])[n // 2], ordered[n // 2])
