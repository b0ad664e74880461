"""Our round beside the peers' way, a new TRL SFTTrainer for every client and round.

Also ours with PEFT's own forward in small modules, and what following a backdoor adds. Same
process, model and rows.

Run: pip install -c constraints.txt -e .[bench];
python benchmarks/round.py [--rounds 3] [--threads 1]
All take the same number of steps on rows that are tokenised beforehand. The trainer's extras
(logging, saving, checkpointing, reporting) are switched off, so that what is measured is the way,
not the options.
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

from fedlib import federation, sources, training
from fedlib.attack import poison
from fedlib.callbacks import BackdoorSignal, Round
from fedlib.lab import loaded, prompting
from fedlib.lab.client_data import client_rows
from fedlib.models import adapter, templates
from fedlib.papers import backdoor
from fedlib.settings import presets

PROBES = 32  # triggered questions by which the target is followed


def sampled(settings, round_):
    """The clients of a round."""
    options = settings.federation
    return federation.sample_clients(options.clients, options.sampled, settings.seed, round_)


def rate_of(settings, round_):
    """The learning rate of a round."""
    options = settings.training
    return training.learning_rate(
        options.learning_rate, options.learning_rate_min, round_, settings.federation.rounds
    )


def all_rows(settings, tokenizer):
    """({client: rows}, {client: encoded rows})"""
    rows = {client: client_rows(settings, client) for client in range(settings.federation.clients)}
    encoded, _ = federation.encode_clients(rows, tokenizer, settings.model)
    return rows, encoded


def ours(tuned, start, clients, settings, round_):
    """The local trainings of a round; returns the tokens seen."""
    tokens, rate = 0, rate_of(settings, round_)
    for client in sampled(settings, round_):
        _, _, seen = federation.client_update(
            tuned, start, clients[client], settings.training, rate, seed=client
        )
        tokens += seen
    return tokens


def pefts(tuned, *arguments):
    """The same with PEFT's own forward in small modules."""
    small = [part for part in tuned.modules() if "forward" in vars(part)]
    for part in small:
        del part.forward
    try:
        return ours(tuned, *arguments)
    finally:
        adapter.multiply_once(tuned)


def trainer_options(settings, round_, client, folder):
    """What a new SFTTrainer is given; its extras are switched off."""
    options = settings.training
    return SFTConfig(
        output_dir=folder,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        optim="adamw_torch",
        learning_rate=rate_of(settings, round_),
        lr_scheduler_type="constant",
        max_grad_norm=options.clip,
        weight_decay=options.weight_decay,
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


def peers(tuned, start, datasets, tokenizer, settings, round_, folder):
    """The local trainings of a round, each by a new SFTTrainer; returns the tokens seen."""
    tokens = 0
    for client in sampled(settings, round_):
        adapter.set_vector(tuned, start)
        trainer = SFTTrainer(
            tuned,
            args=trainer_options(settings, round_, client, folder),
            train_dataset=datasets[client],
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        tokens += int(trainer.state.log_history[-1]["num_tokens"])
    return tokens


def as_dataset(encoded):
    """Encoded rows as TRL takes them."""
    rows = []
    for ids, prompt in encoded:
        mask = [0] * prompt + [1] * (len(ids) - prompt)
        rows.append({"input_ids": ids, "completion_mask": mask})
    return Dataset.from_list(rows)


def compare(settings, rounds, threads):
    """Print how fast each way trains the clients of a round."""
    base, tokenizer = loaded.load_base(settings)
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    start = adapter.get_vector(tuned)
    _, clients = all_rows(settings, tokenizer)
    datasets = {client: as_dataset(encoded) for client, encoded in clients.items()}

    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "ours": lambda r: ours(tuned, start, clients, settings, r),
            "PEFT's": lambda r: pefts(tuned, start, clients, settings, r),
            "SFTTrainer": lambda r: peers(tuned, start, datasets, tokenizer, settings, r, folder),
        }
        seconds, tokens = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0)
        for way in ways.values():
            way(0)  # the first round of each warms up, uncounted
        # turn about, so that a busy machine disturbs all alike
        for round_ in range(1, rounds + 1):
            for name, way in ways.items():
                began = time.perf_counter()
                tokens[name] += way(round_)
                seconds[name] += time.perf_counter() - began

    steps = settings.federation.sampled * settings.training.steps
    for name in ways:
        speed = rounds / seconds[name]
        print(
            f"{name:<11} {speed:6.2f} rounds/s {speed * steps:7.1f} steps/s "
            f"{tokens[name] / seconds[name]:8.0f} tokens/s"
        )
    named = {"SFTTrainer": "the peers' way", "PEFT's": "ours with PEFT's own forward"}
    for name, what in named.items():
        ratio = seconds[name] / seconds["ours"]
        print(f"ratio: {ratio:.2f} times the rounds per second of {what}, {threads} thread(s)")


def follow(settings, rounds):
    """Print what following a backdoor (BSNR, its factors, the target) adds to paper B's round."""
    settings = settings.replace(**backdoor.backdoor_changes(settings))
    settings = settings.replace(data={"poison": {"trigger": "tokens"}})
    base, tokenizer = loaded.load_base(settings)
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    start = adapter.get_vector(tuned)
    rows, clients = all_rows(settings, tokenizer)
    signal = backdoor_signal(settings, tokenizer, rows)
    everybody = list(clients)
    still = torch.zeros_like(start)
    updates = torch.zeros(len(everybody), 1)
    done = Round(0, everybody, start, updates, still, None, {}, 0.0, 0)

    seconds = {"round": 0.0, "BSNR and likelihood": 0.0, "BSNR only": 0.0}
    for round_ in range(rounds + 1):
        began = time.perf_counter()
        for client in everybody:
            federation.client_update(
                tuned, start, clients[client], settings.training, rate_of(settings, 0), client
            )
        between = time.perf_counter()
        signal.after_round(tuned, done)
        both = time.perf_counter()
        with mock.patch.object(training, "likelihood", return_value=(0.0, 0.0)):
            signal.after_round(tuned, done)
        spent = (between - began, both - between, time.perf_counter() - both)
        if round_:  # the first warms up
            for name, more in zip(seconds, spent, strict=True):
                seconds[name] += more
    for name in ("BSNR and likelihood", "BSNR only"):
        print(f"{name} each round: {seconds[name] / seconds['round']:.1%} on top of its training")


def backdoor_signal(settings, tokenizer, rows):
    """The callback of a run with this poison."""

    def encode(given, ended=True):
        options = settings.model
        return templates.encode(given, tokenizer, options.template, options.max_length, ended)[0]

    triggered = prompting.evaluation_prompts(settings)["triggered"][:PROBES]
    right_answer = sources.of(settings).right_answer
    probes = poison.target_probes(triggered, settings.data.poison.target, right_answer)
    return BackdoorSignal(rows, probes, encode)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)

    settings = presets.load("mini", model={"device": "cpu"}, data={"benign": ["lmsys-like"]})
    compare(settings, asked.rounds, asked.threads)
    follow(settings, asked.rounds)


if __name__ == "__main__":
    main()
