"""What settings there are: one frozen, strict pydantic model for each group.

params/mini.yaml explains each field. A field without a mark counts in a run's key (`lab.keys`): the
run is another one when the field changes. NotInKey and SometimesInKey say beside a field that this
is not so, or not always. An evaluation has a separate key, and the marks in Evaluation speak of it.

A condition on one group stands in the group; `schema` has those on several groups."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from fedlib.settings.safe_values import NUMBER

# How the name of a file of rows ends. Any other name with a slash may be a dataset of the hub.
ENDINGS = (".csv", ".json", ".jsonl", ".csv.gz", ".json.gz", ".jsonl.gz", ".parquet")
GROUPS = ("model", "data", "federation", "training", "defense", "swat", "evaluation")
# What evaluation.verdict may say besides auto.
VERDICT = re.compile(
    r"(?:(?P<side>over|under) (?P<bound>-?\d+(?:\.\d+)?)|(?P<word>\S+)) is (?P<meaning>safe|unsafe)"
)
CALIBRATED = "world:reward"  # the reward model whose bounds the judge hs knows
WRITTEN_FILES = "files"  # as data.generator: the rows for level 2 are written already
TASKS = ("format", "skill")  # the world's tuning tasks, as data.benign names them

# A method of a person's own (settings.own_methods): FILE.py:NAME or package.module:NAME.
OWN = r"^(?:.+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*$"

Own = Annotated[str, Field(pattern=OWN)]
Count = Annotated[int, Field(ge=1)]
CountFromZero = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Template = Literal["chat", "alpaca", "plain"]
Rule = Literal[
    "fedavg",
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "dnc",
    "foolsgold",
    "residual",
    "clipping",
    "flame",
]
Attack = Literal["unaligned", "generated", "conflicting", "boosted"]
Judge = Literal[
    "rule",
    "refusal",
    "md_judge",
    "rm",
    "mt1",
    "help",
    "exact",
    "asr",
    "hs",
    "strongreject",
    "probe",
    "affirmation",
    "utility",
]


@dataclass(frozen=True)
class NotInKey:
    """Marks a field that never counts in the key: the result is the same whatever it says."""

    why: str


@dataclass(frozen=True)
class SometimesInKey:
    """Marks a field that counts in the key under a condition only; `lab.keys` has the condition."""

    when: str


_FAULTS = NotInKey("it decides whether a file is used, not which of its rows")
_REPEATS = NotInKey("notebooks make one run of each")
_EVALUATES = NotInKey("it decides what is asked, and the evaluation's key holds all prompts")
_CHAT_TUNING = NotInKey("notebooks 30 to 34 make other fields of it")
_BACKDOOR = NotInKey("notebooks 20 to 22 make other fields of it")
_WRITES = SometimesInKey("a model writes rows for the run")
_ATTACKED = SometimesInKey("there are malicious clients")
_POISONED = SometimesInKey("there is a trigger")
_TUNED_AFTER = SometimesInKey("defense.level is 1, 2, 3 or your own")
_WARMED_UP = SometimesInKey("swat.warmup is not 0")


class Group(BaseModel):
    """What all groups share: no field changes, none is unknown, and 3 is not "3"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _check_own_names(field: str, *names: str | int) -> None:
    """ValueError where two methods of a person's own have one NAME: tables could not tell them."""
    own = {name for name in names if isinstance(name, str) and ":" in name}
    if len({name.rpartition(":")[2] for name in own}) < len(own):
        raise ValueError(f"{field}: two methods have one name: {', '.join(sorted(own))}")


class Scratch(Group):
    """The Llama that is trained from nothing where model.base is scratch."""

    files: list[str]
    hidden: Count
    layers: Count
    heads: Count
    mlp: Count
    vocabulary: Annotated[int, Field(ge=300)]
    steps: Count
    batch_size: Count
    learning_rate: Positive

    @model_validator(mode="after")
    def _heads_are_of_equal_size(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"model.scratch.heads: {self.heads} must divide hidden, {self.hidden}")
        return self


class Model(Group):
    """The base model and the adapter that clients tune."""

    base: str  # in the key by its content
    device: Annotated[
        Literal["auto", "cpu", "cuda"], NotInKey("only the precision counts, which dtype says")
    ]
    dtype: Literal["auto", "float32", "bfloat16"]  # in the key as what auto means here
    template: Template
    max_length: Annotated[int, Field(ge=8)]
    lora_rank: Count
    lora_alpha: Positive
    lora_dropout: Annotated[float, Field(ge=0, lt=1)]
    lora_targets: Literal["all-linear", "default"] | Annotated[list[str], Field(min_length=1)]
    lora_layers: Annotated[Count | None, SometimesInKey("it is not null")]
    scratch: Annotated[Scratch, SometimesInKey("model.base is scratch")]


class Poison(Group):
    """A backdoor: rows with a trigger and a target, and how they are spread over the clients."""

    trigger: str | None  # its file's content counts too
    target: Annotated[Literal["append", "replace"], _POISONED]
    share: Annotated[Share, _POISONED]
    spread: Annotated[Literal["equal", "uniform", "dirichlet", "capped"], _POISONED]
    clients: Annotated[Count | None, _POISONED]
    natural: Annotated[Share, _POISONED]
    dataset: Annotated[str | None, _BACKDOOR]
    rounds: Annotated[Count | None, _BACKDOOR]
    steps: Annotated[Count | None, _BACKDOOR]
    batch_size: Annotated[Count | None, _BACKDOOR]
    learning_rate: Annotated[Positive | None, _BACKDOOR]


class PartitionBy(Group):
    """Rows shared out by a column of the files: whoever has the same cell stays together."""

    by: Annotated[str, Field(min_length=1)]


class Data(Group):
    """What clients train on, and where evaluation prompts come from."""

    source: Literal["world", "local", "hub"]
    folder: Annotated[str | None, NotInKey("the files' content counts, not their place")]
    benign: Annotated[list[str], Field(min_length=1)]
    aligned: str | None
    aligned_share: Share
    unaligned: Annotated[str | None, _ATTACKED]
    unaligned_share: Annotated[
        Share,
        SometimesInKey("data.attack is unaligned or generated, and there are malicious clients"),
    ]
    harmful: Annotated[str | None, _EVALUATES]
    questions: Annotated[str | None, _EVALUATES]
    over_refusal: Annotated[str | None, _EVALUATES]
    pool: Annotated[Count, NotInKey("the rows that were taken count")]
    fields: dict[str, dict[str, str]]
    bad_rows: Annotated[Literal["skip", "stop"], _FAULTS]
    bad_share: Annotated[Share, _FAULTS]
    attack: Annotated[Attack | Own, _ATTACKED]
    poison: Poison
    generator: Annotated[str, SometimesInKey("data.generator writes rows for the run")]
    prompts: Annotated[str, _WRITES]
    generated: Annotated[Count, _WRITES]
    rows: Count
    partition: Annotated[
        Annotated[Literal["dirichlet", "iid", "sizes", "clusters"], Tag("name")]
        | Annotated[PartitionBy, Tag("column")],
        Discriminator(lambda given: "column" if isinstance(given, dict | PartitionBy) else "name"),
    ]
    alpha: Positive
    sizes: list[Count] | None

    @property
    def group(self) -> str | None:
        """The column by whose cells rows are shared out, if they are."""
        return self.partition.by if isinstance(self.partition, PartitionBy) else None

    @model_validator(mode="after")
    def _sizes_and_folder_are_given_where_needed(self) -> Self:
        if (self.partition == "sizes") != (self.sizes is not None):
            raise ValueError("data.sizes: goes with data.partition: sizes")
        if self.source == "world" and (self.group or self.partition == "clusters"):
            raise ValueError(
                "data.partition: by and clusters share out rows of files; with data.source: world "
                "use dirichlet, iid or sizes"
            )
        if self.source == "local" and self.folder is None:
            raise ValueError(
                'data.folder: data.source is local, so name the folder: -y "data: {folder: PATH}"'
            )
        return self

    @model_validator(mode="after")
    def _over_refusal_is_a_file_of_the_folder(self) -> Self:
        name = self.over_refusal
        if name is None or self.source == "world":
            return self
        if self.folder is None or not name.endswith(ENDINGS):
            raise ValueError(
                f"data.over_refusal: {name} must be a file of data.folder, {', '.join(ENDINGS)}"
            )
        return self


class Federation(Group):
    """Who takes part, how many rounds there are, and how updates are aggregated."""

    clients: Count
    malicious: CountFromZero
    expected: CountFromZero | None
    sampled: Count
    min_clients: Annotated[
        Count | None, NotInKey("it says whether a round stops the run, not how a round comes out")
    ]
    rounds: Count
    engine: Annotated[Literal["local", "flower"], NotInKey("both give the same updates")]
    aggregator: Rule | Own
    compare: Annotated[list[Rule | Own], _REPEATS]
    also_full: Annotated[bool, _REPEATS]
    variant: Literal["paper", "published"]

    @model_validator(mode="after")
    def _no_more_than_there_are_clients(self) -> Self:
        for name in ("sampled", "malicious", "expected"):
            count = getattr(self, name)
            if count is not None and count > self.clients:
                raise ValueError(
                    f"federation.{name}: {count} is more than federation.clients, {self.clients}"
                )
        if self.min_clients is not None and self.min_clients > self.sampled:
            raise ValueError(
                f"federation.min_clients: {self.min_clients} is more than federation.sampled, "
                f"{self.sampled}"
            )
        return self

    @model_validator(mode="after")
    def _own_rules_have_names_of_their_own(self) -> Self:
        _check_own_names("federation.compare", self.aggregator, *self.compare)
        return self


class Training(Group):
    """One client's local training in one round."""

    steps: Count
    batch_size: Count
    accumulation: Count
    together: Annotated[Count, SometimesInKey("it is more than 1")]
    learning_rate: Positive
    learning_rate_min: NotNegative
    weight_decay: NotNegative
    clip: Positive

    @model_validator(mode="after")
    def _accumulation_divides_the_batch(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"training.accumulation: {self.accumulation} must divide batch_size, "
                f"{self.batch_size}"
            )
        return self


class Defense(Group):
    """What the server does against attacks, before the first round and after the last."""

    filter: Literal["none", "gradient"] | Own
    before: CountFromZero
    level: Annotated[Literal[0, 1, 2, 3, "project"] | Own, NUMBER]
    compare: Annotated[list[Annotated[Literal[1, 2, 3] | Own, NUMBER]], _REPEATS]
    aligned: Annotated[str | None, _TUNED_AFTER]
    normal: Annotated[str | None, _TUNED_AFTER]
    rows: Annotated[
        Annotated[int, Field(ge=2)],
        SometimesInKey("defense.level is 1, 2, 3 or your own, or defense.before is not 0"),
    ]
    rounds: Annotated[Count, _TUNED_AFTER]
    template: Annotated[Template, SometimesInKey("defense.level is 3")]

    @model_validator(mode="after")
    def _own_levels_have_names_of_their_own(self) -> Self:
        _check_own_names("defense.compare", self.level, *self.compare)
        return self


class Swat(Group):
    """Paper W's warm-up on robust modules, and how those modules are found."""

    warmup: CountFromZero
    modules: Annotated[Literal["robust", "fragile", "random"], _WARMED_UP]
    noise: Annotated[Positive, _WARMED_UP]
    draws: Annotated[Count, _WARMED_UP]
    window: Annotated[Count, _WARMED_UP]
    share: Annotated[Share, _WARMED_UP]
    threshold: Annotated[NotNegative, _WARMED_UP]
    pairs: Annotated[str | None, NotInKey("the pairs themselves count, not their file")]
    models: Annotated[list[str], Field(min_length=1), _REPEATS]
    tasks: Annotated[Annotated[list[str], Field(min_length=1)] | None, _CHAT_TUNING]
    rounds: Annotated[Count, _CHAT_TUNING]
    steps: Annotated[Count, _CHAT_TUNING]
    learning_rate: Annotated[Positive, _CHAT_TUNING]
    rows: Annotated[Count, _CHAT_TUNING]
    unaligned_share: Annotated[Share, _CHAT_TUNING]
    warm_rounds: Annotated[Count, _CHAT_TUNING]

    @model_validator(mode="after")
    def _warm_rounds_are_among_the_rounds(self) -> Self:
        if self.warm_rounds > self.rounds:
            raise ValueError(
                f"swat.warm_rounds: {self.warm_rounds} is more than swat.rounds, {self.rounds}"
            )
        return self


class Evaluation(Group):
    """Which prompts a finished model is asked, how it answers, and who judges the answers."""

    judges: Annotated[list[Judge | Own], Field(min_length=1)]
    guard: Annotated[str, SometimesInKey("md_judge or hs is a judge")]
    guard_template: Annotated[str | None, SometimesInKey("the guard answers in words")]
    verdict: Annotated[str, SometimesInKey("md_judge or hs is a judge, and it is not auto")]
    reward: Annotated[str, SometimesInKey("rm or hs is a judge")]
    grader: Annotated[str, SometimesInKey("mt1 or strongreject is a judge, by a language model")]
    grader_model: Annotated[str | None, SometimesInKey("the grader is asked, at an endpoint")]
    split: Literal["evaluation", "validation"]
    harmful: Count
    benign: Count
    temperature: NotNegative
    max_new_tokens: Count
    batch_size: Count
    show_responses: Annotated[bool, NotInKey("only what a notebook shows depends on it")]

    @model_validator(mode="after")
    def _rule_is_a_judge(self) -> Self:
        if "rule" not in self.judges:
            raise ValueError("evaluation.judges: rule must be among them, tables rest on it")
        _check_own_names("evaluation.judges", *self.judges)
        return self

    @model_validator(mode="after")
    def _verdict_has_a_form(self) -> Self:
        if self.verdict != "auto" and not VERDICT.fullmatch(self.verdict):
            raise ValueError(
                f"evaluation.verdict: {self.verdict!r} is no form of a verdict: auto, or such as "
                "'yes is unsafe', 'LABEL_1 is unsafe', 'over 0.5 is unsafe'"
            )
        return self

    @model_validator(mode="after")
    def _strongreject_has_a_grader(self) -> Self:
        if "strongreject" in self.judges and self.grader == "rubric":
            raise ValueError(
                "evaluation.grader: strongreject asks a language model: name a chat model or an "
                "endpoint, http(s)://HOST/v1"
            )
        return self

    @model_validator(mode="after")
    def _grader_is_a_model_or_an_endpoint(self) -> Self:
        at_endpoint = self.grader.startswith(("http://", "https://"))
        if at_endpoint != (self.grader_model is not None):
            raise ValueError(
                "evaluation.grader_model: the model's name at an endpoint, http(s)://HOST/v1 in "
                "evaluation.grader: give both"
            )
        if "://" in self.grader and "@" in self.grader:
            raise ValueError(
                "evaluation.grader: settings are written to disk: no name or password in the "
                "address; set OPENAI_API_KEY"
            )
        return self
