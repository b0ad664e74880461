"""`fedlib run` and `fedlib runs`: make the runs of a preset, list what the store holds."""

import json

from rich.console import Console
from rich.table import Table

from fedlib.lab import runs
from fedlib.settings import machine, presets

LEFT = ("name", "key", "state")  # columns of text; the others are numbers
WIDTH = 130  # of the listing, at least, so that no name is cut


def make_preset_runs(preset: str) -> None:
    """Make a run for each seed of a preset; print its folder and its scores."""
    settings = presets.load(preset)
    for run in runs.get_all([settings.replace(seed=seed) for seed in settings.seeds]):
        scores = {name: round(value, 1) for name, value in run.scores().items()}
        print(f"{run.folder}\n  {json.dumps(scores)}")


def print_runs() -> None:
    """Print a line for every run in the store."""
    rows = runs.listing()
    if not rows:
        print(f"no runs in {machine.outputs() / 'runs'}")
        return
    grid = Table(box=None)
    for column in rows[0]:
        grid.add_column(column, justify="left" if column in LEFT else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*map(str, row.values()))
    Console(width=max(Console().width, WIDTH)).print(grid)
