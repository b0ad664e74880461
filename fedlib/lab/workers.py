"""Runs made in worker processes, several at a time. The parent process needs no torch.

The workers are this machine's, or those of a cluster that FEDLIB_CLUSTER names (`cluster`)."""

import multiprocessing
import multiprocessing.connection
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from filelock import FileLock, Timeout

from fedlib.lab import cluster, keys, shared_workers, store
from fedlib.settings import machine
from fedlib.settings.errors import SettingsError
from fedlib.settings.schema import Settings

AT_MOST = 8  # workers on a CPU, where nothing else is said
# Memory pieces above this size go back at once: else glibc's heap grows with every new shape.
KEPT_BYTES = 16 << 20


def jobs(settings: Settings) -> int:
    """How many runs are made at a time: FEDLIB_JOBS, or one a core (one a GPU where there are any).

    SettingsError where FEDLIB_JOBS is no whole number."""
    given = os.environ.get("FEDLIB_JOBS")
    if given is None:
        on_gpu = machine.device(settings.model) == "cuda"
        return max(1, len(machine.gpus())) if on_gpu else min(machine.cores(), AT_MOST)
    if not given.isdigit():
        raise SettingsError(f"FEDLIB_JOBS: must be a whole number, got {given!r}")
    return int(given)


def assign_devices(count: int, gpus: Sequence[str]) -> list[str]:
    """The device of each of `count` workers, in turn; "" for all where there are no GPUs."""
    return [gpus[i % len(gpus)] if gpus else "" for i in range(count)]


def make_runs(missing: Sequence[Settings]) -> None:
    """Make runs in worker processes, the bases that they share first; a line says how far it is.

    A run that fails is raised at the end, when the others are made; a base that fails is raised at
    once. With no jobs (FEDLIB_JOBS=0) they are made in this process, up to the first that fails.
    Where FEDLIB_CLUSTER names a cluster, its workers make them, whatever FEDLIB_JOBS says; and
    where `fedlib reproduce` has workers for all its notebooks, those do."""
    address, place = cluster.address(), shared_workers.socket_place()
    count = 0 if address else jobs(missing[0])
    with _progress(len(missing)) as advance:
        if address:
            with cluster.connected(address, missing[0]) as (submit_base, submit_run):
                _make_all(submit_base, submit_run, missing, advance)
        elif count == 0:
            _make_here(missing, advance)
        elif place:
            with _killed_in_a_line(), shared_workers.asking(place) as (submit_base, submit_run):
                _make_all(submit_base, submit_run, missing, advance)
        else:
            _make_in_processes(missing, count, advance)


def _make_here(missing: Sequence[Settings], advance: Callable[[], None]) -> None:
    from fedlib.lab import steps

    for settings in missing:
        steps.make(settings)
        advance()


def _make_in_processes(
    missing: Sequence[Settings], count: int, advance: Callable[[], None]
) -> None:
    """Make runs in processes of this machine, `count` at a time."""
    before = set(multiprocessing.active_children())
    on_gpu = machine.device(missing[0].model) == "cuda"
    devices = assign_devices(count, machine.gpus() if on_gpu else [])
    pool = start_pool(devices, len(missing))

    def submit_base(settings: Settings) -> Future:
        return pool.submit(_work_on_base, settings.model_dump_json())

    def submit_run(settings: Settings) -> Future:
        return pool.submit(_work, settings.model_dump_json(), devices)

    try:
        with _killed_in_a_line():
            _make_all(submit_base, submit_run, missing, advance)
    except BaseException:
        # interrupted, or failed: workers stop; what they finished is kept
        for child in children_since(before):
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _killed_in_a_line() -> Iterator[None]:
    """Say what may have happened where a worker process is killed."""
    try:
        yield
    except BrokenProcessPool:
        raise RuntimeError(
            "a worker process was killed (out of memory?) or could not start: in a script, "
            "call fedlib under if __name__ == '__main__':, or set FEDLIB_JOBS=0 to work in "
            "this process"
        ) from None


@contextmanager
def shared(settings: Settings, folder: Path) -> Iterator[None]:
    """A block in which other processes' runs, too, are made by one pool of workers.

    folder: for the socket by which they ask; FEDLIB_WORKERS names it to those started in here. One
    run is made once, however many ask. With no jobs, or on Windows, everybody has their own."""
    count = jobs(settings)
    if count == 0 or cluster.address() or not hasattr(socket, "AF_UNIX"):
        yield
        return
    on_gpu = machine.device(settings.model) == "cuda"
    pool = _Pool(assign_devices(count, machine.gpus() if on_gpu else []))
    before = os.environ.get("FEDLIB_WORKERS")
    try:
        with shared_workers.answering(folder, pool.submit) as place:
            os.environ["FEDLIB_WORKERS"] = place
            yield
    finally:
        if before is None:
            os.environ.pop("FEDLIB_WORKERS", None)
        else:
            os.environ["FEDLIB_WORKERS"] = before
        pool.executor.shutdown(wait=False, cancel_futures=True)


class _Pool:
    """Workers that are replaced when one is killed, and make the same thing once at a time."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = devices
        self.executor = start_pool(devices, len(devices))
        self.going_on: dict[tuple[str, str], Future] = {}
        self.lock = threading.Lock()

    def submit(self, kind: str, settings_json: str) -> Future:
        """Have a base or a run made (shared_workers.ASKED): the future of who asked first."""
        asked = (kind, settings_json)
        with self.lock:
            if asked not in self.going_on:
                future = self._submitted(kind, settings_json)
                self.going_on[asked] = future
                future.add_done_callback(lambda _: self.going_on.pop(asked, None))
                return future
            return self.going_on[asked]

    def _submitted(self, kind: str, settings_json: str) -> Future:
        work = {
            "base": partial(_work_on_base, settings_json),
            "run": partial(_work, settings_json, self.devices),
        }[kind]
        try:
            return self.executor.submit(work)
        except BrokenProcessPool:
            # a worker was killed: those who waited have been told
            self.executor = start_pool(self.devices, len(self.devices))
            return self.executor.submit(work)


def start_pool(devices: Sequence[str], wanted: int) -> ProcessPoolExecutor:
    """A pool with a worker for each device, at most as many as are wanted.

    A worker sees its own device only."""
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(KEPT_BYTES))
    spawn = multiprocessing.get_context("spawn")
    # each worker takes one as it starts
    free = spawn.SimpleQueue()
    for device in devices:
        free.put(device)
    threads = max(1, machine.cores() // len(devices))
    return ProcessPoolExecutor(min(len(devices), wanted), spawn, _start_worker, (threads, free))


def children_since(before: set[BaseProcess]) -> set[BaseProcess]:
    """The child processes of this process that were not there before."""
    return set(multiprocessing.active_children()) - before


def _make_all(
    submit_base: Callable[[Settings], Future],
    submit_run: Callable[[Settings], Future],
    missing: Sequence[Settings],
    advance: Callable[[], None],
) -> None:
    """Make each base that is made here, then every run.

    The first run that fails is raised when all others are made."""
    bases = {keys.base_folder(s): s for s in missing if keys.base_is_made(s)}
    for future in as_completed([submit_base(settings) for settings in bases.values()]):
        future.result()

    failure: BaseException | None = None
    pending = {submit_run(settings): settings for settings in missing}
    while pending:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            settings = pending.pop(future)
            # another process is at it: later again
            if future.exception() is None and not future.result():
                pending[submit_run(settings)] = settings
                continue
            failure = failure or future.exception()
            advance()
    if failure:
        raise failure


# --- in a worker process


def _start_worker(threads: int, free: SimpleQueue) -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    device = free.get()
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    end_with_parent()


def end_with_parent() -> None:
    """End this worker process when its parent ends, however that ends.

    It would otherwise wait for work for ever, or go on unseen. Its run is resumed next time."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("end_with_parent: this process is no worker")

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work_on_base(settings_json: str) -> None:
    """Make a run's base with every core, since all other runs wait for it."""
    import torch

    from fedlib.lab import loaded

    torch.set_num_threads(machine.cores())
    loaded.make_base(Settings.model_validate_json(settings_json))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def _work(settings_json: str, devices: Sequence[str]) -> bool:
    """Make one run; False if another process is making it."""
    from fedlib.lab import steps

    settings = Settings.model_validate_json(settings_json)
    with _slot(devices):
        made = steps.make_unless_busy(settings)
    if not made:
        time.sleep(0.3)
    return made


@contextmanager
def _slot(devices: Sequence[str]) -> Iterator[None]:
    """One of the machine's places for a working process, on this process's device.

    All notebooks that run at the same time share them."""
    own = os.environ.get("CUDA_VISIBLE_DEVICES")
    places = [i for i, device in enumerate(devices) if device in ("", own)]
    while True:
        for i in places:
            # hosts may share the folder
            lock = FileLock(store.locks() / f"{platform.node()}.slot{i}")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield
            finally:
                lock.release()
            return
        time.sleep(0.1)


# --- how far it is


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """advance() for each finished run: one line that is rewritten.

    It goes to the file FEDLIB_STATUS names (`fedlib reproduce` reads it), to the notebook's
    output, or else to the terminal."""
    began, done = time.monotonic(), 0
    file = os.environ.get("FEDLIB_STATUS")
    in_notebook = "IPython" in sys.modules and sys.modules["IPython"].get_ipython()
    handle = _show(_how_far(0, total, 0)) if in_notebook else None

    def tell() -> None:
        text = _how_far(done, total, time.monotonic() - began)
        if file:
            Path(file).write_text(text, encoding="utf-8")
        if handle:
            handle.update({"text/plain": text}, raw=True)
        elif not file and sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{text}", end=end, file=sys.stderr, flush=True)

    def advance() -> None:
        nonlocal done
        done += 1
        tell()

    tell()
    yield advance


def _show(text: str):
    from IPython.display import display

    return display({"text/plain": text}, raw=True, display_id=True)


def _how_far(done: int, total: int, seconds: float) -> str:
    return f"executed {done} of {total} missing runs, {seconds:.0f} s"
