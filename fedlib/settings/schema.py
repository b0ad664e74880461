"""Settings: a preset's YAML chain, deep-merged with a notebook's parameters, validated before any work. No torch."""

import functools
import itertools
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from fedlib.settings import errors, groups


class Settings(groups.Group):
    """Everything one run needs; `seeds` are those a notebook repeats it for. Frozen: `replace` makes another."""

    preset: str
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)]
    model: groups.Model
    data: groups.Data
    federation: groups.Federation
    training: groups.Training
    defense: groups.Defense
    swat: groups.Swat
    evaluation: groups.Evaluation

    @model_validator(mode="after")
    def _consistent(self):
        f, d, p = self.federation, self.data, self.defense
        checks = [
            (len(set(self.seeds)) == len(self.seeds), f"seeds: {self.seeds} names one twice"),
            (
                "rule" in self.evaluation.judges,
                "evaluation.judges: rule must be among them, tables rest on it",
            ),
            (
                f.sampled <= f.clients,
                f"federation.sampled: {f.sampled} is more than federation.clients, {f.clients}",
            ),
            (
                f.malicious <= f.clients,
                f"federation.malicious: {f.malicious} is more than federation.clients, {f.clients}",
            ),
            (
                self.training.batch_size % self.training.accumulation == 0,
                f"training.accumulation: {self.training.accumulation} must divide batch_size, {self.training.batch_size}",
            ),
            (
                (d.partition == "sizes") == (d.sizes is not None),
                "data.sizes: goes with data.partition: sizes",
            ),
            (
                d.sizes is None or len(d.sizes) == f.clients,
                f"data.sizes: {len(d.sizes or [])} sizes for federation.clients: {f.clients}",
            ),
            (
                d.source != "world"
                or not (
                    d.folder
                    or d.aligned
                    or d.unaligned
                    or d.harmful
                    or d.questions
                    or d.fields
                    or p.aligned
                    or p.normal
                ),
                "data.source: world uses no folder, aligned, unaligned, harmful, questions, fields or defense files; say "
                "source: local",
            ),
            (
                p.level != 1 and not p.before or d.source == "world" or p.aligned and p.normal,
                f"defense.{'before' if p.before else 'level: 1'} takes existing rows: name defense.aligned and defense.normal, "
                "files of data.folder",
            ),
            (
                not self.swat.warmup or d.source == "world" or self.swat.pairs,
                "swat.pairs: name the file of data.folder with columns malicious and benign: by it the modules are found",
            ),
            (
                self.swat.pairs is None or d.folder is not None,
                "data.folder: swat.pairs is a file of it: name it too",
            ),
            (
                self.swat.warmup <= f.rounds,
                f"swat.warmup: {self.swat.warmup} is more than federation.rounds, {f.rounds}",
            ),
            (
                self.swat.warm_rounds <= self.swat.rounds,
                f"swat.warm_rounds: {self.swat.warm_rounds} is more than swat.rounds, {self.swat.rounds}",
            ),
            (
                not self.swat.warmup or self.model.lora_targets == "all-linear",
                "swat.warmup: its modules are chosen among all linear ones: set model.lora_targets: all-linear",
            ),
            (
                "probe" not in self.evaluation.judges or d.source == "world" or self.swat.pairs,
                "evaluation.judges: probe needs swat.pairs, a file of data.folder with columns malicious and benign",
            ),
            (
                d.source == "world"
                or d.prompts != "world"
                or d.attack != "generated"
                and p.level not in (2, 3),
                "data.prompts: world is for the world's models; with data.source: local use chat, or a file of your own",
            ),
            (
                d.source == "world"
                or not d.generator.startswith("world:")
                or d.attack != "generated"
                and p.level != 2,
                "data.generator: a world model knows the world's words alone; with other data name another model",
            ),
            (
                self.evaluation.grader.startswith(("http://", "https://"))
                == (self.evaluation.grader_model is not None),
                "evaluation.grader_model: the model's name at an endpoint, http(s)://HOST/v1 in evaluation.grader: give both",
            ),
            (
                "://" not in self.evaluation.grader or "@" not in self.evaluation.grader,
                "evaluation.grader: settings are written to disk: no name or password in the address; set OPENAI_API_KEY",
            ),
            (
                d.source != "hub"
                or d.folder is not None
                or not any(
                    n and n.endswith(groups.ENDINGS)
                    for n in (
                        *d.benign,
                        d.aligned,
                        d.unaligned,
                        d.harmful,
                        d.questions,
                        p.aligned,
                        p.normal,
                    )
                ),
                'data.folder: a file is named, so name its folder: -y "data: {folder: PATH}"',
            ),
            (
                d.questions is None
                or d.questions not in (*d.benign, d.aligned, d.unaligned, p.aligned, p.normal),
                f"data.questions: {d.questions} is also trained on: evaluation prompts must be others",
            ),
            (
                f.expected is None or f.expected <= f.clients,
                f"federation.expected: {f.expected} is more than federation.clients, {f.clients}",
            ),
            (
                d.poison.clients is None or d.poison.clients <= f.clients,
                f"data.poison.clients: {d.poison.clients} is more than federation.clients, {f.clients}",
            ),
            (
                d.attack != "boosted"
                or d.poison.trigger
                and f.malicious
                and d.poison.clients == f.malicious,
                "data.attack: boosted: the malicious clients hold all poison: set data.poison.trigger, federation.malicious, "
                "and data.poison.clients to the same number",
            ),
            (
                self.defense.filter == "none" or d.poison.trigger is not None,
                "defense.filter: without data.poison.trigger there is nothing to filter out",
            ),
            (
                self.model.scratch.hidden % self.model.scratch.heads == 0,
                f"model.scratch.heads: {self.model.scratch.heads} must divide hidden, {self.model.scratch.hidden}",
            ),
            (
                d.source != "local" or d.folder is not None,
                'data.folder: data.source is local, so name the folder: -y "data: {folder: PATH}"',
            ),
        ]
        checks.append(
            (
                self.model.base != "scratch" or d.source != "world" and self.model.scratch.files,
                "model.scratch.files: model.base is scratch, so name the files of data.folder to train it on",
            )
        )
        for fine, message in checks:
            if not fine:
                raise ValueError(message)
        return self

    def replace(self, **changes):
        """Another Settings with these fields changed, group by group: replace(seed=1, federation={"sampled": 10})."""
        return validated([("params/", self.model_dump()), ("replace()", changes)])

    @property
    def judges(self):
        """Those of evaluation.judges that can judge this data: help, mt1 and world models know the world alone, exact needs
        right answers in words, asr a trigger."""
        e = self.evaluation
        here, guard, reward = (
            self.data.source == "world",
            e.guard.startswith("world:"),
            e.reward.startswith("world:"),
        )
        foreign = (
            set()
            if here
            else {
                "help",
                *["mt1"] * (e.grader == "rubric"),
                *["md_judge"] * guard,
                *["rm"] * reward,
                *["hs"] * (guard or reward),
            }
        )
        foreign |= {"exact"} if here and not set(self.data.benign) & set(groups.TASKS) else set()
        foreign |= set() if self.data.poison.trigger else {"asr"}
        return [name for name in e.judges if name not in foreign]

    def full_participation(self):
        """Changes that take every client in every round, with about as many updates in all as before."""
        f = self.federation
        return {
            "federation": {
                "sampled": f.clients,
                "rounds": max(1, round(f.rounds * f.sampled / f.clients)),
            }
        }

    def vary(self, *axes):
        """A list of Settings: the product of axes, each a list of changes as `replace` takes them; none twice."""
        made = [
            self.replace(**functools.reduce(merge, changes, {}))
            for changes in itertools.product(*axes)
        ]
        return [s for i, s in enumerate(made) if s not in made[:i]]


def merge(base, over):
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {k: merge(base[k], v) if k in base else v for k, v in over.items()}
    return over


def validated(layers):
    merged = functools.reduce(merge, [content for _, content in layers], {})
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise errors.SettingsError(_one_line(error.errors()[0], layers)) from None


def _one_line(error, layers):
    """One line for pydantic's first error: the last layer that set the field, the field, what is wrong."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    loc, model = [], Settings
    for part in error["loc"]:  # without pydantic's own parts for the branches of a union
        if isinstance(part, int) or part in _lookup(layers, loc) or error["type"] == "missing":
            loc.append(part)
    source = next((s for s, content in reversed(layers) if _has(content, loc)), layers[-1][0])
    where, value = f"{source}: {'.'.join(map(str, loc))}", error["input"]
    if error["type"] == "extra_forbidden":
        for part in loc[:-1]:
            model = model.model_fields[part].annotation
        return f"{where}: no such field{errors.nearest(loc[-1], list(model.model_fields))}"
    message = error["msg"][0].lower() + error["msg"][1:]
    if error["type"] == "literal_error" and isinstance(value, str):
        options = [o.strip("' ") for o in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        other = " or a list of names" if loc[-1] == "lora_targets" else ""
        return f"{where}: {value!r} is not allowed{errors.nearest(value, options)}{other}"
    hint = ""
    if isinstance(value, str) and error["type"].startswith("float"):
        hint = "; YAML reads 2e-5 as a string, write 2.0e-5"
    return f"{where}: {message}, got {value!r} ({type(value).__name__}){hint}"


def _lookup(layers, loc):
    found = functools.reduce(merge, [content for _, content in layers], {})
    for part in loc:
        found = found[part]
    return found if isinstance(found, dict) else {}


def _has(content, loc):
    for part in loc:
        if isinstance(content, list) and isinstance(part, int) and part < len(content):
            content = content[part]
        elif isinstance(content, dict) and part in content:
            content = content[part]
        else:
            return False
    return True
