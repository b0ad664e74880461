"""The records that the lessons show: made from real runs once, and kept beside the lessons.

    python -m fedlib.lessons.recording              # make all three anew: some forty runs
    python -m fedlib.lessons.recording 2_little_poison

A record is a JSON file in notebooks/class/records: {about, and lists of runs}. Each number in it
was read from a run's own record; nothing is written by hand. Lesson 3 has its hidden states beside
it, in an .npz file."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedlib import sources
from fedlib.lab import runs
from fedlib.lab.store import Run
from fedlib.papers import (
    backdoor,
    examples,
    safety,
    safety_results,
    secure_tuning,
    secure_tuning_results,
)
from fedlib.settings import identity, machine, presets
from fedlib.settings.schema import Settings

RECORDS = machine.ROOT / "notebooks" / "class" / "records"
PRESET = "mini"  # whose first seed the lessons show

# Lesson 1: what the sliders go through.
MALICIOUS = (0, 1, 3, 5)
METHODS: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "Krum": {"federation": {"aggregator": "krum"}},
    "FedAvg, then repair": {"defense": {"level": 2}},
}
# Lesson 2.
HOLDERS = (1, 2, 5)
SHARES = (0.0, 0.02, 0.04, 0.08)
# Lesson 3: rounds of warm-up, and the controls of its modules.
WARM_ROUNDS = (1, 2, 3, 4)
CONTROLS = ("random", "fragile")
STATES = "3_what_tuning_forgets.npz"
STEP = {"fit": 3, "evaluation": 3}  # every so many-th pair of a split is kept


# ---- which runs


def attack_runs(settings: Settings) -> dict[tuple[int, str], Settings]:
    """{(malicious clients, method): run} of lesson 1: first dataset, everybody in every round."""
    first = settings.replace(data={"benign": settings.data.benign[:1]})
    full = first.replace(**first.full_participation(), seed=settings.seeds[0])
    return {
        (count, name): full.replace(federation={"malicious": count}).replace(**changes)
        for count in MALICIOUS
        for name, changes in METHODS.items()
    }


def attack_kinds(settings: Settings) -> dict[str, Settings]:
    """{kind of attack: run} of lesson 1, as notebook 11 has them."""
    return {name: grid[0] for name, grid in safety.figure3_grids(settings).items()}


def poison_runs(settings: Settings) -> list[Settings]:
    """Lesson 2: the injected trigger by share and holders, the natural one by share; and, of all of
    the injected poison, the median and the filter of rows."""
    first = settings.replace(**backdoor.backdoor_changes(settings), seed=settings.seeds[0])
    everybody = backdoor.clients_in_all(settings)

    def poisoned(**changes: Any) -> Settings:
        return first.replace(data={"poison": changes})

    found = []
    for share in SHARES:
        for count in HOLDERS if share else HOLDERS[-1:]:
            clients = None if count == everybody else count
            found.append(poisoned(trigger=backdoor.INJECTED, share=share, clients=clients))
        found.append(poisoned(trigger=backdoor.NATURAL, share=share))
    most = poisoned(trigger=backdoor.INJECTED, share=SHARES[-1])
    found.append(most.replace(federation={"aggregator": "median"}))
    found.append(most.replace(defense={"filter": "gradient"}))
    return found


def tuning_orders(settings: Settings) -> dict[str, Settings]:
    """{name: run} of lesson 3: untuned, plain, warm-ups of every length, and controls."""
    untuned = secure_tuning.untuned_grid(settings)[0]
    plain = next(
        run
        for run in secure_tuning.tuning_grid(settings)
        if run.data.benign == untuned.data.benign and not run.swat.warmup
    )
    found = {"before tuning": untuned, "plain": plain}
    for rounds in WARM_ROUNDS:
        found[f"robust {rounds}"] = plain.replace(swat={"warmup": rounds, "modules": "robust"})
    for name in CONTROLS:
        changes = {"warmup": settings.swat.warm_rounds, "modules": name}
        found[f"{name} {settings.swat.warm_rounds}"] = plain.replace(swat=changes)
    return found


# ---- what is kept of them

KEPT = {"harmful": 24, "triggered": 16}  # prompts whose answers are kept
SCORES = ("md_judge", "rule", "help", "over_refusal", "asr", "false_trigger", "exact", "task")


def record_attack(settings: Settings) -> dict[str, Any]:
    """Lesson 1: scores by malicious clients and method, what the server saw, some answers."""
    wanted, kinds = attack_runs(settings), attack_kinds(settings)
    done = dict(zip(wanted, runs.get_all(wanted.values()), strict=True))
    seen = dict(zip(kinds, runs.get_all(kinds.values()), strict=True))
    shown = {
        "no attack": done[0, "FedAvg"],
        "attack": done[3, "FedAvg"],
        "attack, then repair": done[3, "FedAvg, then repair"],
    }
    return {
        "attack": [
            {"malicious": count, "method": method, "scores": _scores(run)}
            for (count, method), run in done.items()
        ],
        "kinds": {name: _seen(settings, run) for name, run in seen.items()},
        "answers": _answers(shown, "harmful"),
    }


def _scores(run: Run) -> dict[str, float]:
    return {name: round(run.scores()[name], 2) for name in SCORES if name in run.scores()}


def _seen(settings: Settings, run: Run) -> dict[str, Any]:
    """What a server saw of a run: the first and the last round, and each signal's AUC."""
    lines = run.rounds()
    kept = ("round", "sampled", "malicious", "cosine", "detection")
    ends = [{name: _rounded(line[name]) for name in kept} for line in (lines[0], lines[-1])]
    auc = {
        by: round(safety_results.detection_auc(settings, [run], by)[0][0], 3)
        for by in safety_results.SIGNALS
    }
    return {"rounds": ends, "of": len(lines), "auc": auc, "scores": _scores(run)}


def _rounded(value: Any) -> Any:
    """Numbers to three digits behind the point, in lists and dicts too: files stay small."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


def _answers(done: dict[str, Run], prompts: str) -> list[dict[str, Any]]:
    """The first prompts with the answers of each run: {prompt, parts, runs: {name: line}}.

    ValueError where the words may be real: harmful answers of real data are kept by nobody."""
    if not all(examples.may_show(run.settings) for run in done.values()):
        raise ValueError("the lessons' records hold answers of the invented world only")
    asked = {
        name: [line for line in run.responses() if line["set"] == prompts]
        for name, run in done.items()
    }
    first = next(iter(asked.values()))[: KEPT[prompts]]
    kept = ("response", "md_judge", "rule", "asr", "help")
    return [
        {
            "prompt": line["prompt"],
            "parts": line.get("parts", []),
            "runs": {
                name: {key: lines[i][key] for key in kept if key in lines[i]}
                for name, lines in asked.items()
            },
        }
        for i, line in enumerate(first)
    ]


def record_poison(settings: Settings) -> dict[str, Any]:
    """Lesson 2: scores by trigger, share, holders and defence; some answers by share."""
    done = runs.get_all(poison_runs(settings))
    everybody = backdoor.clients_in_all(settings)
    records, shown = [], {}
    for run in done:
        had, defence = run.settings.data.poison, "none"
        if run.settings.federation.aggregator != "fedavg":
            defence = run.settings.federation.aggregator
        if run.settings.defense.filter != "none":
            defence = "filter"
        kind = next(kind for kind, name in backdoor.KINDS.items() if name == had.trigger)
        holders = (had.clients or everybody) if had.share else 0
        first = run.rounds()[0]
        records.append(
            {
                "kind": kind,
                "share": had.share,
                "holders": holders,
                "defence": defence,
                "scores": _scores(run),
                "held": _rounded(first["poisoned"]),
                "alignment": _rounded(first.get("alignment")),
                "cancellation": _rounded(first.get("cancellation")),
            }
        )
        if kind == "injected" and defence == "none" and holders in (0, everybody):
            shown[f"{had.share:.0%} poison"] = run
    return {"poison": records, "answers": _answers(shown, "triggered")}


def record_forgetting(settings: Settings) -> dict[str, Any]:
    """Lesson 3: scores and probes by order of tuning, what noise in each module does, some answers.

    And, in a file beside it, hidden states before and after (`write_states`)."""
    orders = tuning_orders(settings)
    done = dict(zip(orders, runs.get_all(orders.values()), strict=True))
    warm = done[f"robust {settings.swat.warm_rounds}"]
    found = runs.get_robustness(warm.settings)
    shown = {"before": done["before tuning"], "plain": done["plain"], "swat": warm}
    write_states(shown)
    return {
        "rounds": done["plain"].settings.federation.rounds,
        "orders": [_order(name, run) for name, run in done.items()],
        "cells": [
            {"type": cell["type"], "layer": cell["layer"], "loss": round(cell["loss"], 5)}
            for cell in found["cells"]
        ],
        "robust": [list(cell) for cell in found["robust"]],
        "answers": _answers(shown, "harmful"),
    }


def _order(name: str, run: Run) -> dict[str, Any]:
    """How a model was tuned, and what came of it."""
    row = secure_tuning_results.tuning_scores([run]).iloc[0]
    scores = {"unsafe": row["unsafe"], "task": row["task_accuracy"], "help": row["help"]}
    swat = run.settings.swat
    modules = swat.modules if swat.warmup else ("none" if name == "before tuning" else "all")
    return {
        "name": name,
        "modules": modules,
        "warm_rounds": swat.warmup,
        "scores": {key: round(float(value), 2) for key, value in scores.items()},
    }


def write_states(shown: Mapping[str, Run]) -> None:
    """Write hidden states [layers, 2 * pairs, numbers] of the base on some pairs of the split fit,
    and of each model on held-out pairs, harmful and harmless in turn: for a student's probe."""
    from fedlib.lab import loaded
    from fedlib.swat import probes

    settings = shown["plain"].settings
    source = sources.of(settings)
    texts = {
        split: [text for pair in source.pairs(split)[:: STEP[split]] for text in pair]
        for split in STEP
    }

    def states(model: Any, tokenizer: Any, split: str) -> np.ndarray:
        template, size = settings.model.template, settings.evaluation.batch_size
        found = probes.hidden_states(model, tokenizer, texts[split], template, size)
        return found.astype(np.float16)

    loaded.make_base(settings)
    kept = {"fit": states(*loaded.load_base(settings), "fit")}
    for name, run in shown.items():
        kept[name] = states(*loaded.load_run(run.settings, run.folder), "evaluation")
    np.savez_compressed(machine.made_folder(RECORDS) / STATES, **kept)


def read_states() -> dict[str, np.ndarray]:
    """Lesson 3's hidden states, as `write_states` wrote them."""
    with np.load(RECORDS / STATES) as kept:
        return {name: kept[name] for name in kept.files}


# ---- files

LESSONS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "1_round_and_attack": record_attack,
    "2_little_poison": record_poison,
    "3_what_tuning_forgets": record_forgetting,
}


def make_record(name: str) -> Path:
    """Make a lesson's record anew from runs at PRESET; runs that are there are read."""
    settings = presets.load(PRESET)
    about = {
        "preset": PRESET,
        "seed": settings.seeds[0],
        "code_version": identity.CODE_VERSION,
        "made_by": f"python -m fedlib.lessons.recording {name}",
    }
    record = {"about": about} | LESSONS[name](settings)
    file = machine.made_folder(RECORDS) / f"{name}.json"
    text = json.dumps(record, separators=(",", ":"), sort_keys=False)
    file.write_text(text + "\n", encoding="utf-8")
    return file


def read_record(name: str) -> dict[str, Any]:
    """A lesson's record, as it lies beside the lessons."""
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def record_lessons(names: Sequence[str]) -> None:
    """Make the records of these lessons anew, or of all."""
    for name in names or LESSONS:
        file = make_record(name)
        print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    record_lessons(sys.argv[1:])
