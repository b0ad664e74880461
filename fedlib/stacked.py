"""Several clients trained at once on one frozen base: each has a LoRA adapter of its own.

Their rows share a batch, so the base multiplies once for all of them, and a client's rows meet its
own adapter only. Batches, optimiser state, clipping and learning rate are those that each client
would have by itself (`training.tune`), so the updates are the same except for rounding. It pays
where a device is kept waiting by small batches; it needs the memory of all their rows at once."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedlib import training
from fedlib.models import adapter, on_gpu
from fedlib.settings import errors
from fedlib.settings.errors import SettingsError
from fedlib.settings.groups import Training
from fedlib.training import Encoded

Trained = tuple[Tensor, list[float], int]  # a client's update [D], the loss of each step, tokens


def can_stack(tuned: Any) -> bool:
    """Whether clients of this PeftModel can be trained at once.

    They can where plain LoRA on linear modules is all that is trained, in one precision, and
    nothing is dropped at random: each client would need masks of its own."""
    adapted = _adapted(tuned)
    trained = adapter.parameters(tuned)
    dropped = any(isinstance(part, nn.Dropout) and part.p for part in tuned.modules())
    dropped = dropped or bool(getattr(tuned.config, "attention_dropout", 0))
    plain = all(type(part) is lora.Linear for part in adapted.values())
    return (
        plain
        and not dropped
        and len(trained) == 2 * len(adapted)
        and len({part.dtype for part in trained}) == 1
    )


def client_updates(
    tuned: Any,
    start: Tensor,
    clients: Mapping[int, Sequence[Encoded]],
    options: Training,
    rate: float,
    seeds: Mapping[int, int],
) -> dict[int, Trained]:
    """{client: what its training gives}, options.together of them at once.

    Clients with whom that fails are not in it, and a warning says so: trained one by one, it shows
    which of them it is. SettingsError where the model cannot be trained so."""
    if not can_stack(tuned):
        raise SettingsError(
            f"training.together: {options.together}: clients are trained at once only with plain "
            "LoRA on linear modules and without dropout; set it to 1"
        )
    made: dict[int, Trained] = {}
    names = list(clients)
    for begin in range(0, len(names), options.together):
        chosen = names[begin : begin + options.together]
        rows, own_seeds = [clients[k] for k in chosen], [seeds[k] for k in chosen]
        try:
            trained = tune_together(tuned, start, rows, options, rate, own_seeds)
        except Exception as error:
            why = errors.one_line(error)
            warnings.warn(f"training.together: {why}: {chosen} go one by one", stacklevel=2)
            continue
        made |= dict(zip(chosen, trained, strict=True))
    return made


def tune_together(
    tuned: Any,
    start: Tensor,
    clients: Sequence[Sequence[Encoded]],
    options: Training,
    rate: float,
    seeds: Sequence[int],
) -> list[Trained]:
    """What the local training of each of K clients gives.

    start [D]: the global adapter that all begin with; clients: the encoded rows of each; seeds:
    that of each client's batches. As `federation.client_update` one after another, except for
    rounding. Ask `can_stack` first. The model is left as it was."""
    first = adapter.parameters(tuned)[0]
    start = start.to(first.device, first.dtype)
    own = nn.Parameter(start.repeat(len(clients), 1))
    # one step for all numbers of all clients: AdamW treats each number by itself
    optimizer = torch.optim.AdamW([own], rate, weight_decay=options.weight_decay, fused=True)
    views = _views(tuned, own.detach())

    drawn = [
        training.batches([len(ids) for ids, _ in rows], options.batch_size, options.steps, seed)
        for rows, seed in zip(clients, seeds, strict=True)
    ]
    losses, tokens = [], np.zeros(len(clients), dtype=int)
    tuned.train()
    with on_gpu.quick_steps(tuned), _own_adapters(tuned, views):
        for batch in zip(*drawn, strict=True):
            chosen = [
                [rows[i] for i in picked] for rows, picked in zip(clients, batch, strict=True)
            ]
            tokens += [sum(len(ids) for ids, _ in rows) for rows in chosen]
            gradient, each = _gradient(tuned, chosen, options.accumulation, [*views.values()])
            own.grad = _clipped(gradient, options.clip)
            optimizer.step()
            losses.append(each)
    tuned.eval()
    read = torch.stack(losses, dim=1).tolist()  # only now: each reading waits for the device
    return list(zip((own.detach() - start).float(), read, tokens.tolist(), strict=True))


def _adapted(tuned: Any) -> dict[str, Any]:
    """{name: module} of the modules with a LoRA adapter."""
    return {name: m for name, m in tuned.named_modules() if isinstance(m, lora.LoraLayer)}


def _views(tuned: Any, own: Tensor) -> dict[str, Tensor]:
    """{parameter: its value for each client [K, ...]}: views of own [K, D]."""
    found, begin = {}, 0
    for name, parameter in sorted(tuned.named_parameters()):
        if parameter.requires_grad:
            end = begin + parameter.numel()
            view = own[:, begin:end].view(len(own), *parameter.shape)
            found[name], begin = view.requires_grad_(), end
    return found


@contextmanager
def _own_adapters(tuned: Any, views: dict[str, Tensor]) -> Iterator[None]:
    """A block in which each client's rows, a K-th of a batch each, meet their own adapter.

    views: as `_views` gives them."""
    adapted = _adapted(tuned)
    before = {name: vars(part).get("forward") for name, part in adapted.items()}
    for name, part in adapted.items():
        a, b = (views[f"{name}.lora_{which}.default.weight"] for which in "AB")
        part.forward = partial(_forward, part, a, b)
    try:
        yield
    finally:
        for name, part in adapted.items():
            del part.forward
            if before[name] is not None:
                part.forward = before[name]


def _forward(part: Any, a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """An adapted linear module on the rows of all clients, x [K * rows, T, in] -> [..., out].

    a [K, rank, in], b [K, out, rank]: the adapters. As PEFT has it, W x + scale B A x; the adapters
    are taken in the precision of x."""
    plain = part.base_layer(x)
    by_client = x.reshape(len(a), -1, x.shape[-1])
    low = torch.bmm(by_client, a.to(x.dtype).transpose(1, 2))
    added = torch.baddbmm(
        plain.view(len(a), -1, plain.shape[-1]),
        low,
        b.to(x.dtype).transpose(1, 2),
        alpha=part.scaling["default"],
    )
    return added.view_as(plain)


def _gradient(
    tuned: Any, chosen: Sequence[Sequence[Encoded]], parts: int, wanted: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """(the gradient [K, D] of each client's mean loss over its labelled tokens, those losses [K]).

    chosen: each client's rows of this step, computed in so many parts; wanted: what the gradient is
    taken by, each [K, ...]."""
    device = wanted[0].device
    counts = [sum(len(ids) - max(start, 1) for ids, start in rows) for rows in chosen]
    size = len(chosen[0]) // parts
    owner = np.repeat(np.arange(len(chosen)), size)
    gradient, losses = torch.zeros((), device=device), torch.zeros(len(chosen), device=device)
    for begin in range(0, len(chosen[0]), size):
        rows = [row for own in chosen for row in own[begin : begin + size]]
        each = _token_losses(tuned, rows, owner, counts, device)
        slopes = torch.autograd.grad(each.sum(), wanted)
        gradient = gradient + torch.cat([slope.flatten(1) for slope in slopes], dim=1)
        losses += each.detach()
    return gradient, losses


def _token_losses(
    tuned: Any,
    rows: Sequence[Encoded],
    owner: np.ndarray,
    counts: Sequence[int],
    device: torch.device,
) -> Tensor:
    """[K]: the losses of the labelled tokens of each client's rows, each divided by their number.

    owner [rows]: whose row it is; counts [K]. Where labels stand is found here, not on the device,
    which would have to be waited for."""
    ids, labels = training.collate(rows)
    wanted = labels[:, 1:]
    row, column = (wanted >= 0).nonzero(as_tuple=True)
    whose = torch.from_numpy(owner)[row]
    weight = 1 / torch.tensor(counts, dtype=torch.float32)[whose]
    place = row * ids.shape[1] + column
    ids, place, wanted, whose, weight = (
        training.sent_to(device, part) for part in (ids, place, wanted[row, column], whose, weight)
    )
    logits = training.logits_at(tuned.get_base_model(), ids, place)
    each = cross_entropy(logits.float(), wanted, reduction="none") * weight
    return torch.zeros(len(counts), device=device).index_add(0, whose, each)


def _clipped(gradient: Tensor, most: float) -> Tensor:
    """Each client's gradient [K, D], scaled to a norm of at most that, as torch clips one's."""
    norms = gradient.norm(dim=1, keepdim=True)
    return gradient * (most / (norms + 1e-6)).clamp(max=1.0)
