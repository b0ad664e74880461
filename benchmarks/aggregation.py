"""Every aggregation rule beside Flower's and ByzFL's, in one process on the same updates: time, ratio, extra memory.

Run: pip install -c constraints.txt -e .[flower]; pip install --no-deps byzfl; python benchmarks/aggregation.py
[--small] [--rules residual krum ...]. All of it takes three minutes on two cores.
A peer that is not installed, or has no such rule, is left out. Time: the best of the repeats, ours and theirs turn about.
Memory: the growth of the peak resident set over one call of ours in a fresh process (Linux).
"""

import argparse
import importlib.util
import multiprocessing
import sys
import time
import types
from pathlib import Path

import torch

from fedlib.aggregation import rules

SIZES = {
    "K=10, D=4,194,304, f=3": (10, 4_194_304, 3),
    "K=100, D=1,000,000, f=20": (100, 1_000_000, 20),
}
SMALL = {"K=10, D=100,000, f=3": (10, 100_000, 3), "K=100, D=20,000, f=20": (100, 20_000, 20)}


def updates(clients, size):
    return torch.randn(clients, size, generator=torch.Generator().manual_seed(0))


def ours(rule, f):
    return lambda u: rules.aggregate(rule, u, f=f)


def peers(rule, f):
    """{name: a function of the updates} of the peers that have this rule and are installed."""
    found = {}
    try:
        peer = byzfl()
        made = {
            "fedavg": peer.Average,
            "median": peer.Median,
            "trimmed_mean": lambda: peer.TrMean(f=f),
            "krum": lambda: peer.Krum(f=f),
            "multi_krum": lambda: peer.MultiKrum(f=f),
        }.get(rule)
        found |= {"ByzFL": made()} if made else {}
    except ImportError:
        pass
    try:
        from flwr.server.strategy import aggregate as flower

        def rows(u):
            return [([row], 1) for row in u.numpy()]

        made = {
            "fedavg": lambda u: flower.aggregate(rows(u)),
            "median": lambda u: flower.aggregate_median(rows(u)),
            "trimmed_mean": lambda u: flower.aggregate_trimmed_avg(rows(u), (f + 0.5) / len(u)),
            "krum": lambda u: flower.aggregate_krum(rows(u), f, 0),
            "multi_krum": lambda u: flower.aggregate_krum(rows(u), f, len(u) - f),
        }.get(rule)
        found |= {"Flower": made} if made else {}
    except ImportError:
        pass
    return found


def byzfl():
    """ByzFL's aggregators without its __init__, which wants torchvision for data sets that are not needed here."""
    if "byzfl" not in sys.modules:
        spec = importlib.util.find_spec("byzfl")
        if spec is None:
            raise ImportError("byzfl")
        sys.modules["byzfl"] = types.ModuleType("byzfl")
        sys.modules["byzfl"].__path__ = spec.submodule_search_locations
    return importlib.import_module("byzfl.aggregators.aggregators")


def peak(rule, clients, size, f, threads, pipe):
    """MiB by which one call of ours raises the peak, in a process of its own."""
    torch.set_num_threads(threads)
    u = updates(clients, size)
    rules.aggregate(rule, u[:, :100], f=f)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = resident("VmRSS")
    rules.aggregate(rule, u, f=f)
    pipe.send(resident("VmHWM") - before)


def resident(field):
    line = next(
        x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field)
    )
    return int(line.split()[1]) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rules", nargs="+", choices=rules.RULES, default=list(rules.RULES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for title, (clients, size, f) in (SMALL if asked.small else SIZES).items():
        u = updates(clients, size)
        print(
            f"{title}, float32, {asked.threads} threads; one copy of the input is {u.numel() * 4 / 2**20:.0f} MiB"
        )
        for rule in asked.rules:
            ways, best = {"ours": ours(rule, f)} | peers(rule, f), {}
            for _ in range(1 if rule == "residual" else asked.repeats):
                for name, way in ways.items():
                    for _ in range(2):  # the first pays for memory anew
                        began = time.perf_counter()
                        way(u)
                        best[name] = min(best.get(name, float("inf")), time.perf_counter() - began)
            here, there = multiprocessing.get_context("spawn").Pipe()
            child = multiprocessing.get_context("spawn").Process(
                target=peak, args=(rule, clients, size, f, asked.threads, there)
            )
            child.start()
            extra = here.recv()
            child.join()
            rest = ", ".join(
                f"{n} {s * 1e3:.1f} ms ({s / best['ours']:.1f}x)"
                for n, s in best.items()
                if n != "ours"
            )
            print(
                f"  {rule:<13} {best['ours'] * 1e3:9.1f} ms  +{extra:4.0f} MiB   {rest}", flush=True
            )


if __name__ == "__main__":
    main()
