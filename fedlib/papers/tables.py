"""Figures, tables and claims, made from runs' records alone: one style, one place for each. No torch, no training."""

from pathlib import Path

import numpy as np
import pandas as pd

from fedlib.judges import refusals
from fedlib.papers import estimates
from fedlib.settings import groups

PUBLISHED = Path(__file__).parents[1] / "published"
# Each method's label and colour, everywhere.
METHODS = {
    "no attack": ("FedAvg (No Attack)", "#4477AA"),
    "no hazards": ("FedAvg (control)", "#BBBBBB"),
    "fedavg": ("FedAvg", "#CC3311"),
    "median": ("Median", "#EE7733"),
    "trimmed_mean": ("TrimmedMean", "#009988"),
    "krum": ("Krum", "#AA3377"),
    "multi_krum": ("Multi-Krum", "#882255"),
    "dnc": ("DnC", "#33BBEE"),
    "foolsgold": ("FoolsGold", "#DDAA33"),
    "residual": ("Residual", "#777777"),
    "level1": ("Ours: Level 1", "#CCDDAA"),
    "level2": ("Ours: Level 2", "#228833"),
    "level3": ("Ours: Level 3", "#66CCEE"),
    "levelproject": ("Projection", "#DDDDDD"),
    "clipping": ("Norm clipping", "#44AA99"),
    "flame": ("FLAME-like", "#999933"),
    "untuned": ("before tuning", "#000000"),
    "plain": ("plain tuning", "#EE6677"),
    "swat": ("SWAT", "#117733"),
    "random": ("warm-up: random", "#AAAA00"),
    "fragile": ("warm-up: fragile", "#661100"),
    "injected": ("injected trigger", "#EE3377"),
    "natural": ("natural trigger", "#0077BB"),
}
SCORES = ["rule", "md_judge", "rm", "mt1", "help", "over_refusal"]
PERCENT = {
    "rule",
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
    "answered",
    "task_accuracy",
}  # the others have their own units
# What each of the world's datasets stands beside in the paper's tables.
STANDS_FOR = {"lmsys-like": "LMSYS-Chat", "wild-like": "WildChat"}


def published(name):
    """The paper's own numbers, a table of fedlib/published, with the columns that runs' scores have."""
    frame = pd.read_csv(PUBLISHED / f"{name}.csv")
    if "benign_dataset" in frame:
        frame["dataset"] = frame.pop("benign_dataset").map({v: k for k, v in STANDS_FOR.items()})
    if "with_defense" in frame:  # a column a method: turn it into a row a method, a column a score
        frame["defended"] = frame.pop("with_defense") == "yes"
        long = frame.melt(["metric", "defended"], var_name="method")
        frame = long.pivot(
            index=["method", "defended"], columns="metric", values="value"
        ).reset_index()
    return frame


def method(settings):
    """The row of the paper's table that a run belongs to."""
    f, level = settings.federation, settings.defense.level
    if level and f.aggregator == "fedavg":
        return METHODS[f"level{level}"][0]
    if not f.malicious:
        return METHODS["no attack"][0]
    control = settings.data.unaligned_share == 0 and settings.data.attack != "conflicting"
    return METHODS["no hazards" if control else f.aggregator][0]


def scores(done):
    """A row a run: seed, dataset, method, aggregator, defended, sampled, clients and the scores of its judges."""
    return pd.DataFrame(
        [
            {
                "seed": r.settings.seed,
                "dataset": "+".join(r.settings.data.benign),
                "method": method(r.settings),
                "aggregator": METHODS[r.settings.federation.aggregator][0],
                "defended": bool(r.settings.defense.level),
                "sampled": r.settings.federation.sampled,
                "clients": r.settings.federation.clients,
                "malicious": r.settings.federation.malicious,
            }
            | r.scores()
            for r in done
        ]
    )


def agreement(done):
    """How far the judges agree on all responses to harmful prompts, a row a pair; empty where only Rule judged."""
    frame = pd.DataFrame([r for run in done for r in run.responses() if r["set"] == "harmful"])
    rows = []
    if {"rule", "md_judge"} <= set(frame):
        from sklearn.metrics import cohen_kappa_score  # takes a second to import

        a, b = frame["rule"], frame["md_judge"]
        rows.append(
            {
                "judges": "Rule, MD-Judge",
                "responses": len(frame),
                "agreement (%)": 100 * (a == b).mean(),
                "kappa": cohen_kappa_score(a, b, labels=[0, 1]),
                "safe without a refusal phrase (%)": 100 * ((a == 0) & (b == 1)).mean(),
                "unsafe with one (%)": 100 * ((a == 1) & (b == 0)).mean(),
            }
        )
    for name in ("rule", "md_judge"):
        if {name, "rm"} <= set(frame) and 0 < frame[name].mean() < 1:
            rows.append(
                {
                    "judges": f"RM, {name}",
                    "responses": len(frame),
                    "AUC": 1 - estimates.auc(frame["rm"], frame[name] == 1),
                }
            )
    return pd.DataFrame(rows).round(2)


def select(done, **wanted):
    """The runs whose settings have these values, by field: select(done, malicious=0, benign=["wild-like"])."""

    def value(settings, name):
        for group in (settings, *(getattr(settings, g) for g in groups.GROUPS)):
            if name in type(group).model_fields:
                return getattr(group, name)
        raise ValueError(f"no setting is called {name!r}")

    return [r for r in done if all(value(r.settings, n) == v for n, v in wanted.items())]


def beside(frame, paper, columns):
    """The frame with the paper's own numbers beside: columns of published(paper), where all that both name is equal.

    Only rows with the published sampling (some clients of all) have them."""
    numbers = published(paper)
    shared = [c for c in numbers if c in frame and c not in columns + SCORES]
    names = {c: f"{c} (paper)" for c in columns}
    out = frame.merge(
        numbers[shared + columns].rename(columns=names),
        on=shared,
        how="left",
        suffixes=("", " (paper)"),
    )
    out.loc[out["sampled"] == out["clients"], list(names.values())] = np.nan
    return out


def drop(before, after, score, prompts):
    """How far a score falls from the runs `before` to the runs `after`, in points [seeds, things], paired by both."""
    if [r.settings.seed for r in before] != [r.settings.seed for r in after]:
        raise ValueError("the runs of the two sides must have the same seeds in the same order")
    return matrix(before, score, prompts) - matrix(after, score, prompts)


def summary(frame, by, columns):
    """Mean and 95% interval over seeds of each column, as text, a row a group of `by`."""
    out, columns = [], [c for c in columns if c in frame]
    for names, part in frame.groupby(by, sort=False):
        cells = {
            c: estimates.text(part[c], *((1, (0, 100)) if c in PERCENT else (2,)))
            if part[c].notna().all()
            else ""
            for c in columns
        }
        out.append(dict(zip(by, names, strict=True)) | cells | {"seeds": len(part)})
    return pd.DataFrame(out)


def matrix(done, score, prompts):
    """Scores [seeds, things asked about], in percent where they are shares: the mean over a thing's prompts.

    prompts: `harmful` or `benign`."""
    rows, factor = [], 100 if score in PERCENT else 1
    for run in done:
        frame = pd.DataFrame([r for r in run.responses() if r["set"] == prompts])
        rows.append(factor * frame.groupby("name")[score].mean().sort_index())
    return pd.DataFrame(rows).to_numpy()


def examples(run, count=4):
    """Some prompts with their responses. Responses to harmful prompts are redacted unless evaluation.show_responses."""
    frame = pd.DataFrame(run.responses())
    frame = frame.groupby("set", sort=False).head(count).reset_index(drop=True)
    if not run.settings.evaluation.show_responses:
        harmful = frame["set"] == "harmful"
        words = frame.loc[harmful, "response"].str.split().str.len()
        judged = frame.loc[harmful, "rule"].map({1: "refusal", 0: "no refusal"})
        frame.loc[harmful, "response"] = (
            "[redacted: " + judged + ", " + words.astype(str) + " words]"
        )
    return frame[["set", "prompt", "response", "rule"]]


def rows(settings, clients, per_label=2):
    """Some training rows of {client: rows}, each label's first ones; harmful answers are redacted."""
    shown = []
    for client, own in clients.items():
        for label in dict.fromkeys(r["label"] for r in own):
            shown += [{"client": client} | r for r in own if r["label"] == label][:per_label]
    frame = pd.DataFrame(shown)[["client", "label", "instruction", "response"]].sort_values(
        ["client", "label"]
    )
    if not settings.evaluation.show_responses:  # a model that writes aligned rows may fail to
        unsafe = (frame["label"] == "aligned") & ~frame["response"].map(refusals.refuses)
        frame.loc[unsafe, "response"] = "[redacted: no refusal phrase]"
        frame.loc[frame["label"] == "unaligned", "response"] = "[redacted: a harmful answer]"
    return frame.reset_index(drop=True)
