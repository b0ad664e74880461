"""A round of clients on Flower beside the same round in one process, and the server's memory.

Run: pip install -c constraints.txt -e .[flower];
OMP_NUM_THREADS=1 python benchmarks/flower.py [--rounds 5] [--preset mini] [--memory FILE.csv]
Both train the same clients from the same adapter, turn about, so that a busy machine disturbs both
alike. Starting Ray is timed apart. Memory is that of the server's side only: nodes are stood in for
by a grid that answers at once, with updates of 100,000 numbers. docs/figures/memory.csv was written
by --memory, and python docs/figures/draw.py draws it.
"""

import argparse
import csv
import itertools
import multiprocessing
import resource
import statistics
import time

import numpy as np
import torch
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from fedlib import federation
from fedlib.flower import messages, simulation
from fedlib.flower.nodes import Nodes
from fedlib.lab import client_data, loaded
from fedlib.models import adapter
from fedlib.settings import presets

SIZES = (10, 30, 100, 300, 1000)  # clients of which ten are sampled, and of which all are
SIZE = 100_000  # numbers in an update
ROUNDS_OF_MEMORY = 5


def compare(settings, rounds):
    """Print what Flower adds to a round."""
    options = settings.federation
    base, tokenizer = loaded.load_base(settings)
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    rows = {k: client_data.client_rows(settings, k) for k in range(options.clients)}
    clients, _ = federation.encode_clients(rows, tokenizer, settings.model)
    start = adapter.get_vector(tuned)

    began = time.perf_counter()
    with simulation.simulated(settings) as nodes:
        started = time.perf_counter() - began
        here, there = [], []
        for round_ in range(rounds + 1):
            sampled = federation.sample_clients(options.clients, options.sampled, 0, round_)
            began = time.perf_counter()
            federation.local_updates(tuned, clients, sampled, start, settings, round_)
            between = time.perf_counter()
            nodes(sampled, start, round_)
            if round_:  # in the first, each process loads the model
                here.append(between - began)
                there.append(time.perf_counter() - between)
    ratio = statistics.median(b / a for a, b in zip(here, there, strict=True))
    more = statistics.median(b - a for a, b in zip(here, there, strict=True))
    print(f"ratio: a round on Flower takes {ratio:.2f} times as long ({more:+.2f} s)")
    alone, flower = statistics.median(here), statistics.median(there)
    print(
        f"in one process {alone:.2f} s, on Flower {flower:.2f} s, {options.sampled} clients a round"
    )
    print(f"{len(start)} numbers in an update; Ray and its nodes started in {started:.0f} s")


class Answering:
    """A grid whose nodes answer at once, each with the same update."""

    def __init__(self, clients, size):
        self.clients, self.update = clients, np.full(size, 1e-3, np.float32)
        self.waiting, self.ids = {}, map(str, itertools.count())
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1

    def get_node_ids(self):
        return range(1, self.clients + 1)

    def push_messages(self, sent):
        found = []
        for message in sent:
            number = next(self.ids)
            message.metadata.__dict__["_message_id"] = number
            self.waiting[number] = message
            found.append(number)
        return found

    def pull_messages(self, ids):
        for number in ids & set(self.waiting):
            message = self.waiting.pop(number)
            client = message.metadata.dst_node_id - 1
            content = messages.pack_presence(client, False)
            if message.metadata.message_type == "train":
                update = self.update + client
                content = messages.pack_trained(messages.Trained(update, [1.0], 8, 0, 0, 64))
            yield Message(content, reply_to=message)


def server_memory(arguments):
    """Megabytes that a process grows by over some rounds."""
    settings, clients, sampled, size, on_flower = arguments
    changes = {"clients": clients, "sampled": sampled, "malicious": 0, "rounds": ROUNDS_OF_MEMORY}
    settings = settings.replace(federation=changes)
    exchange = Nodes(Answering(clients, size), settings, own_rows=False)
    if on_flower:
        exchange.connect()
    else:
        update = torch.full((size,), 1e-3)

        def exchange(sampled, start, round_):
            updates = {client: update + client for client in sampled}
            return federation.Sent(
                updates, dict.fromkeys(sampled, [1.0]), dict.fromkeys(sampled, 8), 64
            )

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state = federation.State(0, torch.zeros(size))
    for _ in federation.run_rounds(None, {}, settings, [], state, exchange=exchange):
        pass
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory(settings):
    """How the server's memory grows with the clients, and with those of a round: dicts, in MB."""
    cases = [*((clients, 10) for clients in SIZES), *((clients, clients) for clients in SIZES[1:])]
    rows = []
    # each in a process of its own: a peak cannot be forgotten
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for clients, sampled in cases:
            here, there = (
                pool.apply(server_memory, ((settings, clients, sampled, SIZE, on_flower),))
                for on_flower in (False, True)
            )
            updates = sampled * SIZE * 4 / 2**20
            row = {"clients": clients, "sampled": sampled, "updates": round(updates)}
            rows.append(row | {"in_process": round(here), "flower": round(there)})
            print(rows[-1], flush=True)
    return rows


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--memory", metavar="FILE.csv", help="measure only the memory, into a file")
    asked = parser.parse_args()
    changes = {"model": {"device": "cpu"}, "data": {"benign": ["lmsys-like"]}}
    settings = presets.load(asked.preset, **changes)
    print("MB by which the server's side grows at most, over some rounds:")
    rows = memory(settings)
    if not asked.memory:
        compare(settings, asked.rounds)
        return
    with open(asked.memory, "w", newline="", encoding="utf-8") as opened:
        table = csv.DictWriter(opened, rows[0])
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
