"""Answers written by a model of a given shape: ours beside transformers' own loop over the prompts.

Run: python benchmarks/generation.py [--shape world] [--prompts 64] [--json FILE]
Both call `generate` with a cache, greedily, in batches of one size. Ours puts prompts of like
lengths together (`generation.complete`); the other takes them as they come. Weights are random,
and nothing ends early, so both write the same number of tokens.
"""

import argparse
import json
import logging
import warnings

import numpy as np
import torch
import training

from fedlib.models import generation


class Words:
    """A tokenizer for texts of numbers, one token each; it knows no end."""

    pad_token_id = eos_token_id = 0
    all_special_tokens = ()

    def __call__(self, texts, add_special_tokens=False):
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(map(str, ids))


def as_they_come(model, tokenizer, texts, decoding, _seed):
    """The texts in batches in their own order, as a plain loop has it."""
    ids = tokenizer(texts)["input_ids"]
    for start in range(0, len(ids), decoding.batch_size):
        batch = ids[start : start + decoding.batch_size]
        padded, mask = generation._left_padded(batch, 0)
        device = next(model.parameters()).device
        model.generate(
            input_ids=padded.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=decoding.max_new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )


def compare(name, prompts, new_tokens):
    """Results of both ways: dicts of {way, shape, speed}, tokens written a second."""
    shape = training.SHAPES[name]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = training.random_model(
        shape, device, torch.bfloat16 if device == "cuda" else torch.float32
    )
    model.generation_config.eos_token_id = None
    rng = np.random.default_rng(0)
    rows = training.random_rows(shape, 1)[0]
    rows = [rows[i % len(rows)][0] for i in rng.permutation(prompts)]
    texts = [" ".join(map(str, ids)) for ids in rows]
    decoding = generation.Decoding("plain", new_tokens, 0.0, 32)

    lines = []
    for way, write in {"ours": generation.complete, "as they come": as_they_come}.items():
        with torch.no_grad():
            write(model, Words(), texts[:32], decoding, 0)  # warms up
            began = training.clock(device)
            write(model, Words(), texts, decoding, 0)
            seconds = training.clock(device) - began
        lines.append({"way": way, "shape": name, "speed": prompts * new_tokens / seconds})
    return lines


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
    lines = compare(asked.shape, asked.prompts, asked.new_tokens)
    for found in lines:
        print(f"{found['shape']:<6} {found['way']:<14} {found['speed']:8,.0f} new tokens/s")
    print(f"ratio: ours writes {lines[0]['speed'] / lines[1]['speed']:.2f} times as fast")
    if asked.json:
        with open(asked.json, "a", encoding="utf-8") as opened:
            opened.writelines(json.dumps(found) + "\n" for found in lines)


if __name__ == "__main__":
    main()
