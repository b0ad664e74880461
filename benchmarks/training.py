"""Local training by the shape of a model: ours, ours with clients at once, and the peers' way.

Run: pip install -c constraints.txt -e .[bench];
python benchmarks/training.py [--shape world] [--clients 4] [--steps 5] [--json FILE]
The peers' way is a new TRL SFTTrainer for each client, on the same base and rows. Weights are
random: only the shape of the model counts here. Rows have the spread of lengths of real ones.
Speed is that of real tokens, without padding. The share of the peak is that of the products with
the base's weights, forward and backward by inputs (4 operations a weight and real token), against
a large matrix product measured in the same run. What does not fit the memory says so.

At the end the same with an adapter in the upper third of the layers (model.lora_layers): ours on
rows that are new, then on rows whose lower layers are kept, then the peers.
"""

import argparse
import gc
import json
import logging
import math
import os
import resource
import tempfile
import time
import warnings
from dataclasses import dataclass

os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fedlib import federation, stacked
from fedlib.models import adapter, frozen, on_gpu
from fedlib.settings import presets

RATE = 1.0e-4
WARM_STEPS = 2  # of each way, uncounted
PEERS = ("peers", "peers, checkpointing", "peers, Liger")


@dataclass(frozen=True)
class Shape:
    """A model's shape, and how it is trained."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    mlp: int
    vocabulary: int
    tied: bool
    batch: int
    tokens: int  # in a row, at most
    median: int  # tokens of a row


SHAPES = {
    "world": Shape(96, 4, 4, 4, 256, 700, True, 16, 64, 24),
    "135m": Shape(576, 30, 9, 3, 1536, 49152, True, 8, 160, 80),  # SmolLM2-135M
    "0.5b": Shape(896, 24, 14, 2, 4864, 151936, True, 16, 512, 180),  # Qwen2.5-0.5B
    "7b": Shape(4096, 32, 32, 32, 11008, 32000, False, 16, 512, 180),  # Llama-2-7B
}


def random_model(shape, device, dtype):
    """A Llama of this shape with random weights, made on the device in its precision."""
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        intermediate_size=shape.mlp,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(dtype).to_empty(device=device)
    model.tie_weights()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        weight.requires_grad_(False)
        if "norm" in name:
            weight.fill_(1.0)
        else:
            weight.normal_(0.0, 0.02)
    # positions are computed, not drawn
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    return model


def random_rows(shape, clients, seed=0):
    """Encoded rows of each client, lengths log-normal as those of real instruction data are."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(clients):
        lengths = rng.lognormal(math.log(shape.median), 0.8, 12 * shape.batch)
        lengths = np.clip(lengths, 8, shape.tokens).astype(int)
        rows = [(rng.integers(3, shape.vocabulary, n).tolist(), max(2, n // 4)) for n in lengths]
        found.append(rows)
    return found


def matrix_peak(device, dtype):
    """Operations a second of a large matrix product, the best of some."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = math.inf
    for _ in range(8):
        began = clock(device)
        a @ b
        best = min(best, clock(device) - began)
    return 2 * size**3 / best


def clock(device):
    """Seconds, when all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def ours(tuned, start, clients, options):
    """One client after another; the tokens seen."""
    on_gpu.attend_without_plans()
    return sum(
        federation.client_update(tuned, start, rows, options, RATE, seed)[2]
        for seed, rows in enumerate(clients)
    )


def together(tuned, start, clients, options):
    """All clients at once; the tokens seen."""
    on_gpu.attend_without_plans()
    seeds = list(range(len(clients)))
    made = stacked.tune_together(tuned, start, clients, options, RATE, seeds)
    return sum(tokens for _, _, tokens in made)


def peers(tuned, start, clients, options, checkpointing=False, liger=False):
    """A new SFTTrainer for each client; the tokens seen."""
    torch.backends.cuda.enable_cudnn_sdp(True)  # as torch has it
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    device = next(tuned.parameters()).device
    tokens = 0
    for seed, rows in enumerate(clients):
        adapter.set_vector(tuned, start)
        given = [
            {"input_ids": ids, "completion_mask": [0] * begin + [1] * (len(ids) - begin)}
            for ids, begin in rows
        ]
        with tempfile.TemporaryDirectory() as folder:
            config = SFTConfig(
                output_dir=folder,
                max_steps=options.steps,
                per_device_train_batch_size=options.batch_size,
                optim="adamw_torch",
                learning_rate=RATE,
                lr_scheduler_type="constant",
                max_grad_norm=options.clip,
                weight_decay=options.weight_decay,
                max_length=None,
                packing=False,
                completion_only_loss=True,
                bf16=device.type == "cuda",
                gradient_checkpointing=checkpointing,
                use_liger_kernel=liger,
                use_cpu=device.type == "cpu",
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_num_workers=0,
                seed=seed,
            )
            trainer = SFTTrainer(
                tuned,
                args=config,
                train_dataset=Dataset.from_list(given),
                processing_class=tokenizer(),
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            if checkpointing:
                # or its hooks would have later ways go through all frozen layers
                tuned.disable_input_require_grads()
        tokens += int(trainer.state.log_history[-1]["num_tokens"])
    return tokens


def peers_as_they_come(tuned, *others):
    """The same with TRL's own default, activations computed twice to save memory."""
    try:
        return peers(tuned, *others, checkpointing=True)
    finally:
        tuned.gradient_checkpointing_disable()


def peers_with_liger(tuned, *others):
    """The same with the kernels of liger-kernel, which TRL leaves in the model."""
    with on_gpu.restored(tuned.get_base_model()):
        return peers(tuned, *others, liger=True)


def tokenizer():
    """A tokenizer that a trainer wants to see; the rows are tokenised already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def memory_peak(device):
    """GB: the most that was taken on the device since the last reset; of the process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(name, way, given, options, device):
    """{way, tokens, seconds, GB}, or {way, failed: why}."""
    tuned, start, clients = given
    try:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        warm = options.model_copy(update={"steps": WARM_STEPS})
        way(tuned, start, clients, warm)
        began = clock(device)
        tokens = way(tuned, start, clients, options)
        seconds = clock(device) - began
    except (ImportError, RuntimeError) as error:
        found = {"way": name, "failed": str(error).splitlines()[0][:200]}
    else:
        found = {"way": name, "tokens": tokens, "seconds": seconds, "GB": memory_peak(device)}
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return found


def keep(found, file):
    """Add a result to a file at once, as a line, so that a run that is cut off keeps it."""
    if file:
        with open(file, "a", encoding="utf-8") as opened:
            opened.write(json.dumps(found) + "\n")


def compare(name, clients, steps, device, dtype, file=None):
    """Measure all ways with an adapter in every layer, then with one in the upper third."""
    shape = SHAPES[name]
    settings = presets.load("mini", model={"lora_targets": ["q_proj", "v_proj"]})
    options = settings.training.model_copy(
        update={"steps": steps, "batch_size": shape.batch, "accumulation": 1}
    )
    base = random_model(shape, device, dtype)
    weights = sum(
        m.weight.numel() for m in base.model.layers.modules() if hasattr(m, "in_features")
    )
    tuned = adapter.attach_lora(base, settings.model, 0)
    tuned.config.use_cache = False
    given = (tuned, adapter.get_vector(tuned), random_rows(shape, clients))
    peak = matrix_peak(device, dtype)

    ways = {"ours": ours, "ours, at once": together, "peers": peers}
    if device == "cuda":
        ways["peers, checkpointing"] = peers_as_they_come
        ways["peers, Liger"] = peers_with_liger
    about = {"shape": name, "clients": clients, "steps": steps, "peak": peak}
    lines = measured_ways(ways, given, options, device, about | {"weights": weights}, file)

    # the same with an adapter in the upper third of the layers
    upper = settings.model.model_copy(update={"lora_layers": max(1, shape.layers // 3)})
    base = tuned.unload()
    frozen.keep_lower_layers(base, upper.lora_layers, name)
    tuned = adapter.attach_lora(base, upper, 0)
    given = (tuned, adapter.get_vector(tuned), given[2])
    ways = {"ours, new rows": ours, "ours, kept rows": ours, "peers": peers}
    ways = {f"upper third: {way}": function for way, function in ways.items()}
    lines += measured_ways(ways, given, options, device, about, file)
    for line in ratios(lines):
        print(line, flush=True)


def measured_ways(ways, given, options, device, about, file):
    """Measure each way; its line of results is printed and kept as it comes."""
    lines = []
    for way, function in ways.items():
        if "peers" in way:
            # a trainer calls the whole model
            vars(given[0].get_base_model()).pop("frozen_layers", None)
        found = measure(way, function, given, options, device) | about
        if "tokens" in found:
            found["speed"] = found["tokens"] / found["seconds"]
        if "tokens" in found and "weights" in about:
            found["share"] = 4 * about["weights"] * found["speed"] / about["peak"]
        lines.append(found)
        print(said(found), flush=True)
        keep(found, file)
    return lines


def said(found):
    """A line for a reader."""
    if "failed" in found:
        return f"{found['shape']:<6} {found['way']:<28} not run: {found['failed']}"
    share = f"{found['share']:6.1%} of the peak" if "share" in found else 18 * " "
    return (
        f"{found['shape']:<6} {found['way']:<28} {found['speed']:10,.0f} tokens/s  "
        f"{share}  {found['GB']:6.1f} GB"
    )


def ratios(lines):
    """How many times the peers' speed ours have."""
    speed = {found["way"]: found.get("speed") for found in lines}
    whole, upper = ("ours", "ours, at once"), ("ours, new rows", "ours, kept rows")
    pairs = [(own, peer) for peer in PEERS for own in whole]
    pairs += [(f"upper third: {own}", "upper third: peers") for own in upper]
    for own, peer in pairs:
        if speed.get(own) and speed.get(peer):
            yield f"ratio: {own}: {speed[own] / speed[peer]:.2f} times the tokens/s of {peer}"


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="world")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="add the results to a file, a line each")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if asked.shape == "7b" and device == "cpu":
        parser.error("shape 7b needs a GPU: its weights are 13 GB in bfloat16")

    compare(asked.shape, asked.clients, asked.steps, device, dtype, asked.json)


if __name__ == "__main__":
    main()
