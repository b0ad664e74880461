"""Paper S: what each table and figure says, in a sentence made from its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedlib.papers import estimates
from fedlib.papers.methods import LABEL
from fedlib.papers.safety_results import client_score

# What a safety score counts.
COUNTED = {
    "md_judge": "Answers to harmful prompts that the guard calls safe",
    "refusal": "Harmful prompts that are refused",
    "rule": "Answers to harmful prompts that hold a refusal phrase",
}
SAMPLED = {"sampled": "some clients a round", "full": "all clients in every round"}


def certainty(values: Any) -> str:
    """What a difference's interval says of its sign, as the end of a sentence."""
    mean, low, high = estimates.interval(values)
    if np.isnan(low):
        return " One number has no interval."
    if low <= 0 <= high:
        return " The interval holds 0, so this may be chance."
    return ""


def table1_said(scores: pd.DataFrame, score: str) -> list[str]:
    """A sentence for each dataset and sampling of Table 1.

    scores: of tables.score_table; score: the column that counts safe answers."""
    said = [f"{COUNTED[score]}, in percent:"]
    for (dataset, sampled), part in scores.groupby(["dataset", "sampled"], sort=False):
        means = part.groupby("method", sort=False)[score].mean()
        parts = [f"{means[LABEL['no attack']]:.0f} without attack"]
        parts.append(f"{means[LABEL['fedavg']]:.0f} under attack")

        rules = means[[name for name in means.index if name in set(part["aggregator"])]]
        rules = rules.drop(LABEL["fedavg"])
        if len(rules):
            parts.append(f"{rules.max():.0f} with the best rule ({rules.idxmax()})")
        repaired = [name for name in means.index if name.startswith("Repair")]
        parts += [f"{means[name]:.0f} after {name.lower()}" for name in repaired]

        clients = part["clients"].iloc[0]
        said.append(f"- {dataset}, {sampled} of {clients} clients a round: {', '.join(parts)}.")
    return ["\n".join(said)]


def effects_said(effects: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the attack costs and what wins it back, a sentence an effect of table1_effects."""
    lines = []
    for effect in effects:
        where = f"{effect['dataset']}, {SAMPLED[effect['sampling']]}"
        line = f"- {where}: the attack costs {estimates.interval_text(effect['attack'])} points."
        line += certainty(effect["attack"])
        if "control" in effect:
            control = estimates.interval_text(effect["control"])
            line += f" Without harmful rows, only good examples missing, {control} are lost."
        regained = [
            f"{effect['best'] if name == 'best regains' else name.removesuffix(' regains')} "
            f"{np.mean(values):.1f}"
            for name, values in effect.items()
            if name.endswith("regains")
        ]
        if regained:
            line += f" Points won back: {', '.join(regained)}."
        lines.append(line)
    return ["\n".join(lines)]


def agreement_said(frame: pd.DataFrame) -> list[str]:
    """How often the two judges of harmful answers agree; nothing where only one judged."""
    if "agreement (%)" not in frame:
        return []
    row = frame.iloc[0]
    return [
        f"Rule and MD-Judge agree on {row['agreement (%)']:.0f}% of {row['responses']} responses "
        f"(kappa {row['kappa']:.2f}). {row['safe without a refusal phrase (%)']:.0f}% are safe "
        f"without a refusal phrase, {row['unsafe with one (%)']:.0f}% are unsafe with one."
    ]


def likeness_said(kinds: Mapping[str, Sequence[dict]]) -> list[str]:
    """How alike updates are in the last round, within and between the two groups of clients.

    kinds: {name: a run's rounds}, as the heat maps take them."""
    lines, contrasts = [], {}
    for name, rounds in kinds.items():
        record = rounds[-1]
        cosine = np.array(record["cosine"])
        bad = np.isin(record["sampled"], record["malicious"])
        pairs = ~np.eye(len(bad), dtype=bool)
        both_bad, both_good = np.outer(bad, bad) & pairs, np.outer(~bad, ~bad) & pairs
        mixed = pairs & ~both_bad & ~both_good
        if not (both_bad.any() and both_good.any() and mixed.any()):
            continue
        within = (cosine[both_bad].mean(), cosine[both_good].mean())
        between = cosine[mixed].mean()
        contrasts[name] = min(within) - between
        lines.append(
            f"- {name}: two malicious clients {within[0]:.2f}, two benign ones {within[1]:.2f}, "
            f"one of each {between:.2f}"
        )
    if not lines:
        return []
    clearest = max(contrasts, key=contrasts.__getitem__)
    end = f"The two groups stand apart most in *{clearest}*"
    return ["\n".join(["Mean cosine in the last round:", *lines]), f"{end}."]


def weights_said(kinds: Mapping[str, Sequence[dict]], rules: Sequence[str]) -> list[str]:
    """How much of the weight each rule would give to the malicious clients in the last round."""
    lines = []
    for name, rounds in kinds.items():
        record = rounds[-1]
        bad = np.isin(record["sampled"], record["malicious"])
        parts = []
        for rule in rules:
            weights = client_score(record, rule)
            share = 100 * weights[bad].sum() / weights.sum() if weights.sum() else np.nan
            parts.append(f"{LABEL[rule]} {share:.0f}%")
        lines.append(f"- {name}: {', '.join(parts)} (an equal share is {100 * bad.mean():.0f}%)")
    return ["\n".join(["Of the weight, the malicious clients would get:", *lines])]


def detection_said(found: Mapping[tuple[str, str], tuple[np.ndarray, float]]) -> list[str]:
    """How well the best score finds malicious clients, beside the same clients without attack.

    found: {(kind of attack, score): (AUC [seeds], p)}."""
    best = {}
    for name in ("attack", "conflicting labels"):
        means = {by: values.mean() for (kind, by), (values, _) in found.items() if kind == name}
        if means:
            by = max(means, key=means.__getitem__)
            best[name] = (by, means[by])
    said = []
    if "attack" in best:
        by, reached = best["attack"]
        sentence = f"Under attack the best score is {LABEL.get(by, by)}: AUC {reached:.2f}."
        if ("no attack", by) in found:
            without = found["no attack", by][0].mean()
            more = reached - without
            sentence += f" The same clients have {without:.2f} there when they are benign"
            sentence += f", so {more:.2f} of it is the attack's." if more > 0 else ": no less."
        said.append(sentence)
    if "conflicting labels" in best:
        by, reached = best["conflicting labels"]
        said.append(f"In the control the best is {LABEL.get(by, by)}: {reached:.2f}.")
    return [" ".join(said)]


def control_said(scores: pd.DataFrame, score: str) -> list[str]:
    """What the best and the worst rule keep where malicious clients answer with refusals."""
    means = scores.groupby("aggregator")[score].mean()
    plain, rules = means[LABEL["fedavg"]], means.drop(LABEL["fedavg"])
    if rules.empty:
        return []
    better = "above" if score == "help" else "below"
    good = rules[rules > plain] if score == "help" else rules[rules < plain]
    first, last = (rules.idxmax(), rules.idxmin())
    return [
        f"FedAvg has {plain:.0f}% here; {len(good)} of {len(rules)} rules are {better} that. The "
        f"highest is {first} with {rules[first]:.0f}%, the lowest {last} with {rules[last]:.0f}%."
    ]


def gains_said(gains: Mapping[tuple[str, str], np.ndarray]) -> list[str]:
    """What level 2 adds to the rule that gains least and to the one that gains most."""
    lines = []
    for sampling in dict.fromkeys(where for where, _ in gains):
        means = {
            rule: values.mean() for (where, rule), values in gains.items() if where == sampling
        }
        least, most = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        low = estimates.interval_text(gains[sampling, least])
        lines.append(
            f"- {SAMPLED[sampling]}: level 2 adds least to {least}, {low} points"
            + (f", and most to {most}, {means[most]:.1f}." if most != least else ".")
        )
    return ["\n".join(lines)]


def larger_said(costs: Mapping[int, np.ndarray], shortfalls: Mapping[int, np.ndarray]) -> list[str]:
    """What the attack costs in larger federations, and what the repair leaves of it."""
    lines = []
    for clients, cost in costs.items():
        left = estimates.interval_text(shortfalls[clients])
        lines.append(
            f"- {clients} clients: the attack costs {estimates.interval_text(cost)} points; after "
            f"level 2 {left} are still missing.{certainty(cost)}"
        )
    return ["\n".join(lines)]


def shares_said(curve: pd.DataFrame, score: str) -> list[str]:
    """Safety with the most malicious clients that were tried, a number a method."""
    most = curve["malicious"].max()
    means = curve[curve["malicious"] == most].groupby("method", sort=False)[score].mean()
    told = ", ".join(f"{name} {value:.0f}%" for name, value in means.items())
    return [f"With {most} malicious clients: {told}."]


def written_said(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many of the rows that a model was asked for are kept, by kind.

    reports: of synthesis, {kind, asked, kept, ...}, those of one kind added up."""
    frame = pd.DataFrame(reports)
    if frame.empty:
        return []
    total = frame.groupby("kind", sort=False)[["asked", "kept"]].sum()
    told = ", ".join(f"{row['kept']} of {row['asked']} {kind}" for kind, row in total.iterrows())
    return [f"Kept are {told} rows."]


def attacks_said(scores: pd.DataFrame, score: str) -> list[str]:
    """Safety without unaligned rows, with extracted ones and with written ones."""
    means = scores.groupby("unaligned rows", sort=False)[score].mean()
    told = ", ".join(f"{name} {value:.0f}%" for name, value in means.items())
    return [f"Safe answers, by where the unaligned rows come from: {told}."]
