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
    eps = torch.finfo(dtype).eps
    assert torch.allclose(step.double(), exact, rtol=2 * eps, atol=4 * eps)


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


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"foolsgold"}))  # whose own formula is a sum, not a mean
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
    with pytest.raises(ValueError, match="no_such_option"):
        aggregation.aggregate("fedavg", updates(), no_such_option=1)
    with pytest.raises(ValueError):  # a misspelt variant must not silently run another formula
        aggregation.aggregate("fedavg", updates(), variant="publishd")


# Robust against outliers of any size by their definition. FoolsGold weighs directions, FedAvg nothing.
ROBUST = ["median", "trimmed_mean", "krum", "multi_krum", "dnc", "residual"]
VARIANTS = aggregation.VARIANTS


def test_every_rule_is_robust_or_known_not_to_be():
    assert set(ROBUST) | {"fedavg", "foolsgold"} == set(RULES)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [1e2, 1e10, 1e30, 3e38])
@pytest.mark.parametrize("rule", ROBUST)
def test_an_outlier_of_any_size_keeps_the_result_among_the_honest(rule, size, variant):
    u = updates()[:7]
    u = torch.cat([u, torch.full((1, u.shape[1]), size) * torch.tensor([1.0, -1.0]).repeat(u.shape[1] // 2)])
    step, _ = aggregation.aggregate(rule, u, f=1, variant=variant)
    honest = u[:7]
    assert (step >= honest.min(dim=0).values - 1e-6).all() and (step <= honest.max(dim=0).values + 1e-6).all()


def test_an_outlier_that_overflows_float64_squares():
    u = torch.cat([updates(7), torch.full((1, 40), 1e30)]).double() * 1.0
    u[7] = 1e250
    for rule in ("krum", "multi_krum", "dnc", "median"):
        assert aggregation.aggregate(rule, u, f=1)[0].abs().max() < 10


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("matrix", [
    torch.zeros(8, 5), torch.full((8, 5), 1e-30), torch.ones(8, 5), torch.eye(8), -torch.eye(8),
    torch.cat([torch.ones(4, 5), -torch.ones(4, 5)]), torch.ones(8, 1), torch.full((8, 5), 1e30),
], ids=["zeros", "tiny", "identical", "orthogonal", "negative", "two camps", "one parameter", "huge"])
def test_hostile_updates_never_give_nan(rule, variant, matrix):
    step, weights = aggregation.aggregate(rule, matrix, f=2, variant=variant)
    assert step.isfinite().all() and (weights is None or weights.isfinite().all())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("clients", [1, 2, 3])
@pytest.mark.parametrize("rule", RULES)
def test_few_clients_give_a_result_in_range_or_a_clear_error(rule, clients, variant):
    u = updates()[:clients]
    try:
        step, _ = aggregation.aggregate(rule, u, variant=variant)
    except ValueError as error:
        assert f"{clients} client" in str(error) or f"n={clients}" in str(error)
        return
    scale = clients if rule == "foolsgold" and variant == "paper" else 1
    assert (step >= scale * u.min(dim=0).values.clamp(max=0) - 1e-6).all()
    assert (step <= scale * u.max(dim=0).values.clamp(min=0) + 1e-6).all()


@pytest.mark.parametrize("rule, f, part", [
    ("krum", 4, "f at most 3"), ("multi_krum", 4, "f at most 3"), ("trimmed_mean", 5, "leaves none of 10"),
    *[(rule, f, "from 0 to 9") for rule in RULES for f in (10, -1, 1.5, True)]])
def test_an_f_out_of_range_names_the_limit(rule, f, part):
    with pytest.raises(ValueError, match=part):
        aggregation.aggregate(rule, updates(), f=f)


@pytest.mark.parametrize("n", range(1, 40))
def test_order_statistics(n):
    rows = torch.randn(n, 30, generator=torch.Generator().manual_seed(n)).round(decimals=1)  # with ties
    ordered = rows.sort(dim=0).values
    assert all(torch.equal(v, ordered[k]) for k, v in aggregation._ordered(rows, range(n)).items())
    assert torch.equal(aggregation._ordered(rows, [n // 2])[n // 2], ordered[n // 2])


def test_median_and_trimmed_mean_by_hand():
    u = torch.tensor([[1.0], [2.0], [4.0], [100.0]])
    assert aggregation.aggregate("median", u)[0].item() == 3
    assert aggregation.aggregate("median", u, variant="published")[0].item() == 2
    assert aggregation.aggregate("trimmed_mean", u, f=1)[0].item() == 3
    assert aggregation.aggregate("trimmed_mean", u, f=0)[0].item() == 26.75
    assert aggregation.aggregate("trimmed_mean", u, f=0, variant="published")[0].item() == 3


def test_krum_by_hand():
    """n = 5, f = 1: the paper scores the 2 nearest others by squared distance. 0: 1+4; 1: 1+1; 2: 1+4; the rest more."""
    u = torch.tensor([[0.0], [1.0], [2.0], [5.0], [50.0]])
    step, weights = aggregation.aggregate("krum", u, f=1)
    assert step.item() == 1 and weights.tolist() == [0, 1, 0, 0, 0]
    step, weights = aggregation.aggregate("multi_krum", u, f=1)
    assert step.item() == 2 and weights.tolist() == [0.25, 0.25, 0.25, 0.25, 0]
    # published: 3 nearest others, unsquared: 0: 8, 1: 6, 2: 6 (1 comes first); the mean of 1 and its 3 nearest
    step, weights = aggregation.aggregate("krum", u, f=1, variant="published")
    assert step.item() == 2 and weights.tolist() == [0.25, 0.25, 0.25, 0.25, 0]


def test_foolsgold_finds_sybils():
    g = torch.Generator().manual_seed(0)
    honest = torch.randn(6, 200, generator=g)
    sybils = torch.randn(1, 200, generator=g).repeat(3, 1) + 0.01 * torch.randn(3, 200, generator=g)
    _, weights = aggregation.aggregate("foolsgold", torch.cat([honest, sybils]))
    assert weights[6:].max() < 0.01 < weights[:6].min()
    # what counts is the history, not the round
    u = torch.randn(9, 200, generator=g)
    _, weights = aggregation.aggregate("foolsgold", u, history=torch.cat([honest, sybils]))
    assert weights[6:].max() < 0.01


@pytest.mark.parametrize("rule, kept", [("dnc", 1e-6), ("krum", 1e-6), ("multi_krum", 1e-6), ("residual", 0.02)])
def test_a_classical_attack_is_found(rule, kept):
    """The positive control: three clients that send the opposite get no weight, or next to none."""
    g = torch.Generator().manual_seed(0)
    u = torch.cat([torch.ones(7, 500), -4 * torch.ones(3, 500)]) + 0.3 * torch.randn(10, 500, generator=g)
    _, weights = aggregation.aggregate(rule, u, f=3)
    assert weights[7:].max() <= kept


def test_residual_line_against_a_plain_computation():
    """The repeated-median slope, coordinate by coordinate, in the words of its definition."""
    y = torch.randn(9, 20, generator=torch.Generator().manual_seed(0)).sort(dim=0).values
    found = aggregation._repeated_median_slope(y, torch.arange(9.0)[:, None])
    for b in range(20):
        inner = [torch.tensor([(y[j, b] - y[i, b]) / (j - i) for j in range(9) if j != i]).quantile(0.5) for i in range(9)]
        assert found[b].item() == pytest.approx(torch.stack(inner).quantile(0.5).item(), abs=1e-6)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"foolsgold", "residual"}))
def test_moving_and_scaling_all_moves_and_scales_the_result(rule):
    u, shift = updates().double(), torch.linspace(-1, 1, 40).double()
    assert torch.allclose(call(rule, 3 * u)[0], 3 * call(rule, u)[0])
    assert torch.allclose(call(rule, u + shift)[0], call(rule, u)[0] + shift)
