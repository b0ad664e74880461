"""`fedlib export`: a run's adapter or merged model in a folder, with a model card.

transformers and peft load it in two lines."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from fedlib.commands.card import model_card
from fedlib.lab import keys, loaded, store
from fedlib.models import loading
from fedlib.settings import machine, presets
from fedlib.settings.errors import SettingsError, nearest
from fedlib.settings.schema import Settings

SHORTEST = 4  # digits of a key that name a run
PROBES = (4, 16)  # prompts by which an export is checked, and their tokens
# How far logits may be off, as a share of the largest: rounding, for merging rounds the weights.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
FEW = 5  # runs that an error may look among for a like name


def export_run(name: str, target: Path | str, merged: bool = False) -> Path:
    """Write a run's adapter (PEFT), or with merged the whole model, into target; returns its path.

    Its tokenizer and README.md, the model card, go with it. What was written is loaded anew: its
    logits must be the tuned model's, as far as the precision allows. target must not exist or be
    empty; it is there whole or not at all. SettingsError where that cannot be."""
    folder, settings = find_run(name)
    target = Path(target).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingsError(f"export: {target} is there already: name a new folder")
    if not target.parent.is_dir():
        raise SettingsError(f"export: no folder {target.parent}")

    # the commit that it was tuned on, whatever is the newest now
    base, commit = _base(settings, folder)
    if commit:
        settings = settings.replace(model={"base": f"{base}@{commit}"})
    tuned, tokenizer = loaded.load_run(settings, folder)
    wanted = _logits(tuned, _probes(tuned))

    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "made"
        if merged:
            tuned.merge_and_unload().save_pretrained(made)
        else:
            _copy_adapter(folder / "adapter", made, base, commit)
        tokenizer.save_pretrained(made)
        del tuned  # a large model makes room for the one that is loaded anew

        difference = _check_written(settings, made, merged, tokenizer, wanted)
        card = model_card(settings, folder, base, commit, merged, difference)
        (made / "README.md").write_text(card, encoding="utf-8")
        if target.exists():
            target.rmdir()
        made.rename(target)
    return target


def _check_written(
    settings: Settings, made: Path, merged: bool, tokenizer: Any, wanted: Tensor
) -> float:
    """The largest difference between the logits of what was written and those wanted.

    SettingsError where it is more than TOLERANCE allows, or the tokenizer reads otherwise."""
    dtype = machine.dtype(settings.model)
    if merged:
        again, read = loading.load_causal(str(made), None, machine.device(settings.model), dtype)
    else:
        base, _ = loaded.load_base(settings)
        again = loading.attach_adapter(base, made)
        read = AutoTokenizer.from_pretrained(made, trust_remote_code=False)

    probes = _probes(again)
    found = _logits(again, probes)
    what = "the merged model" if merged else "the adapter on its base"
    if found.shape != wanted.shape:
        raise SettingsError(f"export: {what} has another vocabulary than the tuned model")
    difference = (found - wanted).abs().max().item()
    allowed = TOLERANCE[dtype] * max(1.0, wanted.abs().max().item())
    if not difference <= allowed:
        hint = "; without --merged the adapter is written as it is" if merged else ""
        raise SettingsError(
            f"export: {what} is not the tuned model: its logits differ by up to {difference:.3g}, "
            f"{allowed:.3g} is allowed in {dtype}; nothing was written{hint}"
        )

    # the embedding may have more rows than there are tokens
    texts = tokenizer.batch_decode(probes % len(tokenizer))
    if read(texts)["input_ids"] != tokenizer(texts)["input_ids"]:
        raise SettingsError(
            "export: the tokenizer that was written reads texts otherwise than the run's; nothing "
            "was written"
        )
    return difference


def _probes(model: Any) -> Tensor:
    """Prompts of tokens drawn at random, the same each time: ids [N, T]."""
    size = model.get_input_embeddings().weight.shape[0]
    drawn = torch.randint(size, PROBES, generator=torch.Generator().manual_seed(0))
    return drawn.to(next(model.parameters()).device)


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    return model.eval()(input_ids=ids, use_cache=False).logits.float().cpu()


def find_run(name: str) -> tuple[Path, Settings]:
    """(folder, settings) of a finished run; SettingsError where there is none, or more than one.

    name: its folder, its name in the store or the beginning of its key."""
    store_folder = machine.outputs() / "runs"
    every = sorted(file.parent for file in store_folder.glob("*/adapter"))
    found = [folder for folder in every if _is_called(folder, name)]
    if (Path(name) / "adapter").is_dir():
        found = [Path(name)]
    if len(found) != 1:
        what = "more than one run" if found else "no run"
        hint = f"; `fedlib runs` lists the {len(every)} in the store"
        if len(every) <= FEW:
            hint = nearest(name, [folder.name for folder in every])
        raise SettingsError(f"export: {what} {name!r} in {store_folder}{hint}")
    folder = found[0]
    if not store.intact(folder):
        raise SettingsError(f"export: {folder} is unfinished or was changed: run it again")
    kept = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    return folder, settings_of(kept)


def _is_called(folder: Path, name: str) -> bool:
    key = folder.name.rpartition("-")[2]
    return name == folder.name or len(name) >= SHORTEST and key.startswith(name)


def settings_of(kept: Mapping) -> Settings:
    """The Settings of a settings.json, of an older version too.

    A field that it did not have yet is as in preset mini, as the run's key says too; one that is
    gone is left out."""
    mini = presets.load("mini")
    return mini.replace(**_known_only(kept, mini.model_dump()))


def _known_only(values: Mapping, known: Mapping) -> dict:
    found = {}
    for name, value in values.items():
        if name in known:
            nested = isinstance(value, dict) and known[name]
            found[name] = _known_only(value, known[name]) if nested else value
    return found


def _base(settings: Settings, folder: Path) -> tuple[str, str | None]:
    """(what from_pretrained takes for a run's base, commit or None).

    A hub name, or the absolute path of a folder."""
    place = keys.base_folder(settings)
    if place:
        return str(place.resolve()), None
    made_on = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    return made_on["base_model_name_or_path"], made_on["revision"]


def _copy_adapter(adapter: Path, target: Path, base: str, commit: str | None) -> None:
    """Copy an adapter's folder, which then names the base that it belongs to."""
    # with copyfile the files can be read as other new files can
    shutil.copytree(adapter, target, copy_function=shutil.copyfile)
    file = target / "adapter_config.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    fields |= {"base_model_name_or_path": base, "revision": commit}
    file.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n", encoding="utf-8")
