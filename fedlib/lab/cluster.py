"""Runs made on the workers of a dask cluster that shares the store's folder (docs/cluster.md).

The process that asks needs no torch. A worker makes one run at a time. One that dies is replaced by
its nanny or its queue, and another takes its run up from the last finished round."""

import logging
import os
import platform
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from fedlib.lab import keys, store
from fedlib.settings import errors, identity, machine
from fedlib.settings.errors import DataError, SettingsError
from fedlib.settings.schema import Settings

FORM = re.compile(r"(tcp|tls)://[^/@\s]+:\d+")
ANSWER = 10  # seconds in which a scheduler must answer

Submit = Callable[[Settings], Future]


def address() -> str | None:
    """The scheduler that FEDLIB_CLUSTER names; None without it, SettingsError if it is none."""
    given = os.environ.get("FEDLIB_CLUSTER", "").strip()
    if not given:
        return None
    if not FORM.fullmatch(given):
        # what stands before an @ may be a password
        shown = given.rpartition("@")[2]
        raise SettingsError(
            f"FEDLIB_CLUSTER: {shown!r} is no address of a scheduler: write tcp://HOST:8786 "
            "(or tls://HOST:8786)"
        )
    return given


@contextmanager
def connected(address: str, example: Settings) -> Iterator[tuple[Submit, Submit]]:
    """(have a run's base made, have a run made) by the cluster's workers, as futures.

    Every worker is asked first whether it would make the same run as this process, in the same
    folder, under locks that hold between hosts; SettingsError where one would not."""
    with _client(address) as client, _held_lock() as held, _one_line(address):
        _check_workers(client, address, _asked(example), held)
        pool = client.get_executor(pure=False)

        def submit(work: Callable, settings: Settings) -> Future:
            settings_json, place = _asked(settings)
            # a task's name is shown on dask's pages, and where its workers die
            name = f"{place}.{uuid.uuid4().hex}"
            return pool.submit(work, settings_json, place, held, key=name)

        yield partial(submit, _work_on_base), partial(submit, _work)


@contextmanager
def _one_line(address: str) -> Iterator[None]:
    """Say in one line that the scheduler has gone, or that a run's workers die."""
    from distributed import KilledWorker

    kept = "finished rounds and runs are kept, and the same command goes on"
    try:
        yield
    except CancelledError:
        raise SettingsError(f"FEDLIB_CLUSTER: {address}: the scheduler has gone; {kept}") from None
    except KilledWorker as error:
        raise SettingsError(
            f"FEDLIB_CLUSTER: {address}: {error.allowed_failures + 1} workers died at "
            f"{str(error.task).rpartition('.')[0]} (out of memory? docs/cluster.md); {kept}"
        ) from None


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """A client of the scheduler, or SettingsError."""
    try:
        from distributed import Client
    except ImportError:
        raise SettingsError(
            "FEDLIB_CLUSTER: needs the package distributed: pip install -e .[cluster]"
        ) from None
    try:
        client = Client(address, timeout=ANSWER, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise SettingsError(
            f"FEDLIB_CLUSTER: {address}: no scheduler answers there "
            f"({type(error).__name__}); start one with: dask scheduler (docs/cluster.md)"
        ) from None
    # what it would log about a scheduler that has gone is said in one line
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    with client:
        yield client


@contextmanager
def _held_lock() -> Iterator[str]:
    """A lock of the store that this process holds, by which a worker sees whether locks hold."""
    file = (store.locks() / f"cluster-{uuid.uuid4().hex}").resolve()
    lock = FileLock(file)
    try:
        with lock:
            if isinstance(lock, SoftFileLock):
                raise SettingsError(
                    f"outputs: {file.parent}: this file system has no locks (flock), so hosts "
                    "cannot share it; FEDLIB_OUTPUTS names another folder for all outputs"
                )
            yield str(file)
    finally:
        file.unlink(missing_ok=True)


def _asked(settings: Settings) -> tuple[str, str]:
    """A run's settings, and where this process will look for it in the outputs folder."""
    place = keys.evaluation_folder(settings).relative_to(machine.outputs())
    return settings.model_dump_json(), str(place)


def _check_workers(client: Any, address: str, asked: tuple[str, str], held: str) -> None:
    """SettingsError where a worker cannot make these runs; a line where there is no worker."""
    threads = client.nthreads()
    if not threads:
        errors.say(f"FEDLIB_CLUSTER: {address}: no worker yet; runs begin when the first one comes")
    for worker, count in threads.items():
        if count != 1:
            raise SettingsError(
                f"FEDLIB_CLUSTER: worker {worker} would make {count} runs at a time in one process:"
                " start workers with --nthreads 1"
            )
    for worker, problem in client.run(_problem, *asked, held, on_error="return").items():
        if problem:
            raise SettingsError(f"FEDLIB_CLUSTER: worker {worker}: {problem}")


# --- in a worker


def _problem(settings_json: str, place: str, held: str) -> str:
    """Why this worker cannot make the run for the process that asks; "" if it can."""
    if not Path(held).exists():
        return (
            f"it does not see {Path(held).parents[2]}: all hosts must share the outputs folder, "
            "under one path"
        )
    try:
        with FileLock(held, timeout=0):
            return (
                f"locks of {Path(held).parent} do not hold between hosts: mount it with locks "
                "(docs/cluster.md)"
            )
    except Timeout:
        pass
    settings = Settings.model_validate_json(settings_json)
    try:
        found = str(keys.evaluation_folder(settings).relative_to(machine.outputs()))
    except (SettingsError, DataError) as error:
        return str(error)
    if found == place:
        return ""
    return (
        f"these settings mean another run there: its code version is {identity.CODE_VERSION}, its "
        f"precision {machine.dtype(settings.model)}, its key {keys.key(settings)}, not that of "
        f"{place}. Give all hosts the same fedlib and files, and write out model.dtype"
    )


def _prepared(settings_json: str, place: str, held: str) -> Settings:
    """The settings of a run, when this worker can make it and uses the asking process's folder."""
    problem = _problem(settings_json, place, held)
    if problem:
        raise SettingsError(f"FEDLIB_CLUSTER: worker on {platform.node()}: {problem}")
    os.environ["FEDLIB_OUTPUTS"] = str(Path(held).parents[2])
    return Settings.model_validate_json(settings_json)


def _work_on_base(settings_json: str, place: str, held: str) -> None:
    """Make a run's base."""
    from fedlib.lab import loaded

    loaded.make_base(_prepared(settings_json, place, held))


def _work(settings_json: str, place: str, held: str) -> bool:
    """Make one run; False if another process is making it."""
    from fedlib.lab import steps

    made = steps.make_unless_busy(_prepared(settings_json, place, held))
    if not made:
        time.sleep(0.3)
    return made
