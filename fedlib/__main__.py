"""fedlib plan | reproduce | compare | run | runs | export | fetch | world"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from fedlib.settings.errors import DataError, SettingsError

PRESET = {"default": "mini", "help": "a name in params/, or a YAML file"}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line asks; returns the exit code: 0, 1, 2 (input) or 130 (interrupted)."""
    asked = _parser().parse_args(argv)
    try:
        return asked.command(asked) or 0
    except (SettingsError, DataError) as error:
        print(f"fedlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nfedlib: interrupted; finished rounds and runs are kept, the same command goes on",
            file=sys.stderr,
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedlib", description="A reference lab for the safety of federated instruction tuning."
    )
    commands = parser.add_subparsers(required=True)
    _add_experiments(commands)
    _add_tools(commands)
    return parser


def _add_experiments(commands: Any) -> None:
    """The commands that make results, and those that look at them beforehand and afterwards."""
    one = commands.add_parser(
        "plan", help="what a preset needs: models, data, memory, disk, hours; nothing is started"
    )
    one.set_defaults(command=_plan)
    one.add_argument("preset", nargs="?", **PRESET)
    one.add_argument("--only", default="", metavar="PREFIX", help="notebooks to count, such as 10")

    one = commands.add_parser(
        "reproduce", help="execute every notebook and make outputs/<preset>/index.html"
    )
    one.set_defaults(command=_reproduce)
    one.add_argument("--preset", **PRESET)
    one.add_argument(
        "--only", default="*", metavar="GLOB", help="notebooks to execute, such as '10*'"
    )
    one.add_argument(
        "--jobs", type=int, metavar="N", help="notebooks at a time (default: the cores)"
    )

    one = commands.add_parser(
        "compare",
        help="set your claims beside those that results/ keeps: what agrees, what differs",
    )
    one.set_defaults(command=_compare)
    one.add_argument(
        "preset", nargs="?", default="mini", help="a folder of the outputs: a preset's name"
    )

    one = commands.add_parser(
        "run", help="make the runs of a preset or params file, one for each seed"
    )
    one.set_defaults(command=_run)
    one.add_argument("preset", nargs="?", **PRESET)

    one = commands.add_parser("runs", help="list the runs in the store")
    one.set_defaults(command=_runs)


def _add_tools(commands: Any) -> None:
    """The commands for what goes in and out: models, files."""
    one = commands.add_parser(
        "export", help="write a run's adapter or merged model, with a model card"
    )
    one.set_defaults(command=_export)
    one.add_argument("run", help="its folder, its name in the store, or the beginning of its key")
    one.add_argument("--to", required=True, metavar="FOLDER", help="a folder that is not there yet")
    one.add_argument(
        "--merged", action="store_true", help="the whole model in place of the adapter"
    )

    one = commands.add_parser(
        "fetch", help="download the public files that preset real reads (docs/real.md)"
    )
    one.set_defaults(command=_fetch)
    one.add_argument("folder", help="where they go; what is there already is kept")

    one = commands.add_parser(
        "world", help="train the world's models anew (minutes) into fedlib/world_models"
    )
    one.set_defaults(command=_world)
    one.add_argument("--only", metavar="NAME", help="one model")
    one.add_argument(
        "--data", metavar="FOLDER", help="the real text that smollm2-aligned needs (docs/real.md)"
    )


# A command is imported when it is called: some of them need torch, which takes seconds.


def _plan(asked: argparse.Namespace) -> None:
    from fedlib.commands import plan

    plan.print_plan(asked.preset, asked.only)


def _reproduce(asked: argparse.Namespace) -> int:
    from fedlib.commands import reproduce

    return reproduce.reproduce_notebooks(asked.preset, asked.only, asked.jobs)


def _compare(asked: argparse.Namespace) -> None:
    from fedlib.commands import compare

    compare.compare_claims(asked.preset)


def _run(asked: argparse.Namespace) -> None:
    from fedlib.commands import run

    run.make_preset_runs(asked.preset)


def _runs(asked: argparse.Namespace) -> None:
    from fedlib.commands import run

    run.print_runs()


def _export(asked: argparse.Namespace) -> None:
    from fedlib.commands import export

    target = export.export_run(asked.run, asked.to, asked.merged)
    print(f"wrote {target}: see its README.md")


def _fetch(asked: argparse.Namespace) -> None:
    from fedlib.commands import fetch

    fetch.fetch_files(asked.folder)


def _world(asked: argparse.Namespace) -> None:
    from fedlib.commands import train_world

    train_world.train_world_models(asked.only, asked.data)


if __name__ == "__main__":
    sys.exit(main())
