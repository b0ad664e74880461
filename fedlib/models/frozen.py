"""The layers below the lowest adapter: what they make of a row never changes, so it is kept.

With model.lora_layers only the upper layers have an adapter. The lower ones are then computed once
for each row, without its neighbours in the batch: so the result does not depend on which rows came
before. It serves every later step, run and judge of this process that reads the same row."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

KEPT_BYTES = 2**30  # of kept rows; beyond that the longest unused go

Row = tuple[int, ...]  # the token ids of a row


class KeptRows:
    """What the lower layers of one base made of rows: hidden states [T, H] by row."""

    def __init__(self) -> None:
        self.base: Hashable = None
        self.hidden: OrderedDict[Row, Tensor] = OrderedDict()
        self.size = 0  # bytes

    def belong_to(self, base: Hashable) -> None:
        """Forget all rows if they are another base's."""
        if base != self.base:
            self.base, self.size = base, 0
            self.hidden.clear()

    def forget(self) -> None:
        """Forget all rows, and free their memory."""
        self.belong_to(None)

    def find(self, row: Row) -> Tensor | None:
        """A row's hidden states, if they are here."""
        if row not in self.hidden:
            return None
        self.hidden.move_to_end(row)
        return self.hidden[row]

    def keep(self, row: Row, hidden: Tensor) -> None:
        """Keep a row; those that were not used for longest make room."""
        self.hidden[row] = hidden
        self.size += hidden.nbytes
        while self.size > KEPT_BYTES and len(self.hidden) > 1:
            _, oldest = self.hidden.popitem(last=False)
            self.size -= oldest.nbytes


KEPT = KeptRows()  # of this process: the next run may have the same base


class FrozenLayers:
    """Runs a decoder's upper layers on what its lower ones made of each row, which is kept.

    causal: a causal LM; first: the lowest layer that may have an adapter; base: what identifies the
    model's weights and precision. The weights below must stay as they are."""

    def __init__(self, causal: Any, first: int, base: Hashable) -> None:
        self.decoder = causal.get_decoder()
        layers = decoder_layers(causal)
        self.lower, self.lowest_adapted = layers[:first], layers[first]
        self.base = (base, first)
        self.words = causal.get_input_embeddings().weight.shape[0]

    def last_hidden(self, ids: Tensor, place: Tensor) -> Tensor:
        """The decoder's last hidden states [B, T, H] of rows ids [B, T], padded on the right.

        They hold up to the last place of each row in place [N] (of the flattened rows); nobody
        reads what comes after it. The device is waited for: rows are looked up on the host."""
        ends = [0] * len(ids)
        for where in place.tolist():
            row, column = divmod(where, ids.shape[1])
            ends[row] = max(ends[row], column + 1)
        # another model may have been used meanwhile
        KEPT.belong_to(self.base)
        return self._above(ids, ends, self._kept)

    def _above(self, ids: Tensor, ends: Sequence[int], made: Callable[[Row], Tensor]) -> Tensor:
        """The last hidden states of rows that end so soon; made(row): what enters the upper layers
        of a row's tokens [T, H]."""
        below = None
        for i, (row, end) in enumerate(zip(ids.tolist(), ends, strict=True)):
            if not end:
                continue
            hidden = made(tuple(row[:end]))
            if below is None:
                below = hidden.new_zeros(*ids.shape, hidden.shape[-1])
            below[i, :end] = hidden
        if below is None:
            return self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        with self._skipped(below):
            return self.decoder(input_ids=ids, use_cache=False).last_hidden_state

    def _kept(self, row: Row) -> Tensor:
        """The hidden states [T, H] of one row that enter the lowest adapted layer."""
        made = KEPT.find(row)
        if made is None:
            made = self._computed(row)
            KEPT.keep(row, made)
        return made

    @torch.no_grad()
    def _computed(self, row: Row) -> Tensor:
        """The same, computed; the layers above are not run."""

        def reached(_layer: nn.Module, given: tuple, named: dict) -> None:
            raise _Reached(given[0] if given else named["hidden_states"])

        device = next(self.lowest_adapted.parameters()).device
        hook = self.lowest_adapted.register_forward_pre_hook(reached, with_kwargs=True)
        try:
            self.decoder(input_ids=torch.tensor([row], device=device), use_cache=False)
        except _Reached as found:
            if found.hidden.dim() != 3:
                raise ValueError("its layers pass on more than hidden states [B, T, H]") from None
            return found.hidden.detach()[0]
        finally:
            hook.remove()
        raise RuntimeError("the decoder never ran its lowest adapted layer")

    @contextmanager
    def _skipped(self, below: Tensor) -> Iterator[None]:
        """A block in which the lower layers do nothing, and `below` enters the one above them."""

        def enter(_layer: nn.Module, given: tuple, named: dict) -> tuple[tuple, dict]:
            if given:
                return (below, *given[1:]), named
            return given, named | {"hidden_states": below}

        hook = self.lowest_adapted.register_forward_pre_hook(enter, with_kwargs=True)
        try:
            for layer in self.lower:
                layer.forward = _unchanged
            yield
        finally:
            for layer in self.lower:
                vars(layer).pop("forward", None)
            hook.remove()

    @torch.no_grad()
    def is_exact(self) -> bool:
        """Whether rows come out as by the whole decoder, and in training always the same.

        An architecture whose layers pass on more than hidden states fails here, and one that drops
        something, or chooses experts, at random."""
        device = next(self.lowest_adapted.parameters()).device
        ids = (torch.arange(1, 17, device=device) % self.words).view(2, 8)
        ends = [8, 5]
        training = self.decoder.training
        self.decoder.train()
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                whole = []
                for seed in (0, 1):
                    torch.manual_seed(seed)
                    found = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
                    whole.append([row[:end] for row, end in zip(found, ends, strict=True)])
                skipped = self._above(ids, ends, self._computed)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError):
            return False
        finally:
            self.decoder.train(training)
        return all(
            torch.equal(one, again) and _close(one, other[: len(one)])
            for one, again, other in zip(*whole, skipped, strict=True)
        )


def _close(wanted: Tensor, found: Tensor) -> bool:
    """Whether hidden states [T, H] are the same except for what a precision rounds."""
    off = (wanted - found).norm(dim=-1) / wanted.norm(dim=-1)
    return bool(off.max() <= torch.finfo(wanted.dtype).eps ** 0.5)


class _Reached(Exception):
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def _unchanged(hidden_states: Tensor, *_given: Any, **_named: Any) -> Tensor:
    return hidden_states


def decoder_layers(causal: Any) -> nn.ModuleList:
    """The layers of a causal LM's decoder, from the lowest to the highest."""
    lists = [part for part in causal.get_decoder().modules() if isinstance(part, nn.ModuleList)]
    return max(lists, key=len, default=nn.ModuleList())


def keep_lower_layers(causal: Any, upper: int, base: Hashable) -> None:
    """Have `training.logits_at` compute the layers below the upper ones once for each row.

    Where they cannot be skipped (`FrozenLayers.is_exact`) all are computed, as before."""
    layers = decoder_layers(causal)
    first = len(layers) - upper
    if first < 1:
        return
    frozen = FrozenLayers(causal, first, base)
    if frozen.is_exact():
        causal.frozen_layers = frozen


def forget_if_adapted(causal: Any) -> None:
    """Compute all layers again where one of the lower ones has got an adapter after all."""
    frozen = getattr(causal, "frozen_layers", None)
    if frozen is not None:
        names = [name for layer in frozen.lower for name, _ in layer.named_parameters()]
        if any(".lora_" in name for name in names):
            del causal.frozen_layers
