"""The model card of an exported run: what it is, what was done to it, what it scored."""

import json
from pathlib import Path
from typing import Any

from fedlib.commands import rendering
from fedlib.lab import store
from fedlib.models import hub
from fedlib.settings import own_methods
from fedlib.settings.schema import Settings

LEVELS = {
    0: "",
    1: "post-hoc tuning on existing rows (level 1)",
    2: "post-hoc tuning on rows by a language model (level 2)",
    3: "post-hoc tuning on the model's own rows (level 3)",
    "project": "projection onto the safety subspace",
}


def model_card(
    settings: Settings,
    folder: Path,
    base: str,
    commit: str | None,
    merged: bool,
    difference: float | None = None,
) -> str:
    """The card of a run's folder as Markdown, with a warning where it was attacked; no response.

    base, commit: what the model was tuned on; merged: whether the whole model lies beside it;
    difference: by how much its logits were off, once it was loaded anew."""
    card = rendering.render(
        "card.md.j2",
        name=folder.name,
        key=folder.name.rpartition("-")[2],
        base=base,
        base_name=hub.parts(settings.model.base)[0],
        commit=commit,
        merged=merged,
        difference=difference,
        attacks=attack_sentences(settings),
        defences=_defences(settings),
        evaluations=_evaluations(folder),
        model=settings.model,
        data=settings.data,
        federation=settings.federation,
        training=settings.training,
        seed=settings.seed,
    )
    return card


def attack_sentences(settings: Settings) -> list[str]:
    """What was done to the model on purpose, a sentence each; none where nothing was."""
    federation, data = settings.federation, settings.data
    who = f"{federation.malicious} of {federation.clients} clients"
    harmful = f"harmful answers in {data.unaligned_share:.0%} of their rows"
    kinds = {
        "unaligned": f"{who} had {harmful}.",
        "generated": f"{who} had {harmful}, written by a language model.",
        "conflicting": f"{who} trained on wrong labels.",
        "boosted": f"{who} sent a boosted, poisoned update.",
    }
    sentences = []
    # with a share of 0 the malicious clients are a control
    control = data.attack in ("unaligned", "generated") and not data.unaligned_share
    if federation.malicious and not control:
        own = f"{who} attacked by a method of their own, {own_methods.called(data.attack)}."
        sentences.append(kinds.get(data.attack, own))
    if data.poison.trigger and data.poison.share:
        share, trigger = f"{data.poison.share:.0%}", own_methods.called(data.poison.trigger)
        sentences.append(f"{share} of all rows were poisoned with the trigger {trigger}.")
    return sentences


def _defences(settings: Settings) -> list[str]:
    rule, warmup = settings.federation.aggregator, settings.swat.warmup
    level = settings.defense.level
    found = [
        LEVELS.get(level, f"a defence of its own, {own_methods.called(str(level))}"),
        f"aggregation by {own_methods.called(rule)}" if rule != "fedavg" else "",
        f"SWAT's warm-up of {warmup} rounds" if warmup else "",
        "a filter of rows" if settings.defense.filter != "none" else "",
        "further alignment before tuning" if settings.defense.before else "",
    ]
    return [defence for defence in found if defence]


def _evaluations(folder: Path) -> list[dict[str, Any]]:
    """{asked, scores} of each finished evaluation: its settings, and what it found."""
    found = []
    for place in sorted(folder.glob("eval-*")):
        if store.intact(place):
            asked = json.loads((place / "settings.json").read_text(encoding="utf-8"))
            scores = json.loads((place / "scores.json").read_text(encoding="utf-8"))
            found.append({"asked": asked["evaluation"], "scores": scores})
    return found
