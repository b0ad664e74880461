"""What the dask path adds to a grid of tiny runs on one host, beside the local pool of processes.

Run: pip install -c constraints.txt -e .[cluster];
python benchmarks/cluster.py [--runs 40] [--workers 2] [--pairs 3]
The two take turns, each from an empty store with as many workers of one thread. A cluster's workers
are there beforehand, and have made a run; the pool's are started for each grid, since so it is.
What that start takes is measured too, by a grid of no more runs than workers, and taken off where
it says "without the start". CPU seconds are those of all processes: on a busy machine they say more
than the clock does.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time

import psutil
from distributed import LocalCluster

from fedlib.lab import runs
from fedlib.settings import presets

TINY = {
    "model": {"device": "cpu"},
    "data": {"benign": ["lmsys-like"], "rows": 8},
    "training": {"steps": 1, "batch_size": 2},
    "federation": {"rounds": 3, "sampled": 2},
    "evaluation": {"harmful": 2, "benign": 2, "max_new_tokens": 2},
}


def spent():
    """CPU seconds of this process, of its children that run, and of those that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    total = sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        total += times.user + times.system
    return total


def measured(wanted):
    """(seconds by the clock, CPU seconds) of making runs in an outputs folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEDLIB_OUTPUTS"] = folder
        began, before = time.monotonic(), spent()
        runs.get_all(wanted)
        return time.monotonic() - began, spent() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    settings = presets.load("smoke", **TINY)
    wanted = [settings.replace(seed=seed) for seed in range(asked.runs + asked.workers)]
    os.environ |= {"OMP_NUM_THREADS": "1", "FEDLIB_JOBS": str(asked.workers)}

    first, grid = wanted[: asked.workers], wanted[asked.workers :]
    options = {"dashboard_address": ":0", "memory_limit": None, "silence_logs": 50}
    ratios = []
    with LocalCluster(n_workers=asked.workers, threads_per_worker=1, **options) as made:
        os.environ["FEDLIB_CLUSTER"] = made.scheduler_address
        measured(first)
        for pair in range(asked.pairs):
            found = {}
            for place in (made.scheduler_address, "")[:: 1 if pair % 2 else -1]:
                os.environ["FEDLIB_CLUSTER"] = place
                found[bool(place)] = [measured(first), measured(grid)]
            ratios.append(compared(pair, found[False], found[True]))
    said = [f"{statistics.median(values):.3f}" for values in zip(*ratios, strict=True)]
    print(f"median of {asked.pairs}: cluster / pool {said[0]} by the clock, {said[1]} in CPU time,")
    print(f"without the start {said[2]} by the clock, {said[3]} in CPU time")
    print(f"load while it ended: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def compared(pair, pool, cluster):
    """The ratios of cluster to pool: by the clock and in CPU time, whole and without the start.

    Each is [(clock, CPU) of a grid of one run a worker, (clock, CPU) of the grid]."""
    whole = [cluster[1][i] / pool[1][i] for i in range(2)]
    rest = [(cluster[1][i] - cluster[0][i]) / (pool[1][i] - pool[0][i]) for i in range(2)]
    seconds = [f"{one[0]:.1f} ({one[1]:.1f})" for one in (*cluster, *pool)]
    print(
        f"pair {pair}: {whole[0]:.3f} ({whole[1]:.3f}), without the start {rest[0]:.3f} "
        f"({rest[1]:.3f}); seconds (CPU): cluster {seconds[0]}, {seconds[1]}; "
        f"pool {seconds[2]}, {seconds[3]}",
        flush=True,
    )
    return [*whole, *rest]


if __name__ == "__main__":
    main()
