"""The linear modules of a causal LM, by type and layer: perturbed, measured, trained by themselves.

For any causal LM of transformers whose attention and MLP are separate linear modules."""

import contextlib
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedlib.settings import identity

Cell = tuple[str, int]  # a module type and the first layer of a window

TYPES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_MODULE = re.compile(r"(?:.*\.)?layers\.(\d+)\.(?:\w+\.)?(" + "|".join(TYPES) + r")$")
_PEFT = "base_model.model."  # what PEFT puts before a module's name


def linear_modules(model: Any) -> dict[str, Cell]:
    """{module name: (type, layer)} of the layers' linear modules; ValueError if there are none."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = {}
    for name, _ in causal.named_modules():
        if match := _MODULE.match(name):
            found[name] = (match[2], int(match[1]))
    if not found:
        raise ValueError(
            f"{type(causal).__name__}: no modules called {', '.join(TYPES)}; a fused attention "
            "matrix (GPT-2) cannot be taken apart"
        )
    return found


def cells(model: Any, window: int = 1) -> dict[Cell, list[str]]:
    """{(type, first layer): [module names]}: a type over a window of layers (paper W, Figure 3)."""
    found: dict[Cell, list[str]] = {}
    for name, (kind, layer) in linear_modules(model).items():
        found.setdefault((kind, layer // window * window), []).append(name)
    return dict(sorted(found.items(), key=lambda item: (TYPES.index(item[0][0]), item[0][1])))


@contextlib.contextmanager
def shifted(model: Any, deltas: Mapping[str, Tensor]) -> Iterator[Any]:
    """The model with {module name: delta [out, in]} added to its weights; afterwards as before."""
    kept = {name: model.get_submodule(name).weight.data for name in deltas}
    try:
        for name, delta in deltas.items():
            model.get_submodule(name).weight.data = kept[name] + delta.to(kept[name])
        yield model
    finally:
        for name, weight in kept.items():
            model.get_submodule(name).weight.data = weight


def felt(model: Any, deltas: Mapping[str, Tensor]) -> set[str]:
    """The modules whose weights {module name: delta [out, in]} would change by more than rounding.

    Before any tuning none does."""
    found = set()
    for name, delta in deltas.items():
        weight = model.get_submodule(name).weight.data
        if delta.norm() > torch.finfo(weight.dtype).eps * weight.norm():
            found.add(name)
    return found


def noise(
    model: Any, names: Iterable[str], ratio: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """{module name: Gaussian noise [out, in] of `ratio` times the norm of that module's weight}."""
    found = {}
    for name in names:
        weight = model.get_submodule(name).weight
        drawn = torch.randn(weight.shape, generator=generator)
        found[name] = drawn * (ratio * weight.norm().float().cpu() / drawn.norm())
    return found


def lora_updates(tuned: Any) -> dict[str, Tensor]:
    """{module name: delta [out, in]} that a LoRA adapter adds to each module's weight."""
    return {
        name.removeprefix(_PEFT): part.get_delta_weight("default").detach()
        for name, part in tuned.named_modules()
        if hasattr(part, "get_delta_weight")
    }


@torch.no_grad()
def update_norms(tuned: Any) -> dict[str, float]:
    """{"type/layer": norm of the adapter's update of that weight}, from its two factors only."""
    found = {}
    for name, part in tuned.named_modules():
        match = _MODULE.match(name)
        if not match or not hasattr(part, "get_delta_weight"):
            continue
        a, b = part.lora_A["default"].weight.float(), part.lora_B["default"].weight.float()
        square = ((b.T @ b) * (a @ a.T)).sum().clamp(min=0)  # |BA|^2 without the product
        norm = part.scaling["default"] * square.sqrt().item()
        found[f"{match[2]}/{match[1]}"] = round(norm, 5)
    return found


def adapter_cost(model: Any, chosen: Iterable[Cell], window: int = 1) -> int:
    """Parameters that one rank of LoRA adds to these cells' modules: inputs plus outputs."""
    parts = cells(model, window)
    names = [name for cell in chosen for name in parts[cell]]
    return sum(sum(model.get_submodule(name).weight.shape) for name in names)


def choose_cells(found: Mapping, which: str, seed: int) -> list[Cell]:
    """The cells that swat.modules names, of what was found about a model (`lab.steps`).

    robust: Mods_Rob. Its two controls are as large a part of all cells: fragile, the most harmful
    first; random, in an order by the seed."""
    robust = [tuple(cell) for cell in found["robust"]]
    if which == "robust":
        return robust

    sizes = {(c["type"], c["layer"]): c["size"] for c in found["cells"]}
    harm = {(c["type"], c["layer"]): c["loss"] for c in found["cells"]}
    order = sorted(sizes, key=lambda cell: harm[cell], reverse=True)
    if which == "random":
        random.Random(identity.derive(seed, "modules")).shuffle(order)

    # take what fits into the parameters that Mods_Rob has
    chosen, left = [], sum(sizes[cell] for cell in robust)
    for cell in order:
        if sizes[cell] <= left:
            chosen.append(cell)
            left -= sizes[cell]
    return chosen


def module_names(tuned: Any, chosen: Sequence[Cell], window: int) -> set[str]:
    """The names, in a PEFT model, of these cells' modules."""
    parts = cells(tuned, window)
    return {_PEFT + name for cell in chosen for name in parts[cell]}


@contextlib.contextmanager
def trained_only(tuned: Any, names: Collection[str]) -> Iterator[Any]:
    """The adapter with nothing trainable but these modules; all of it trainable afterwards."""
    frozen = [
        parameter
        for name, parameter in tuned.named_parameters()
        if parameter.requires_grad and name.partition(".lora_")[0] not in names
    ]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield tuned
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
