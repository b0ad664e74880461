"""The run store: where a run lies by its settings, made once under a lock, resumable, verified. No torch."""

import functools
import importlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from fedlib import config, data, files

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


def make(settings):
    """Make what is missing of a run in this process: its base, the run, its evaluation. Each step is kept once done."""
    make_base(settings)
    _ensure("run", settings, run_folder(settings))
    _ensure("evaluation", settings, evaluation_folder(settings))


def make_base(settings):
    """Train the run's base if it is one made here and missing."""
    if settings.model.base == "scratch":
        _ensure("base", settings, base_folder(settings))


def base_folder(settings):
    """Where the base model lies: a world model, one trained from scratch, a folder; None for a hub name."""
    base = settings.model.base
    if base == "scratch":
        return config.outputs() / "runs" / f"base-{config.digest(_base_identity(settings))}"
    if base.startswith("world:"):
        known = sorted(f"world:{p.name}" for p in WORLD_MODELS.iterdir() if p.is_dir())
        if base not in known:
            raise config.SettingsError(f"model.base: no model {base!r}{config.nearest(base, known)}")
        return WORLD_MODELS / base.removeprefix("world:")
    folder = config.path(base)
    if base.startswith((".", "/", "~")) and not folder.is_dir():
        raise config.SettingsError(f"model.base: no folder {folder}")
    if "/" not in base and not folder.is_dir():  # nor can it be a hub name
        known = ["scratch", *(f"world:{p.name}" for p in WORLD_MODELS.iterdir() if p.is_dir())]
        raise config.SettingsError(f"model.base: no model {base!r}{config.nearest(base, known)}")
    return folder if folder.is_dir() else None


def run_folder(settings):
    """outputs/runs/<name>-<key>: the name is for people, the key covers everything that changes the result."""
    f, d = settings.federation, settings.data
    attack = f"{f.malicious}of{f.clients}" + (f"x{d.unaligned_share:g}" if f.malicious else "")
    name = f"{'+'.join(Path(b).stem for b in d.benign)}-{f.aggregator}-{attack}-sampled{f.sampled}-seed{settings.seed}"
    return config.outputs() / "runs" / f"{name}-{key(settings)}"


def key(settings):
    """12 hex digits over all that changes a run's result, and nothing that does not."""
    plain = settings.model_dump(include={"model", "data", "federation", "training", "defense", "swat"})
    for name in ("device", "revision", "scratch"):
        plain["model"].pop(name)
    plain["data"].pop("folder"), plain["data"].pop("harmful")
    if settings.federation.aggregator == "fedavg":
        plain["federation"].pop("variant")
    if not settings.federation.malicious:  # then nobody is unaligned, whatever the share would have been
        plain["data"].pop("unaligned"), plain["data"].pop("unaligned_share")
    plain["model"] |= {"dtype": config.dtype(settings), "base": _base_revision(settings)}
    return config.digest([config.CODE_VERSION, settings.seed, plain, data.revision(settings)])


def evaluation_folder(settings):
    """eval-<key> inside the run's folder: judging anew never touches the run."""
    plain = settings.evaluation.model_dump(exclude={"show_responses"})
    return run_folder(settings) / f"eval-{config.digest([config.CODE_VERSION, plain, data.prompts_revision(settings)])}"


def _base_identity(settings):
    m = settings.model
    return [config.CODE_VERSION, m.scratch.model_dump(), m.max_length, m.template, settings.data.fields,
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
    return config.digest([[p.name, files.digest(p)] for p in sorted(folder.iterdir()) if p.is_file()])


def intact(folder):
    """Whether a folder is finished: its done.json is there and every file has the digest written in it."""
    try:
        sealed = json.loads((folder / "done.json").read_text(encoding="utf-8"))
        names = sealed.get("files") if isinstance(sealed, dict) else None
        return isinstance(names, dict) and all(files.digest(folder / n) == wanted for n, wanted in names.items())
    except (OSError, ValueError):
        return False


def there(settings):
    """Whether a run and its evaluation are finished."""
    folder = run_folder(settings)
    return intact(folder) and intact(evaluation_folder(settings))


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
        inside = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith("checkpoint.")
                  and p.suffix != ".partial" and not p.relative_to(folder).parts[0].startswith("eval-")]
        _write(folder / "done.json", {"files": {str(p.relative_to(folder)): files.digest(p) for p in inside}})
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)  # only now is it of no more use


def _write(file, value):
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, file)


def _lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def listing():
    """A dict for every run in the store: name, key, state, rounds, megabytes, seconds."""
    out = []
    for folder in sorted(p.parent for p in (config.outputs() / "runs").glob("*/settings.json")):
        name, _, key_ = folder.name.rpartition("-")
        rounds = folder / "rounds.jsonl"
        lines = rounds.read_text(encoding="utf-8").split("\n")[:-1] if rounds.exists() else []  # whole lines only
        try:
            seconds = sum(json.loads(line)["seconds"] for line in lines)
        except (ValueError, KeyError, TypeError):
            lines, seconds = [], 0.0
        state = "done" if intact(folder) else "spoilt" if (folder / "done.json").exists() else "unfinished"
        out.append({"name": name, "key": key_, "state": state, "rounds": len(lines),
                    "evaluations": sum(intact(p) for p in folder.glob("eval-*")),
                    "MB": round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6, 2),
                    "seconds": round(seconds, 1)})
    return out
