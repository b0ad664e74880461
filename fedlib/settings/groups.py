"""What settings there are: a pydantic model a group, frozen and strict. params/mini.yaml explains each field."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ENDINGS = (
    ".csv",
    ".json",
    ".jsonl",
)  # of a file of rows; any other name with a slash may be a dataset of the hub
GROUPS = ("model", "data", "federation", "training", "defense", "swat", "evaluation")
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
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
Judge = Literal["rule", "md_judge", "rm", "mt1", "help", "exact", "asr", "hs", "probe"]
TASKS = ("format", "skill")  # the world's tuning tasks, as data.benign names them


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Scratch(Group):
    files: list[str]
    hidden: Count
    layers: Count
    heads: Count
    mlp: Count
    vocabulary: Annotated[int, Field(ge=300)]
    steps: Count
    batch_size: Count
    learning_rate: Positive


class Model(Group):
    base: str
    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "float32", "bfloat16"]
    template: Template
    max_length: Annotated[int, Field(ge=8)]
    lora_rank: Count
    lora_alpha: Positive
    lora_dropout: Annotated[float, Field(ge=0, lt=1)]
    lora_targets: Literal["all-linear", "default"] | Annotated[list[str], Field(min_length=1)]
    scratch: Scratch


class Poison(Group):
    trigger: str | None
    target: Literal["append", "replace"]
    share: Share
    spread: Literal["equal", "uniform", "dirichlet", "capped"]
    clients: Count | None
    natural: Share


class Data(Group):
    source: Literal["world", "local", "hub"]
    folder: str | None
    benign: Annotated[list[str], Field(min_length=1)]
    aligned: str | None
    aligned_share: Share
    unaligned: str | None
    unaligned_share: Share
    harmful: str | None
    questions: str | None
    pool: Count
    fields: dict[str, dict[str, str]]
    attack: Literal["unaligned", "generated", "conflicting", "boosted"]
    poison: Poison
    generator: str
    prompts: str
    generated: Count
    rows: Count
    partition: Literal["dirichlet", "iid", "sizes"]
    alpha: Positive
    sizes: list[Count] | None


class Federation(Group):
    clients: Count
    malicious: Annotated[int, Field(ge=0)]
    expected: Annotated[int, Field(ge=0)] | None
    sampled: Count
    rounds: Count
    aggregator: Rule
    compare: list[Rule]
    variant: Literal["paper", "published"]


class Training(Group):
    steps: Count
    batch_size: Count
    accumulation: Count
    learning_rate: Positive
    learning_rate_min: Annotated[float, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    clip: Positive


class Defense(Group):
    filter: Literal["none", "gradient"]
    before: Annotated[int, Field(ge=0)]
    level: Literal[0, 1, 2, 3, "project"]
    compare: list[Literal[1, 2, 3]]
    aligned: str | None
    normal: str | None
    rows: Annotated[int, Field(ge=2)]
    rounds: Count
    template: Template


class Swat(Group):
    warmup: Annotated[int, Field(ge=0)]
    modules: Literal["robust", "fragile", "random"]
    noise: Positive
    draws: Count
    window: Count
    share: Share
    threshold: Annotated[float, Field(ge=0)]
    pairs: str | None
    models: Annotated[list[str], Field(min_length=1)]
    rounds: Count
    steps: Count
    learning_rate: Positive
    rows: Count
    unaligned_share: Share
    warm_rounds: Count


class Evaluation(Group):
    judges: Annotated[list[Judge], Field(min_length=1)]
    guard: str
    guard_template: str | None
    reward: str
    grader: str
    grader_model: str | None
    split: Literal["evaluation", "validation"]
    harmful: Count
    benign: Count
    temperature: Annotated[float, Field(ge=0)]
    max_new_tokens: Count
    batch_size: Count
    show_responses: bool
