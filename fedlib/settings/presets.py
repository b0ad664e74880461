"""Presets: YAML files that build on each other, and a notebook's groups on top."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlib.settings import (
    errors,
    groups,
    identity,
    injected,
    machine,
    own_methods,
    schema,
    yaml_text,
)
from fedlib.settings.schema import Layer

IN_A_FILE = (*groups.GROUPS, "preset", "seeds")
# Changes that no result shows: with them the results are still the preset's.
RESULTS_STAY = {"data.folder", "model.device", "evaluation.show_responses"}


def load(preset: str = "mini", seeds: Sequence[int] | None = None, **given: Any) -> schema.Settings:
    """Settings of a preset with a notebook's groups on top.

    preset: a name in params/, or a path to a YAML file. Every preset starts from params/mini.yaml,
    the complete and commented list; a file whose `preset:` names another one extends that.
    given: fields by group, as in federation={"rounds": 5}; None or {} changes nothing. Where they
    change results, the settings' preset is called <preset>+<key of the changes>.
    Raises SettingsError with one line: place, what is wrong, nearest right name."""
    _check_parameters_are_known()
    name, layers = _chain(preset)
    _check_given(seeds, given)
    name += _key_of_changes(layers, given)

    # An empty group is papermill's way of saying nothing.
    parameters = {group: fields for group, fields in given.items() if fields not in (None, {})}
    if seeds is not None:
        parameters["seeds"] = list(seeds)
    layers.append(("parameters", parameters))

    # A single run has the first of the seeds that a notebook repeats it for. Seeds that are no list
    # are refused by the schema, whatever the seed.
    wanted = [content["seeds"] for _, content in layers if content.get("seeds")][-1]
    seed = wanted[0] if isinstance(wanted, list) else 0
    settings = schema.validated([*layers, ("parameters", {"preset": name, "seed": seed})])
    _check_nothing_was_lost(settings, given)
    return settings


def _key_of_changes(layers: Sequence[Layer], given: dict[str, Any]) -> str:
    """ "+" and 6 hex digits of what the groups change beside a preset's layers; "" for nothing."""
    before = _flat(functools.reduce(schema.merge, [content for _, content in layers], {}))
    changed = {
        field: value
        for field, value in _flat(given).items()
        if before.get(field) != value and field not in RESULTS_STAY
    }
    named = sorted((field, str(value)) for field, value in changed.items())
    return f"+{identity.digest(named)[:6]}" if changed else ""


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """{"group.field": value} of fields by group; groups that say nothing are left out."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        elif prefix:
            found[f"{prefix}{name}"] = value
    return found


def _check_parameters_are_known() -> None:
    """SettingsError where papermill gave a name that the parameters cell does not have.

    Papermill itself only logs that."""
    names = ("preset", "seeds", *groups.GROUPS)
    for name in injected.unknown_parameters(names):
        raise errors.SettingsError(
            f"parameters: {name}: no such parameter{errors.nearest(name, names)}"
        )


def _check_nothing_was_lost(settings: schema.Settings, given: dict[str, Any]) -> None:
    """SettingsError where papermill dropped a field of -f or -y for a later value of its group.

    given: the groups that arrived; only a notebook of fedlib's gives all of them."""
    if set(given) != set(groups.GROUPS):
        return
    arrived, used = _flat(given), _flat(settings.model_dump(mode="json"))
    for place, text in injected.given_texts():
        content = yaml_text.parsed(place, text)
        wanted = _flat(content) if isinstance(content, dict) else {}
        lost = [
            name
            for name, value in wanted.items()
            if name not in arrived and name in used and used[name] != value
        ]
        if lost:
            raise errors.SettingsError(
                f"parameters: {', '.join(lost)} of {place} did not arrive: papermill keeps only "
                "the last of two values for one group; pass a file as -p preset FILE.yaml, and "
                "all changes of a group in one -y"
            )


def _check_given(seeds: Any, given: dict[str, Any]) -> None:
    """SettingsError where a notebook's parameters are not groups and a list of seeds."""
    for group, fields in given.items():
        if group not in groups.GROUPS:
            raise errors.SettingsError(
                f"parameters: {group}: no such group{errors.nearest(group, groups.GROUPS)}"
            )
        if isinstance(fields, str):
            raise errors.SettingsError(
                f"parameters: {group}: arrived as a string; papermill's -p cannot pass a group, "
                f'use -y "{group}: {{field: value}}"'
            )
    if seeds is not None and not isinstance(seeds, list | tuple):
        raise errors.SettingsError(
            f'parameters: seeds: must be a list, got {seeds!r}; use -y "seeds: [0, 1]"'
        )


def _params() -> Path:
    return machine.ROOT / "params"


def _shipped() -> list[str]:
    """The names of the presets in params/."""
    return sorted(file.stem for file in _params().glob("*.yaml"))


def _chain(preset: Any) -> tuple[str, list[Layer]]:
    """(name, layers) of a preset: the layers are the files from mini to the preset asked for."""
    names = _shipped()
    file = _file_of(preset, names)
    name = _name_of(file, names)
    layers: list[Layer] = []
    while True:
        content = own_methods.beside(_read(file), file)
        fields = {group: value for group, value in content.items() if group != "preset"}
        layers.insert(0, (str(file), fields))
        parent = _parent(file, content, names)
        if parent is None:
            return name, layers
        if len(layers) > len(names):
            raise errors.SettingsError(f"{parent}: preset: the chain of presets goes in a circle")
        file = parent


def _file_of(preset: Any, names: Sequence[str]) -> Path:
    """The file of a preset: a name in params/, or a path from here or from the repository."""
    if not isinstance(preset, str):
        raise errors.SettingsError(
            f"parameters: preset: must be a name or a path, got {preset!r}; "
            f"names: {', '.join(names)}"
        )
    if not preset.endswith((".yaml", ".yml")):
        if preset not in names:
            raise errors.SettingsError(
                f"parameters: preset: no preset {preset!r}{errors.nearest(preset, names)}; "
                "a file of your own: -p preset FILE.yaml"
            )
        return _params() / f"{preset}.yaml"

    for file in (Path(preset).expanduser(), machine.path(preset)):
        if os.path.exists(file):  # Path.exists raises where a name is too long
            return file
    raise errors.SettingsError(
        f"parameters: preset: no file {preset!r}{errors.nearest(preset, names)}"
    )


def _is_shipped(file: Path) -> bool:
    return file.resolve().parent == _params()


def _name_of(file: Path, names: Sequence[str]) -> str:
    """The name of a preset's folder in outputs/: a person's own file never has a shipped one's."""
    taken = (*names, "runs")
    if not _is_shipped(file) and file.stem in taken:
        return f"own-{file.stem}"
    return file.stem


def _parent(file: Path, content: dict[str, Any], names: Sequence[str]) -> Path | None:
    """The file that a preset's file starts from; None for params/mini.yaml."""
    parent = content.get("preset", file.stem)
    if not isinstance(parent, str) or (parent != file.stem and parent not in names):
        raise errors.SettingsError(
            f"{file}: preset: no preset {parent!r}{errors.nearest(str(parent), names)}"
        )
    if _is_shipped(file) and file.stem == "mini":
        return None

    # A preset that names itself starts from mini. A person's own file called like a shipped preset
    # names that one instead.
    names_itself = parent == file.stem and (_is_shipped(file) or parent not in names)
    return _params() / f"{'mini' if names_itself else parent}.yaml"


def _read(file: Path) -> dict[str, Any]:
    """A preset file's groups; SettingsError, with the file's name, where it holds no settings."""
    content = yaml_text.parsed(str(file), _text(file))
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise errors.SettingsError(f"{file}: must hold groups of settings, found {found}")
    for key in content:
        if key not in IN_A_FILE:
            raise errors.SettingsError(
                f"{file}: {key}: no such group{errors.nearest(str(key), IN_A_FILE)}"
            )
    return content


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.SettingsError(f"{file}: cannot be read ({error})") from None
