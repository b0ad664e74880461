"""The run store: a run is found by its settings, or executed once. Content-addressed, locked, resumable. No torch."""

import contextlib
import functools
import importlib
import json
import multiprocessing.connection
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from fedlib import config, data

# What a folder's content is made by: module and function, imported only when there is work, called (settings, folder).
WORK = {"base": ("fedlib.pretraining", "train_scratch"), "run": ("fedlib.federation", "execute"),
        "evaluation": ("fedlib.judge", "evaluate")}
WORLD_MODELS = Path(__file__).parent / "world_models"


@dataclass(frozen=True)
class Run:
    """A finished run and its evaluation, read from their folders."""

    settings: config.Settings
    folder: Path
    evaluation: Path

    def rounds(self):
        """A dict a round: sampled, losses, weights, norms, cosine, seconds, tokens."""
        return _lines(self.folder / "rounds.jsonl")

    def scores(self):
        """{rule, over_refusal, help, ...} in percent, and the numbers of prompts."""
        return json.loads((self.evaluation / "scores.json").read_text(encoding="utf-8"))

    def responses(self):
        """Every evaluation prompt with its response and each judge's score; to be shown through report.examples."""
        return _lines(self.evaluation / "responses.jsonl")


def get(settings):
    """The Run of these settings: read if it is there, else executed."""
    return get_all([settings])[0]


def get_all(wanted):
    """The Runs of a list of settings, in its order; missing ones are executed, several at a time on a CPU.

    FEDLIB_JOBS sets how many (default: one a core on a CPU, one on a GPU; 0: in this very process). A run's
    threads are the cores divided by that. What is finished stays, whatever happens to the others."""
    wanted = list(wanted)
    missing = {run_folder(s) / _evaluation_name(s): s for s in wanted if not _there(s)}
    if missing:
        _execute(list(missing.values()))
    return [Run(s, run_folder(s), run_folder(s) / _evaluation_name(s)) for s in wanted]


def make(settings):
    """Make what is missing of a run in this process: its base, the run, its evaluation. Each step is kept once done."""
    if settings.model.base == "scratch":
        _ensure("base", settings, base_folder(settings))
    _ensure("run", settings, run_folder(settings))
    _ensure("evaluation", settings, run_folder(settings) / _evaluation_name(settings))


def base_folder(settings):
    """Where the base model lies: a world model, one trained from scratch, a folder; None for a hub name."""
    base = settings.model.base
    if base == "scratch":
        return config.outputs() / "runs" / f"base-{config.digest(_base_identity(settings))}"
    if base.startswith("world:"):
        known = sorted(f"world:{p.name}" for p in WORLD_MODELS.iterdir() if p.is_dir())
        if base not in known:
            raise config.SettingsError(f"model.base: no model {base!r}{config._nearest(base, known)}")
        return WORLD_MODELS / base.removeprefix("world:")
    folder = config.path(base)
    if base.startswith((".", "/", "~")) and not folder.is_dir():
        raise config.SettingsError(f"model.base: no folder {folder}")
    return folder if folder.is_dir() else None


def run_folder(settings):
    """outputs/runs/<name>-<key>: the name is for people, the key covers everything that changes the result."""
    f = settings.federation
    name = f"{'+'.join(Path(b).stem for b in settings.data.benign)}-{f.aggregator}-{f.malicious}of{f.clients}"
    return config.outputs() / "runs" / f"{name}-sampled{f.sampled}-seed{settings.seed}-{key(settings)}"


def key(settings):
    """12 hex digits over all that changes a run's result, and nothing that does not."""
    plain = settings.model_dump(include={"model", "data", "federation", "training", "defense", "swat"})
    for name in ("device", "revision", "scratch"):
        plain["model"].pop(name)
    plain["data"].pop("folder"), plain["data"].pop("harmful")
    if not settings.federation.malicious:  # then nobody is unaligned, whatever the share would have been
        plain["data"].pop("unaligned"), plain["data"].pop("unaligned_share")
    plain["model"] |= {"dtype": config.dtype(settings), "base": _base_revision(settings)}
    return config.digest([config.CODE_VERSION, settings.seed, plain, data.revision(settings)])


def _evaluation_name(settings):
    plain = settings.evaluation.model_dump(exclude={"show_responses"})
    return f"eval-{config.digest([config.CODE_VERSION, plain, data.prompts_revision(settings)])}"


def _base_identity(settings):
    return [config.CODE_VERSION, settings.model.scratch.model_dump(), settings.model.max_length, settings.model.template,
            data.revision(settings, "corpus")]


def _base_revision(settings):
    if settings.model.base == "scratch":
        return config.digest(_base_identity(settings))
    folder = base_folder(settings)
    if folder is None:
        return [settings.model.base, settings.model.revision]
    return _folder_digest(folder, tuple((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.iterdir())))


@functools.lru_cache(maxsize=8)
def _folder_digest(folder, _state):
    return config.digest([[p.name, data.file_digest(p)] for p in sorted(folder.iterdir()) if p.is_file()])


def intact(folder):
    """Whether a folder is finished: its done.json is there and every file has the digest written in it."""
    try:
        files = json.loads((folder / "done.json").read_text(encoding="utf-8"))["files"]
        return all(data.file_digest(folder / name) == wanted for name, wanted in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _there(settings):
    folder = run_folder(settings)
    return intact(folder) and intact(folder / _evaluation_name(settings))


def _ensure(kind, settings, folder):
    """Make a folder's content once, whoever else wants it too: under its lock, sealed with done.json at the end."""
    if intact(folder):
        return
    locks = config.outputs() / "runs" / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{folder.parent.name if kind == 'evaluation' else 'runs'}.{folder.name}"):
        if intact(folder):
            return
        if (folder / "done.json").exists() or kind == "evaluation":  # spoilt, or half an evaluation: start again
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "settings.json", settings.model_dump() | {"code_version": config.CODE_VERSION})
        module, function = WORK[kind]
        getattr(importlib.import_module(module), function)(settings, folder)
        inside = [p for p in sorted(folder.rglob("*")) if p.is_file()
                  and not p.relative_to(folder).parts[0].startswith("eval-")]
        _write(folder / "done.json", {"files": {str(p.relative_to(folder)): data.file_digest(p) for p in inside}})


def _write(file, value):
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, file)


def _lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def jobs(settings):
    """How many runs are executed at a time: FEDLIB_JOBS, or one a core (one where there is a GPU)."""
    given = os.environ.get("FEDLIB_JOBS")
    if given is None:
        return 1 if config.device(settings) == "cuda" else cores()
    if not given.isdigit():
        raise config.SettingsError(f"FEDLIB_JOBS: must be a whole number, got {given!r}")
    return int(given)


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _execute(missing):
    """Execute runs in worker processes, the shared base first; one line says how far it is."""
    count = jobs(missing[0])
    with _progress(len(missing)) as advance:
        if count == 0:
            for settings in missing:
                make(settings)
                advance()
            return
        threads = max(1, cores() // count)
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(16 << 20))  # else glibc's heap grows with every new shape
        pool = ProcessPoolExecutor(min(count, len(missing)), multiprocessing.get_context("spawn"), _start_worker, (threads,))
        try:
            bases = {base_folder(s): s for s in missing if s.model.base == "scratch"}
            for future in as_completed([pool.submit(_work, s.model_dump_json(), count, True) for s in bases.values()]):
                future.result()
            failure = None
            for future in as_completed([pool.submit(_work, s.model_dump_json(), count, False) for s in missing]):
                failure = failure or future.exception()
                advance()
            if failure:
                raise failure
        except BaseException:  # interrupted, or failed: workers stop; what they finished is kept
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(threads):
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A worker whose notebook was killed would wait for work for ever, or go on unseen: it ends, to be resumed."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _work(settings_json, slots, base_only):
    settings = config.Settings.model_validate_json(settings_json)
    if base_only:  # all other runs wait for it, so it takes every core
        import torch

        torch.set_num_threads(cores())
        _ensure("base", settings, base_folder(settings))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        return
    with _slot(slots):
        make(settings)


@contextlib.contextmanager
def _slot(count):
    """One of the machine's places for a working process, shared with all notebooks that run at the same time."""
    folder = config.outputs() / "runs" / ".locks"
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


def listing():
    """A dict for every run in the store: name, key, state, rounds, megabytes, seconds."""
    out = []
    for folder in sorted((config.outputs() / "runs").glob("*-*")):
        if not folder.is_dir():
            continue
        name, _, key_ = folder.name.rpartition("-")
        rounds = folder / "rounds.jsonl"
        lines = _lines(rounds) if rounds.exists() else []
        state = "done" if intact(folder) else "spoilt" if (folder / "done.json").exists() else "unfinished"
        out.append({"name": name, "key": key_, "state": state, "rounds": len(lines),
                    "evaluations": sum(intact(p) for p in folder.glob("eval-*")),
                    "MB": round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6, 2),
                    "seconds": round(sum(line["seconds"] for line in lines), 1)})
    return out
