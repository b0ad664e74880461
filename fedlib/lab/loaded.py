"""The models of a run, loaded: its base, and the base with the run's adapter."""

from pathlib import Path
from typing import Any

from fedlib.lab import keys, pretraining, store
from fedlib.models import adapter, checkpoints, loading
from fedlib.settings import machine
from fedlib.settings.schema import Settings


def make_base(settings: Settings, wait: bool = True) -> None:
    """Train the run's base if it is one made here and missing."""
    place = keys.base_folder(settings)
    if settings.model.base == "scratch" and place is not None:
        store.ensure(settings, place, pretraining.train_scratch, wait)


def load_base(settings: Settings) -> tuple[Any, Any]:
    """(base model, tokenizer) by model.base, on its device and in its precision."""
    make_base(settings)
    if settings.model.base == "scratch":
        source, commit = str(keys.base_folder(settings)), None
    else:
        source, commit = checkpoints.source(settings, "model.base")
    return loading.load_causal(
        source, commit, machine.device(settings.model), machine.dtype(settings.model)
    )


def load_run(settings: Settings, folder: Path, trainable: bool = False) -> tuple[Any, Any]:
    """(tuned model, tokenizer) of a finished run's folder."""
    base, tokenizer = load_base(settings)
    return loading.attach_adapter(base, folder / "adapter", trainable), tokenizer


def save_adapter(tuned: Any, settings: Settings, folder: Path) -> None:
    """Write a run's adapter, which says which base it belongs to."""
    place = keys.base_folder(settings)
    if place is None:
        name, commit = checkpoints.source(settings, "model.base")
    else:
        inside = place.is_relative_to(machine.ROOT)
        name, commit = str(place.relative_to(machine.ROOT) if inside else place), None
    adapter.write_adapter(tuned, folder / "adapter", name, commit)
