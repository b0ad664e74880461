"""The models of a run, loaded: its base, and the base with the run's adapter."""

import functools
from pathlib import Path
from typing import Any

from fedlib.lab import keys, pretraining, store
from fedlib.models import adapter, checkpoints, frozen, gguf_files, loading
from fedlib.settings import machine
from fedlib.settings.errors import SettingsError
from fedlib.settings.schema import Settings


def make_base(settings: Settings, wait: bool = True) -> None:
    """Make the run's base if it is one made here and missing: trained, unpacked, or aligned."""
    if not keys.base_is_made(settings) or _is_made(_made_folder(settings)):
        return
    start = checkpoints.added_to(settings.model.base)
    if start is not None:
        make_base(settings.replace(model={"base": start}), wait)
        make = _add_alignment
    elif settings.model.base == "scratch":
        make = pretraining.train_scratch
    else:
        make = _unpack
    store.ensure(settings, _made_folder(settings), make, wait)


def _is_made(folder: Path) -> bool:
    """Whether a base is there, whole. Its digest is taken once a process: it may be half a GB."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return False
    state = weights.stat()
    if not _whole(folder, state.st_size, state.st_mtime_ns):
        _whole.cache_clear()  # it may be made soon
        return False
    return True


@functools.lru_cache(maxsize=8)
def _whole(folder: Path, _size: int, _time: int) -> bool:
    return store.intact(folder)


def _made_folder(settings: Settings) -> Path:
    place = keys.base_folder(settings)
    assert place is not None, "a base that is made has a folder"
    return place


def _unpack(settings: Settings, folder: Path) -> None:
    """Unpack model.base, a GGUF file, into folder."""
    file = gguf_files.find_gguf("model.base", settings.model.base)
    gguf_files.unpack(file, folder)


def _add_alignment(settings: Settings, folder: Path) -> None:
    """Write the base that model.base starts from, with its alignment added, into folder."""
    start = settings.replace(model={"base": checkpoints.added_to(settings.model.base)})
    model, tokenizer = loading.load_causal(str(_made_folder(start)), None, "cpu", "float32")
    for name, delta in adapter.read_alignment(keys.alignment_file(settings)).items():
        model.get_submodule(name).weight.data += delta
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_base(settings: Settings) -> tuple[Any, Any]:
    """(base model, tokenizer) by model.base, on its device and in its precision.

    model.loaded_as identifies its content, device and precision.
    It makes nothing: SettingsError if the base is one that `make_base` has not made yet."""
    if keys.base_is_made(settings):
        folder = _made_folder(settings)
        if not _is_made(folder):
            raise SettingsError(
                f"model.base: {settings.model.base} is not in {folder}: `fedlib run` makes it"
            )
        source, commit = str(folder), None
    else:
        source, commit = checkpoints.source(settings, "model.base")
    device, dtype = machine.device(settings.model), machine.dtype(settings.model)
    model, tokenizer = loading.load_causal(source, commit, device, dtype)
    # the folder of a base that is made here is named after its content
    made = keys.base_is_made(settings)
    content = source if made else str(checkpoints.revision(settings, "model.base"))
    model.loaded_as = (content, device, dtype)
    if settings.model.lora_layers:
        frozen.keep_lower_layers(model, settings.model.lora_layers, model.loaded_as)
    return model, tokenizer


def load_run(settings: Settings, folder: Path, trainable: bool = False) -> tuple[Any, Any]:
    """(tuned model, tokenizer) of a finished run's folder."""
    base, tokenizer = load_base(settings)
    tuned = loading.attach_adapter(base, folder / "adapter", trainable)
    frozen.forget_if_adapted(base)
    return tuned, tokenizer


def save_adapter(tuned: Any, settings: Settings, folder: Path) -> None:
    """Write a run's adapter, which says which base it belongs to."""
    place = keys.base_folder(settings)
    if place is None:
        name, commit = checkpoints.source(settings, "model.base")
    else:
        inside = place.is_relative_to(machine.ROOT)
        name, commit = str(place.relative_to(machine.ROOT) if inside else place), None
    adapter.write_adapter(tuned, folder / "adapter", name, commit)
