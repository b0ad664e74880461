"""Runs by their settings: read if they are there, else executed, several at a time. No torch in this process."""

import contextlib
import json
import multiprocessing.connection
import os
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from filelock import FileLock, Timeout

from fedlib.lab import checks, keys, store
from fedlib.settings import errors, machine, schema


def get(settings):
    """The Run of these settings: read if it is there, else executed."""
    return get_all([settings])[0]


def get_all(wanted):
    """The Runs of a list of settings, in its order; missing ones are executed, several at a time on a CPU.

    FEDLIB_JOBS sets how many (default: one a core on a CPU, one on a GPU; 0: in this very process). A run's
    threads are the cores divided by that. What is finished stays, whatever happens to the others."""
    wanted = list(wanted)
    first = sorted(
        wanted, key=lambda s: bool(s.defense.level)
    )  # what a defence starts from is made before it
    missing = {keys.evaluation_folder(s): s for s in first if not store.is_there(s)}
    for settings in missing.values():
        checks.check_run(settings)
    if missing:
        _execute(list(missing.values()))
    return [store.Run(s, keys.run_folder(s), keys.evaluation_folder(s)) for s in wanted]


def get_robustness(settings):
    """What was found about the modules of a run's base; found now, in this process, where it is missing."""
    folder = keys.robustness_folder(settings)
    if not store.intact(folder):
        from fedlib.lab import steps

        steps.make_robustness(settings)
    return store.read_robustness(folder)


def listing():
    """A dict for every run in the store: name, key, state, rounds, megabytes, seconds."""
    out = []
    for folder in sorted(p.parent for p in (machine.outputs() / "runs").glob("*/settings.json")):
        name, _, key_ = folder.name.rpartition("-")
        rounds = folder / "rounds.jsonl"
        lines = (
            rounds.read_text(encoding="utf-8").split("\n")[:-1] if rounds.exists() else []
        )  # whole lines only
        try:
            seconds = sum(json.loads(line)["seconds"] for line in lines)
        except (ValueError, KeyError, TypeError):
            lines, seconds = [], 0.0
        state = (
            "done"
            if store.intact(folder)
            else "spoilt"
            if (folder / "done.json").exists()
            else "unfinished"
        )
        out.append(
            {
                "name": name,
                "key": key_,
                "state": state,
                "rounds": len(lines),
                "evaluations": sum(store.intact(p) for p in folder.glob("eval-*")),
                "MB": round(
                    sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6, 2
                ),
                "seconds": round(seconds, 1),
            }
        )
    return out


def jobs(settings):
    """How many runs are executed at a time: FEDLIB_JOBS, or one a core (one where there is a GPU)."""
    given = os.environ.get("FEDLIB_JOBS")
    if given is None:
        return 1 if machine.device(settings) == "cuda" else min(cores(), 8)
    if not given.isdigit():
        raise errors.SettingsError(f"FEDLIB_JOBS: must be a whole number, got {given!r}")
    return int(given)


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _execute(missing):
    """Execute runs in worker processes, the shared base first; one line says how far it is."""
    count = jobs(missing[0])
    with _progress(len(missing)) as advance:
        if count == 0:
            from fedlib.lab import steps

            for settings in missing:
                steps.make(settings)
                advance()
            return
        others = set(multiprocessing.active_children())
        threads = max(1, cores() // count)
        os.environ.setdefault(
            "MALLOC_MMAP_THRESHOLD_", str(16 << 20)
        )  # else glibc's heap grows with every new shape
        pool = ProcessPoolExecutor(
            min(count, len(missing)),
            multiprocessing.get_context("spawn"),
            _start_worker,
            (threads,),
        )
        try:
            bases = {keys.base_folder(s): s for s in missing if s.model.base == "scratch"}
            for future in as_completed(
                [pool.submit(_work, s.model_dump_json(), count, True) for s in bases.values()]
            ):
                future.result()
            failure, pending = (
                None,
                {pool.submit(_work, s.model_dump_json(), count, False): s for s in missing},
            )
            while pending:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    settings = pending.pop(future)
                    if (
                        future.exception() is None and not future.result()
                    ):  # another process is at it: later again
                        pending[pool.submit(_work, settings.model_dump_json(), count, False)] = (
                            settings
                        )
                        continue
                    failure = failure or future.exception()
                    advance()
            if failure:
                raise failure
        except BrokenProcessPool:
            raise RuntimeError(
                "a worker process was killed (out of memory?) or could not start: in a script, call fedlib "
                "under if __name__ == '__main__':, or set FEDLIB_JOBS=0 to work in this process"
            ) from None
        except BaseException:  # interrupted, or failed: workers stop; what they finished is kept
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(threads):
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    end_with_parent()


def end_with_parent():
    """A worker whose parent was killed would wait for work for ever, or go on unseen: it ends, to be resumed."""

    def watch():
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(settings_json, slots, base_only):
    """Make one run, or a base; False if another process is making it."""
    settings = schema.Settings.model_validate_json(settings_json)
    if base_only:  # all other runs wait for it, so it takes every core
        import torch

        from fedlib.lab import loaded

        torch.set_num_threads(cores())
        loaded.make_base(settings)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        return
    from fedlib.lab import steps
    from fedlib.models import loading

    with _slot(slots):
        try:
            steps.make(settings, wait=False)
            if (
                machine.device(settings) == "cuda"
            ):  # the next run, or another notebook's, needs the memory
                loading.release()
            return True
        except store.Busy:
            pass
    time.sleep(0.3)
    return False


@contextlib.contextmanager
def _slot(count):
    """One of the machine's places for a working process, shared with all notebooks that run at the same time."""
    folder = machine.outputs() / "runs" / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        for i in range(count):
            lock = FileLock(folder / f"slot{i}")
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


@contextlib.contextmanager
def _progress(total):
    """advance() for each finished run: one line that is rewritten, in a notebook, a terminal or for `fedlib reproduce`."""
    began, done, file = time.monotonic(), 0, os.environ.get("FEDLIB_STATUS")
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    handle = _display(_line(0, total, 0)) if shell else None

    def show():
        text = _line(done, total, time.monotonic() - began)
        if file:
            Path(file).write_text(text)
        if handle:
            handle.update(_plain(text), raw=True)
        elif not file and sys.stderr.isatty():
            print(f"\r{text}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    def advance():
        nonlocal done
        done += 1
        show()

    show()
    yield advance


def _display(text):
    from IPython.display import display

    return display(_plain(text), raw=True, display_id=True)


def _plain(text):
    return {"text/plain": text}


def _line(done, total, seconds):
    return f"executed {done} of {total} missing runs, {seconds:.0f} s"
