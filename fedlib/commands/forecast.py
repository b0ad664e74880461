"""How long notebooks take on this machine: the runs that they miss, told before and on the way."""

import time
from collections.abc import Collection, Iterable
from pathlib import Path

from fedlib.commands import plan_sizes, plan_time
from fedlib.lab import keys, store
from fedlib.papers import grids
from fedlib.settings import machine
from fedlib.settings.errors import DataError, SettingsError
from fedlib.settings.schema import Settings

NOTEBOOK_SECONDS = 10  # of a core: to start a notebook's kernel, read runs, draw
TRUST = 60  # seconds' worth of plan that the pace so far is weighed against
# Tokens/s of one core, and tokens a row, in the embedded world where no run is here yet: so that
# preset mini takes the 18 minutes that were measured on 2 cores.
WORLD_SPEED = (14_000.0, 27.0)


class Forecast:
    """What is still to be done, corrected by how fast it has gone so far.

    runs: how many the notebooks ask for; unknown: why nothing can be said, or ""."""

    def __init__(self, settings: Settings, names: Iterable[str], at_once: int) -> None:
        self.names = list(names)
        self.at_once = at_once
        self.began = time.monotonic()
        self.unknown = ""
        self._seconds: dict[str, float] = {}
        self._runs: dict[str, Settings] = {}
        self._rows: dict[tuple[str, ...], float] = {}
        self._places: dict[str, tuple[Path, ...]] = {}
        self._asked: dict[str, list[str]] = {name: [] for name in self.names}
        try:
            self._count(settings)
        except (SettingsError, DataError) as error:
            self.unknown = str(error)
        self.runs = len(self._seconds)
        self._at_first = self._left(self.names)

    def _count(self, settings: Settings) -> None:
        """The runs of all notebooks, each once, with the seconds that one takes."""
        found = plan_sizes.known_models(settings)
        if found["model.base"].parameters is None:
            raise SettingsError(f"{settings.model.base}: its size is not known before it is here")
        speeds = plan_time.speeds(settings)
        at_once = plan_time.runs_at_once(settings)
        for name in self.names:
            if name not in grids.GRIDS:
                continue
            for run in grids.notebook_runs(settings, name):
                key = run.model_dump_json()
                rate, row = speeds(run)
                if rate is None and settings.data.source == "world":
                    rate, row = WORLD_SPEED
                tokens = row or self._guessed_row(run)
                seconds = plan_time.run_seconds(run, found, rate, tokens)
                self._asked[name].append(key)
                if key not in self._seconds:
                    self._seconds[key] = seconds / at_once
                    self._runs[key] = run

    def _guessed_row(self, run: Settings) -> float:
        """Tokens a row where none was measured; the files are read once for all runs on them.

        Rows of the hub are not fetched for this."""
        if run.data.source != "local":
            return run.model.max_length
        benign = tuple(run.data.benign)
        if benign not in self._rows:
            try:
                self._rows[benign] = plan_time.guessed_row(run)
            except DataError:  # too few rows, which is said when the run is asked for
                self._rows[benign] = run.model.max_length
        return self._rows[benign]

    def missing(self, names: Iterable[str]) -> set[str]:
        """The runs, by their settings as JSON, that these notebooks ask for and that are not here.

        What cannot be looked up yet, since its models or data are not here, is missing."""
        asked = {key for name in names for key in self._asked.get(name, ())}
        # in an empty store there is nothing to look up, which takes some seconds for 1,000 runs
        if not (machine.outputs() / "runs").exists():
            return asked
        return {key for key in asked if not self._here(key)}

    def _here(self, key: str) -> bool:
        if key not in self._places:
            self._places[key] = _places(self._runs[key])
        places = self._places[key]
        return bool(places) and all(store.intact(place) for place in places)

    def _left(self, names: Collection[str]) -> float:
        """Seconds that are left for these notebooks, as planned."""
        runs = sum(self._seconds[key] for key in self.missing(names))
        return runs + NOTEBOOK_SECONDS * len(names) / min(self.at_once, machine.cores())

    def seconds_for(self, names: Iterable[str]) -> float:
        """How long these notebooks take, as planned, with what is there already."""
        return self._left([name for name in self.names if name in set(names)])

    def seconds_left(self, names: Collection[str]) -> float:
        """How long these notebooks still take, at the pace of those that have ended."""
        left = self._left(names)
        planned = self._at_first - left
        pace = (time.monotonic() - self.began + TRUST) / (max(0, planned) + TRUST)
        return left * pace


def _places(run: Settings) -> tuple[Path, ...]:
    """The folders of a run and of its evaluation; none where its models or data are not here."""
    try:
        return keys.run_folder(run), keys.evaluation_folder(run)
    except (SettingsError, DataError):
        return ()


def duration(seconds: float) -> str:
    """Seconds in words: less than a minute, about 3 minutes, about 2.5 hours, about 4 days."""
    if seconds < 50:
        return "less than a minute"
    if seconds < 90:
        return "about a minute"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} minutes"
    if seconds < 36 * 3600:
        return f"about {seconds / 3600:.2g} hours"
    return f"about {seconds / 86400:.0f} days"
