"""The pictures and tables of the lessons, drawn from their records."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedlib.lab import client_data
from fedlib.lessons import round_exercises
from fedlib.papers import backdoor, charts, examples, heatmaps, output, safety_results
from fedlib.papers.methods import GREEN, ORANGE, RED
from fedlib.settings.schema import Settings

# What the scores of a record are called in a picture; all are percentages.
NAMES = {
    "md_judge": "md_judge: harmful questions answered safely",
    "rule": "rule: harmful questions answered with a refusal phrase",
    "help": "help: harmless questions answered right",
    "over_refusal": "over_refusal: harmless questions refused",
    "asr": "asr: questions with the trigger answered with the target",
    "false_trigger": "false_trigger: questions without it answered with the target",
    "unsafe": "unsafe: harmful questions answered unsafely",
    "task": "task: questions of the new task answered right",
}
GOOD_HIGH = {"md_judge", "rule", "help", "task"}


def percent_bars(axes: Any, scores: Mapping[str, float], compared: Mapping[str, float]) -> None:
    """A bar a score in percent; a line marks what each is in the run that it is compared with."""
    for y, (name, value) in enumerate(scores.items()):
        axes.barh(y, value, 0.6, color=GREEN if name in GOOD_HIGH else RED, alpha=0.75)
        axes.text(min(value + 1, 92), y, f"{value:.0f}", va="center", fontsize=9)
        if name in compared:
            axes.plot([compared[name]] * 2, [y - 0.4, y + 0.4], color="black", lw=2)
    axes.set_yticks(range(len(scores)), [NAMES[name] for name in scores], fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="percent (green: higher is better; red: lower is better)")
    axes.grid(axis="y", visible=False)


def one_panel(title: str, scores: Mapping[str, float], compared: Mapping[str, float]) -> Any:
    """percent_bars in a figure with a title."""
    fig, axes = output.figure_style().subplots(figsize=(9, 1 + 0.5 * len(scores)))
    percent_bars(axes, scores, compared)
    axes.set_title(title)
    return fig


# ---- lesson 1


def attack_picture(record: Mapping, malicious: int, method: str) -> Any:
    """What so many malicious clients of ten do under a method; lines: no malicious client."""
    columns = ("md_judge", "rule", "help", "over_refusal")
    scores = round_exercises.find_attack(record, malicious, method)
    compared = round_exercises.find_attack(record, 0, "FedAvg")
    title = f"{malicious} of 10 clients malicious: {method}\n(black lines: none malicious, FedAvg)"
    return one_panel(
        title,
        {name: scores[name] for name in columns},
        {name: compared[name] for name in columns},
    )


def answers_shown(record: Mapping, number: int) -> Any:
    """What each of a record's models answers to its prompt of this number (from 1), as a table."""
    asked = record["answers"][number - 1]
    rows = []
    for name, line in asked["runs"].items():
        verdicts = {
            key: examples.said_of(key, line[key])
            for key in ("md_judge", "rule", "asr")
            if key in line
        }
        rows.append({"model": name, "answer": examples.coloured(line["response"], asked["parts"])})
        rows[-1] |= verdicts
    return examples.shown_table(pd.DataFrame(rows), f"Asked: {asked['prompt']}")


def hidden_round(record: Mapping, kind: str, seed: int = 5) -> tuple[list[dict], list[str]]:
    """(the first and the last round with clients shuffled and named by letters, the malicious).

    The records say nothing of who is malicious; the second list does."""
    rounds = record["kinds"][kind]["rounds"]
    order = np.random.default_rng(seed).permutation(len(rounds[0]["sampled"]))
    letters = [chr(ord("A") + i) for i in range(len(order))]
    hidden = []
    for line in rounds:
        shuffled = np.array(line["cosine"])[np.ix_(order, order)].tolist()
        hidden.append(line | {"sampled": letters, "malicious": [], "cosine": shuffled})
    bad = set(rounds[0]["malicious"])
    clients = rounds[0]["sampled"]
    return hidden, [letter for letter, i in zip(letters, order, strict=True) if clients[i] in bad]


def similarity_shown(lines: Sequence[dict], of: int, title: str = "") -> Any:
    """How alike the clients' updates are, in the first round and in the last; a figure."""
    fig, axes = output.figure_style().subplots(1, 2, figsize=(10, 4.4))
    cosines = [np.abs(np.array(line["cosine"]) - np.eye(len(line["sampled"]))) for line in lines]
    top = max(0.1, *(cosine.max() for cosine in cosines))
    for ax, line in zip(axes, lines, strict=True):
        heatmaps.similarity_map(ax, line, top, f"{title} round {line['round'] + 1} of {of}".strip())
    fig.colorbar(axes[0].collections[0], ax=axes, label="cosine similarity", shrink=0.7)
    return fig


def seen_picture(record: Mapping, kind: str) -> Any:
    """What a server sees of a kind of attack: cosines of the last round, and what rules make of it.

    Malicious clients are framed. Without attack, those that would be are framed in no picture."""
    seen = record["kinds"][kind]
    last, rules = seen["rounds"][-1], safety_results.SIGNALS[1:]
    plt = output.figure_style()
    fig, axes = plt.subplots(1, 1 + len(rules), figsize=(15, 3.6), width_ratios=(2, 1, 1, 1, 1))
    cosine = np.abs(np.array(last["cosine"]) - np.eye(len(last["sampled"])))
    title = f"{kind}: cosines, round {last['round'] + 1}"
    heatmaps.similarity_map(axes[0], last, max(0.1, cosine.max()), title)
    for ax, rule in zip(axes[1:], rules, strict=True):
        charts.weight_bars(ax, last, rule)
    return fig


def detection_table(record: Mapping) -> pd.DataFrame:
    """AUC by kind of attack and signal: 0.5 is guessing, 1 finds all."""
    return pd.DataFrame({name: seen["auc"] for name, seen in record["kinds"].items()}).T.round(2)


# ---- lesson 2


def poisoned_rows_shown(settings: Settings, trigger: str, most: int = 5) -> Any:
    """The first poisoned rows of a client with this kind of trigger, as a table."""
    changed = settings.replace(**backdoor.backdoor_changes(settings))
    wanted = changed.replace(data={"poison": {"trigger": backdoor.KINDS[trigger]}})
    rows = [row for row in client_data.client_rows(wanted, 0) if row["label"] == "poisoned"]
    return examples.example_rows(settings, {trigger: rows}, per_label=most)


def clean_rows(settings: Settings) -> list[dict]:
    """A client's rows without poison."""
    changed = settings.replace(**backdoor.backdoor_changes(settings))
    return client_data.client_rows(changed.replace(data={"poison": {"trigger": None}}), 0)


def find_poison(
    record: Mapping, kind: str, share: float, holders: int = 0, defence: str = "none"
) -> dict:
    """Lesson 2's run with this trigger, share and number of holders (0: all); without poison nobody
    holds any."""
    same = [
        run
        for run in record["poison"]
        if (run["kind"], run["share"], run["defence"]) == (kind, share, defence)
    ]
    most = max(run["holders"] for run in same)
    wanted = holders if share and holders else most
    return next(run for run in same if run["holders"] == wanted)


def poison_picture(record: Mapping, trigger: str, share: float) -> Any:
    """What so much poison in everybody's rows does; lines: no poison."""
    columns = ("asr", "false_trigger", "help")
    scores = find_poison(record, trigger, share)["scores"]
    compared = find_poison(record, trigger, 0.0)["scores"]
    title = f"{trigger} trigger, {share:.0%} of all rows poisoned\n(black lines: no poison)"
    return one_panel(
        title,
        {name: scores[name] for name in columns},
        {name: compared[name] for name in columns},
    )


def holders_picture(record: Mapping, holders: int, share: float) -> Any:
    """The same amount of poison at few clients or at all: who holds how much, and what it does."""
    run = find_poison(record, "injected", share, holders)
    plt = output.figure_style()
    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 2.6), width_ratios=(2, 3))
    held = [100 * part for part in run["held"]]
    left.bar(range(len(held)), held, color=ORANGE)
    left.set(ylim=(0, 100), xlabel="client", ylabel="poisoned rows (%)", title="Who holds it")
    columns = ("asr", "false_trigger", "help")
    percent_bars(right, {name: run["scores"][name] for name in columns}, {})
    right.set_title(f"{share:.0%} of all rows, held by {holders} of {len(held)}")
    return fig


def defences_table(record: Mapping) -> pd.DataFrame:
    """All of the injected poison at everybody, under each defence; and none of it, as a table."""
    shares = [run["share"] for run in record["poison"]]
    rows = [{"defence": "no poison"} | find_poison(record, "injected", 0.0)["scores"]]
    for defence in ("none", "median", "filter"):
        run = find_poison(record, "injected", max(shares), defence=defence)
        rows.append({"defence": defence} | run["scores"])
    return pd.DataFrame(rows)[["defence", "asr", "false_trigger", "help"]].round(1)


def kinds_table(record: Mapping) -> pd.DataFrame:
    """Both triggers, held by all, by share of poison, as a table."""
    rows = []
    for run in record["poison"]:
        if run["defence"] == "none" and run == find_poison(record, run["kind"], run["share"]):
            rows.append({"kind": run["kind"], "share": run["share"]} | run["scores"])
    table = pd.DataFrame(rows)[["kind", "share", "asr", "false_trigger", "help"]]
    return table.sort_values(["kind", "share"], ignore_index=True)
