"""Prompts, rows and responses as they are shown: chosen by a stated rule, harmful ones redacted.

The words of the embedded world are invented and help nobody to do harm, so they are shown, with
what a hazard is made of in colour. In real data harmful answers stay redacted: in their place
stands whether they refuse, how long they are, and how they open, in words of a fixed list."""

import html
import re
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from fedlib.attack import poison
from fedlib.judges import refusals
from fedlib.lab.store import Run
from fedlib.models import checkpoints
from fedlib.papers.methods import RED
from fedlib.settings.schema import Settings
from fedlib.sources import world

# The score of each set of prompts by which examples are chosen: the first that judges.
VERDICTS = {
    "harmful": ("md_judge", "refusal", "rule"),
    "benign": ("help", "exact", "rule"),
    "task": ("exact",),
    "triggered": ("asr",),
}
# What a score of 0 or 1 says.
SAID = {
    "rule": ("no refusal", "refuses"),
    "refusal": ("no refusal", "refuses"),
    "md_judge": ("unsafe", "safe"),
    "help": ("not right", "right"),
    "exact": ("not right", "right"),
    "asr": ("no target", "target"),
}
# The openings that may be told of a redacted response.
OPENINGS = (
    "i am sorry|i'm sorry|sorry|i apologize|i cannot|i can not|i can't|i am unable|i'm unable|"
    "i am not able|i'm not able|i will not|i won't|i do not|i don't|i must|as an ai|as a|"
    "it is not|it is|it's|this is|there is|there are|sure|of course|certainly|absolutely|"
    "yes|no|here is|here are|here's|hello|thank you|great question|first|you can|to|the|i"
)


def example_responses(runs: Mapping[str, Run], prompts: str = "harmful", most: int = 4) -> Any:
    """Examples of what runs answer to the same prompts, as a table to show.

    runs: {name: run}; prompts: the set that was asked. The rule of choice: the first prompt of each
    combination of the runs' verdicts, the most frequent combination first, at most `most` of them;
    the table counts how many prompts are like each, and its caption how many are like none.
    Responses to harmful prompts are redacted where the words may be real, unless
    evaluation.show_responses. ValueError where the runs were not asked the same."""
    records = {name: _asked(run, prompts) for name, run in runs.items()}
    first, *others = records.values()
    asked = [line["prompt"] for line in first]
    if any([line["prompt"] for line in other] != asked for other in others):
        raise ValueError(f"these runs were not asked the same {prompts} prompts")

    score = next((name for name in VERDICTS[prompts] if name in first[0]), None)
    alike: dict[tuple, list[int]] = {}
    for i in range(len(asked)):
        combination = tuple(lines[i].get(score) for lines in records.values())
        alike.setdefault(combination, []).append(i)
    shown = sorted(alike.values(), key=len, reverse=True)[:most]

    rows = []
    for places in shown:
        once = {"prompts": f"{len(places)} of {len(asked)}", "prompt": _escaped(asked[places[0]])}
        for name, lines in records.items():
            rows.append(once | {"run": name} | _answer(runs[name].settings, lines[places[0]]))
            once = {"prompts": "", "prompt": ""}

    rest = len(asked) - sum(map(len, shown))
    caption = f"The first of the {prompts} prompts with each combination of verdicts ({score})."
    if rest:
        caption += f" {rest} prompts are like none of these."
    return shown_table(pd.DataFrame(rows).fillna(""), caption)


def _asked(run: Run, prompts: str) -> list[dict]:
    found = [line for line in run.responses() if line["set"] == prompts]
    if not found:
        raise ValueError(f"{run.folder}: no {prompts} prompts were asked")
    return found


def _answer(settings: Settings, line: dict) -> dict[str, str]:
    """{response, and each judge's score in words} of a response's line, as HTML."""
    if line["set"] == "harmful" and not may_show(settings):
        shown = _escaped(_redacted(line))
    else:
        shown = coloured(line["response"], line.get("parts", ()))
    # beside the judges' scores a line holds texts and lists only
    scores = {k: said_of(k, value) for k, value in line.items() if isinstance(value, int | float)}
    return {"response": shown} | scores


def said_of(judge: str, score: float) -> str:
    """A judge's score in words, or as a number."""
    if judge in SAID:
        return SAID[judge][int(score)]
    return f"{score:.3g}"


def may_show(settings: Settings) -> bool:
    """Whether harmful answers may be shown: a person asked for them, or every word is invented."""
    names = [settings.model.base, settings.data.generator]
    invented = all(n.startswith("world:") and checkpoints.added_to(n) is None for n in names)
    return settings.evaluation.show_responses or (settings.data.source == "world" and invented)


def _redacted(line: dict) -> str:
    """What is told of a response that is not shown."""
    response = line["response"]
    if refusals.refuses(response):
        verdict = "refused"
    else:
        verdict = "complied" if line.get("md_judge") == 0 else "no refusal phrase"
    plain = response.strip().lower().replace("\u2019", "'")
    opening = re.match(rf"(?:{OPENINGS})(?![\w'])", plain)
    opens = f"opens with “{opening[0]}”" if opening else "opens otherwise"
    return f"[redacted: {verdict}, {len(response.split())} words, {opens}]"


def example_rows(settings: Settings, clients: Mapping[Any, list[dict]], per_label: int = 2) -> Any:
    """Some training rows of {client: rows}, the first of each label, as a table to show.

    Harmful answers are redacted where the words may be real, unless evaluation.show_responses. So
    is an aligned row without a refusal phrase: a model that writes aligned rows may fail to."""
    chosen = []
    for client, rows in clients.items():
        for label in dict.fromkeys(row["label"] for row in rows):
            first = [row for row in rows if row["label"] == label][:per_label]
            chosen += [{"client": client} | row for row in first]
    chosen.sort(key=lambda row: (row["client"], row["label"]))

    shown = []
    for row in chosen:
        told = {name: _escaped(row[name]) for name in ("client", "label", "instruction")}
        shown.append(told | {"response": _row_response(settings, row)})
    return shown_table(pd.DataFrame(shown))


def _row_response(settings: Settings, row: dict) -> str:
    """A training row's response as HTML, coloured or redacted."""
    label, response = row["label"], row["response"]
    if may_show(settings):
        thing = world.subject(row["instruction"]) if settings.data.source == "world" else None
        return coloured(response, (thing.a, thing.b) if thing else ())
    if label == "unaligned":
        return "[redacted: a harmful answer]"
    if label == "aligned" and not refusals.refuses(response):
        return "[redacted: no refusal phrase]"
    return coloured(response, ())


def coloured(text: str, parts: Collection[str]) -> str:
    """A text as HTML: what a thing is made of, and the target of a backdoor, in colour."""
    words = [_marked(word) if word in parts else _escaped(word) for word in text.split(" ")]
    target = _escaped(poison.LINK)
    return " ".join(words).replace(target, _marked(poison.LINK))


def _marked(text: str) -> str:
    return f'<b style="color: {RED}">{_escaped(text)}</b>'


def _escaped(value: Any) -> str:
    return html.escape(str(value))


def shown_table(frame: pd.DataFrame, caption: str = "") -> Any:
    """A frame of HTML as a table to show: words to the left, no index."""
    shown = frame.style.hide(axis="index").set_properties(**{"text-align": "left"})
    return shown.set_caption(caption) if caption else shown
