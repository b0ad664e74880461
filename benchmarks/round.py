"""Our round beside the peers' way, a new TRL SFTTrainer for every client and round, and ours with PEFT's own
forward in small modules: same process, model and rows.

Run: pip install -c constraints.txt -e .[bench]; python benchmarks/round.py [--rounds 3] [--threads 1]
Both take the same number of steps on rows that are tokenised beforehand; the trainer's extras (logging, saving,
checkpointing, reporting) are switched off, so that what is measured is the way, not the options.
"""

import argparse
import logging
import os
import tempfile
import time
import warnings
from unittest import mock

os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from fedlib import callbacks, federation, training
from fedlib.lab import loaded
from fedlib.lab.client_data import client_rows
from fedlib.models import adapter
from fedlib.papers import backdoor
from fedlib.settings import presets


def ours(tuned, start, clients, settings, round_):
    return sum(
        federation.client_update(tuned, start, clients[k], settings, round_, k)[2]
        for k in federation.sample_clients(
            settings.federation.clients, settings.federation.sampled, settings.seed, round_
        )
    )


def pefts(tuned, *arguments):
    small = [part for part in tuned.modules() if "forward" in vars(part)]
    for part in small:
        del part.forward
    try:
        return ours(tuned, *arguments)
    finally:
        adapter.multiply_once(tuned)


def peers(tuned, start, datasets, tokenizer, settings, round_, folder):
    t, tokens = settings.training, 0
    for client in federation.sample_clients(
        settings.federation.clients, settings.federation.sampled, settings.seed, round_
    ):
        adapter.set_vector(tuned, start)
        arguments = SFTConfig(
            output_dir=folder,
            max_steps=t.steps,
            per_device_train_batch_size=t.batch_size,
            optim="adamw_torch",
            learning_rate=training.learning_rate(
                settings.training.learning_rate,
                settings.training.learning_rate_min,
                round_,
                settings.federation.rounds,
            ),
            lr_scheduler_type="constant",
            max_grad_norm=t.clip,
            weight_decay=t.weight_decay,
            max_length=settings.model.max_length,
            packing=False,
            completion_only_loss=True,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_num_workers=0,
            seed=client,
        )
        trainer = SFTTrainer(
            tuned, args=arguments, train_dataset=datasets[client], processing_class=tokenizer
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        tokens += int(trainer.state.log_history[-1]["num_tokens"])
    return tokens


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    settings = presets.load("mini", model={"device": "cpu"}, data={"benign": ["lmsys-like"]})
    base, tokenizer = loaded.load_base(settings)
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    start = adapter.get_vector(tuned)
    clients, _ = federation.encode_clients(settings, tokenizer)
    datasets = [
        Dataset.from_list(
            [
                {"input_ids": ids, "completion_mask": [0] * n + [1] * (len(ids) - n)}
                for ids, n in clients[k]
            ]
        )
        for k in sorted(clients)
    ]
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "ours": lambda r: ours(tuned, start, clients, settings, r),
            "PEFT's": lambda r: pefts(tuned, start, clients, settings, r),
            "SFTTrainer": lambda r: peers(tuned, start, datasets, tokenizer, settings, r, folder),
        }
        seconds, tokens = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0)
        for way in ways.values():
            way(0)  # the first round of each warms up, uncounted
        for round_ in range(
            1, asked.rounds + 1
        ):  # turn about, so that a busy machine disturbs both alike
            for name, way in ways.items():
                began = time.perf_counter()
                tokens[name] += way(round_)
                seconds[name] += time.perf_counter() - began
    per_round = settings.federation.sampled * settings.training.steps
    for name in ways:
        rounds = asked.rounds / seconds[name]
        print(
            f"{name:<11} {rounds:6.2f} rounds/s {rounds * per_round:7.1f} steps/s "
            f"{tokens[name] / seconds[name]:8.0f} tokens/s"
        )
    for name, what in (
        ("SFTTrainer", "the peers' way"),
        ("PEFT's", "ours with PEFT's own forward"),
    ):
        ratio = seconds[name] / seconds["ours"]
        print(
            f"ratio: {ratio:.2f} times the rounds per second of {what}, {asked.threads} thread(s)"
        )
    signals(settings, asked.rounds)


def signals(settings, rounds):
    """What following a backdoor (BSNR, its factors, the target's likelihood) adds to paper B's round."""
    settings = settings.replace(**backdoor.backdoor_changes(settings)).replace(
        data={"poison": {"trigger": "tokens"}}
    )
    base, tokenizer = loaded.load_base(settings)
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    start, sampled = adapter.get_vector(tuned), list(range(settings.federation.clients))
    rows = {k: client_rows(settings, k) for k in sampled}
    clients, _ = federation.encode_clients(settings, tokenizer, rows)
    follow = callbacks.BackdoorSignal(settings, tokenizer, rows)
    seconds = {"round": 0.0, "BSNR and likelihood": 0.0, "BSNR alone": 0.0}
    for round_ in range(rounds + 1):
        began = time.perf_counter()
        for client in sampled:
            federation.client_update(tuned, start, clients[client], settings, round_, client)
        between = time.perf_counter()
        follow(tuned, start, torch.zeros_like(start), sampled)
        both = time.perf_counter()
        with mock.patch.object(training, "likelihood", return_value=(0.0, 0.0)):
            follow(tuned, start, torch.zeros_like(start), sampled)
        if round_:  # the first warms up
            for name, spent in zip(
                seconds, (between - began, both - between, time.perf_counter() - both), strict=True
            ):
                seconds[name] += spent
    for name in ("BSNR and likelihood", "BSNR alone"):
        print(f"{name} each round: {seconds[name] / seconds['round']:.1%} on top of its training")


if __name__ == "__main__":
    main()
