"""Every aggregation rule beside Flower's and ByzFL's on the same updates: time and extra memory.

Run: pip install -c constraints.txt -e .[flower]; pip install --no-deps byzfl;
python benchmarks/aggregation.py [--small] [--rules residual krum ...] [--device cuda]
All of it takes three minutes on two cores. A peer that is not installed, or has no such rule, is
left out. Time: the best of the repeats, ours and theirs turn about, in one process. Memory: the
growth of the peak resident set over one call of ours in a fresh process (Linux). On a GPU only our
rules are timed, on updates that lie there.
"""

import argparse
import importlib.util
import multiprocessing
import sys
import time
import types
from pathlib import Path

import torch

from fedlib.aggregation import RULES, aggregate

# title: (clients, size, f)
SIZES = {
    "K=10, D=4,194,304, f=3": (10, 4_194_304, 3),
    "K=100, D=1,000,000, f=20": (100, 1_000_000, 20),
}
SMALL = {"K=10, D=100,000, f=3": (10, 100_000, 3), "K=100, D=20,000, f=20": (100, 20_000, 20)}


def updates(clients, size):
    """Random updates [K, D]."""
    return torch.randn(clients, size, generator=torch.Generator().manual_seed(0))


def ways(rule, f):
    """{name: a function of the updates}: ours, and the peers' that have this rule."""
    found = {"ours": lambda u: aggregate(rule, u, f=f)}
    for name, peer in {"ByzFL": byzfl_way, "Flower": flower_way}.items():
        try:
            way = peer(rule, f)
        except ImportError:
            continue
        if way is not None:
            found[name] = way
    return found


def byzfl_way(rule, f):
    """ByzFL's rule as a function of the updates, or None."""
    peer = byzfl()
    made = {
        "fedavg": peer.Average,
        "median": peer.Median,
        "trimmed_mean": lambda: peer.TrMean(f=f),
        "krum": lambda: peer.Krum(f=f),
        "multi_krum": lambda: peer.MultiKrum(f=f),
    }.get(rule)
    return made and made()


def flower_way(rule, f):
    """Flower's rule as a function of the updates, or None."""
    from flwr.server.strategy import aggregate as flower

    def rows(u):
        return [([row], 1) for row in u.numpy()]

    return {
        "fedavg": lambda u: flower.aggregate(rows(u)),
        "median": lambda u: flower.aggregate_median(rows(u)),
        "trimmed_mean": lambda u: flower.aggregate_trimmed_avg(rows(u), (f + 0.5) / len(u)),
        "krum": lambda u: flower.aggregate_krum(rows(u), f, 0),
        "multi_krum": lambda u: flower.aggregate_krum(rows(u), f, len(u) - f),
    }.get(rule)


def byzfl():
    """ByzFL's aggregators without its __init__, which wants torchvision for data sets."""
    if "byzfl" not in sys.modules:
        spec = importlib.util.find_spec("byzfl")
        if spec is None:
            raise ImportError("byzfl")
        sys.modules["byzfl"] = types.ModuleType("byzfl")
        sys.modules["byzfl"].__path__ = spec.submodule_search_locations
    return importlib.import_module("byzfl.aggregators.aggregators")


def best_seconds(found, u, repeats):
    """{name: the best seconds of a call}; the ways take turns. A GPU is waited for."""
    best = dict.fromkeys(found, float("inf"))
    for _ in range(repeats):
        for name, way in found.items():
            for _ in range(2):  # the first pays for memory anew
                began = time.perf_counter()
                way(u)
                if u.is_cuda:
                    torch.cuda.synchronize()
                best[name] = min(best[name], time.perf_counter() - began)
    return best


def peak(rule, clients, size, f, threads, pipe):
    """Send the MiB by which one call of ours raises the peak of this process."""
    torch.set_num_threads(threads)
    u = updates(clients, size)
    aggregate(rule, u[:, :100], f=f)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident
    before = resident("VmRSS")
    aggregate(rule, u, f=f)
    pipe.send(resident("VmHWM") - before)


def resident(field):
    """A field of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(field))
    return int(line.split()[1]) / 1024


def extra_memory(rule, clients, size, f, threads):
    """MiB by which one call of ours raises the peak of a fresh process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=peak, args=(rule, clients, size, f, threads, there))
    child.start()
    extra = here.recv()
    child.join()
    return extra


def extra_memory_on_gpu(rule, clients, size, f, _threads):
    """MiB by which one call of ours raises the peak of the GPU's memory."""
    u = updates(clients, size).cuda()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    aggregate(rule, u, f=f)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def show(rule, best, extra):
    """A line: our time, our memory, and the peers' times."""
    rest = []
    for name, seconds in best.items():
        if name != "ours":
            rest.append(f"{name} {seconds * 1e3:.1f} ms ({seconds / best['ours']:.1f}x)")
    line = f"  {rule:<13} {best['ours'] * 1e3:9.1f} ms  +{extra:4.0f} MiB   {', '.join(rest)}"
    print(line, flush=True)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)

    for title, (clients, size, f) in (SMALL if asked.small else SIZES).items():
        u = updates(clients, size).to(asked.device)
        copy = u.numel() * 4 / 2**20
        print(f"{title}, float32, {asked.threads} threads; a copy of the input is {copy:.0f} MiB")
        for rule in asked.rules:
            repeats = 1 if rule == "residual" else asked.repeats
            on_cpu = asked.device == "cpu"
            found = ways(rule, f) if on_cpu else {"ours": ways(rule, f)["ours"]}
            best = best_seconds(found, u, repeats)
            memory = extra_memory if on_cpu else extra_memory_on_gpu
            show(rule, best, memory(rule, clients, size, f, asked.threads))


if __name__ == "__main__":
    main()
