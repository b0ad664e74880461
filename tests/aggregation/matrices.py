"""Updates of clients that the tests of the rules share, and how they ask for a rule."""

import importlib.util

import numpy as np
import torch

from fedlib.aggregation import aggregate
from fedlib.settings import machine


def updates(clients=10, size=40, dtype=torch.float32):
    """Seven clients near one direction, three near another: what every rule can be asked about."""
    g = torch.Generator().manual_seed(0)
    centre = torch.cat([torch.ones(7, size), -torch.ones(3, size)])[:clients]
    return (centre + 0.3 * torch.randn(clients, size, generator=g)).to(dtype)


def call(rule, u, sizes=None, order=None):
    """Aggregate with everything that some rule may need; `order` permutes the clients."""
    order = torch.arange(len(u)) if order is None else order
    sizes = torch.arange(1, len(u) + 1) if sizes is None else torch.as_tensor(sizes)
    quiet = {"noise": 0.0} if rule == "flame" else {}  # its noise has a test of its own
    return aggregate(
        rule,
        u[order],
        sizes=sizes[order],
        f=2,
        history=u[order].clone(),
        generator=torch.Generator().manual_seed(0),
        **quiet,
    )


def attacked(clients, attackers, size, seed):
    """Honest clients about 1, and colluding ones last, at `size` in every coordinate."""
    honest = 1 + 0.1 * torch.randn(
        clients - attackers, 50, generator=torch.Generator().manual_seed(seed)
    )
    return honest, torch.cat([honest, torch.full((attackers, 50), size)])


# clients, size, attackers
SHAPES = [(5, 7, 1), (10, 64, 3), (11, 33, 4), (30, 200, 13), (60, 50, 20)]
TABLE = [(*shape, seed) for shape in SHAPES for seed in range(3)]


def table(clients, size, f, seed):
    """f attackers that are hard to tell; sizes from 1 to 50."""
    g = np.random.default_rng(seed)
    u = g.normal(size=(clients, size)) + g.normal(size=size)
    u[:f] = u[:f] * 0.5 + g.normal(size=size)
    return u, g.integers(1, 50, size=clients)


def same(found, expected):
    """Whether two results agree but for rounding."""
    return np.allclose(np.asarray(found), np.asarray(expected), rtol=1e-6, atol=1e-9)


def benchmark():
    """The module benchmarks/aggregation.py."""
    spec = importlib.util.spec_from_file_location(
        "benchmark", machine.ROOT / "benchmarks" / "aggregation.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
