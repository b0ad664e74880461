"""The layers below the lowest adapter: what they make of a row never changes, so it is kept.

With model.lora_layers only the upper layers have an adapter. The lower ones are then computed once
for each row, without its neighbours in the batch: so the result does not depend on which rows came
before. It serves every later step, run and judge of this process that reads the same row."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

KEPT_BYTES = 2**30  # of kept rows; beyond that the longest unused go
CLOSE = 1e-3  # how far a hidden state may be off where lower layers are skipped, of its largest

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
    model's weights and precision, so that rows kept for another base are forgotten."""

    def __init__(self, causal: Any, first: int, base: Hashable) -> None:
        self.decoder = causal.get_decoder()
        layers = decoder_layers(causal)
        self.lower, self.lowest_adapted = layers[:first], layers[first]
        KEPT.belong_to((base, first))

    def last_hidden(self, ids: Tensor, place: Tensor) -> Tensor:
        """The decoder's last hidden states [B, T, H] of rows ids [B, T], padded on the right.

        They hold up to the last place of each row in place [N] (of the flattened rows); nobody
        reads what comes after it."""
        width = ids.shape[1]
        ends = [0] * len(ids)
        for where in place.tolist():
            row, column = divmod(where, width)
            ends[row] = max(ends[row], column + 1)

        below = None
        for i, (row, end) in enumerate(zip(ids.tolist(), ends, strict=True)):
            if not end:
                continue
            made = self._below(tuple(row[:end]), ids.device)
            if below is None:
                below = made.new_zeros(*ids.shape, made.shape[-1])
            below[i, :end] = made
        assert below is not None, "no place in any row"
        with self._skipped(below):
            return self.decoder(input_ids=ids, use_cache=False).last_hidden_state

    def _below(self, row: Row, device: torch.device) -> Tensor:
        """The hidden states [T, H] of one row that enter the lowest adapted layer."""
        made = KEPT.find(row)
        if made is None:
            made = self._computed(torch.tensor([row], device=device))[0]
            KEPT.keep(row, made)
        return made

    @torch.no_grad()
    def _computed(self, ids: Tensor) -> Tensor:
        """What enters the lowest adapted layer [B, T, H]; the layers above are not run."""

        def reached(_layer: nn.Module, given: tuple, named: dict) -> None:
            raise _Reached(given[0] if given else named["hidden_states"])

        hook = self.lowest_adapted.register_forward_pre_hook(reached, with_kwargs=True)
        try:
            self.decoder(input_ids=ids, use_cache=False)
        except _Reached as found:
            return found.hidden.detach()
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

    def is_exact(self, ids: Tensor) -> bool:
        """Whether skipping gives what the whole decoder gives on rows ids [B, T].

        An architecture whose layers pass on more than hidden states fails here."""
        with torch.no_grad():
            whole = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            try:
                with self._skipped(self._computed(ids)):
                    skipped = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
                return False
        return bool((whole - skipped).abs().max() <= CLOSE * whole.abs().max())


class _Reached(Exception):
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def _unchanged(hidden_states: Tensor, *_given: Any, **_named: Any) -> Tensor:
    return hidden_states


def decoder_layers(causal: Any) -> nn.ModuleList:
    """The layers of a causal LM's decoder, from the lowest to the highest."""
    lists = [part for part in causal.get_decoder().children() if isinstance(part, nn.ModuleList)]
    return max(lists, key=len)


def keep_lower_layers(causal: Any, upper: int, base: Hashable) -> None:
    """Have `training.logits_at` compute the layers below the upper ones once for each row.

    Nothing is done where the lower layers drop something at random, or cannot be skipped."""
    layers = decoder_layers(causal)
    first = len(layers) - upper
    if first < 1 or _drops(causal):
        return
    frozen = FrozenLayers(causal, first, base)
    few = torch.arange(1, 9, device=causal.device) % causal.config.vocab_size
    if frozen.is_exact(few[None]):
        causal.frozen_layers = frozen


def _drops(causal: Any) -> bool:
    """Whether anything of a model is dropped at random in training."""
    fields = causal.config.to_dict()
    named = any(value for name, value in fields.items() if "drop" in name and _is_number(value))
    return named or any(isinstance(part, nn.Dropout) and part.p for part in causal.modules())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
