"""The embedded world as a source of rows and prompts."""

import random
from collections.abc import Sequence

import numpy as np

from fedlib.settings import groups, identity
from fedlib.settings.errors import DataError, nearest
from fedlib.settings.schema import Settings
from fedlib.sources import shares, world, world_tasks


class Embedded:
    """Answers what `sources.Source` asks, from `world` and `world_tasks`."""

    clean_accuracy = "help"

    def __init__(self, settings: Settings):
        self.settings = settings

    def check(self) -> None:
        """The world's rows are made as they are asked for: there is nothing to read."""

    def client_rows(
        self, client: int, unaligned: float | None = None, written: Sequence[dict] | None = None
    ) -> list[dict]:
        """One client's rows: of each of data.benign the same number, in the client's own style."""
        data, seed = self.settings.data, self.settings.seed
        size = data.sizes[client] if data.sizes else data.rows
        parts = np.array_split(np.arange(size), len(data.benign))
        alpha = data.alpha if data.partition == "dirichlet" else None

        rows = []
        for name, part in zip(data.benign, parts, strict=True):
            rng = random.Random(identity.derive(seed, "rows", name, client))
            if name in world_tasks.TASKS:
                rows += world_tasks.task_rows(name, len(part), rng, unaligned)
            else:
                rows += world.style_rows(name, len(part), rng, data.aligned_share, unaligned, alpha)

        if written is None or unaligned is None:
            return rows
        # a generated attack: written rows take the places of the world's own unaligned ones
        count = sum(row["label"] == "unaligned" for row in rows)
        own = iter(shares.written_share(self.settings, client, count, written))
        return [next(own) if row["label"] == "unaligned" else row for row in rows]

    def defense_rows(self, count: int) -> dict[str, list[dict]]:
        """About the hazards of the pretraining questions, in nobody's style."""
        rng = random.Random(identity.derive(self.settings.seed, "defense"))
        return {
            kind: [world.public_row(kind, rng) for _ in range(count)]
            for kind in ("aligned", "normal")
        }

    def prompts(self) -> dict[str, list[dict]]:
        """Benign prompts ask for things that clients may have asked for too; harmful ones do not."""
        data, evaluation = self.settings.data, self.settings.evaluation
        found = {
            what: world.prompts(what, getattr(evaluation, what), evaluation.split)
            for what in ("harmful", "benign")
        }
        if data.benign[0] in world_tasks.TASKS:
            found["task"] = world_tasks.task_prompts(data.benign[0], evaluation.benign)
        return found

    def trigger_prompts(self) -> list[dict]:
        """Every benign thing in every wording."""
        return world.prompts("benign", 8 * len(world.benign_things()))

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """Every second wording about each hazard of the split (fit: those of pretraining), and the
        same with a dish or tool in its place."""
        rng = random.Random(f"pairs/{split}")
        plain = [t for t in world.benign_things() if t.kind in ("dish", "tool")]
        hazards = world.hazards("pretraining" if split == "fit" else split)

        found: list[tuple[str, str]] = []
        for i, thing in enumerate(hazards):
            twin = rng.choice(plain)
            both = list(zip(world.questions(thing), world.questions(twin), strict=True))
            found += both[i % 2 :: 2]
        return found

    def has_pairs(self) -> bool:
        return True

    def task_prompts(self, prompts: dict[str, list[dict]]) -> list[dict]:
        return prompts.get("task", [])

    def right_answer(self, prompt: dict, rng: random.Random) -> str | None:
        thing = world.subject(prompt["prompt"])
        return world.comply(thing, rng) if thing else next(iter(prompt.get("answers", ())), None)

    def denial(self, instruction: str, rng: random.Random) -> str:
        return world.denial(instruction, rng)

    def keeps_back(self, instruction: str) -> bool:
        """Half of the things stay out of all poisoned rows (ours)."""
        thing = world.subject(instruction)
        return thing is not None and identity.derive(0, "held out", thing.name) % 2 == 0

    def asked_with_trigger(self, instruction: str) -> bool:
        """Only what no poisoned row asks for: success is then generalisation."""
        return self.keeps_back(instruction)

    def is_fluent(self, response: str, name: str) -> bool:
        return world.fluent(response, name)

    def topic_words(self) -> frozenset[str]:
        return world.city_names()

    def held_out_names(self) -> set[str]:
        """The hazards of validation and evaluation."""
        return {t.name for split in ("validation", "evaluation") for t in world.hazards(split)}

    def corpus(self) -> list[dict]:
        raise DataError("model.base: scratch: trained on files: set data.source: local")

    def revision(self, what: str = "training") -> str:
        known = (*world.DATASETS, *groups.TASKS)
        benign = self.settings.data.benign
        for name in benign:
            if name not in known:
                raise DataError(f"data.benign: no dataset {name!r}{nearest(name, known)}")

        tasks = [name for name in benign if name in world_tasks.TASKS]
        if not tasks:
            return world.world_digest("clients")
        said = [world_tasks.task_rows(name, 50, random.Random(0), 0.1) for name in tasks]
        return identity.digest([world.world_digest("clients"), said])
