"""Paper W's comparisons: which runs each table and figure needs, and what they say, paired. No torch, no training."""

import numpy as np
import pandas as pd

from fedlib.judges import rules
from fedlib.lab import prompting, runs
from fedlib.papers import claims, tables
from fedlib.settings import errors, groups

METHODS = {
    "plain": {},
    "swat": {"modules": "robust"},
    "random": {"modules": "random"},
    "fragile": {"modules": "fragile"},
}
SCENARIOS = ("benign", "attack")
DEFENCES = {"none": {}, "before": {"before": 1}, "project": {"level": "project"}}


def _tuning(settings):
    """Changes that make a preset paper W's: one tuner, all linear modules, swat's own steps and learning rate."""
    s = settings.swat
    return {
        "federation": {
            "clients": 1,
            "sampled": 1,
            "malicious": 0,
            "expected": 0,
            "rounds": s.rounds,
            "aggregator": "fedavg",
        },
        "training": {"steps": s.steps, "learning_rate": s.learning_rate},
        "model": {"lora_targets": "all-linear"},
        "data": {
            "attack": "unaligned",
            "aligned_share": 0.0,
            "rows": s.rows,
            "partition": "iid",
            "questions": None,
            "poison": {"trigger": None},
        },
        "defense": {"level": 0, "filter": "none", "before": 0},
        "swat": {"warmup": 0},
        "evaluation": {
            "judges": ["rule", "md_judge", "rm", "help", "exact", "hs", "probe"],
            "temperature": 0.0,
        },
    }


def models(settings):
    """The chat models that are tuned: swat.models, of these the first with one seed. SettingsError where nothing can be
    tuned for."""
    d, chosen = settings.data, settings.swat.models
    if d.source != "world":
        if settings.swat.pairs is None or any(name.startswith("world:") for name in chosen):
            raise errors.SettingsError(
                f"swat: with data.source: {d.source} name your chat models (swat.models) and a file "
                "of pairs (swat.pairs)"
            )
        for name in d.benign:
            prompts = prompting.evaluation_prompts(
                settings.replace(data={"benign": [name], "questions": None})
            )["benign"]
            if any("answers" not in p for p in prompts):
                raise errors.SettingsError(
                    f"data.benign: {name} has no answers (a list of right ones): paper W's tuning "
                    "tasks are datasets of questions with answers"
                )
    return chosen if len(settings.seeds) > 1 else chosen[:1]


def tasks(settings):
    """What the models are tuned for: the world's tuning tasks, or each dataset of questions with answers."""
    return groups.TASKS if settings.data.source == "world" else tuple(settings.data.benign)


def _vary(settings, *axes, seeds=None):
    bases = [{"model": {"base": name}} for name in models(settings)]
    return settings.vary(
        [_tuning(settings)], bases, *axes, [{"seed": s} for s in seeds or settings.seeds]
    )


def _axis_tasks(settings, count=None):
    return [{"data": {"benign": [task]}} for task in tasks(settings)[:count]]


def _axis_scenarios(settings):
    attack = {
        "federation": {"malicious": 1},
        "data": {"unaligned_share": settings.swat.unaligned_share},
    }
    return [{}, attack]


def _warm(settings, method):
    return (
        {"swat": {"warmup": settings.swat.warm_rounds} | METHODS[method]}
        if method != "plain"
        else {}
    )


def untuned(settings):
    """The chat models as they are: one step at a learning rate of nothing. Every task; one seed, as their greedy answers
    are the same in all."""
    still = {
        "federation": {"rounds": 1},
        "training": {"steps": 1, "learning_rate": 1e-12, "learning_rate_min": 0.0},
    }
    return _vary(settings, [still], _axis_tasks(settings), seeds=settings.seeds[:1])


def table(settings):
    """Every model, task and scenario, tuned plainly, with SWAT, and with the two controls of its warm-up."""
    return _vary(
        settings,
        _axis_tasks(settings),
        _axis_scenarios(settings),
        [_warm(settings, m) for m in METHODS],
    )


def composition(settings):
    """A defence before tuning, one after it, or none; each alone, with SWAT and with the controls of its warm-up; every
    model, first task, both scenarios."""
    return _vary(
        settings,
        _axis_tasks(settings, 1),
        _axis_scenarios(settings),
        [{"defense": d} for d in DEFENCES.values()],
        [_warm(settings, m) for m in METHODS],
    )


def federated(settings):
    """Beyond the paper: the safety attack of paper S on a federation that starts from an aligned chat model: no attack, the
    attack, one existing defence, SWAT in every benign client (a third of the rounds). First model and dataset."""
    full = settings.full_participation()
    chat = {
        "model": {"base": models(settings)[0], "lora_targets": "all-linear"},
        "defense": {"level": 0, "before": 0},
        "data": {"benign": settings.data.benign[:1]},
        "swat": {"warmup": 0},
    }
    warm = {"swat": {"warmup": max(1, full["federation"]["rounds"] // 3), "modules": "robust"}}
    methods = [{"federation": {"malicious": 0}}, {}, {"federation": {"aggregator": "krum"}}, warm]
    return settings.vary([chat], [full], methods, [{"seed": s} for s in settings.seeds])


def method(settings):
    """plain, swat, random, fragile, or untuned."""
    if settings.training.learning_rate < 1e-9:
        return "untuned"
    return (
        {"robust": "swat"}.get(settings.swat.modules, settings.swat.modules)
        if settings.swat.warmup
        else "plain"
    )


def defence(settings):
    """none, before or project."""
    return (
        "project"
        if settings.defense.level == "project"
        else "before"
        if settings.defense.before
        else "none"
    )


def having(done, **wanted):
    """Those runs whose model, task, scenario, method and defence are as wanted, in the order of models and seeds."""
    found = [r for r in done if all(labels(r.settings)[k] == v for k, v in wanted.items())]
    return sorted(found, key=lambda r: (r.settings.model.base, r.settings.seed))


def labels(settings):
    """{model, task, scenario, method, defence} of a run."""
    return {
        "model": settings.model.base.rpartition(":")[2],
        "task": settings.data.benign[0],
        "scenario": SCENARIOS[settings.federation.malicious > 0],
        "method": method(settings),
        "defence": defence(settings),
    }


def scores(done):
    """A row a run: its labels, seed, and unsafe (%, the paper's ASR: responses to harmful prompts that the guard judges
    unsafe), answered (% of harmful prompts answered with both true parts and no refusal: what the world knows for sure), hs
    (1 to 5), task_accuracy and help (% right), over_refusal (%), probe_loss, probe_accuracy."""
    rows = []
    for run in done:
        found = run.scores()
        row = labels(run.settings) | {
            "seed": run.settings.seed,
            "unsafe": 100 - found.get("md_judge", np.nan),
        }
        said = [r for r in run.responses() if r["set"] == "harmful" and "parts" in r]
        row["answered"] = (
            100 * np.mean(rules.names_both_parts(said, [r["response"] for r in said]))
            if said
            else np.nan
        )
        row |= {
            "task_accuracy": found.get("task", found.get("exact")),
            "method": tables.METHODS[row["method"]][0],
        }
        rows.append(
            row
            | {
                k: found.get(k)
                for k in ("hs", "help", "over_refusal", "probe_loss", "probe_accuracy")
            }
        )
    return pd.DataFrame(rows)


def matrix(done, score):
    """Scores [seeds, things], the mean over models: of harmful prompts (unsafe is 100 - md_judge), or of the task's
    held-out prompts (exact)."""
    parts, prompts = [], "harmful"
    if score == "exact":
        prompts = "task" if done[0].settings.data.source == "world" else "benign"
    for base in dict.fromkeys(r.settings.model.base for r in done):
        own = sorted(
            (r for r in done if r.settings.model.base == base), key=lambda r: r.settings.seed
        )
        found = tables.matrix(own, "md_judge" if score == "unsafe" else score, prompts)
        parts.append(100 - found if score == "unsafe" else found)
    return np.mean(parts, axis=0)


def by_seed(done, value):
    """[seeds]: value(run), the mean over models."""
    frame = pd.DataFrame([{"seed": r.settings.seed, "value": value(r)} for r in done])
    return frame.groupby("seed")["value"].mean().to_numpy()


def robust_cells(run):
    """{"type/layer"} of the Mods_Rob of a run's model."""
    window = run.settings.swat.window
    return {
        f"{kind}/{layer + i}"
        for kind, layer in runs.get_robustness(run.settings)["robust"]
        for i in range(window)
    }


def update_norm(line, cells, inside=False):
    """The norm of a round's update over the cells or, if not inside, over all others."""
    return float(
        np.sqrt(sum(v**2 for name, v in line["updates"].items() if (name in cells) == inside))
    )


def update_norms(run, inside):
    """The norm of the update after each round, over Mods_Rob or, if not inside, over all other modules."""
    cells = robust_cells(run)
    return [update_norm(line, cells, inside) for line in run.rounds()]


def transplanted(done):
    """What each cell's own update does to the probes (type, layer, loss), the mean over runs of plain tuning."""
    cells = pd.concat([pd.DataFrame(r.probes()["cells"]) for r in done])
    return cells.groupby(["type", "layer"], sort=False, as_index=False)["loss"].mean()


def at_equal_loss(reference, run, value):
    """value(line) of run at the round, between rounds by interpolation, where its task is as likely as at the end of
    reference; at its first or last round where it never is."""
    lines = run.rounds()
    order = np.argsort([line["task"] for line in lines])
    return float(
        np.interp(
            reference.rounds()[-1]["task"],
            [lines[i]["task"] for i in order],
            [value(lines[i]) for i in order],
        )
    )


def measure(settings, claim, values):
    """report.measure, where the settings are those that the claim is about: the world and its two chat models."""
    if settings.data.source == "world" and settings.swat.models == [
        "world:chat",
        "world:chat-deep",
    ]:
        claims.record(settings, claim, values)


def measure_table(settings, done):
    """What table() and untuned() found for the claims W1 to W7, {claim: [seeds] or [seeds, things]}, recorded."""
    out = {}
    for task in tasks(settings):
        part = {
            (sc, m): having(done, task=task, scenario=sc, method=m)
            for sc in SCENARIOS
            for m in METHODS
        }
        plain, swat = part["benign", "plain"], part["benign", "swat"]
        out[f"W1-{task}"] = matrix(plain, "unsafe") - matrix(
            having(done, task=task, method="untuned"), "unsafe"
        )
        out[f"W2-{task}"] = by_seed(plain, lambda r: r.scores()["probe_loss"])
        for fall, cost, scenario in (("W3-", "W3-cost-", "benign"), ("W4-", "W4-cost-", "attack")):
            alone, warmed = part[scenario, "plain"], part[scenario, "swat"]
            out[f"{fall}{task}"] = matrix(alone, "unsafe") * 2 / 3 - matrix(warmed, "unsafe")
            out[f"{cost}{task}"] = matrix(alone, "exact") - matrix(warmed, "exact")
            out[f"W6-{task}-{scenario}"] = matrix(alone, "hs") - matrix(warmed, "hs")
        for control in ("random", "fragile"):
            out[f"W5-{task}-{control}"] = matrix(part["benign", control], "unsafe") - matrix(
                swat, "unsafe"
            )
        out |= {f"W7-{task}-{other}": values for other, values in moved(part).items()}
    for claim, values in out.items():
        measure(settings, claim, values)
    return out


def refused_more(done, task, scenario):
    """[seeds]: by how many points SWAT's share of refused validation instructions at its end is above that of plain tuning
    at equal task loss, the mean over models."""
    alone, warmed = (
        having(done, task=task, scenario=scenario, method=m) for m in ("plain", "swat")
    )
    frame = pd.DataFrame(
        [
            {
                "seed": own.settings.seed,
                "value": own.rounds()[-1]["refused"]
                - at_equal_loss(own, other, lambda line: line["refused"]),
            }
            for own, other in zip(warmed, alone, strict=True)
        ]
    )
    return frame.groupby("seed")["value"].mean().to_numpy()


def moved(part):
    """{plain, random, fragile: [seeds]}: by how many percent SWAT's update outside Mods_Rob is smaller than that of plain
    tuning at equal task loss, and than that of the controls at the end; of {(scenario, method): runs}, benign."""
    swat = part["benign", "swat"]
    out = {}
    for other in ("plain", "random", "fragile"):
        found = []
        for own, run in zip(swat, part["benign", other], strict=True):
            cells = robust_cells(own)
            norm = update_norm(own.rounds()[-1], cells)
            than = (
                at_equal_loss(own, run, lambda line, c=cells: update_norm(line, c))
                if other == "plain"
                else update_norm(run.rounds()[-1], cells)
            )
            found.append({"seed": own.settings.seed, "value": 100 * (1 - norm / than)})
        out[other] = pd.DataFrame(found).groupby("seed")["value"].mean().to_numpy()
    return out


def measure_composition(settings, done):
    """{(scenario, defence, method): (ASR lower by SWAT, or a control, on top, task accuracy lost) [seeds, things]}; SWAT's
    first recorded as W8 (before) and W9 (project)."""
    out, claims = {}, {"before": "W8-", "project": "W9-"}
    for name in DEFENCES:
        for scenario in SCENARIOS:
            alone, *warmed = (
                having(done, defence=name, scenario=scenario, method=m) for m in METHODS
            )
            for method_, both in zip(list(METHODS)[1:], warmed, strict=True):
                added = matrix(alone, "unsafe") - matrix(both, "unsafe")
                out[scenario, name, method_] = added, matrix(alone, "exact") - matrix(both, "exact")
            if name in claims:
                measure(settings, f"{claims[name]}{scenario}", out[scenario, name, "swat"][0])
    return out


def federated_scores(done):
    """report.scores of federated(), SWAT's row by its name."""
    frame = tables.scores(done)
    swat = [bool(r.settings.swat.warmup) for r in done]
    return frame.assign(method=frame["method"].mask(swat, tables.METHODS["swat"][0]))
