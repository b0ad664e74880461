"""`fedlib reproduce`: every notebook through papermill, several at a time, with a summary.

Afterwards `page` makes one self-contained page of them."""

import fnmatch
import multiprocessing
import os
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

from fedlib.commands.page import write_page
from fedlib.lab import workers
from fedlib.papers import output
from fedlib.settings import machine, presets
from fedlib.settings.errors import SettingsError, nearest
from fedlib.settings.schema import Settings

NOTEBOOKS = machine.ROOT / "notebooks"
LAST = "90_"  # it reads what the others measured
SOCKET_PATH = 107  # bytes that the path of a socket may have, also in libzmq
REFRESH = 0.25  # seconds between two looks at what is going on


@dataclass
class Progress:
    """What there is to say about a notebook now."""

    name: str
    text: str = "waiting"
    seconds: float = 0.0


State = Mapping[str, Progress]


def reproduce_notebooks(preset: str, only: str = "*", jobs: int | None = None) -> int:
    """Execute the notebooks that match `only` at a preset; returns 0, or 1 if any failed.

    A failed notebook does not stop the others, and what was finished is kept. 90_claims comes
    last. Executed copies and index.html go to outputs/<preset>. SettingsError where nothing can
    be executed."""
    if jobs is not None and jobs < 1:
        raise SettingsError(f"--jobs: must be at least 1, got {jobs}")
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
    console, began = Console(), time.monotonic()
    state = {name: Progress(name) for name in chosen}
    _execute_all(chosen, preset, executed, at_once, state, console)

    there = [name for name in names if (executed / f"{name}.ipynb").exists()]
    page = write_page(settings, executed, there)
    return _say_how_it_went(state, page, time.monotonic() - began, console)


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


def _execute_all(
    chosen: Sequence[str],
    preset: str,
    executed: Path,
    at_once: int,
    state: State,
    console: Console,
) -> None:
    """Execute the notebooks in worker processes; their state is kept up to date and shown."""
    before = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    last = [name for name in chosen if name.startswith(LAST)]
    first = [name for name in chosen if name not in last]
    with (
        tempfile.TemporaryDirectory(prefix="fedlib-", dir=_short_place(chosen)) as scratch,
        Live(console=console, refresh_per_second=1 / REFRESH) as live,
        ProcessPoolExecutor(at_once, spawn, workers.end_with_parent) as pool,
    ):
        try:
            for names in filter(None, (first, last)):
                _wave(pool, names, preset, executed, Path(scratch), state, live)
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
    state: State,
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
            state[name].text = f"failed: {error}"
        return
    while True:
        for name, future in futures.items():
            _look(state[name], future, scratch)
        live.update(_table(state) if live.console.is_terminal else "")
        if all(future.done() for future in futures.values()):
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
    elif started.exists():
        progress.text = status.read_text(encoding="utf-8") if status.exists() else "running"
        progress.seconds = time.time() - started.stat().st_mtime


def _table(state: State) -> Table:
    grid = Table.grid(padding=(0, 2))
    for one in state.values():
        grid.add_row(one.name, f"{one.seconds:.0f} s", one.text)
    return grid


def _say_how_it_went(state: State, page: Path, seconds: float, console: Console) -> int:
    """Print the summary; 1 if any notebook failed, else 0."""
    # a terminal has seen these lines
    if not console.is_terminal:
        for one in state.values():
            line = f"{one.name:<26} {one.seconds:5.0f} s  {one.text}"
            console.print(line, highlight=False)
    failed = [one.name for one in state.values() if one.text != "done"]
    done = f"{len(state) - len(failed)} of {len(state)} notebooks done in {seconds:.0f} s"
    names = f"; failed: {', '.join(failed)}" if failed else ""
    console.print(f"{done}{names}\nOpen {page}", highlight=False, soft_wrap=True)
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
