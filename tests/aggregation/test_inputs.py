"""What the rules refuse: each error is one line that names the client, the name or the limit."""

import matrices
import pytest
import torch

from fedlib.aggregation import RULES as REGISTERED
from fedlib.aggregation import VARIANTS, aggregate

RULES = sorted(REGISTERED)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_name_the_client(rule, bad):
    """In the peers' code one NaN client wins Krum and gets Residual's highest weight.

    Three other rules turn into NaN there."""
    u = matrices.updates()
    u[6, 11] = bad
    for given in (u, u.double(), u.half()):
        with pytest.raises(ValueError, match=r"updates of client 6\b.*NaN or Inf"):
            matrices.call(rule, given)
    with pytest.raises(ValueError, match=r"history of client 6\b.*NaN or Inf"):
        aggregate("foolsgold", matrices.updates(), history=u)


@pytest.mark.parametrize(
    "bad",
    [
        torch.ones(4),
        torch.ones(2, 3, 4),
        torch.ones(0, 4),
        torch.ones(3, 0),
        torch.ones(3, 4, dtype=torch.int64),
        [[1.0, 2.0]],
        None,
    ],
    ids=["vector", "cube", "no clients", "no parameters", "integers", "list", "None"],
)
@pytest.mark.parametrize("rule", RULES)
def test_wrong_updates(rule, bad):
    with pytest.raises(ValueError, match=r"\[K, D\]"):
        aggregate(rule, bad)


@pytest.mark.parametrize(
    "bad",
    [
        [1, 1],
        [1] * 11,
        [[1] * 10],
        [0] + [1] * 9,
        [-1] + [1] * 9,
        [float("nan")] + [1.0] * 9,
        [float("inf")] + [1.0] * 9,
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_wrong_sizes(rule, bad):
    with pytest.raises(ValueError, match="sizes must be 10 positive numbers"):
        aggregate(rule, matrices.updates(), sizes=bad)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="fedavgg") as error:
        aggregate("fedavgg", matrices.updates())
    assert all(name in str(error.value) for name in RULES)


def test_an_unknown_variant_or_option_is_an_error():
    with pytest.raises(ValueError, match="no_such_option"):
        aggregate("fedavg", matrices.updates(), no_such_option=1)
    with pytest.raises(ValueError):  # a misspelt variant must not silently run another formula
        aggregate("fedavg", matrices.updates(), variant="publishd")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("clients", [1, 2, 3])
@pytest.mark.parametrize("rule", RULES)
def test_few_clients_give_a_result_in_range_or_a_clear_error(rule, clients, variant):
    u = matrices.updates()[:clients]
    try:
        step, _ = aggregate(rule, u, variant=variant, **({"noise": 0.0} if rule == "flame" else {}))
    except ValueError as error:
        assert f"{clients} client" in str(error) or f"n={clients}" in str(error)
        return
    scale = clients if rule == "foolsgold" and variant == "paper" else 1
    assert (step >= scale * u.min(dim=0).values.clamp(max=0) - 1e-6).all()
    assert (step <= scale * u.max(dim=0).values.clamp(min=0) + 1e-6).all()


@pytest.mark.parametrize(
    "rule, f, part",
    [
        ("krum", 4, "f at most 3"),
        ("multi_krum", 4, "f at most 3"),
        ("trimmed_mean", 5, "leaves none of 10"),
        *[(rule, f, "from 0 to 9") for rule in RULES for f in (10, -1, 1.5, True)],
    ],
)
def test_an_f_out_of_range_names_the_limit(rule, f, part):
    with pytest.raises(ValueError, match=part):
        aggregate(rule, matrices.updates(), f=f)


def test_dnc_that_would_drop_all_is_an_error():
    """There a slice wraps, and only the attacker is kept."""
    with pytest.raises(ValueError, match="c\\*f=12 clients, which leaves none of 10"):
        aggregate("dnc", matrices.updates(), f=3, c=4.0)
    with pytest.raises(ValueError, match="every client was dropped in one of 50 iterations"):
        aggregate(
            "dnc",
            torch.randn(10, 400, generator=torch.Generator().manual_seed(0)),
            f=5,
            niters=50,
            b=2,
        )
