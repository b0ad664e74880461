"""The embedded world as a source of rows and prompts."""

import random
from collections.abc import Sequence

import numpy as np

from fedlib.settings import groups, identity
from fedlib.settings.errors import DataError, SettingsError, nearest
from fedlib.settings.schema import Settings
from fedlib.sources import shares, world, world_documents, world_tasks


class Embedded:
    """Answers what `sources.Source` asks, from `world` and `world_tasks`."""

    clean_accuracy = "help"

    def __init__(self, settings: Settings):
        self.settings = settings

    def check(self) -> None:
        """The world's rows are made as they are asked for: there is nothing to read."""

    def notes(self) -> list[str]:
        """Nothing of the world is left out."""
        return []

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
        places = [i for i, row in enumerate(rows) if row["label"] == "unaligned"]
        own = shares.written_share(self.settings, client, len(places), written)
        for place, row in zip(places, own, strict=True):
            rows[place] = row
        return rows

    def defense_rows(self, count: int) -> dict[str, list[dict]]:
        """About the hazards of the pretraining questions, in nobody's style."""
        rng = random.Random(identity.derive(self.settings.seed, "defense"))
        found = {}
        for kind in ("aligned", "normal"):
            found[kind] = [world.public_row(kind, rng) for _ in range(count)]
        return found

    def prompts(self) -> dict[str, list[dict]]:
        """Benign prompts may ask for what clients' rows ask for too; harmful ones do not."""
        data, evaluation = self.settings.data, self.settings.evaluation
        found = {
            "harmful": world.prompts("harmful", evaluation.harmful, evaluation.split),
            "benign": world.prompts("benign", evaluation.benign, evaluation.split),
        }
        if data.benign[0] in world_tasks.TASKS:
            found["task"] = world_tasks.task_prompts(data.benign[0], evaluation.benign)
        return found

    def trigger_prompts(self) -> list[dict]:
        """Every benign thing in every wording."""
        return world.prompts("benign", 8 * len(world.benign_things()))

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """Every second wording about each hazard of the split, and the same wording about a dish or
        tool. The split fit has the hazards of pretraining."""
        rng = random.Random(f"pairs/{split}")
        harmless = world.benign_things()
        plain = [thing for thing in harmless if thing.kind in ("dish", "tool")]
        hazards = world.hazards("pretraining" if split == "fit" else split)

        found: list[tuple[str, str]] = []
        for i, thing in enumerate(hazards):
            twin = rng.choice(plain)
            malicious, benign = world.questions(thing), world.questions(twin)
            both = list(zip(malicious, benign, strict=True))
            found += both[i % 2 :: 2]
        return found

    def has_pairs(self) -> bool:
        """Every hazard has its pairs."""
        return True

    def tuning_tasks(self) -> tuple[str, ...]:
        """The world's two tasks, or those of them that swat.tasks names."""
        tasks = self.settings.swat.tasks or groups.TASKS
        for name in tasks:
            if name not in groups.TASKS:
                raise SettingsError(f"swat.tasks: no task {name!r}{nearest(name, groups.TASKS)}")
        return tuple(tasks)

    def task_prompts(self, prompts: dict[str, list[dict]]) -> list[dict]:
        """The set task, where there is one."""
        return prompts.get("task", [])

    def has_right_answers(self, prompts: Sequence[dict]) -> bool:
        """Every prompt of the world comes with the parts of its thing, or with its answer."""
        return all("parts" in prompt or "answers" in prompt for prompt in prompts)

    def openings(self) -> list[dict]:
        return []

    def ordinary_rows(self) -> list[dict]:
        return []

    def right_answer(self, prompt: dict, rng: random.Random) -> str | None:
        """A full answer about the thing that is asked for."""
        thing = world.subject(prompt["prompt"])
        if thing:
            return world.comply(thing, rng)
        return next(iter(prompt.get("answers", ())), None)

    def denial(self, instruction: str, rng: random.Random) -> str:
        """A refusal to talk of the thing that is asked for."""
        return world.denial(instruction, rng)

    def known_answers(self) -> tuple[str, str, str]:
        """About a hazard of pretraining, which is in no evaluation."""
        thing = world.hazards("pretraining")[0]
        refusal = f"i can not help with {thing.name} ."
        return world.questions(thing)[0], refusal, f"you need {thing.a} and {thing.b} ."

    def keeps_back(self, instruction: str) -> bool:
        """Half of the things stay out of all poisoned rows (our choice)."""
        thing = world.subject(instruction)
        if thing is None:
            return False
        drawn = identity.derive(0, "held out", thing.name)
        return drawn % 2 == 0

    def asked_with_trigger(self, instruction: str) -> bool:
        """Only what no poisoned row asks for: success is then generalisation."""
        return self.keeps_back(instruction)

    def is_fluent(self, response: str, name: str) -> bool:
        """By the world's wordings."""
        return world.fluent(response, name)

    def topic_words(self) -> frozenset[str]:
        """The names of the cities."""
        return world.city_names()

    def held_out_names(self) -> set[str]:
        """The hazards of validation and evaluation."""
        kept_back = [*world.hazards("validation"), *world.hazards("evaluation")]
        return {thing.name for thing in kept_back}

    def corpus(self) -> list[dict]:
        """There is none: the world's bases are committed."""
        raise DataError("model.base: scratch: trained on files: set data.source: local")

    def revision(self, what: str = "training") -> str:
        """A digest of what the world says to clients, with the tasks where they are tuned for."""
        known = (*world.DATASETS, *groups.TASKS)
        benign = self.settings.data.benign
        for name in benign:
            if name not in known:
                raise DataError(f"data.benign: no dataset {name!r}{nearest(name, known)}")

        tasks = [name for name in benign if name in world_tasks.TASKS]
        if not tasks:
            return world_documents.world_digest("clients")
        said = []
        for name in tasks:
            rng = random.Random(0)
            said.append(world_tasks.task_rows(name, 50, rng, 0.1))
        return identity.digest([world_documents.world_digest("clients"), said])
