"""Presets: YAML files that build on each other, and a notebook's groups on top."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fedlib.settings import errors, groups, machine, own_methods, schema
from fedlib.settings.schema import Layer

IN_A_FILE = (*groups.GROUPS, "preset", "seeds")


def load(preset: str = "mini", seeds: Sequence[int] | None = None, **given: Any) -> schema.Settings:
    """Settings of a preset with a notebook's groups on top.

    preset: a name in params/, or a path to a YAML file. Every preset starts from params/mini.yaml,
    the complete and commented list; a file whose `preset:` names another one extends that.
    given: fields by group, as in federation={"rounds": 5}; None or {} changes nothing.
    Raises SettingsError with one line: place, what is wrong, nearest right name."""
    name, layers = _chain(preset)
    _check_given(seeds, given)

    # An empty group is papermill's way of saying nothing.
    parameters = {group: fields for group, fields in given.items() if fields not in (None, {})}
    if seeds is not None:
        parameters["seeds"] = list(seeds)
    layers.append(("parameters", parameters))

    # A single run has the first of the seeds that a notebook repeats it for. Seeds that are no list
    # are refused by the schema, whatever the seed.
    wanted = [content["seeds"] for _, content in layers if content.get("seeds")][-1]
    seed = wanted[0] if isinstance(wanted, list) else 0
    return schema.validated([*layers, ("parameters", {"preset": name, "seed": seed})])


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
        if file.exists():
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


class _Loader(yaml.SafeLoader):
    """YAML's own loader would let the last of two equal keys win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        """The mapping, or an error where a key stands twice."""
        keys = [str(self.construct_object(key)) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(
                None, None, "a key stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _read(file: Path) -> dict[str, Any]:
    """A preset file's groups; SettingsError, with the file's name, where it holds no settings."""
    content = _parsed(file)
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise errors.SettingsError(f"{file}: must hold groups of settings, found {found}")
    for key in content:
        if key not in IN_A_FILE:
            raise errors.SettingsError(
                f"{file}: {key}: no such group{errors.nearest(str(key), IN_A_FILE)}"
            )
    return content


def _parsed(file: Path) -> Any:
    """What a YAML file holds; SettingsError, with the line, where it is not valid YAML."""
    try:
        return _Loader(file.read_text(encoding="utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.SettingsError(f"{file}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else "?"
        problem = getattr(error, "problem", None) or error
        raise errors.SettingsError(f"{file}: line {line}: not valid YAML ({problem})") from None
