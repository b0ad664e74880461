"""`flwr run flower-app`: a federation whose clients are the nodes of a SuperLink, or simulated.

Run-config: preset (a name in params/, or a YAML file), seed, folder, wait. Without a folder the
nodes make their rows from the settings, and the run goes into the store like any other; with one
each node has its own rows, and the run goes into that folder."""

import functools
import json
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedlib.flower.nodes import WAIT, Nodes
from fedlib.settings import errors, machine, presets
from fedlib.settings.errors import DataError, SettingsError
from fedlib.settings.schema import Settings

KNOWN = ("preset", "seed", "folder", "wait")

app = ServerApp()


@app.main()
def serve(grid: Grid, context: Context) -> None:
    """Run the federation that the run-config asks for; its nodes are those of the grid."""
    try:
        settings, folder, wait = asked_for(dict(context.run_config))
        nodes = Nodes(grid, settings, folder is not None, wait)
        made = make_run(settings, folder, nodes)
    except (SettingsError, DataError) as error:
        # one line, ahead of the traceback that Flower prints; raised, it makes the run a failed one
        print(f"fedlib: {error}", file=sys.stderr, flush=True)
        raise
    print(f"fedlib: {made}", flush=True)


def asked_for(run_config: dict) -> tuple[Settings, Path | None, float]:
    """(settings, folder or None, seconds to wait) of a run-config.

    SettingsError where it cannot be read."""
    for name in run_config:
        if name not in KNOWN:
            raise SettingsError(f"run-config: {name}: no such field{errors.nearest(name, KNOWN)}")
    wait = run_config.get("wait", WAIT)
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait > 0:
        raise SettingsError(f"run-config: wait: must be a number of seconds, got {wait!r}")

    settings = presets.load(str(run_config.get("preset", "smoke")))
    seed = run_config.get("seed", settings.seed)
    folder = str(run_config.get("folder", ""))
    changed = settings.replace(seed=seed, federation={"engine": "flower"})
    return changed, machine.path(folder) if folder else None, float(wait)


def make_run(settings: Settings, folder: Path | None, nodes: Nodes) -> Path:
    """Make the run with these nodes, where it is not made yet; returns its folder."""
    from fedlib.lab import checks, keys, loaded, steps, store

    if folder is None:
        checks.check_run(settings)
        steps.make(settings, nodes=nodes)
        return keys.run_folder(settings)
    if settings.defense.level:
        raise SettingsError(
            f"defense.level: {settings.defense.level}: with run-config folder it must be 0"
        )
    checks.check_flower(settings)
    _check_same(settings, folder)
    loaded.make_base(settings)
    if settings.swat.warmup:
        steps.make_robustness(settings)
    store.ensure(settings, folder, functools.partial(steps.run_federation, nodes=nodes))
    return folder


def _check_same(settings: Settings, folder: Path) -> None:
    """SettingsError where a folder holds a federation, or a part of one, with other settings."""
    file = folder / "settings.json"
    if not file.is_file():
        return
    kept = json.loads(file.read_text(encoding="utf-8"))
    for group, fields in settings.model_dump(mode="json").items():
        if group in ("preset", "seeds", "evaluation"):
            continue
        if isinstance(fields, dict):
            fields.pop("min_clients", None)
            kept.get(group, {}).pop("min_clients", None)
        if kept.get(group) != fields:
            raise SettingsError(
                f"run-config: folder: {folder} holds a federation with another {group}: name a "
                "folder that is not there yet"
            )
