"""Paper B: what each table and figure says, in a sentence made from its numbers.

ASR is the attack success rate in percent, BSNR the Backdoor Signal-to-Noise Ratio."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fedlib.lab.store import Run
from fedlib.papers import estimates
from fedlib.papers.methods import LABEL

FROM_HERE = 50  # ASR, in percent, from which a backdoor counts as planted


def concentration_said(scores: pd.DataFrame) -> list[str]:
    """What the largest share of poison does, for both kinds of trigger.

    scores: of backdoor_scores."""
    most = scores["share"].max()
    lines = []
    for kind, part in scores.groupby("kind", sort=False):
        means = part.groupby("share")[["asr", "accuracy"]].mean()
        with_poison, without = means.loc[most], means.loc[0]
        lines.append(
            f"- {kind} trigger: ASR {with_poison['asr']:.0f}% (without poison "
            f"{without['asr']:.0f}%), clean accuracy {with_poison['accuracy']:.0f}% (without "
            f"poison {without['accuracy']:.0f}%)"
        )
    return ["\n".join([f"With {100 * most:g}% poisoned rows:", *lines])]


def spread_said(spread: pd.DataFrame) -> list[str]:
    """ASR by who holds the same total of poison: few clients, or all.

    spread: of backdoor_scores, with a column `held by`."""
    means = spread.groupby("held by", sort=False)["asr"].mean()
    told = ", ".join(f"{name} {value:.0f}%" for name, value in means.items())
    end = f"The highest is *{means.idxmax()}*, the lowest *{means.idxmin()}*."
    if means.nunique() == 1:
        end = "All are the same."
    return [f"ASR by who holds the poison: {told}. {end}"]


def triggers_said(every: pd.DataFrame) -> list[str]:
    """Which trigger succeeds most and which least, each with its target."""
    ordered = every.sort_values("asr")
    first, last = ordered.iloc[-1], ordered.iloc[0]
    return [
        f"The trigger *{first['trigger']}* succeeds most ({first['asr']:.0f}%), "
        f"*{last['trigger']}* least ({last['asr']:.0f}%). Of {len(every)} triggers "
        f"{(every['asr'] >= FROM_HERE).sum()} reach {FROM_HERE}%."
    ]


def rounds_said(runs_by_share: Mapping[str, Sequence[Run]]) -> list[str]:
    """Where BSNR starts and ends, by share of poison: {share: its runs}."""
    told = []
    for name, runs in runs_by_share.items():
        ends = [(run.rounds()[0].get("bsnr", 0), run.rounds()[-1].get("bsnr", 0)) for run in runs]
        first, last = np.mean(ends, axis=0)
        told.append(f"{name} from {first:.2f} to {last:.2f}")
    return [f"Mean BSNR, first to last round: {', '.join(told)}."] if told else []


def grid_said(poisoned: pd.DataFrame) -> list[str]:
    """Whether the BSNR of runs that plant the backdoor lies apart from that of the others."""
    planted = poisoned["asr"] >= FROM_HERE
    some = f"{planted.sum()} of {len(poisoned)} runs reach an ASR of {FROM_HERE}%."
    high, low = poisoned.loc[planted, "bsnr"].dropna(), poisoned.loc[~planted, "bsnr"].dropna()
    if high.empty or low.empty:
        return [some]
    apart = high.min() > low.max()
    verdict = "no value is shared" if apart else "the two overlap, so BSNR does not tell them apart"
    return [
        f"{some} Their BSNR lies between {high.min():.2f} and {high.max():.2f}, that of the others "
        f"between {low.min():.2f} and {low.max():.2f}: {verdict}."
    ]


def correlations_said(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """The rank correlation of BSNR with success, and what the share leaves of it."""
    told = []
    for row in rows:
        plain, given = row["Spearman"] or "not to be had", row["given the share"] or "not to be had"
        told.append(f"with {row['BSNR with']} {plain}, with the share held fixed {given}")
    return [f"Rank correlation of BSNR, 1 at most: {'; '.join(told)}."]


def onsets_said(onsets: pd.DataFrame) -> list[str]:
    """At which BSNR success sets in, by the number of clients that hold the poison."""
    told = [
        f"held by {row['held by']}: {row['BSNR there'] or 'never'} "
        f"({row['that reach it']} of {row['seeds']} seeds)"
        for _, row in onsets.iterrows()
    ]
    return [f"BSNR where half of the triggers succeed, {'; '.join(told)}."]


def factors_said(poisoned: pd.DataFrame) -> list[str]:
    """Which spread has the largest BSNR, and which the largest ASR."""
    # only where the total is the same can spreads be compared
    spreads = poisoned["spread"] + poisoned["holders"].astype(str)
    share = spreads.groupby(poisoned["share"]).nunique().idxmax()
    same = poisoned[poisoned["share"] == share]
    groups = same.groupby(["spread", "holders"])[["bsnr", "asr"]].mean().reset_index()
    ratio = groups.loc[groups["bsnr"].idxmax()]
    success = groups.loc[groups["asr"].idxmax()]
    first, second = (f"*{one['spread']}* with {one['holders']} holders" for one in (ratio, success))
    verdict = "the same" if first == second else "another"
    return [
        f"With {100 * share:g}% poison in all, BSNR is largest for {first} "
        f"({ratio['bsnr']:.2f}), ASR for {second} ({success['asr']:.0f}%): {verdict}."
    ]


def defences_said(scores: Mapping[str, pd.DataFrame]) -> list[str]:
    """FedAvg's ASR and the lowest of a rule, for each attack and for the control.

    scores: {attack: backdoor_scores}."""
    lines = []
    for attack, frame in scores.items():
        means = frame.groupby("aggregator", sort=False)[["asr", "accuracy"]].mean()
        plain, rules = means.loc[LABEL["fedavg"]], means.drop(LABEL["fedavg"])
        if rules.empty:
            continue
        best = rules["asr"].idxmin()
        lines.append(
            f"- {attack}: FedAvg {plain['asr']:.0f}%, {best} {rules.loc[best, 'asr']:.0f}% "
            f"(clean accuracy {plain['accuracy']:.0f} and {rules.loc[best, 'accuracy']:.0f}%)"
        )
    return ["\n".join(["ASR under FedAvg and under the rule with the lowest:", *lines])]


def stopped_said(below: Mapping[str, ArrayLike]) -> list[str]:
    """Which rules halve the ASR of one boosted client: the control in which they should work.

    below: {rule: half of FedAvg's ASR less its own [seeds, prompts]}."""
    halved = [name for name, values in below.items() if estimates.interval(values)[0] > 0]
    return [
        f"{len(halved)} of {len(below)} rules halve the ASR of one boosted client"
        + (f": {', '.join(halved)}." if halved else ".")
    ]


def filter_said(filtered: pd.DataFrame) -> list[str]:
    """ASR without and with the filter of rows, and how many poisoned rows it finds."""
    lines = []
    for (kind, spread), part in filtered.groupby(["kind", "spread"], sort=False):
        means = part.groupby("filter")[["asr", "accuracy"]].mean()
        for name in means.index.drop("none", errors="ignore"):
            found = part.loc[part["filter"] == name, "recall"].mean()
            before, after = means.loc["none"], means.loc[name]
            lines.append(
                f"- {kind} trigger, spread {spread}: ASR from {before['asr']:.0f} to "
                f"{after['asr']:.0f}%, clean accuracy from {before['accuracy']:.0f} to "
                f"{after['accuracy']:.0f}%; {found:.0f}% of the poisoned rows are found"
            )
    return ["\n".join(["Without and with the filter:", *lines])] if lines else []
