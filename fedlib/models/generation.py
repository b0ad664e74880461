"""Batched responses: left padding, a temperature, a seed of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedlib.models import templates
from fedlib.settings.schema import Settings


@dataclass(frozen=True)
class Decoding:
    """How a model is asked and answers: the prompts' template, tokens at most, temperature (0: greedy),
    prompts a batch."""

    template: str
    max_new_tokens: int
    temperature: float
    batch_size: int


def evaluation_decoding(settings: Settings) -> Decoding:
    """How the evaluation prompts are asked."""
    e = settings.evaluation
    return Decoding(settings.model.template, e.max_new_tokens, e.temperature, e.batch_size)


def respond(model, tokenizer, prompts: Sequence[str], decoding: Decoding, seed: int) -> list[str]:
    """The responses [N] to prompts [N], sampled over the whole vocabulary, or greedy."""
    texts = [templates.prompt_text(p, tokenizer, decoding.template) for p in prompts]
    return complete(model, tokenizer, texts, decoding, seed)


@torch.no_grad()
def complete(model, tokenizer, texts: Sequence[str], decoding: Decoding, seed: int) -> list[str]:
    """What a model goes on with after each of texts [N], which are taken as they are.

    It ends at its tokenizer's end of text and at those of its own generation config (a chat model's
    end of turn). Padded on the left, since a right-padded prompt would go on from padding. Batches
    run in order of length; the caller's random state is left as it was."""
    device = next(model.parameters()).device
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    pad = tokenizer.pad_token_id
    options = {
        "max_new_tokens": decoding.max_new_tokens,
        "use_cache": True,
        "pad_token_id": pad,
        "eos_token_id": model.generation_config.eos_token_id or tokenizer.eos_token_id,
        "do_sample": bool(decoding.temperature),
    }
    if decoding.temperature:
        options |= {"temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}

    said = [""] * len(ids)
    model.eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, len(order), decoding.batch_size):
            part = order[start : start + decoding.batch_size]
            width = max(len(ids[i]) for i in part)
            padding = [width - len(ids[i]) for i in part]
            left = [[pad] * p + ids[i] for p, i in zip(padding, part, strict=True)]
            mask = [[0] * p + [1] * (width - p) for p in padding]
            made = model.generate(
                input_ids=torch.tensor(left, device=device),
                attention_mask=torch.tensor(mask, device=device),
                **options,
            )
            written = tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)
            for i, text in zip(part, written, strict=True):
                said[i] = text.strip()
    return said
