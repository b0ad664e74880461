"""What must hold on a GPU as on a CPU: training, clients at once, every rule, without a copy.

Skipped where there is none: `make gpu` runs it."""

import crossings
import pytest
import standins
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fedlib import federation, stacked, training
from fedlib.aggregation import RULES, aggregate, ranks, residuals
from fedlib.lab import client_data, loaded
from fedlib.models import adapter, on_gpu

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
RATE = 1.0e-3


def trained(smoke, device, at_once=False, steps=3):
    """(updates [K, D], losses) of three clients on a device, in float32."""
    settings = smoke.replace(
        model={"device": device, "dtype": "float32"}, training={"steps": steps, "together": 3}
    )
    base, tokenizer = loaded.load_base(settings)
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    rows = {k: client_data.client_rows(settings, k) for k in range(3)}
    clients, _ = federation.encode_clients(rows, tokenizer, settings.model)
    start, options = adapter.get_vector(tuned), settings.training
    assert start.device.type == device
    if at_once:
        made = stacked.client_updates(tuned, start, clients, options, RATE, {0: 0, 1: 1, 2: 2})
        made = list(made.values())
    else:
        made = [
            federation.client_update(tuned, start, clients[k], options, RATE, k) for k in clients
        ]
    return torch.stack([update.cpu() for update, _, _ in made]), [losses for _, losses, _ in made]


@pytest.mark.parametrize("at_once", [False, True])
def test_training_on_a_gpu_is_that_on_a_cpu_except_for_rounding(smoke, at_once):
    here, losses_here = trained(smoke, "cpu")
    there, losses_there = trained(smoke, "cuda", at_once)
    for one, other in zip(losses_here, losses_there, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    assert ((here - there).norm(dim=1) < 0.02 * here.norm(dim=1)).all()


@pytest.mark.parametrize("at_once", [False, True])
def test_a_step_of_training_never_waits(smoke, at_once):
    crossed = []
    for steps in (2, 4):
        with crossings.Crossings() as seen:
            trained(smoke, "cuda", at_once, steps)
        crossed.append(len(seen.found))
    assert crossed[1] == crossed[0]


@pytest.mark.parametrize("kind", on_gpu.FUSED)
def test_kernels_of_liger_give_the_same_gradient_except_for_rounding(kind):
    pytest.importorskip("liger_kernel")
    config = AutoConfig.for_model(kind, vocab_size=50, **standins.SIZE)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to("cuda")
    rows = [([3, 8, 5, 9, 12, 4], 2), ([7, 2, 6], 1)]
    plain = training.gradient(model, list(model.parameters()), rows)
    with on_gpu.quick_steps(model):
        assert model.model.norm._get_name() == "LigerRMSNorm"
        fused = training.gradient(model, list(model.parameters()), rows)
    again = training.gradient(model, list(model.parameters()), rows)
    assert torch.equal(again, plain) and not torch.equal(fused, plain)
    assert (fused - plain).norm() < 1e-4 * plain.norm()


def aggregated(rule, clients, device):
    """(update, weights) of a rule on a device, and what crossed to the host meanwhile."""
    u = torch.randn(clients, 5000, generator=torch.Generator().manual_seed(0))
    u[:2] += 3
    u = u.to(device)
    settings = {"f": 2, "history": u.clone(), "generator": torch.Generator().manual_seed(1)}
    with crossings.Crossings() as seen:
        update, weights = aggregate(rule, u, **settings)
    return update, weights, seen


@pytest.mark.parametrize("clients", [10, 40])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_on_a_gpu_gives_what_it_gives_on_a_cpu(rule, clients):
    here, weights_here, _ = aggregated(rule, clients, "cpu")
    there, weights_there, _ = aggregated(rule, clients, "cuda")
    assert there.is_cuda and torch.allclose(there.cpu(), here, atol=1e-4)
    if weights_here is not None:
        assert torch.allclose(weights_there.cpu(), weights_here, atol=1e-4)


@pytest.mark.parametrize("clients", [10, 40])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_copies_no_update_to_the_host(rule, clients, monkeypatch):
    """What crosses is no larger than the clients' distances, and does not grow with the blocks."""
    _, _, seen = aggregated(rule, clients, "cuda")
    assert not seen.larger_than(clients * clients)
    monkeypatch.setattr(residuals, "ON_DEVICE", clients * clients * 1000)
    monkeypatch.setattr(ranks, "BLOCK_ON_DEVICE", clients * 1000)
    _, _, by_blocks = aggregated(rule, clients, "cuda")
    assert by_blocks.found == seen.found


def test_a_copy_to_the_host_would_be_seen():
    u = torch.ones(10, 5000, device="cuda")
    with crossings.Crossings() as seen:
        u.cpu()
        u.sum().item()
    assert [size for _, size in seen.found] == [50_000, 1]
