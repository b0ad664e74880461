"""`fedlib reproduce`: every notebook through papermill, several at a time.

It says beforehand what it will do and how long that takes. `page` makes one self-contained page of
the notebooks, from the first result on."""

import fnmatch
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fedlib.commands.forecast import Forecast, duration
from fedlib.commands.page import NOTEBOOKS, Page
from fedlib.lab import workers
from fedlib.papers import output
from fedlib.settings import machine, presets
from fedlib.settings.errors import SettingsError, nearest
from fedlib.settings.schema import Settings

FIRST = ("00_", "01_")  # the tour and a few runs of each paper, which the others need too
LAST = ("90_",)  # it reads what the others measured
PAGE_AGE = 15  # seconds after which a page is written again, if a notebook has got on
SOCKET_PATH = 107  # bytes that the path of a socket may have, also in libzmq
REFRESH = 0.25  # seconds between two looks at what is going on


@dataclass
class Progress:
    """What there is to say about a notebook now."""

    name: str
    text: str = "waiting"
    seconds: float = 0.0
    ended: bool = False


State = Mapping[str, Progress]


@dataclass
class Watch:
    """Those who are told how the notebooks get on: the console, the page, the forecast."""

    console: Console
    page: Page
    forecast: Forecast
    state: State
    written: float = 0.0  # when the page was, on the monotonic clock

    def coming(self) -> list[str]:
        """The notebooks that have not ended."""
        return [one.name for one in self.state.values() if not one.ended]

    def tell_end(self, one: Progress) -> None:
        """A line for a notebook that has ended, and what is left."""
        coming = self.coming()
        count = len(self.state)
        line = (
            f"{count - len(coming):>2} of {count}  {one.name:<26} {one.seconds:5.0f} s  {one.text}"
        )
        if coming and not self.forecast.unknown:
            line += f"; {duration(self.forecast.seconds_left(coming))} left"
        _say(self.console, line)

    def write_page(self) -> None:
        self.page.write(self.coming())
        self.written = time.monotonic()

    def look_at_page(self) -> None:
        """Write the page again where a notebook has got on, but not all the time."""
        old = time.monotonic() - self.written > PAGE_AGE
        if old and self.page.changed():
            self.write_page()


def reproduce_notebooks(preset: str, only: str = "*", jobs: int | None = None) -> int:
    """Execute the notebooks that match `only` at a preset; returns 0, or 1 if any failed.

    A failed notebook does not stop the others, and what was finished is kept. The tour and
    01_three_papers come first, 90_claims last. Executed copies and index.html go to
    outputs/<preset>. SettingsError where nothing can be executed."""
    if jobs is not None and jobs < 1:
        raise SettingsError(f"--jobs: must be at least 1, got {jobs}")
    asked = preset
    settings = presets.load(preset)
    names = [file.stem for file in sorted(NOTEBOOKS.glob("*.ipynb"))]
    chosen = _chosen(names, only)

    # the notebooks run in another folder, where a relative path would mean something else
    if preset.endswith((".yaml", ".yml")):
        file = Path(preset) if Path(preset).exists() else machine.path(preset)
        preset = str(file.resolve())
    os.environ["FEDLIB_OUTPUTS"] = str(machine.outputs().resolve())
    executed = output.preset_folder(settings, "executed")

    # as many threads for all together as there are cores: more are slow together
    at_once = min(jobs or _default_jobs(settings), len(chosen))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, machine.cores() // at_once)))

    # what is going to be done; to count the runs takes some seconds where there are many
    state = {name: Progress(name) for name in chosen}
    console = Console()
    _say(console, f"preset {settings.preset}, seeds {settings.seeds}: {_count(chosen, 'notebook')}")
    forecast = Forecast(settings, chosen, at_once)
    watch = Watch(console, Page(settings, executed, names), forecast, state)
    _say_what_comes(watch)

    # as a person would type it
    python, here = Path(sys.executable), Path.cwd()
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    again = f"{shown} -m fedlib reproduce --preset {asked}"
    began = time.monotonic()
    try:
        _execute_all(chosen, preset, settings, executed, at_once, watch)
    except KeyboardInterrupt:
        watch.page.write(again=again)
        _say_how_to_go_on(watch, again if only == "*" else f"{again} --only '{only}'")
        raise
    watch.page.write(again=again)
    return _say_how_it_went(watch, time.monotonic() - began)


def _say(console: Console, line: str) -> None:
    """A plain line, whole however narrow the terminal is."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _count(things: Sequence, name: str) -> str:
    return f"{len(things)} {name}" + "s" * (len(things) != 1)


def _say_what_comes(watch: Watch) -> None:
    """Say how long it takes here, what comes first, and where the page is; write the page."""
    names, forecast = list(watch.state), watch.forecast
    if forecast.unknown:
        _say(watch.console, f"how long it takes cannot be said: {forecast.unknown}")
    else:
        there = forecast.runs - len(forecast.missing(names))
        took = duration(forecast.seconds_for(names))
        runs = f"{forecast.runs} runs, {there} of them here already"
        _say(watch.console, f"{runs}: {took} in all on {machine.cores()} cores")
    first = _waves(names)[0]
    if first != names:
        soon = "" if forecast.unknown else f", {duration(forecast.seconds_for(first))}"
        _say(watch.console, f"first {' and '.join(first)}{soon}; the others share their runs")
    watch.write_page()
    _say(watch.console, f"open {watch.page.file}: reload it to see more")
    _say(watch.console, "Ctrl-C stops; what is finished is kept, and the same command goes on")


def _say_how_to_go_on(watch: Watch, again: str) -> None:
    """After an interrupt: what is done, where to see it, and the command that goes on."""
    coming = watch.coming()
    _say(watch.console, f"stopped: {len(watch.state) - len(coming)} of {len(watch.state)} done")
    _say(watch.console, f"what there is so far: {watch.page.file}")
    _say(watch.console, f"to go on: {again}")


def _chosen(names: Sequence[str], only: str) -> list[str]:
    """The notebooks that a glob matches, or that begin with a text without its signs."""
    pattern = only if any(sign in only for sign in "*?[") else f"{only}*"
    chosen = [name for name in names if fnmatch.fnmatch(name, pattern)]
    if not chosen:
        raise SettingsError(f"--only: no notebook matches {only!r}{nearest(only, names)}")
    return chosen


def _default_jobs(settings: Settings) -> int:
    """A notebook for each core; one where there is a GPU, whose memory is for one."""
    return 1 if machine.device(settings.model) == "cuda" else max(1, machine.cores())


def _waves(names: Sequence[str]) -> list[list[str]]:
    """The notebooks in the order of their execution: a list is begun when the one before ended."""
    first = [name for name in names if name.startswith(FIRST)]
    last = [name for name in names if name.startswith(LAST)]
    rest = [name for name in names if name not in first + last]
    return [wave for wave in (first, rest, last) if wave]


def _execute_all(
    chosen: Sequence[str],
    preset: str,
    settings: Settings,
    executed: Path,
    at_once: int,
    watch: Watch,
) -> None:
    """Execute the notebooks in worker processes; their state is kept up to date and shown.

    The runs that they ask for are made by other processes, which all notebooks share."""
    before = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="fedlib-", dir=_short_place(chosen)) as scratch,
        Live(console=watch.console, refresh_per_second=1 / REFRESH, transient=True) as live,
        workers.shared(settings, Path(scratch)),
        ProcessPoolExecutor(at_once, spawn, workers.end_with_parent) as pool,
    ):
        try:
            for names in _waves(chosen):
                _wave(pool, names, preset, executed, Path(scratch), watch, live)
        except BaseException:
            # Interrupted. A worker would go on with the next notebook, and nbclient goes on even
            # where it is terminated. Its kernel ends with it, and the kernel's workers with that.
            pool.shutdown(wait=False, cancel_futures=True)
            for child in workers.children_since(before):
                child.kill()
            raise


def _short_place(names: Sequence[str]) -> str:
    """TMPDIR, or a folder whose path leaves room for the names of the kernels' sockets."""
    longest = max(len(os.fsencode(f"/fedlib-12345678/{name}-5")) for name in names)
    places = (tempfile.gettempdir(), "/tmp", "/var/tmp")
    for place in places:
        fits = len(os.fsencode(place)) + longest <= SOCKET_PATH
        if fits and os.access(place, os.W_OK):
            return place
    raise SettingsError(
        f"TMPDIR: {places[0]}: its path is too long for sockets, which take {SOCKET_PATH} bytes; "
        "set TMPDIR to a folder with a shorter one"
    )


def _wave(
    pool: ProcessPoolExecutor,
    names: Collection[str],
    preset: str,
    executed: Path,
    scratch: Path,
    watch: Watch,
    live: Live,
) -> None:
    """Execute some notebooks, until all of them have ended."""
    futures: dict[str, Future] = {}
    try:
        for name in names:
            notebook = NOTEBOOKS / f"{name}.ipynb"
            futures[name] = pool.submit(_execute, notebook, preset, executed, scratch)
    except BrokenProcessPool as error:
        # an earlier notebook's process was killed
        for name in names:
            watch.state[name].text, watch.state[name].ended = f"failed: {error}", True
            watch.tell_end(watch.state[name])
        return
    while True:
        for name, future in futures.items():
            one = watch.state[name]
            if not one.ended:
                _look(one, future, scratch)
                if one.ended:
                    watch.tell_end(one)
                    watch.write_page()
        watch.look_at_page()
        live.update(_table(watch.state) if live.console.is_terminal else "")
        if all(watch.state[name].ended for name in names):
            return
        time.sleep(REFRESH)


def _look(progress: Progress, future: Future, scratch: Path) -> None:
    """Bring what is said about a notebook up to date."""
    started = scratch / f"{progress.name}.started"
    status = scratch / f"{progress.name}.status"
    if future.done():
        error = future.exception()
        text, seconds = f"failed: {type(error).__name__}: {error}", 0.0
        if error is None:
            text, seconds = future.result()
        progress.text, progress.seconds = " ".join(text.split())[:300], seconds
        progress.ended = True
    elif started.exists():
        progress.text = status.read_text(encoding="utf-8") if status.exists() else "running"
        progress.seconds = time.time() - started.stat().st_mtime


def _table(state: State) -> Table:
    """The notebooks that are being executed, a row each; how many wait."""
    grid = Table.grid(padding=(0, 2))
    waiting = [one for one in state.values() if one.text == "waiting"]
    for one in state.values():
        if not one.ended and one not in waiting:
            grid.add_row(one.name, f"{one.seconds:.0f} s", one.text)
    if waiting:
        grid.add_row(f"{len(waiting)} waiting")
    return grid


def _say_how_it_went(watch: Watch, seconds: float) -> int:
    """Print the summary; 1 if any notebook failed, else 0."""
    state = watch.state
    failed = [one.name for one in state.values() if one.text != "done"]
    done = f"{len(state) - len(failed)} of {len(state)} notebooks done in {seconds:.0f} s"
    names = f"; failed: {', '.join(failed)}" if failed else ""
    _say(watch.console, f"{done}{names}")
    _say(watch.console, f"Open {watch.page.file}")
    return 1 if failed else 0


# --- in a worker process


def _execute(notebook: Path, preset: str, executed: Path, scratch: Path) -> tuple[str, float]:
    """Execute one notebook in this process; ("done" or what failed, seconds).

    The kernel talks over sockets in the scratch folder, not over ports: free ports are a race
    when several kernels start at once."""
    name, began = notebook.stem, time.monotonic()
    (scratch / f"{name}.started").touch()
    os.environ |= {
        "FEDLIB_STATUS": str(scratch / f"{name}.status"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "IPYTHONDIR": str(scratch / "ipython"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    # kernels write warnings as they end; what fails is said in the summary
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    import papermill
    from traitlets.config import Config

    kernels = {"transport": "ipc", "ip": str(scratch / name)}
    try:
        papermill.execute_notebook(
            notebook,
            executed / notebook.name,
            {"preset": preset},
            kernel_name="python3",
            progress_bar=False,
            cwd=notebook.parent,
            config=Config({"AsyncKernelManager": kernels}),
        )
        text = "done"
    except papermill.PapermillExecutionError as error:
        text = f"failed in cell {error.exec_count}: {error.ename}: {error.evalue}"
    except Exception as error:  # a dead kernel, a full disk: the other notebooks go on
        text = f"failed: {type(error).__name__}: {error}"
    return text, time.monotonic() - began
