"""The server's rules under one contract: tables over every rule that is registered."""

import inspect

import pytest
import torch

from fedlib import aggregation

RULES = sorted(aggregation.RULES)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
PARAMETERS = ["name", "updates", "sizes", "f", "history", "generator", "variant", "options"]


def updates(clients=10, size=40, dtype=torch.float32):
    """Seven clients near one direction, three near another: what every rule can be asked about."""
    g = torch.Generator().manual_seed(0)
    centre = torch.cat([torch.ones(7, size), -torch.ones(3, size)])[:clients]
    return (centre + 0.3 * torch.randn(clients, size, generator=g)).to(dtype)


def call(rule, u, sizes=None, order=None):
    """Aggregate with everything that some rule may need; `order` permutes the clients."""
    order = torch.arange(len(u)) if order is None else order
    sizes = torch.arange(1, len(u) + 1) if sizes is None else torch.as_tensor(sizes)
    return aggregation.aggregate(rule, u[order], sizes=sizes[order], f=2, history=u[order].clone(),
                                 generator=torch.Generator().manual_seed(0))


def test_signature_is_the_contract():
    found = inspect.signature(aggregation.aggregate).parameters
    assert list(found) == PARAMETERS
    keyword = [n for n, p in found.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert keyword == ["sizes", "f", "history", "generator", "variant"]
    assert found["f"].default == 0 and found["variant"].default == "paper"


@pytest.mark.parametrize("sizes, expected, weights", [
    (None, [2.0, 2.0], [0.5, 0.5]),       # the mean of (1, 0) and (3, 4)
    ([1, 1], [2.0, 2.0], [0.5, 0.5]),
    ([3, 1], [1.5, 1.0], [0.75, 0.25]),   # (3*1 + 1*3)/4, (3*0 + 1*4)/4
    (torch.tensor([0.5, 1.5]), [2.5, 3.0], [0.25, 0.75]),
])
def test_fedavg_by_hand(sizes, expected, weights):
    step, shares = aggregation.aggregate("fedavg", torch.tensor([[1.0, 0.0], [3.0, 4.0]]), sizes=sizes)
    assert step.tolist() == pytest.approx(expected) and shares.tolist() == pytest.approx(weights)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype_is_kept_and_half_precision_is_summed_in_float32(rule, dtype):
    u = updates(dtype=dtype)
    step, weights = call(rule, u)
    exact, exact_weights = call(rule, u.double())
    if weights is not None:
        assert torch.allclose(weights.double(), exact_weights, atol=1e-6)
    assert step.dtype == dtype and step.shape == (u.shape[1],)
    assert torch.allclose(step.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("rule", RULES)
def test_inputs_are_not_changed(rule):
    u, sizes, generator = updates(), torch.arange(1, 11).float(), torch.Generator().manual_seed(0)
    before, before_sizes, history = u.clone(), sizes.clone(), u.clone()
    aggregation.aggregate(rule, u, sizes=sizes, f=2, history=history, generator=generator)
    assert torch.equal(u, before) and torch.equal(sizes, before_sizes) and torch.equal(history, before)


@pytest.mark.parametrize("rule", RULES)
def test_the_result_is_a_copy(rule):
    u = updates(clients=10)
    before = u.clone()
    call(rule, u)[0].fill_(99)
    assert torch.equal(u, before)


@pytest.mark.parametrize("rule", RULES)
def test_weights_are_shares(rule):
    _, weights = call(rule, updates())
    if weights is not None:  # a rule that works coordinate by coordinate has none
        assert weights.shape == (10,) and (weights >= 0).all()
        assert float(weights.sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_clients_does_not_matter(rule):
    u, order = updates(), torch.tensor([3, 9, 0, 7, 1, 8, 5, 2, 6, 4])
    step, weights = call(rule, u)
    permuted, permuted_weights = call(rule, u, order=order)
    assert torch.allclose(step, permuted, atol=1e-6)
    if weights is not None:
        assert torch.allclose(weights[order], permuted_weights, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_equal_updates_give_that_update(rule):
    u = torch.full((10, 4), 0.25)
    assert torch.allclose(call(rule, u, sizes=[5] * 10)[0], u[0], atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_name_the_client(rule, bad):
    u = updates()
    u[6, 11] = bad
    with pytest.raises(ValueError, match=r"client 6\b.*NaN or Inf"):
        call(rule, u)


@pytest.mark.parametrize("bad", [
    torch.ones(4), torch.ones(2, 3, 4), torch.ones(0, 4), torch.ones(3, 0),
    torch.ones(3, 4, dtype=torch.int64), [[1.0, 2.0]], None,
], ids=["vector", "cube", "no clients", "no parameters", "integers", "list", "None"])
@pytest.mark.parametrize("rule", RULES)
def test_wrong_updates(rule, bad):
    with pytest.raises(ValueError, match=r"\[K, D\]"):
        aggregation.aggregate(rule, bad)


@pytest.mark.parametrize("bad", [[1, 1], [1] * 11, [[1] * 10], [0] + [1] * 9, [-1] + [1] * 9,
                                 [float("nan")] + [1.0] * 9, [float("inf")] + [1.0] * 9])
@pytest.mark.parametrize("rule", RULES)
def test_wrong_sizes(rule, bad):
    with pytest.raises(ValueError, match="sizes must be 10 positive numbers"):
        aggregation.aggregate(rule, updates(), sizes=bad)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="fedavgg") as error:
        aggregation.aggregate("fedavgg", updates())
    assert all(name in str(error.value) for name in RULES)


def test_an_unknown_variant_or_option_is_an_error():
    with pytest.raises((ValueError, TypeError)):
        aggregation.aggregate("fedavg", updates(), no_such_option=1)
    with pytest.raises(ValueError):  # a misspelt variant must not silently run another formula
        aggregation.aggregate("fedavg", updates(), variant="publishd")
