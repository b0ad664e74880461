"""Clients in processes of this machine: Flower's simulation, on Ray, around a round loop."""

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedlib.flower import node
from fedlib.flower.nodes import Nodes
from fedlib.settings import machine
from fedlib.settings.schema import Settings


@contextlib.contextmanager
def simulated(settings: Settings) -> Iterator[Nodes]:
    """The nodes of all clients of a run, as long as the block lasts.

    Each client trains with as many threads as this process has, since results depend on them; as
    many train at a time as the machine has cores, or GPUs, for."""
    lent: queue.Queue[Grid] = queue.Queue()
    done, failures = threading.Event(), []
    server = ServerApp()

    @server.main()
    def lend(grid: Grid, context: Context) -> None:
        lent.put(grid)
        done.wait()

    def run() -> None:
        clients = settings.federation.clients
        try:
            run_simulation(server, node.app, clients, backend_config=_resources(settings))
        except BaseException as error:
            failures.append(error)

    def check() -> None:
        if not thread.is_alive() or failures:
            why = failures[0] if failures else "it ended"
            raise RuntimeError(f"Flower's simulation failed: {why}")

    # the loop stays in this thread, where it can be interrupted
    thread = threading.Thread(target=run, daemon=True)
    with _environment():
        thread.start()
        try:
            while lent.empty():
                check()
                time.sleep(0.05)
            nodes = Nodes(lent.get(), settings, own_rows=False, check=check)
            nodes.connect()
            yield nodes
        finally:
            done.set()
            thread.join()


def _resources(settings: Settings) -> dict:
    """What Ray may use, and what of it a client takes."""
    threads = torch.get_num_threads()
    on_gpu = machine.device(settings.model) == "cuda"
    return {
        "init_args": {"num_cpus": max(threads, machine.cores())},
        "client_resources": {"num_cpus": threads, "num_gpus": 1.0 if on_gpu else 0.0},
    }


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Ray's processes inherit this one's environment: so many threads, and only errors said."""
    kept, logger = dict(os.environ), logging.getLogger("flwr")
    level = logger.level
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        os.environ.clear()
        os.environ.update(kept)
