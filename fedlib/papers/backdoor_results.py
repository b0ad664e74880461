"""Paper B: what the runs say, paired by seed and thing asked for, from their records only."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedlib import sources
from fedlib.lab.store import Run
from fedlib.papers import estimates, tables
from fedlib.papers.backdoor import KINDS
from fedlib.papers.methods import LABEL
from fedlib.settings import own_methods
from fedlib.settings.schema import Settings

AFFORDABLE = 3  # points of clean accuracy that a defence may cost


def runs_with_poison(done: Iterable[Run], **wanted: Any) -> list[Run]:
    """The runs whose data.poison has these values: trigger="tokens", share=0.08."""

    def matches(run: Run) -> bool:
        poison = run.settings.data.poison
        return all(getattr(poison, name) == value for name, value in wanted.items())

    return [run for run in done if matches(run)]


def accuracy_score(settings: Settings) -> str:
    """The score that is clean accuracy: of the facts in the world, of the answer elsewhere."""
    return sources.of(settings).clean_accuracy


def backdoor_scores(done: Iterable[Run]) -> pd.DataFrame:
    """A row a run: how the rows were poisoned, and what came of it.

    share (asked for), poisoned (%, what the clients' rows could hold of it), holders (clients that
    hold poison), asr, false_trigger and accuracy (%). bsnr, alignment and cancellation are those
    before the first round: once the poison is being learned its gradient fades. target: the mean
    log-likelihood of a token of it after the last round. Where a filter worked, its recall,
    precision and f1 (%)."""
    return pd.DataFrame([_scores(run) for run in done])


def _scores(run: Run) -> dict[str, Any]:
    settings, poison = run.settings, run.settings.data.poison
    lines, scores = run.rounds(), run.scores()
    first, last = lines[0], lines[-1]
    # who holds poison shows in a round that has every update
    whole = next((line for line in lines if "left_out" not in line), first)
    row = {
        "seed": settings.seed,
        "trigger": _name(poison.trigger),
        "target text": poison.target,
        "share": poison.share,
        "spread": poison.spread,
        "kind": next((kind for kind, name in KINDS.items() if name == poison.trigger), ""),
        "poisoned": 100 * np.average(whole["poisoned"], weights=whole["sizes"]),
        "holders": sum(part > 0 for part in whole["poisoned"]),
        "aggregator": LABEL[settings.federation.aggregator],
        "filter": _name(settings.defense.filter),
        "asr": scores["asr"],
        "false_trigger": scores["false_trigger"],
        "accuracy": scores.get(accuracy_score(settings)),
        "target": last.get("target"),
    }
    row |= {name: first.get(name) for name in ("bsnr", "alignment", "cancellation")}
    if settings.defense.filter != "none":
        filtered = run.filtered()
        wanted = ("recall", "precision", "f1")
        row |= {name: value for name, value in filtered.items() if name in wanted}
    return row


def _name(method: str | None) -> str | None:
    """What a trigger or filter is called in tables; a person's own without its path."""
    return LABEL[method] if method and own_methods.is_own(method) else method


def attack_success(done: Iterable[Run]) -> np.ndarray:
    """Attack success [seeds, things] in percent, of runs in the order of their seeds."""
    return tables.score_matrix(_by_seed(done), "asr", "triggered")


def accuracy_lost(before: Sequence[Run], after: Sequence[Run]) -> np.ndarray:
    """Clean accuracy lost from `before` to `after`, points [seeds, things], paired by both."""
    score = accuracy_score(before[0].settings)
    return tables.score_drop(_by_seed(before), _by_seed(after), score, "benign")


def _by_seed(done: Iterable[Run]) -> list[Run]:
    return sorted(done, key=lambda run: run.settings.seed)


def strongest_rule(done: Sequence[Run]) -> str | None:
    """The rule with the lowest attack success among those that cost at most 3 points of accuracy.

    done: the runs of one trigger under every aggregator; the cost is against FedAvg. Rules of a
    person's own do not count: the claim is about existing ones. None where no rule is so cheap."""
    fedavg = tables.select_runs(done, aggregator="fedavg")
    success: dict[str, float] = {}
    for rule in dict.fromkeys(run.settings.federation.aggregator for run in done):
        runs = tables.select_runs(done, aggregator=rule)
        if rule == "fedavg" or own_methods.is_own(rule):
            continue
        if accuracy_lost(fedavg, runs).mean() <= AFFORDABLE:
            success[rule] = attack_success(runs).mean()
    return min(success, key=lambda rule: success[rule]) if success else None


def short_of_half(done: Sequence[Run], rule: str) -> np.ndarray:
    """By how much a rule's attack success is above half of FedAvg's, points [seeds, things]."""
    fedavg = tables.select_runs(done, aggregator="fedavg")
    return attack_success(tables.select_runs(done, aggregator=rule)) - attack_success(fedavg) / 2


def stopped_by(control: Sequence[Run], rule: str) -> np.ndarray:
    """By how much a rule's success is below half of FedAvg's, points [seeds, things].

    control: the runs of the positive control. Minus that half if the rule costs over 3 points of
    clean accuracy: a model that is ruined was not defended."""
    fedavg = tables.select_runs(control, aggregator="fedavg")
    runs = tables.select_runs(control, aggregator=rule)
    half = attack_success(fedavg) / 2
    if accuracy_lost(fedavg, runs).mean() > AFFORDABLE:
        return -half
    return half - attack_success(runs)


def bsnr_correlations(frame: pd.DataFrame, column: str = "asr") -> tuple[list[float], list[float]]:
    """Spearman of BSNR with a column, and the same with the share of poison held fixed.

    frame: of backdoor_scores. A value a seed, those that can be had, over the runs with poison."""
    plain, given = [], []
    poisoned = frame[(frame["share"] > 0) & frame["bsnr"].notna()]
    for _, part in poisoned.groupby("seed"):
        if part[column].nunique() > 1:
            plain.append(estimates.spearman(part["bsnr"], part[column]))
            partial = estimates.partial_spearman(part["bsnr"], part[column], part["share"])
            if partial is not None:
                given.append(partial)
    return plain, given


def success_onsets(frame: pd.DataFrame, level: float = 50) -> pd.DataFrame:
    """The BSNR and the share (%) at which success passes a level, a row a number of holders.

    frame: backdoor_scores of thresholds_grid. Mean and interval over the seeds that reach it."""
    rows = []
    for holders, part in frame.groupby("holders"):
        seeds = part.sort_values("share").groupby("seed")
        onsets = [_onset(one, level) for _, one in seeds]
        found = [onset for onset in onsets if onset is not None]
        largest = part[part["share"] == part["share"].max()]
        row = {
            "held by": holders,
            "seeds": part["seed"].nunique(),
            "that reach it": len(found),
            "BSNR there": "",
            "share there (%)": "",
        }
        if found:
            bsnr = np.exp([log_bsnr for log_bsnr, _ in found])
            share = [100 * share for _, share in found]
            row["BSNR there"] = estimates.interval_text(bsnr, 2, (0, np.inf))
            row["share there (%)"] = estimates.interval_text(share, 1, (0, 100))
        success = estimates.interval_text(largest["asr"], 1, (0, 100))
        rows.append(row | {"success at the largest share (%)": success})
    return pd.DataFrame(rows)


def _onset(part: pd.DataFrame, level: float) -> np.ndarray | None:
    """(log BSNR, share) where one seed's success passes a level; None where it never does.

    By interpolation between the shares; at the smallest one, where success is over it already."""
    success = np.array(part["asr"], dtype=float)
    at = np.column_stack([np.log(part["bsnr"]), part["share"]])
    over = int(np.argmax(success >= level))  # the first share that reaches it
    if success[over] < level:
        return None
    under = max(over - 1, 0)
    rise = 1.0
    if over and success[over] > success[under]:
        rise = (level - success[under]) / (success[over] - success[under])
    return at[under] + rise * (at[over] - at[under])


def rise_with_holders(frame: pd.DataFrame, column: str) -> list[float]:
    """Spearman of a column with the number of clients that hold the poison, a value a seed.

    frame: of backdoor_scores, with equal spreads of one total. 0 where the column is the same for
    all."""
    found = []
    for _, part in frame.groupby("seed"):
        varies = part[column].nunique() > 1
        found.append(estimates.spearman(part["holders"], part[column]) if varies else 0.0)
    return found
