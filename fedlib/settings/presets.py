"""TODO: what this room is for."""

from pathlib import Path

import yaml

from fedlib.settings import errors, groups, machine, schema


def load(preset="mini", seeds=None, **groups):
    """Settings of a preset (a name in params/, or a path to a YAML file) with a notebook's groups on top.

    Every preset starts from params/mini.yaml, the complete and commented list; a file whose `preset:` names
    another one extends that. Raises SettingsError with one line: place, what is wrong, nearest right name."""
    name, layers = _chain(preset)
    for group, given in groups.items():
        if group not in groups.GROUPS:
            raise errors.SettingsError(
                f"parameters: {group}: no such group{errors.nearest(group, groups.GROUPS)}"
            )
        if isinstance(given, str):
            raise errors.SettingsError(
                f"parameters: {group}: arrived as a string; papermill's -p cannot pass a group,"
                f' use -y "{group}: {{field: value}}"'
            )
    if seeds is not None and not isinstance(seeds, list | tuple):
        raise errors.SettingsError(
            f'parameters: seeds: must be a list, got {seeds!r}; use -y "seeds: [0, 1]"'
        )
    given = {k: v for k, v in groups.items() if v is not None and v != {}}
    given |= {} if seeds is None else {"seeds": list(seeds)}
    merged = [*layers, ("parameters", given)]
    wanted = [d["seeds"] for _, d in merged if d.get("seeds")][-1]
    seed = wanted[0] if isinstance(wanted, list) else 0
    return schema.validated([*merged, ("parameters", {"preset": name, "seed": seed})])


class _Loader(yaml.SafeLoader):
    """YAML's own loader would let the last of two equal keys win."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        if len(set(map(str, keys))) < len(keys):
            raise yaml.constructor.ConstructorError(
                None, None, "a key stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _read(file):
    try:
        content = _Loader(file.read_text(encoding="utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.SettingsError(f"{file}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where, what = mark.line + 1 if mark else "?", getattr(error, "problem", None) or error
        raise errors.SettingsError(f"{file}: line {where}: not valid YAML ({what})") from None
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise errors.SettingsError(f"{file}: must hold groups of settings, found {found}")
    for key in content:
        if key not in (*groups.GROUPS, "preset", "seeds"):
            raise errors.SettingsError(
                f"{file}: {key}: no such group{errors.nearest(str(key), (*groups.GROUPS, 'preset', 'seeds'))}"
            )
    return content


def _chain(preset):
    """(name, [(file, content)]) from mini to the preset asked for."""
    names = sorted(p.stem for p in (machine.ROOT / "params").glob("*.yaml"))
    if not isinstance(preset, str):
        raise errors.SettingsError(
            f"parameters: preset: must be a name or a path, got {preset!r}; names: {', '.join(names)}"
        )
    by_path = preset.endswith((".yaml", ".yml"))
    file = Path(preset).expanduser() if by_path else machine.ROOT / "params" / f"{preset}.yaml"
    if by_path and not file.exists():
        file = machine.path(preset)
    if not by_path and preset not in names or not file.exists():
        kind = "file" if by_path else "preset"
        hint = "" if by_path else "; a file of your own: -p preset FILE.yaml"
        raise errors.SettingsError(
            f"parameters: preset: no {kind} {preset!r}{errors.nearest(preset, names)}{hint}"
        )
    layers, name = [], file.stem
    while True:
        content = _read(file)
        layers.insert(0, (str(file), {k: v for k, v in content.items() if k != "preset"}))
        shipped, parent = (
            file.resolve().parent == machine.ROOT / "params",
            content.get("preset", file.stem),
        )
        if not isinstance(parent, str) or parent != file.stem and parent not in names:
            raise errors.SettingsError(
                f"{file}: preset: no preset {parent!r}{errors.nearest(str(parent), names)}"
            )
        if shipped and file.stem == "mini":
            return name, layers
        if not shipped and not layers[1:] and name in (*names, "runs"):
            name = f"own-{name}"  # its results must not lie among the preset's
        own = parent == file.stem and (
            shipped or parent not in names
        )  # it names itself, not one to start from
        file = machine.ROOT / "params" / f"{'mini' if own else parent}.yaml"
        if len(layers) > len(names) + 1:
            raise errors.SettingsError(f"{file}: preset: the chain of presets goes in a circle")
