"""fedlib plan | reproduce | run | runs | export | world"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedlib.lab import pretraining, runs
from fedlib.models import checkpoints
from fedlib.settings import errors, machine, presets


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="fedlib", description="A reference lab for the safety of federated instruction tuning."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "plan", help="what a preset needs: models, data, memory, disk, hours; nothing is started"
    )
    one.add_argument("preset", nargs="?", default="mini", help="a name in params/, or a YAML file")
    one.add_argument("--only", default="", metavar="PREFIX", help="notebooks to count, such as 10")
    one = commands.add_parser(
        "reproduce", help="execute every notebook and make outputs/<preset>/index.html"
    )
    one.add_argument("--preset", default="mini", help="a name in params/, or a YAML file")
    one.add_argument(
        "--only", default="*", metavar="GLOB", help="notebooks to execute, such as '10*'"
    )
    one.add_argument(
        "--jobs", type=int, metavar="N", help="notebooks at a time (default: the cores)"
    )
    one = commands.add_parser(
        "run", help="make the runs of a preset or params file, one for each seed"
    )
    one.add_argument("preset", nargs="?", default="mini", help="a name in params/, or a YAML file")
    commands.add_parser("runs", help="list the runs in the store")
    one = commands.add_parser(
        "export", help="write a run's adapter or merged model, with a model card"
    )
    one.add_argument("run", help="its folder, its name in the store, or the beginning of its key")
    one.add_argument("--to", required=True, metavar="FOLDER", help="a folder that is not there yet")
    one.add_argument(
        "--merged", action="store_true", help="the whole model in place of the adapter"
    )
    one = commands.add_parser(
        "world", help="train the world's models anew (minutes) into fedlib/world_models"
    )
    one.add_argument("--only", metavar="NAME", help="one model")
    asked = parser.parse_args(argv)
    try:
        return {
            "plan": _plan,
            "reproduce": _reproduce,
            "run": _run,
            "runs": _runs,
            "export": _export,
            "world": _world,
        }[asked.command](asked) or 0
    except (errors.SettingsError, errors.DataError) as error:
        print(f"fedlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nfedlib: interrupted; finished rounds and runs are kept, the same command goes on",
            file=sys.stderr,
        )
        return 130


def _reproduce(asked):
    from fedlib.reproduce import reproduce

    if asked.jobs is not None and asked.jobs < 1:
        raise errors.SettingsError(f"--jobs: must be at least 1, got {asked.jobs}")
    return reproduce(asked.preset, asked.only, asked.jobs)


def _plan(asked):
    from fedlib.plan import plan

    plan(asked.preset, asked.only)


def _export(asked):
    from fedlib.export import export

    print(f"wrote {export(asked.run, asked.to, asked.merged)}: see its README.md")


def _run(asked):
    settings = presets.load(asked.preset)
    for run in runs.get_all([settings.replace(seed=s) for s in settings.seeds]):
        scores = {k: round(v, 1) for k, v in run.scores().items()}
        print(f"{run.folder}\n  {json.dumps(scores)}")


def _runs(asked):
    rows = runs.listing()
    if not rows:
        print(f"no runs in {machine.outputs() / 'runs'}")
        return
    grid = Table(box=None)
    for column in rows[0]:
        grid.add_column(
            column, justify="left" if column in ("name", "key", "state") else "right", no_wrap=True
        )
    for row in rows:
        grid.add_row(*map(str, row.values()))
    Console(width=max(Console().width, 130)).print(grid)


def _world(asked):

    names = list(pretraining.RECIPES)
    if asked.only and asked.only not in names:
        raise errors.SettingsError(
            f"--only: no world model {asked.only!r}{errors.nearest(asked.only, names)}"
        )
    manifest = checkpoints.WORLD_MODELS / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.exists() else {}
    for name in [asked.only] if asked.only else names:
        began = time.monotonic()

        def report(step, steps, loss, name=name, began=began):
            left = (time.monotonic() - began) * (steps - step) / step
            line = f"\r{name}: step {step} of {steps}, loss {loss:.3f}, {left:.0f} s left "
            print(line, end="", file=sys.stderr, flush=True)

        with tempfile.TemporaryDirectory(
            dir=checkpoints.WORLD_MODELS
        ) as scratch:  # the old one stays until then
            entry = pretraining.train_world_model(name, Path(scratch), report)
            target = checkpoints.WORLD_MODELS / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(scratch, target)
        same = entries.get(name, {}).get("files") == entry["files"]
        entries[name] = entry
        manifest.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
        kind = "the same" if same else "other"
        print(
            f"\n{name}: {entry['seconds']} s, {entry['metrics']}, {kind} weights", file=sys.stderr
        )


if __name__ == "__main__":
    sys.exit(main())
