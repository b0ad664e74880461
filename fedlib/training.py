"""Local instruction tuning: a plain torch loop with the loss on the response only."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedlib.models import on_gpu
from fedlib.settings.groups import Training

Encoded = tuple[list[int], int]  # token ids of prompt and response, and the prompt's length

AT_A_TIME = 8  # batches that are cut together from rows sorted by length
# A head that does more than multiply by its weight sets one of these fields of its config.
SCALED_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def collate(rows: Sequence[Encoded], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Rows -> ids [B, T] and labels [B, T], -100 where no loss is taken.

    Padded on the right, so that under a causal mask no real token sees padding and no mask is
    needed."""
    width = max(len(ids) for ids, _ in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    labels = np.full((len(rows), width), -100, dtype=np.int64)
    for i, (row, start) in enumerate(rows):
        ids[i, : len(row)] = row
        labels[i, start : len(row)] = row[start:]
    where = torch.device(device)
    return sent_to(where, torch.from_numpy(ids)), sent_to(where, torch.from_numpy(labels))


def sent_to(device: torch.device, part: Tensor) -> Tensor:
    """A tensor on the device. From the host to a GPU it is on its way: nothing waits for it."""
    if device.type != "cuda" or part.device.type != "cpu":
        return part.to(device)
    return part.pin_memory().to(device, non_blocking=True)


def response_loss(model: Any, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross entropy over the labelled tokens, and their number.

    Labels may stay on the host: where they stand is then found there, and a GPU that has the ids
    is not waited for."""
    logits, wanted, keep = _response_logits(model, ids, labels)
    return cross_entropy(logits, wanted, reduction="sum"), keep.sum()


def _response_logits(model: Any, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(logits [N, V] float, labels [N], where they stand [B, T-1]) of the N labelled tokens."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    keep = labels[:, 1:] >= 0
    row, column = keep.nonzero(as_tuple=True)
    place = sent_to(ids.device, row * ids.shape[1] + column)
    wanted = sent_to(ids.device, labels[row, column + 1])
    return logits_at(causal, ids, place).float(), wanted, keep


def logits_at(causal: Any, ids: Tensor, place: Tensor) -> Tensor:
    """Logits [N, V] of a causal model at N places of the flattened rows ids [B, T].

    Made only there: with a large vocabulary they are most of the memory. A head that does more than
    multiply (SCALED_HEADS) is run whole. Layers below the lowest adapter may be kept
    (`models.frozen`)."""
    if any(getattr(causal.config, name, None) for name in SCALED_HEADS):
        whole = causal(input_ids=ids, use_cache=False).logits
        return whole.flatten(0, 1).index_select(0, place)
    frozen = getattr(causal, "frozen_layers", None)
    if frozen is not None:
        hidden = frozen.last_hidden(ids, place)
    else:
        hidden = causal.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    return causal.get_output_embeddings()(hidden.flatten(0, 1).index_select(0, place))


def gradient(model: Any, parameters: Sequence[nn.Parameter], rows: Sequence[Encoded]) -> Tensor:
    """The gradient [D] of the mean response loss over rows by these parameters, in their order."""
    loss, count = response_loss(model, *collate(rows, parameters[0].device))
    parts = torch.autograd.grad(loss / count, parameters)
    return torch.cat([part.flatten().float() for part in parts])


@torch.no_grad()
def likelihood(model: Any, rows: Sequence[Encoded]) -> tuple[float, float]:
    """(mean log-likelihood of a labelled token, share of rows whose labelled tokens are all the
    likeliest ones)."""
    ids, labels = collate(rows, next(model.parameters()).device)
    logits, wanted, keep = _response_logits(model, ids, labels)
    mean = -cross_entropy(logits, wanted).item()

    # a row is right where each of its labelled tokens is
    right = torch.ones_like(keep)
    right[keep] = logits.argmax(dim=-1) == wanted
    return mean, right.all(dim=1).float().mean().item()


def learning_rate(highest: float, lowest: float, round_: int, rounds: int) -> float:
    """The cosine over rounds from highest to lowest, constant within a round (paper S)."""
    return lowest + 0.5 * (highest - lowest) * (1 + math.cos(math.pi * round_ / rounds))


def batches(lengths: Sequence[int], size: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Index batches [size] for each step: shuffled epochs, a pure function of the seed.

    AT_A_TIME batches are cut from their rows sorted by length, so that little is padded, and then
    shuffled; what is left over at an epoch's end is left out."""
    if len(lengths) < 1:
        raise ValueError("no rows to draw batches from")
    rng = np.random.default_rng(seed)
    known, ready = np.asarray(lengths), []
    for _ in range(steps):
        if not ready:
            # an epoch, or as many as fill one batch, in whole batches
            epochs = -(-size // len(lengths))
            order = np.concatenate([rng.permutation(len(lengths)) for _ in range(epochs)])
            order = order[: len(order) // size * size]
            for start in range(0, len(order), AT_A_TIME * size):
                window = order[start : start + AT_A_TIME * size]
                by_length = window[np.argsort(known[window], kind="stable")]
                ready += np.split(by_length, len(window) // size)
            rng.shuffle(ready)
        yield ready.pop()


def tune(
    model: Any, rows: Sequence[Encoded], options: Training, rate: float, seed: int
) -> tuple[list[float], int]:
    """Train the model's trainable parameters in place for options.steps steps; AdamW starts afresh.

    Returns (mean response loss of each step, tokens seen). The seed gives the batches and the
    dropout masks; the caller's random state is left as it was."""
    device = next(model.parameters()).device
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=options.weight_decay, fused=True)
    lengths = [len(ids) for ids, _ in rows]
    losses, tokens = [], 0

    # a training that failed half-way leaves its gradients behind
    optimizer.zero_grad(set_to_none=True)
    model.train()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), on_gpu.quick_steps(model):
        torch.manual_seed(seed)
        for batch in batches(lengths, options.batch_size, options.steps, seed):
            tokens += sum(lengths[i] for i in batch)
            # micro-batches: together they give the mean over all labelled tokens of the batch
            parts = [
                collate([rows[i] for i in part]) for part in np.split(batch, options.accumulation)
            ]
            labelled = sum((labels[:, 1:] >= 0).sum() for _, labels in parts)
            total = 0.0
            for ids, labels in parts:
                loss, _ = response_loss(model, sent_to(device, ids), labels)
                (loss / labelled).backward()
                total += loss.detach() / labelled

            torch.nn.utils.clip_grad_norm_(parameters, options.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(total)  # read only at the end: each reading would wait for the device
    model.eval()
    return torch.stack(losses).tolist(), tokens
