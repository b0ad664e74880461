"""`fedlib world`: train the committed models anew into fedlib/world_models."""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from fedlib.lab import real_alignment, world_training
from fedlib.lab.pretraining import Report
from fedlib.models.checkpoints import WORLD_MODELS
from fedlib.settings.errors import SettingsError, nearest


def train_world_models(only: str | None = None, files: str | None = None) -> None:
    """Train the world's models, or one, and keep its entry in the manifest.

    files: the folder of real text that smollm2-aligned learns from; without it that model is left
    as it is. The old model stays until the new one is whole. SettingsError where there is no such
    model or where it needs files; DataError names a file that is missing."""
    names = _wanted(only, files)
    manifest = WORLD_MODELS / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.exists() else {}
    for name in names:
        with tempfile.TemporaryDirectory(dir=WORLD_MODELS) as scratch:
            entry = _trained(name, Path(scratch), files)
            target = WORLD_MODELS / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(scratch, target)
        same = entries.get(name, {}).get("files") == entry["files"]
        entries[name] = entry
        manifest.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
        kind = "the same" if same else "other"
        done = f"{entry['seconds']} s, {entry['metrics']}, {kind} weights"
        print(f"\n{name}: {done}", file=sys.stderr)


def _wanted(only: str | None, files: str | None) -> list[str]:
    """The models to train, in turn. What is missing for them is found now."""
    own, real = list(world_training.RECIPES), real_alignment.NAME
    if only and only not in [*own, real]:
        raise SettingsError(f"--only: no world model {only!r}{nearest(only, [*own, real])}")
    if files and only in own:
        raise SettingsError(f"--data: only {real} is trained on files, not {only}")
    if files:
        real_alignment.check_files(files)
        return [only] if only else [*own, real]
    if only == real:
        raise SettingsError(f"--only: {real} needs --data FOLDER, the real text of docs/real.md")
    if not only:
        print(f"{real} is left as it is: it needs --data FOLDER (docs/real.md)", file=sys.stderr)
    return [only] if only else own


def _trained(name: str, folder: Path, files: str | None) -> dict:
    """Train a model into a folder; its manifest entry."""
    report = _reporter(name)
    if name != real_alignment.NAME:
        return world_training.train_world_model(name, folder, report)
    assert files is not None, "checked before"
    print(f"{name}: the base first answers some 850 harmless questions", file=sys.stderr)
    return real_alignment.train_alignment(folder, files, report)


def _reporter(name: str) -> Report:
    """report(step, steps, loss) that rewrites one line with the time left.

    The clock starts at the first report: what comes before the training is no measure of it."""
    first: tuple[int, float] | None = None

    def report(step: int, steps: int, loss: float) -> None:
        nonlocal first
        now = time.monotonic()
        first = first or (step, now)
        line = f"\r{name}: step {step} of {steps}, loss {loss:.3f}"
        done = step - first[0]
        if done:
            line += f", {(now - first[1]) * (steps - step) / done:.0f} s left "
        print(line, end="", file=sys.stderr, flush=True)

    return report
