"""What goes from a device to the host while some code runs, seen from outside of it."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Crossings(TorchDispatchMode):
    """A block that notes each copy to the host and each number that it reads or has to wait for.

    found: (operator, values that cross), in order. The device is any but the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        away = [leaf for leaf in tree_leaves((args, kwargs)) if _tensor_on(leaf, cpu=False)]
        if away and _to_host(func, args, kwargs):
            self.found.append((str(func), max(tensor.numel() for tensor in away)))
        elif _counts_on_device(func, args):
            self.found.append((str(func), 1))
        return func(*args, **kwargs)

    def larger_than(self, values: int) -> list[tuple[str, int]]:
        """Those by which more values cross."""
        return [(name, size) for name, size in self.found if size > values]


def _to_host(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator on tensors of a device gives the host something."""
    if func is torch.ops.aten._local_scalar_dense.default:
        return True
    if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu":
        return True
    # it writes into its first argument, and that lies on the host
    alias = func._schema.arguments[0].alias_info
    written = alias is not None and alias.is_write
    return written and any(_tensor_on(leaf, cpu=True) for leaf in tree_leaves(args[0]))


def _counts_on_device(func: Any, args: Any) -> bool:
    """Whether the host has to learn how many places of a tensor on a device are not 0."""
    if func in (torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default):
        return _tensor_on(args[0], cpu=False)
    if func is not torch.ops.aten.index.Tensor:
        return False
    places = [leaf for leaf in tree_leaves(args[1]) if _tensor_on(leaf, cpu=False)]
    return any(place.dtype == torch.bool for place in places)


def _tensor_on(leaf: Any, *, cpu: bool) -> bool:
    return torch.is_tensor(leaf) and (leaf.device.type == "cpu") == cpu
