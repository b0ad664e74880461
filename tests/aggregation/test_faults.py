"""Which updates a round can use: each kind of fault with its words."""

import pytest
import torch

from fedlib.aggregation import usable_updates

LIKE = torch.zeros(3)
GOOD = torch.tensor([1.0, 2.0, 3.0])
NAN, INF = float("nan"), float("inf")
FAULTS = {
    "NaN": (torch.tensor([1.0, NAN, NAN]), "its update holds NaN (2 of 3 values)"),
    "Inf": (torch.tensor([-INF, 0.0, 1.0]), "its update holds Inf (1 of 3 values)"),
    "Inf and -Inf": (torch.tensor([INF, -INF, 1.0]), "its update holds Inf (2 of 3 values)"),
    "too wide": (
        torch.tensor([1e300, 0.0, 0.0], dtype=torch.float64),
        "its update holds Inf (1 of 3 values)",
    ),
    "short": (torch.ones(2), "its update has shape (2,), not (3,)"),
    "matrix": (torch.ones(1, 3), "its update has shape (1, 3), not (3,)"),
    "empty": (torch.ones(0), "its update has shape (0,), not (3,)"),
    "whole numbers": (
        torch.ones(3, dtype=torch.int64),
        "its update holds no floating-point numbers, but torch.int64",
    ),
    "a list": ([1.0, 2.0, 3.0], "its update is no tensor, but list"),
    "nothing": (None, "it sent nothing"),
    "a reason": ("its training failed: OSError", "its training failed: OSError"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_left_out_with_its_reason(name):
    update, why = FAULTS[name]
    clients, updates, left_out = usable_updates({7: GOOD, 4: update, 9: 2 * GOOD}, LIKE)
    assert clients == [7, 9]
    assert torch.equal(updates, torch.stack([GOOD, 2 * GOOD]))
    assert left_out == {4: why}


def test_a_finite_outlier_stays_however_large():
    huge = torch.full((3,), 3e38)  # its sum is Inf
    clients, updates, left_out = usable_updates({0: huge, 1: GOOD}, LIKE)
    assert clients == [0, 1] and not left_out
    assert torch.equal(updates[0], huge)


def test_updates_take_the_adapters_dtype():
    _, updates, _ = usable_updates({0: GOOD.double(), 1: GOOD.bfloat16()}, LIKE)
    assert updates.dtype == torch.float32
    assert torch.equal(updates, torch.stack([GOOD, GOOD]))


def test_where_nothing_is_left_the_matrix_has_no_row():
    clients, updates, left_out = usable_updates({3: None, 5: None}, LIKE)
    assert clients == [] and updates.shape == (0, 3)
    assert list(left_out) == [3, 5]
