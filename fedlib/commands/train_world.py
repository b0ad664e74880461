"""`fedlib world`: train the world's models anew into fedlib/world_models."""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from fedlib.lab import world_training
from fedlib.lab.pretraining import Report
from fedlib.models.checkpoints import WORLD_MODELS
from fedlib.settings.errors import SettingsError, nearest


def train_world_models(only: str | None = None) -> None:
    """Train every model of the world, or one, and keep its entry in the manifest.

    The old model stays until the new one is whole. SettingsError where there is no such model."""
    names = list(world_training.RECIPES)
    if only and only not in names:
        raise SettingsError(f"--only: no world model {only!r}{nearest(only, names)}")
    manifest = WORLD_MODELS / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.exists() else {}
    for name in [only] if only else names:
        with tempfile.TemporaryDirectory(dir=WORLD_MODELS) as scratch:
            entry = world_training.train_world_model(name, Path(scratch), _reporter(name))
            target = WORLD_MODELS / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(scratch, target)
        same = entries.get(name, {}).get("files") == entry["files"]
        entries[name] = entry
        manifest.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
        kind = "the same" if same else "other"
        done = f"{entry['seconds']} s, {entry['metrics']}, {kind} weights"
        print(f"\n{name}: {done}", file=sys.stderr)


def _reporter(name: str) -> Report:
    """report(step, steps, loss) that rewrites one line with the time left."""
    began = time.monotonic()

    def report(step: int, steps: int, loss: float) -> None:
        left = (time.monotonic() - began) * (steps - step) / step
        line = f"\r{name}: step {step} of {steps}, loss {loss:.3f}, {left:.0f} s left "
        print(line, end="", file=sys.stderr, flush=True)

    return report
