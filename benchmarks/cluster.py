"""What the dask path adds to a grid of tiny runs on one host, beside the local pool of processes.

Run: pip install -c constraints.txt -e .[cluster];
python benchmarks/cluster.py [--runs 40] [--workers 2] [--pairs 3]
The two take turns, each from an empty store with as many workers of one thread. Both start their
workers. CPU seconds are those of this process and of all workers: on a busy machine they say more
than the clock does.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time

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
    """CPU seconds of this process and of those children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def measured(make):
    """(seconds by the clock, CPU seconds) of make(), in an outputs folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEDLIB_OUTPUTS"] = folder
        began, before = time.monotonic(), spent()
        make()
        return time.monotonic() - began, spent() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    settings = presets.load("smoke", **TINY)
    wanted = [settings.replace(seed=seed) for seed in range(asked.runs)]
    os.environ |= {"OMP_NUM_THREADS": "1", "FEDLIB_JOBS": str(asked.workers)}

    def by_pool():
        os.environ.pop("FEDLIB_CLUSTER", None)
        runs.get_all(wanted)

    def by_cluster():
        options = {"dashboard_address": ":0", "memory_limit": None, "silence_logs": 50}
        with LocalCluster(n_workers=asked.workers, threads_per_worker=1, **options) as made:
            os.environ["FEDLIB_CLUSTER"] = made.scheduler_address
            runs.get_all(wanted)

    ratios = []
    for pair in range(asked.pairs):
        # whoever goes first may find colder files
        order = [by_pool, by_cluster] if pair % 2 == 0 else [by_cluster, by_pool]
        found = {make: measured(make) for make in order}
        (pool_clock, pool_cpu), (dask_clock, dask_cpu) = found[by_pool], found[by_cluster]
        ratios.append((dask_clock / pool_clock, dask_cpu / pool_cpu))
        print(
            f"pair {pair}: cluster / pool {ratios[-1][0]:.3f} by the clock, {ratios[-1][1]:.3f} "
            f"in CPU time ({dask_clock:.1f} s / {pool_clock:.1f} s; {dask_cpu:.1f} s / "
            f"{pool_cpu:.1f} s)",
            flush=True,
        )
    clock, cpu = (statistics.median(values) for values in zip(*ratios, strict=True))
    print(f"median of {asked.pairs}: {clock:.3f} by the clock, {cpu:.3f} in CPU time")
    print(f"load while it ended: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
