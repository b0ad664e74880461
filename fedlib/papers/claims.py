"""TODO: what this room is for."""

import functools
import itertools
import json

import numpy as np
import pandas as pd
import yaml

from fedlib import sources
from fedlib.lab import keys
from fedlib.models import checkpoints
from fedlib.papers import estimates, output, tables
from fedlib.settings import errors, groups, identity

# What claims in these units cannot leave, nor then their intervals.
BOUNDS = {"AUC": (0, 1), "Spearman": (-1, 1), "ASR (%)": (0, 100), "recall (%)": (0, 100)}


def record(settings, claim, values):
    """Record what a notebook measured for a claim of claims.yaml: values [S] or [S, H], with the settings they belong to."""
    known = [c["id"] for c in _claims()]
    if claim not in known:
        raise ValueError(f"claim {claim!r} is unknown{errors.nearest(claim, known)}")
    mean, low, high = estimates.interval(
        values, BOUNDS.get(next(c["unit"] for c in _claims() if c["id"] == claim))
    )
    record = {
        "measured": mean,
        "low": low,
        "high": high,
        "seeds": len(np.atleast_1d(values)),
        "settings": _identity(settings),
    }
    output.save(
        output.folder(settings, "measures") / f"{claim}.json",
        lambda p: p.write_text(json.dumps(record) + "\n"),
    )
    return mean, low, high


def verdicts(settings):
    """The verdicts, also written to outputs/<preset>/claims.csv; what was measured with other settings does not count.

    The frame also has what plots.forest needs: unit, and the bounds within which the interval must lie."""
    rows, identity = [], _identity(settings)
    for claim in _claims():
        file = output.folder(settings, "measures") / f"{claim['id']}.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        if found.get("settings") != identity:
            found = {}
        rows.append(
            {
                "id": claim["id"],
                "paper": claim["paper"],
                "claim": claim["claim"],
                "metric": claim["metric"],
                "margin": _margin(claim),
                "published": claim["published"],
            }
            | {k: found.get(k) for k in ("measured", "low", "high", "seeds")}
            | {"status": verdict(claim, found), "unit": claim["unit"], "bounds": _bounds(claim)}
        )
    frame = pd.DataFrame(rows)
    written = frame.drop(columns=["unit", "bounds"])
    output.save(
        output.folder(settings) / "claims.csv",
        lambda p: written.to_csv(p, index=False, float_format="%.4g"),
    )
    return frame


def verdict(claim, found):
    """holds, does not hold, inconclusive (the interval straddles the margin), preliminary (under 5 seeds) or not run."""
    if not found:
        return "not run"
    if found["seeds"] < 5:
        return "preliminary"
    low, high = _bounds(claim)
    if low <= found["low"] and found["high"] <= high:
        return "holds"
    return "does not hold" if found["high"] < low or found["low"] > high else "inconclusive"


def _bounds(claim):
    """(low, high) between which the whole interval must lie for the claim to hold."""
    return tuple(
        claim.get("within", (claim.get("at_least", -np.inf), claim.get("at_most", np.inf)))
    )


def _margin(claim):
    if "within" in claim:
        return "in [{}, {}]".format(*claim["within"])
    return f">= {claim['at_least']}" if "at_least" in claim else f"<= {claim['at_most']}"


@functools.cache
def _claims():
    """Every claim of claims.yaml; one with `over` stands for each combination of the values listed there."""
    out = []
    for claim in yaml.safe_load((tables.PUBLISHED / "claims.yaml").read_text(encoding="utf-8")):
        over, numbers = claim.pop("over", {}), claim["published"]
        for values in itertools.product(*over.values()):
            filled = dict(zip(over, values, strict=True))
            texts = {k: claim[k].format(**filled) for k in ("id", "claim", "metric")}
            out.append(
                claim
                | texts
                | {"published": numbers.get(texts["id"]) if isinstance(numbers, dict) else numbers}
            )
    return out


def _identity(settings):
    """What a measurement belongs to: its settings and, by the keys of run and evaluation, the code, data and models."""
    plain, first = (
        settings.model_dump(exclude={"seed": True, "evaluation": {"show_responses"}}),
        settings.seeds[0],
    )
    judged = keys.evaluation_folder(settings.replace(seed=first))
    used = None
    if (
        settings.data.source == "world"
    ):  # what the claims rest on beside the preset's own model and data
        chats = [
            checkpoints.revision(settings.replace(model={"base": name}), "model.base")
            for name in settings.swat.models
        ]
        used = [
            checkpoints.revision(settings, "data.generator"),
            chats,
            sources.of(settings).pairs("validation"),
            sources.of(settings.replace(data={"benign": list(groups.TASKS)})).revision(),
        ]
    return identity.digest([judged.parent.name, judged.name, used, plain])
