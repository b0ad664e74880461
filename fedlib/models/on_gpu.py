"""Training steps on a GPU that do not wait: without questions to the device, in fewer kernels.

transformers computes norms, rotary positions and gates in several kernels each. The package
liger-kernel (extra `gpu`) has one kernel for each; it is used where it is installed and knows the
architecture. The results are the same except for rounding."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import masking_utils

from fedlib.settings import errors

FUSED = ("llama", "mistral", "qwen2", "qwen3")  # architectures whose parts liger-kernel replaces


@contextmanager
def quick_steps(tuned: Any) -> Iterator[None]:
    """A block in which a model on a GPU is trained on rows padded on the right.

    On a CPU, or for what is not known here, nothing changes. After the block the model and
    transformers are as they were: the kernels cannot be used with torch.func, as the filter of rows
    does. What is changed is the whole process's, so one model at a time is trained in it."""
    base = tuned.get_base_model() if hasattr(tuned, "get_base_model") else tuned
    if not next(base.parameters()).is_cuda:
        yield
        return
    with ExitStack() as undone:
        undone.enter_context(_rows_not_packed())
        apply = _liger()
        # what lower layers made of a row is kept, and must not depend on who asked for it first
        keeps_rows = hasattr(base, "frozen_layers")
        if apply is not None and base.config.model_type in FUSED and not keeps_rows:
            undone.enter_context(_fused(base, apply))
        yield


def attend_without_plans() -> None:
    """Have this process's attention done by torch's own kernels, not by cuDNN.

    cuDNN plans anew for each shape, and rows of real text have new shapes at almost every step."""
    torch.backends.cuda.enable_cudnn_sdp(False)


def _liger() -> Callable | None:
    """What puts liger-kernel's kernels into a model; None where it is not installed."""
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError:
        return None
    return _apply_liger_kernel_to_instance


@contextmanager
def _fused(base: Any, apply: Callable) -> Iterator[None]:
    """A block in which a causal LM has the kernels that apply(model=..., ...) puts into it.

    Where that fails a warning says so, and the block goes on without them."""
    with ExitStack() as undone:
        undone.enter_context(restored(base))
        try:
            # the loss is computed by `training`, at the labelled tokens only
            apply(model=base, cross_entropy=False, fused_linear_cross_entropy=False)
        except Exception as error:
            undone.close()
            why = errors.one_line(error)
            warnings.warn(f"liger-kernel is not used: {why}", stacklevel=2)
        yield


@contextmanager
def restored(base: Any) -> Iterator[None]:
    """A block after which the parts of a causal LM, and the module of its code, have the functions
    and classes that they had before it."""
    places = [sys.modules[type(base).__module__], *base.modules()]
    before = [dict(vars(place)) for place in places]
    try:
        yield
    finally:
        for place, old in zip(places, before, strict=True):
            _put_back(place, old)


def _put_back(place: Any, old: dict[str, Any]) -> None:
    """Have the names of an object, or of a module of code, mean again what they do in old.

    Only those of functions and classes, and new ones: what a model is set to stays."""
    for name, now in list(vars(place).items()):
        if name not in old:
            del vars(place)[name]
        elif callable(now) and now is not old[name]:
            vars(place)[name] = old[name]


@contextmanager
def _rows_not_packed() -> Iterator[None]:
    """A block in which transformers does not ask the device whether a row holds several texts."""
    asks = getattr(masking_utils, "find_packed_sequence_indices", None)
    if asks is None:  # another version of transformers
        yield
        return
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = asks
