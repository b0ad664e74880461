"""Tables made from runs' records only: scores, differences, and the papers' numbers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedlib.lab.store import Run
from fedlib.papers import estimates
from fedlib.papers.methods import LABEL, level_label
from fedlib.settings import groups, own_methods
from fedlib.settings.schema import Settings

PUBLISHED = Path(__file__).parents[1] / "published"
PUBLISHED_SCORES = ["rule", "md_judge", "rm", "mt1"]
SCORES = [
    *PUBLISHED_SCORES,
    "help",
    "over_refusal",
    "refusal",
    "benign_refusal",
    "safe_refusal",
    "strongreject",
    "affirmation",
    "utility",
]
# Scores that are shares of prompts or rows; the others have their own units.
PERCENT = {
    "rule",
    "refusal",
    "benign_refusal",
    "safe_refusal",
    "benign_rule",
    "md_judge",
    "help",
    "over_refusal",
    "exact",
    "asr",
    "false_trigger",
    "accuracy",
    "recall",
    "precision",
    "f1",
    "unsafe",
    "unrefused",
    "answered",
    "task_accuracy",
}
# Which way is good, by column: what tables and axes say beside a score's name.
BETTER = {
    "rule": "higher is safer",
    "refusal": "higher is safer",
    "md_judge": "higher is safer",
    "rm": "higher is safer",
    "strongreject": "lower is safer",
    "mt1": "higher is more helpful",
    "help": "higher is more helpful",
    "utility": "higher is more helpful",
    "over_refusal": "lower is more helpful",
    "benign_refusal": "lower is more helpful",
    "asr": "lower is safer",
    "target": "lower is safer",
    "false_trigger": "lower is safer",
    "unsafe": "lower is safer",
    "unrefused": "lower is safer",
    "affirmation": "lower is safer",
    "answered": "lower is safer",
    "hs": "lower is safer",
    "accuracy": "higher is better",
    "task_accuracy": "higher is better",
    "recall": "higher is better",
    "precision": "higher is better",
    "f1": "higher is better",
    "probe_loss_rise": "0 is no drift",
    "probe_accuracy_lost": "in points; 0 is no drift",
}
# What each of the world's datasets stands beside in the paper's tables.
STANDS_FOR = {"lmsys-like": "LMSYS-Chat", "wild-like": "WildChat"}


def published_table(name: str) -> pd.DataFrame:
    """A paper's own numbers: a table of fedlib/published, with the columns of runs' scores."""
    frame = pd.read_csv(PUBLISHED / f"{name}.csv")
    if "benign_dataset" in frame:
        ours = {theirs: ours for ours, theirs in STANDS_FOR.items()}
        frame["dataset"] = frame.pop("benign_dataset").map(ours)
    if "with_defense" in frame:
        # a column a method: turn it into a row a method, a column a score
        frame["defended"] = frame.pop("with_defense") == "yes"
        long = frame.melt(["metric", "defended"], var_name="method")
        wide = long.pivot(index=["method", "defended"], columns="metric", values="value")
        frame = wide.reset_index()
    return frame


def method_label(settings: Settings) -> str:
    """The row of paper S's table that a run belongs to."""
    federation, data = settings.federation, settings.data
    level = settings.defense.level
    if level and federation.aggregator == "fedavg":
        return level_label(level)
    if not federation.malicious:
        return LABEL["no attack"]
    if data.unaligned_share == 0 and data.attack != "conflicting":
        return LABEL["no hazards"]
    return LABEL[federation.aggregator]


def score_table(done: Iterable[Run]) -> pd.DataFrame:
    """A row a run: what tells it from others, and the scores of its judges.

    seed, dataset, method, aggregator, defended, sampled, clients, malicious, then the scores."""
    rows = []
    for run in done:
        settings = run.settings
        federation = settings.federation
        row = {
            "seed": settings.seed,
            "dataset": "+".join(settings.data.benign),
            "method": method_label(settings),
            "aggregator": LABEL[federation.aggregator],
            "defended": bool(settings.defense.level),
            "sampled": federation.sampled,
            "clients": federation.clients,
            "malicious": federation.malicious,
        }
        rows.append(row | run.scores())
    return pd.DataFrame(rows)


def score_columns(settings: Settings) -> list[str]:
    """SCORES, and behind them those of a person's own judges: NAME, benign_NAME, ...

    With data.over_refusal over_refusal_NAME is among them."""
    own = [own_methods.called(n) for n in settings.judges if own_methods.is_own(n)]
    columns = list(SCORES)
    for name in own:
        columns += [name, f"benign_{name}"]
        if settings.data.over_refusal:
            columns.append(f"over_refusal_{name}")
    return columns


def judge_agreement(done: Iterable[Run]) -> pd.DataFrame:
    """How far the judges agree on all responses to harmful prompts, a row a pair of judges.

    Empty where only Rule judged."""
    frame = pd.DataFrame([r for run in done for r in run.responses() if r["set"] == "harmful"])
    rows = []
    if {"rule", "md_judge"} <= set(frame):
        rows.append(_rule_and_guard(frame["rule"], frame["md_judge"]))
    # the reward has no threshold: how well does it rank what the other judge calls safe?
    for name in ("rule", "md_judge"):
        if {name, "rm"} <= set(frame) and 0 < frame[name].mean() < 1:
            ranked = 1 - estimates.auc(frame["rm"], np.array(frame[name] == 1))
            rows.append({"judges": f"RM, {name}", "responses": len(frame), "AUC": ranked})
    return pd.DataFrame(rows).round(2)


def _rule_and_guard(rule: pd.Series, guard: pd.Series) -> dict[str, Any]:
    from sklearn.metrics import cohen_kappa_score  # takes a second to import

    safe_unsaid = (rule == 0) & (guard == 1)
    unsafe_said = (rule == 1) & (guard == 0)
    return {
        "judges": "Rule, MD-Judge",
        "responses": len(rule),
        "agreement (%)": 100 * (rule == guard).mean(),
        "kappa": cohen_kappa_score(rule, guard, labels=[0, 1]),
        "safe without a refusal phrase (%)": 100 * safe_unsaid.mean(),
        "unsafe with one (%)": 100 * unsafe_said.mean(),
    }


def select_runs(done: Iterable[Run], **wanted: Any) -> list[Run]:
    """The runs whose settings have these values, by field.

    select_runs(done, malicious=0, benign=["wild-like"]). ValueError for an unknown field."""

    def matches(settings: Settings) -> bool:
        return all(_field(settings, name) == value for name, value in wanted.items())

    return [run for run in done if matches(run.settings)]


def _field(settings: Settings, name: str) -> Any:
    """The value of the first field of that name: of the settings, then of their groups."""
    for group in (settings, *(getattr(settings, group) for group in groups.GROUPS)):
        if name in type(group).model_fields:
            return getattr(group, name)
    raise ValueError(f"no setting is called {name!r}")


def beside_published(frame: pd.DataFrame, paper: str, columns: Sequence[str]) -> pd.DataFrame:
    """The frame with a paper's own numbers beside: columns of published_table(paper).

    They stand where all that both name is equal, and only beside the published sampling (some of
    the clients)."""
    numbers = published_table(paper)
    columns = list(columns)
    shared = [c for c in numbers if c in frame and c not in columns + SCORES]
    names = {c: f"{c} (paper)" for c in columns}
    theirs = numbers[shared + columns].rename(columns=names)
    both = frame.merge(theirs, on=shared, how="left", suffixes=("", " (paper)"))
    both.loc[both["sampled"] == both["clients"], list(names.values())] = np.nan
    return both


def short_table(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """One score of Table 1: a row a method, a column for each dataset and sampling.

    table: of beside_published. Where the paper has numbers, they stand in a column beside."""
    columns = {}
    for (dataset, sampled, clients), part in table.groupby(
        ["dataset", "sampled", "clients"], sort=False
    ):
        rows = part.set_index("method")
        name = f"{dataset}, {sampled} of {clients}"
        columns[name] = rows[score]
        paper = f"{score} (paper)"
        if paper in rows and rows[paper].notna().any():
            columns[f"{name} (paper)"] = rows[paper]
    return pd.DataFrame(columns).rename_axis("method").reset_index()


def score_matrix(done: Iterable[Run], score: str, prompts: str) -> np.ndarray:
    """Scores [seeds, things asked about]: the mean over a thing's prompts, percent where shares.

    prompts: the set that was asked, `harmful`, `benign`, `task` or `triggered`."""
    factor = 100 if score in PERCENT else 1
    rows = []
    for run in done:
        frame = pd.DataFrame([r for r in run.responses() if r["set"] == prompts])
        rows.append(factor * frame.groupby("name")[score].mean().sort_index())
    return np.array(pd.DataFrame(rows))


def score_drop(before: list[Run], after: list[Run], score: str, prompts: str) -> np.ndarray:
    """How far a score falls from `before` to `after`, in points [seeds, things], paired by both.

    ValueError where the two sides do not have the same seeds in the same order."""
    if [run.settings.seed for run in before] != [run.settings.seed for run in after]:
        raise ValueError("the runs of the two sides must have the same seeds in the same order")
    return score_matrix(before, score, prompts) - score_matrix(after, score, prompts)


def summary_table(frame: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Mean and 95% interval over seeds of each column, as text, a row a group of `by`."""
    there = [c for c in columns if c in frame]
    rows = []
    for names, part in frame.groupby(list(by), sort=False):
        row = dict(zip(by, names, strict=True))
        row |= {column: _cell(column, part[column]) for column in there}
        rows.append(row | {"seeds": len(part)})
    return pd.DataFrame(rows)


def _cell(column: str, values: pd.Series) -> str:
    if not values.notna().all():
        return ""
    if column in PERCENT:
        return estimates.interval_text(values, 1, (0, 100))
    return estimates.interval_text(values, 2)
