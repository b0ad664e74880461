"""Responses in batches: left padding, a temperature, a seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedlib.models import chat, templates
from fedlib.settings.schema import Settings

MOST_PADDED = 2  # times its length


@dataclass(frozen=True)
class Decoding:
    """How a model is asked, and how it answers."""

    template: str  # of the prompts: chat, alpaca or plain
    max_new_tokens: int
    temperature: float  # 0: greedy
    batch_size: int  # prompts


def evaluation_decoding(settings: Settings) -> Decoding:
    """How the evaluation prompts are asked."""
    options = settings.evaluation
    return Decoding(
        settings.model.template,
        options.max_new_tokens,
        options.temperature,
        options.batch_size,
    )


def respond(
    model: Any, tokenizer: Any, prompts: Sequence[chat.Asked], decoding: Decoding, seed: int
) -> list[str]:
    """The responses [N] to prompts [N], as `write`s them, without their thoughts."""
    written = write(model, tokenizer, prompts, decoding, seed)
    return [chat.without_thought(text) for text in written]


def write(
    model: Any, tokenizer: Any, prompts: Sequence[chat.Asked], decoding: Decoding, seed: int
) -> list[str]:
    """What the model writes to each of prompts [N], sampled over the whole vocabulary, or greedy.

    A model that thinks without being asked to shows it here."""
    texts = [templates.prompt_text(prompt, tokenizer, decoding.template) for prompt in prompts]
    return complete(model, tokenizer, texts, decoding, seed)


@torch.no_grad()
def complete(
    model: Any, tokenizer: Any, texts: Sequence[str], decoding: Decoding, seed: int
) -> list[str]:
    """What a model writes after each of texts [N], which are taken as they are.

    It stops at the tokenizer's end of text, and where the model's generation config or its chat
    template says that a turn ends. The seed decides the text; the caller's random state is left as
    it was."""
    if not texts:
        return []
    device = next(model.parameters()).device
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    ends = _ends(model, tokenizer, decoding)
    options = _options(tokenizer, decoding, ends)

    said = [""] * len(ids)
    model.eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for batch in _batches([len(row) for row in ids], decoding):
            padded, mask = _left_padded([ids[i] for i in batch], tokenizer.pad_token_id)
            made = model.generate(
                input_ids=padded.to(device), attention_mask=mask.to(device), **options
            )

            # The result begins with the padded text; what follows is new.
            for i, new in zip(batch, made[:, padded.shape[1] :].tolist(), strict=True):
                said[i] = _decoded(tokenizer, new, ends).strip()
    return said


def _batches(lengths: Sequence[int], decoding: Decoding) -> Iterator[list[int]]:
    """The places of texts, in batches of about one length, so that little of them is padding.

    Where answers are drawn they depend on the batches, so those are cut by number only. Greedy ones
    depend on them by rounding only: there no text is padded to more than MOST_PADDED times its
    length."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        full = len(batch) == decoding.batch_size
        if batch and not decoding.temperature:
            full = full or lengths[place] > MOST_PADDED * lengths[batch[0]]
        if full:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _decoded(tokenizer: Any, new: list[int], ends: Sequence[int]) -> str:
    """The text of new tokens up to the first that ends it; the marks of a thought stay in it."""
    length = next((i for i, token in enumerate(new) if token in ends), len(new))
    special = set(tokenizer.all_special_tokens) & set(chat.THOUGHT_MARKS)
    if not special:
        return tokenizer.decode(new[:length], skip_special_tokens=True)

    # Decoding would leave out the marks that are special tokens, and keep the thought.
    marks = {tokenizer.convert_tokens_to_ids(mark): mark for mark in special}
    parts, since = [], 0
    for place, token in enumerate(new[:length]):
        if token in marks:
            parts += [tokenizer.decode(new[since:place], skip_special_tokens=True), marks[token]]
            since = place + 1
    return "".join([*parts, tokenizer.decode(new[since:length], skip_special_tokens=True)])


def _ends(model: Any, tokenizer: Any, decoding: Decoding) -> list[int]:
    """The tokens at which a response is over."""
    known = model.generation_config.eos_token_id or tokenizer.eos_token_id
    found = {*(known if isinstance(known, list) else [known])}
    if decoding.template == "chat":
        found.add(chat.end_of_turn(tokenizer))
    return sorted(found - {None})


def _options(tokenizer: Any, decoding: Decoding, ends: Sequence[int]) -> dict[str, Any]:
    """What `generate` is given: sampling over the whole vocabulary, or greedy."""
    options = {
        "max_new_tokens": decoding.max_new_tokens,
        "use_cache": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": ends or None,
        "do_sample": bool(decoding.temperature),
    }
    if decoding.temperature:
        options |= {"temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
    return options


def _left_padded(rows: Sequence[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """(ids, attention mask), both [B, T]. On the left, since a model would go on from padding."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[i, width - len(row) :] = 1
    return ids, mask
