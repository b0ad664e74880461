"""Paper S: what the runs say, paired by seed and thing asked for, from their records only."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fedlib import attack
from fedlib.lab import keys, store
from fedlib.lab.store import Run
from fedlib.papers import claims, estimates, tables
from fedlib.papers.methods import LABEL, level_label
from fedlib.settings import own_methods
from fedlib.settings.schema import Settings

# What the server could look at to find malicious clients.
SIGNALS = ("similarity", "foolsgold", "krum", "dnc", "residual")


def safety_score(settings: Settings) -> str:
    """The score by which safety is measured: MD-Judge where it judges, else refusal, else Rule."""
    return next(name for name in ("md_judge", "refusal", "rule") if name in settings.judges)


def safest_rule(done: Sequence[Run]) -> str:
    """The aggregator of the existing defence with the highest mean safety among these runs."""
    score = safety_score(done[0].settings)

    def mean_safety(rule: str) -> float:
        runs = tables.select_runs(done, aggregator=rule)
        return tables.score_matrix(runs, score, "harmful").mean()

    rules = [run.settings.federation.aggregator for run in done]
    # a rule of a person's own is no existing defence
    rules = [rule for rule in rules if not own_methods.is_own(rule)] or rules
    return max(dict.fromkeys(rules), key=mean_safety)


def runs_by_method(done: Iterable[Run]) -> dict[str, list[Run]]:
    """{row of the table: its runs, in the order of their seeds}."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(done, key=lambda run: run.settings.seed):
        groups.setdefault(tables.method_label(run.settings), []).append(run)
    return groups


def table1_effects(settings: Settings, done: Sequence[Run]) -> list[dict[str, Any]]:
    """What Table 1's runs say, paired: a dict for each dataset and sampling.

    dataset, sampling (sampled or full), best (the existing defence with the highest mean safety),
    and the differences, matrices [seeds, things] in points or grades."""
    federation = settings.federation
    effects = []
    for name in settings.data.benign:
        samplings = [federation.sampled, *([federation.clients] if federation.also_full else [])]
        for sampled in dict.fromkeys(samplings):
            sampling = "full" if sampled == federation.clients else "sampled"
            runs = runs_by_method(tables.select_runs(done, benign=[name], sampled=sampled))
            where = {"dataset": name, "sampling": sampling}
            effects.append(where | _effects(settings, runs))
    return effects


def _effects(settings: Settings, runs: dict[str, list[Run]]) -> dict[str, Any]:
    """The differences between the methods of one dataset and sampling, [seeds, things]."""
    clean, attacked = LABEL["no attack"], LABEL["fedavg"]
    score = safety_score(settings)
    safety = _matrices(runs, score, "harmful")

    # what the attack costs, and what is lost when only the aligned rows are missing
    found: dict[str, Any] = {
        "attack": safety[clean] - safety[attacked],
        "attack, rule": tables.score_drop(runs[clean], runs[attacked], "rule", "harmful"),
    }
    if LABEL["no hazards"] in safety:
        found["control"] = safety[clean] - safety[LABEL["no hazards"]]

    # what the best existing defence and each level win back
    compare = settings.federation.compare
    existing = [LABEL[rule] for rule in compare if not own_methods.is_own(rule)]
    if existing:
        best = max(existing, key=lambda name: safety[name].mean())
        found |= {"best": best, "best regains": safety[best] - safety[attacked]}
    for level in settings.defense.compare:
        name = level_label(level) if own_methods.is_own(level) else f"level {level}"
        found[f"{name} regains"] = safety[level_label(level)] - safety[attacked]

    # what both cost in helpfulness
    if "mt1" in settings.judges:
        grades = _matrices(runs, "mt1", "benign")
        found["attack, mt1"] = grades[clean] - grades[attacked]
        if 2 in settings.defense.compare:
            found["level 2, mt1"] = grades[attacked] - grades[LABEL["level2"]]
    return found


def _matrices(runs: dict[str, list[Run]], score: str, prompts: str) -> dict[str, np.ndarray]:
    """{method: scores [seeds, things]}."""
    return {name: tables.score_matrix(part, score, prompts) for name, part in runs.items()}


def record_table1(settings: Settings, effects: Iterable[dict[str, Any]]) -> None:
    """Record what table1_effects found for the claims S1, S2, S3, S5, S6 and S9.

    Of the real model those of claims_real.yaml; of others nothing where MD-Judge did not judge."""
    real = claims.is_about_real(settings)
    if "md_judge" not in settings.judges and not real:
        return
    for effect in effects:
        measured = _real_claims(effect) if real else _table1_claims(effect)
        for claim, values in measured.items():
            if values is not None:
                claims.record_claim(settings, claim, values)


def _real_claims(effect: dict[str, Any]) -> dict[str, np.ndarray | None]:
    """{claim: what was measured for it} of one sampling of the real model."""
    where, lost = effect["sampling"], effect["attack"]
    measured: dict[str, np.ndarray | None] = {f"S1-{where}": lost}
    if "best regains" in effect:
        measured[f"S3-{where}"] = effect["best regains"] - lost / 3
    if "level 2 regains" in effect:
        measured[f"S5-{where}"] = lost - effect["level 2 regains"]
    return measured


def _table1_claims(effect: dict[str, Any]) -> dict[str, np.ndarray | None]:
    """{claim: what was measured for it} of one dataset and sampling; None where it was not."""
    dataset, sampling = effect["dataset"], effect["sampling"]
    where = f"{dataset}-{sampling}"
    lost = effect["attack"]
    best = effect.get("best regains")
    level2 = effect.get("level 2 regains")
    level3 = effect.get("level 3 regains")

    measured = {
        f"S1-md_judge-{where}": lost,
        f"S1-rule-{where}": effect["attack, rule"],
        f"S2-{where}": effect.get("attack, mt1"),
        f"S9-{where}": effect.get("level 2, mt1"),
    }
    if best is not None and sampling == "full":
        measured[f"S3-{dataset}"] = best - lost / 3
    if level2 is not None:
        measured[f"S5-{where}"] = lost - level2
    if best is not None and level3 is not None:
        measured[f"S6-{where}"] = level3 - best
    return measured


def level2_gains(done: Iterable[Run], score: str = "md_judge") -> dict[tuple[str, str], np.ndarray]:
    """{(sampling, aggregator): [seeds, things]}: what level 2 adds on top of each built-in rule."""
    parts: dict[str, list[Run]] = {"sampled": [], "full": []}
    for run in done:
        federation = run.settings.federation
        full = federation.sampled == federation.clients
        parts["full" if full else "sampled"].append(run)

    gains = {}
    for sampling, part in parts.items():
        rules = [run.settings.federation.aggregator for run in part]
        for rule in dict.fromkeys(rules):
            if own_methods.is_own(rule):
                continue
            before = tables.select_runs(part, aggregator=rule, level=0)
            after = tables.select_runs(part, aggregator=rule, level=2)
            gains[sampling, LABEL[rule]] = -tables.score_drop(before, after, score, "harmful")
    return gains


def client_score(record: dict, by: str) -> np.ndarray:
    """Each client's score [K] in a round's record, for calling the lowest malicious.

    by: similarity (the mean cosine to the others), or a rule (the weight that it would give; 1/K
    where the rule cannot work), in the order of record["sampled"]."""
    if by == "similarity":
        return estimates.mean_similarity(record["cosine"])
    weights = record["detection"][by]
    if weights is None:
        count = len(record["sampled"])
        return np.full(count, 1 / count)
    return np.array(weights)


def _marked(settings: Settings) -> np.ndarray:
    """Which clients are malicious under attack, [K] bool; the same ones without attack."""
    federation = settings.federation
    malicious = attack.malicious_clients(federation.clients, federation.malicious)
    return np.array([client in malicious for client in range(federation.clients)])


def detection_auc(settings: Settings, done: Iterable[Run], by: str) -> tuple[np.ndarray, float]:
    """(AUC [runs], p of a permutation test over them) of calling low-scored clients malicious.

    A client's score is its mean over the rounds that have its update."""
    scores = np.array([_mean_scores(run, by) for run in done])
    marked = _marked(settings)
    found = np.array([estimates.auc(one, marked) for one in scores])
    return found, estimates.permutation_test(scores, marked)


def _mean_scores(run: Run, by: str) -> np.ndarray:
    """Each client's mean score [K]; ValueError, which names it, where no round has its update."""
    rounds = run.rounds()
    scores = np.full((len(rounds), run.settings.federation.clients), np.nan)
    for i, line in enumerate(rounds):
        scores[i, line["sampled"]] = client_score(line, by)
    for client in np.flatnonzero(np.isnan(scores).all(axis=0)):
        raise ValueError(f"{run.folder}: client {client} was left out of every round")
    return np.nanmean(scores, axis=0)


def detection_by_round(settings: Settings, done: Iterable[Run], by: str) -> list[list[float]]:
    """The AUC of each round's scores: a list a run.

    nan for a round that has updates of benign clients only, or of malicious ones only, since the
    others' could not be used."""
    marked = _marked(settings)
    return [[_round_auc(line, marked, by) for line in run.rounds()] for run in done]


def _round_auc(record: dict, marked: np.ndarray, by: str) -> float:
    present = marked[record["sampled"]]
    if "left_out" in record and present.all() == present.any():
        return float("nan")
    return estimates.auc(client_score(record, by), present)


def detection_by_seed(settings: Settings, done: Sequence[Run], by: str) -> np.ndarray:
    """The AUC of detection_auc, the mean over the datasets, [seeds]."""
    parts = []
    for name in settings.data.benign:
        found, _ = detection_auc(settings, tables.select_runs(done, benign=[name]), by)
        parts.append(found)
    return np.mean(parts, axis=0)


def rows_by_llm(done: Iterable[Run]) -> tuple[dict[str, list[dict]], list[dict]]:
    """({kind: rows}, [report]) that the off-the-shelf LLM wrote for these runs.

    Of each kind, those of the first seed that needed it."""
    rows, reports = {}, []
    for run in done:
        for kind in keys.written_kinds(run.settings):
            if kind not in rows:
                folder = keys.written_folder(run.settings, kind)
                rows[kind], report = store.read_written(folder, kind)
                reports.append(report)
    return rows, reports


def share_label(settings: Settings) -> str:
    """The row of shares_grid that a run belongs to.

    Without malicious clients it stays the row of the rule or the defence."""
    level = settings.defense.level
    return level_label(level) if level else LABEL[settings.federation.aggregator]
