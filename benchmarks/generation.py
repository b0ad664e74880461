"""Answers written by a model of a given shape: ours beside transformers' own loop over the prompts.

Run: python benchmarks/generation.py [--shape world] [--prompts 64] [--json FILE]
Both call `generate` with a cache, greedily, in batches of one size. Ours puts prompts of like
lengths together (`generation.complete`); the other takes them as they come. Weights are random,
and nothing ends early, so both write the same number of tokens.
"""

import argparse
import logging
import sys
import warnings

import numpy as np
import torch
import training

from fedlib.models import generation, on_gpu


class Words:
    """A tokenizer for texts of numbers, one token each; it knows no end."""

    pad_token_id = 0
    eos_token_id = None
    all_special_tokens = ()

    def __call__(self, texts, add_special_tokens=False):
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(map(str, ids))


def endless_model(shape, device):
    """A random model that no token ends: with random weights it would be a matter of chance."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = training.random_model(shape, device, dtype)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    return model


def ours(model, texts, decoding):
    """Prompts of like lengths together; the new tokens written."""
    on_gpu.attend_without_plans()
    said = generation.complete(model, Words(), texts, decoding, 0)
    return sum(len(text.split()) for text in said)


def as_they_come(model, texts, decoding):
    """The texts in batches in their own order, as a plain loop has it; the new tokens written."""
    torch.backends.cuda.enable_cudnn_sdp(True)  # as torch has it
    ids, written = Words()(texts)["input_ids"], 0
    for start in range(0, len(ids), decoding.batch_size):
        batch = ids[start : start + decoding.batch_size]
        padded, mask = generation._left_padded(batch, 0)
        device = next(model.parameters()).device
        made = model.generate(
            input_ids=padded.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=decoding.max_new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        written += made[:, padded.shape[1] :].numel()
    return written


def compare(name, prompts, new_tokens, file=None):
    """Measure both ways: tokens written a second, printed and kept as they come."""
    shape = training.SHAPES[name]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = endless_model(shape, device)
    rng = np.random.default_rng(0)
    rows = training.random_rows(shape, 1)[0]
    rows = [rows[i % len(rows)][0] for i in rng.permutation(prompts)]
    texts = [" ".join(map(str, ids)) for ids in rows]
    decoding = generation.Decoding("plain", new_tokens, 0.0, 32)

    speeds = []
    for way, write in {"ours": ours, "as they come": as_they_come}.items():
        with torch.no_grad():
            write(model, texts[:32], decoding)  # warms up
            began = training.clock(device)
            written = write(model, texts, decoding)
            seconds = training.clock(device) - began
        if written != prompts * new_tokens:
            sys.exit(f"{way} wrote {written} tokens, not {prompts * new_tokens}: not to compare")
        speeds.append(written / seconds)
        print(f"{name:<6} {way:<14} {speeds[-1]:8,.0f} new tokens/s", flush=True)
        training.keep({"way": way, "shape": name, "speed": speeds[-1], "tokens": written}, file)
    print(f"ratio: ours writes {speeds[0] / speeds[1]:.2f} times as fast")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=training.SHAPES, default="world")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--json", metavar="FILE", help="add the results to a file, a line each")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    compare(asked.shape, asked.prompts, asked.new_tokens, asked.json)


if __name__ == "__main__":
    main()
