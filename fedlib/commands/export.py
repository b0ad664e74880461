"""`fedlib export`: a run's adapter or merged model in a folder, with a model card.

transformers and peft load it in two lines."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fedlib.commands.card import model_card
from fedlib.lab import keys, loaded, store
from fedlib.settings import machine, presets
from fedlib.settings.errors import SettingsError, nearest
from fedlib.settings.schema import Settings

SHORTEST = 4  # digits of a key that name a run
FEW = 5  # runs that an error may look among for a like name


def export_run(name: str, target: Path | str, merged: bool = False) -> Path:
    """Write a run's adapter (PEFT), or with merged the whole model, into target; returns its path.

    Its tokenizer and README.md, the model card, go with it. target must not exist or be empty; it
    is there whole or not at all. SettingsError where that cannot be."""
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

    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "made"
        if merged:
            tuned.merge_and_unload().save_pretrained(made)
        else:
            _copy_adapter(folder / "adapter", made, base, commit)
        tokenizer.save_pretrained(made)
        card = model_card(settings, folder, base, commit, merged)
        (made / "README.md").write_text(card, encoding="utf-8")
        if target.exists():
            target.rmdir()
        made.rename(target)
    return target


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
