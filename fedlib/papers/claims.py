"""What is claimed (published/claims.yaml), what was measured for it, and whether it holds."""

import functools
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike

from fedlib import sources
from fedlib.lab import keys
from fedlib.models import checkpoints
from fedlib.papers import estimates, output, tables
from fedlib.settings import groups, identity
from fedlib.settings.errors import nearest
from fedlib.settings.schema import Settings

PAPERS = ("S", "B", "W")
REAL_MODEL = "world:smollm2-aligned"
CHAT_MODELS = ["world:chat", "world:chat-deep"]
# What claims in these units cannot leave, nor then their intervals.
BOUNDS = {"AUC": (0, 1), "Spearman": (-1, 1), "ASR (%)": (0, 100), "recall (%)": (0, 100)}
ENOUGH_SEEDS = 5  # for a verdict
SHOWN = ["unit", "bounds", "family", "variant"]  # columns that claims.csv leaves out
BRACKETS = re.compile(r" \(([^()]*{[^()]*)\)")  # of a claim's words, with the names of its variants
FEW = 2  # values that are listed in a sentence; more are counted
# Which notebook measures which claims.
MEASURED_IN = {
    "10_safety_table1": ("S1", "S2", "S3", "S5", "S6", "S9"),
    "11_safety_figure3": ("S4",),
    "12_safety_table3": ("S7",),
    "13_safety_table4": ("S8",),
    "20_backdoor_concentration": ("B1", "B2", "B3", "B7"),
    "21_backdoor_bsnr": ("B6",),
    "22_backdoor_defenses": ("B4", "B5", "B8"),
    "32_swat_table": ("W1", "W2", "W3", "W4", "W5", "W6", "W7"),
    "34_swat_composition": ("W8", "W9"),
}


def is_about(paper: str, settings: Settings) -> bool:
    """Whether the claims of a paper (S, B or W) are about these settings.

    All are about the embedded world. A claim about its second dataset, wild-like, is measured only
    where data.benign has that too."""
    data, poison = settings.data, settings.data.poison
    in_world = data.source == "world"
    first_dataset = data.benign[0] == "lmsys-like"
    about = {
        # malicious clients with rows of a labelled set
        "S": first_dataset and data.attack == "unaligned",
        # 8% of the rows poisoned, the target in the answer's place
        "B": first_dataset and poison.share == 0.08 and poison.target == "replace",
        # the mean of both chat models
        "W": settings.swat.models == CHAT_MODELS,
    }
    return in_world and about[paper]


def is_about_real(settings: Settings) -> bool:
    """Whether the table of claims is that of the real model (claims_real.yaml)."""
    return settings.data.source != "world" and settings.model.base == REAL_MODEL


def _real_is_about(paper: str, settings: Settings) -> bool:
    """Whether the real model's claims of a paper are about these settings.

    S: the attack with unaligned rows, safety by refusal. B: as in the world. W: only that model."""
    data, judges = settings.data, settings.evaluation.judges
    poison = data.poison
    about = {
        "S": data.attack == "unaligned" and "refusal" in judges and "md_judge" not in judges,
        "B": poison.share == 0.08 and poison.target == "replace",
        "W": settings.swat.models == [REAL_MODEL] and "md_judge" not in settings.judges,
    }
    return about[paper]


def claims_for(settings: Settings) -> list[dict[str, Any]]:
    """The claims that stand in these settings' table of claims."""
    return all_claims("claims_real.yaml" if is_about_real(settings) else "claims.yaml")


def record_claim(
    settings: Settings, claim: str, values: ArrayLike
) -> tuple[float, float, float] | None:
    """Record what a notebook measured for a claim: values [S] or [S, H]; returns (mean, low, high).

    None, and nothing recorded, where the claims of its paper are not about these settings, or where
    the real model has no such claim. ValueError where claims.yaml has none."""
    paper, real = claim[:1], is_about_real(settings)
    units = {known["id"]: known["unit"] for known in claims_for(settings)}
    if real:
        claim = f"R-{claim}"
        # of the real model fewer things are claimed
        if claim not in units or not _real_is_about(paper, settings):
            return None
    elif paper in PAPERS and not is_about(paper, settings):
        return None
    if claim not in units:
        raise ValueError(f"claim {claim!r} is unknown{nearest(claim, list(units))}")

    mean, low, high = estimates.interval(values, BOUNDS.get(units[claim]))
    record = {
        "measured": mean,
        "low": low,
        "high": high,
        "seeds": len(np.atleast_1d(values)),
        "settings": _identity(settings),
    }
    file = output.preset_folder(settings, "measures") / f"{claim}.json"
    output.save(file, lambda partial: partial.write_text(json.dumps(record) + "\n"))
    return mean, low, high


def _measured(file: Path) -> dict:
    """What was recorded for a claim; {} where nothing was, or where the file is damaged."""
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        numbers = [found[name] for name in ("measured", "seeds", "low", "high")]
        are_numbers = all(type(number) in (int, float) for number in numbers)
        # of one seed there may be no interval
        finite = np.isfinite(numbers[:2]).all() and not np.isinf(numbers[2:]).any()
        if are_numbers and finite:
            return found
    except (ValueError, LookupError, TypeError, RecursionError, OSError, OverflowError):
        pass
    print(f"{file} is damaged: its claim counts as not run; run its notebook again")
    return {}


def claim_verdicts(settings: Settings) -> pd.DataFrame:
    """The verdicts, a row a claim, also written to outputs/<preset>/claims.csv.

    What was measured with other settings does not count. The frame also has what figures need
    (SHOWN): unit, the bounds within which the interval must lie, family and variant."""
    measures = output.preset_folder(settings, "measures")
    wanted = _identity(settings)
    rows = []
    for claim in claims_for(settings):
        file = measures / f"{claim['id']}.json"
        found = _measured(file)
        if found.get("settings") != wanted:
            found = {}
        row = {name: claim[name] for name in ("id", "paper", "claim", "metric")}
        row |= {"margin": _margin(claim), "published": claim["published"]}
        row |= {name: found.get(name) for name in ("measured", "low", "high", "seeds")}
        row |= {"status": verdict(claim, found), "bounds": _bounds(claim)}
        row |= {name: claim[name] for name in ("unit", "family", "variant")}
        rows.append(row)

    frame = pd.DataFrame(rows)
    written = frame.drop(columns=SHOWN)
    output.save(
        output.preset_folder(settings) / "claims.csv",
        lambda partial: written.to_csv(partial, index=False, float_format="%.4g"),
    )
    return frame


def verdict(claim: dict, found: dict) -> str:
    """The status of a claim, from its margin and what was found ({} or {low, high, seeds}).

    holds, does not hold, inconclusive (the interval straddles the margin), preliminary (fewer than
    5 seeds) or not run."""
    if not found:
        return "not run"
    if found["seeds"] < ENOUGH_SEEDS:
        return "preliminary"
    low, high = _bounds(claim)
    if low <= found["low"] and found["high"] <= high:
        return "holds"
    outside = found["high"] < low or found["low"] > high
    return "does not hold" if outside else "inconclusive"


def _bounds(claim: dict) -> tuple[float, float]:
    """(low, high) between which the whole interval must lie for the claim to hold."""
    if "within" in claim:
        low, high = claim["within"]
        return low, high
    return claim.get("at_least", -np.inf), claim.get("at_most", np.inf)


def _margin(claim: dict) -> str:
    if "within" in claim:
        return "in [{}, {}]".format(*claim["within"])
    if "at_least" in claim:
        return f">= {claim['at_least']}"
    return f"<= {claim['at_most']}"


@functools.cache
def all_claims(file: str = "claims.yaml") -> list[dict[str, Any]]:
    """Every claim of a file; one with `over` stands for each combination of those values.

    family: the claim in words for all combinations; variant: which of them this one is."""
    text = (tables.PUBLISHED / file).read_text(encoding="utf-8")
    found = []
    for claim in yaml.safe_load(text):
        over, published = claim.pop("over", {}), claim["published"]
        family = _family(claim["claim"], over)
        for values in itertools.product(*over.values()):
            filled = dict(zip(over, values, strict=True))
            texts = {name: claim[name].format(**filled) for name in ("id", "claim", "metric")}
            texts |= {"family": family, "variant": _variant(claim["claim"], filled)}
            # published: one number, or one for each id that the paper has a number for
            number = published.get(texts["id"]) if isinstance(published, dict) else published
            found.append(claim | texts | {"published": number})
    return found


def _family(words: str, over: dict[str, list]) -> str:
    """A claim in words for all combinations: without its variants in brackets.

    Those within the sentence are listed, or counted where they are many."""
    words = BRACKETS.sub("", words)
    listed = {}
    for name, values in over.items():
        few = " and ".join(map(str, values))
        listed[name] = few if len(values) <= FEW else f"each of {len(values)} {name}s"
    return words.format(**listed)


def _variant(words: str, filled: dict[str, Any]) -> str:
    """Which combination a claim is: what its brackets say, or else the values themselves."""
    brackets = BRACKETS.search(words)
    if brackets:
        return brackets[1].format(**filled)
    return ", ".join(map(str, filled.values()))


def notebook_of(claim: str) -> str:
    """The notebook that measures a claim, by its id; ValueError where none does."""
    number = claim.removeprefix("R-").partition("-")[0]
    for notebook, numbers in MEASURED_IN.items():
        if number in numbers:
            return notebook
    raise ValueError(f"no notebook measures the claim {claim!r}")


def _identity(settings: Settings) -> str:
    """A digest of what a measurement belongs to.

    That is its settings and, by the keys of a run and its evaluation, the code, data and models."""
    plain = settings.model_dump(exclude={"seed": True, "evaluation": {"show_responses"}})
    judged = keys.evaluation_folder(settings.replace(seed=settings.seeds[0]))
    used = None
    if any(is_about(paper, settings) for paper in PAPERS):
        used = _beside(settings)
    return identity.digest([judged.parent.name, judged.name, used, plain])


def _beside(settings: Settings) -> list:
    """What the claims rest on beside the preset's own model and data."""
    chats = [
        checkpoints.revision(settings.replace(model={"base": name}), "model.base")
        for name in settings.swat.models
    ]
    tuning = settings.replace(data={"benign": list(groups.TASKS)})
    return [
        checkpoints.revision(settings, "data.generator"),
        chats,
        sources.of(settings).pairs("validation"),
        sources.of(tuning).revision(),
    ]
