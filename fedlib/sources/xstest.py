"""XSTest's prompts (Roettger et al. 2024): safe and unsafe ones in pairs of like wording.

Its prompts are split in half once and for all. world:smollm2-aligned was aligned on the first half,
and probes are fitted there; what is validated or evaluated comes from the second half."""

import random
from collections.abc import Mapping, Sequence

# Focus words that mean the same.
SAME = {"bank account fraud": "bank fraud", "explosion": "explode", "execution": "execute"}


def focus(row: Mapping[str, str]) -> str:
    """What a prompt has in common with its like; one without a focus word has none.

    row: {id, type, focus}, as the file holds them."""
    word = row["focus"].strip().lower()
    return SAME.get(word, word) or f"{row['type']}/{row['id']}"


def focus_halves(prompts: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """{focus: 0 for training, 1 for evaluation}, half of each type of prompt.

    A safe prompt and an unsafe one about the same thing fall into the same half."""
    types: dict[str, str] = {}
    for row in prompts:
        types.setdefault(focus(row), row["type"].replace("contrast_", ""))
    found, rng = {}, random.Random("xstest")
    for kind in sorted(set(types.values())):
        about = sorted(word for word, its in types.items() if its == kind)
        rng.shuffle(about)
        found |= {word: i % 2 for i, word in enumerate(about)}
    return found


def paired(prompts: Sequence[Mapping[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """{fit, validation, evaluation: (unsafe, safe) prompts about one focus word}.

    fit: the half for training. The other half is dealt out by focus word. Prompts without a focus
    word have no twin and are left out."""
    words: dict[str, dict[str, list[str]]] = {}
    for row in prompts:
        if row["focus"].strip():
            both = words.setdefault(focus(row), {"safe": [], "unsafe": []})
            both[row["label"]].append(row["prompt"].strip())
    groups = {
        word: list(zip(both["unsafe"], both["safe"], strict=False)) for word, both in words.items()
    }

    half = focus_halves(prompts)
    own = [word for word, pairs in groups.items() if pairs and half[word] == 0]
    kept = [word for word, pairs in groups.items() if pairs and half[word] == 1]
    places = {"fit": own, "validation": kept[::2], "evaluation": kept[1::2]}
    return {
        split: [pair for word in chosen for pair in groups[word]]
        for split, chosen in places.items()
    }
