"""Runs by their settings: read if they are there, else made. No torch in this process."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from fedlib.lab import checks, keys, store, workers
from fedlib.lab.store import Run
from fedlib.settings import machine
from fedlib.settings.schema import Settings


def get(settings: Settings) -> Run:
    """The Run of these settings: read if it is there, else made."""
    return get_all([settings])[0]


def get_all(wanted: Iterable[Settings]) -> list[Run]:
    """The Runs of settings, in their order; missing ones are made, several at a time on a CPU.

    FEDLIB_JOBS sets how many (default: one a core on a CPU, one on a GPU; 0: in this very
    process). A run's threads are the cores divided by that. What is finished stays, whatever
    happens to the others. A line says which clients' updates a run that was made could not use."""
    wanted = list(wanted)
    # what a defence starts from is made before it
    ordered = sorted(wanted, key=lambda settings: bool(settings.defense.level))
    missing = {keys.evaluation_folder(s): s for s in ordered if not store.is_there(s)}
    for settings in missing.values():
        checks.check_run(settings)
    if missing:
        workers.make_runs([*missing.values()])
    # a defended run's clients are those of the run that it starts from
    bases = {keys.run_folder(s): s for s in map(keys.attacked, missing.values())}
    for settings in bases.values():
        _tell_left_out(_run(settings))
    return [_run(settings) for settings in wanted]


def _run(settings: Settings) -> Run:
    return Run(settings, keys.run_folder(settings), keys.evaluation_folder(settings))


def _tell_left_out(run: Run) -> None:
    """Say, in a line a run, which clients were left out of how many rounds, and why at first."""
    rounds = run.settings.federation.rounds
    told = [
        f"client {client} in {len(reasons)} of {rounds} rounds ({reasons[0]})"
        for client, reasons in run.left_out().items()
    ]
    if told:
        print(f"{run.folder.name}: left out: {'; '.join(told)}", file=sys.stderr)


def get_robustness(settings: Settings) -> dict:
    """What was found about the modules of a run's base; found in this process if it is missing."""
    folder = keys.robustness_folder(settings)
    if not store.intact(folder):
        from fedlib.lab import steps

        steps.make_robustness(settings)
    return store.read_robustness(folder)


def listing() -> list[dict]:
    """A dict for every run in the store.

    {name, key, state, rounds, evaluations, MB, seconds}; state: done, spoilt or unfinished."""
    found = (machine.outputs() / "runs").glob("*/settings.json")
    return [_listed(folder) for folder in sorted(file.parent for file in found)]


def _listed(folder: Path) -> dict:
    """A run's line in the listing."""
    name, _, key = folder.name.rpartition("-")
    rounds, seconds = _rounds_so_far(folder)
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        "name": name,
        "key": key,
        "state": _state(folder),
        "rounds": rounds,
        "evaluations": sum(store.intact(place) for place in folder.glob("eval-*")),
        "MB": round(sum(file.stat().st_size for file in files) / 1e6, 2),
        "seconds": round(seconds, 1),
    }


def _rounds_so_far(folder: Path) -> tuple[int, float]:
    """(rounds, their seconds) of a run that may be going on; (0, 0.0) if they cannot be read."""
    file = folder / "rounds.jsonl"
    if not file.exists():
        return 0, 0.0
    # whole lines only: the last one may still be being written
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    try:
        return len(lines), sum(json.loads(line)["seconds"] for line in lines)
    except (ValueError, KeyError, TypeError):
        return 0, 0.0


def _state(folder: Path) -> str:
    if store.intact(folder):
        return "done"
    return "spoilt" if (folder / "done.json").exists() else "unfinished"
