"""How long a preset's runs take: as measured here, or on an assumed device. No torch."""

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from fedlib.commands.plan_sizes import KnownModel
from fedlib.lab import client_data, workers
from fedlib.settings import machine
from fedlib.settings.schema import Settings

# Arithmetic and memory bandwidth that a run is assumed to reach, FLOP/s and bytes/s, until one has
# been measured: about a consumer GPU's; a data-centre GPU does several times that.
ASSUMED = {"cuda": (40e12, 0.8e12), "cpu": (5e10, 2e10)}
# Seconds of one step of decoding at least: launching kernels, the adapter unmerged.
STEP = 0.03
LETTERS, AROUND = 4.5, 30  # English letters a token; tokens that a chat template puts around a row
READ = 256  # tokens that a judge reads beside the response
WRITTEN = {"grader": 256, "guard": 16, "reward": 0}  # tokens that a judge writes
ABOUT = {"grader": "benign", "guard": "harmful", "reward": "harmful"}  # the prompts that it judges


# a run -> (tokens/s, tokens a row); None where nothing was measured
Speeds = Callable[[Settings], tuple[float | None, float | None]]


def planned_device(settings: Settings) -> str:
    """cpu or cuda: models of the hub are planned for a GPU."""
    return "cuda" if settings.data.source == "hub" else machine.device(settings.model)


def runs_at_once(settings: Settings) -> int:
    """How many runs are made at a time on the planned device."""
    # GPUs that this machine does not have are planned as one
    if planned_device(settings) == "cuda" and not machine.has_gpu():
        return 1
    return max(1, workers.jobs(settings))


def measured_speed(
    settings: Settings, benign: tuple[str, ...] | None = None
) -> tuple[float | None, float | None]:
    """(tokens/s, tokens a row) of this base's finished rounds in the store; (None, None) if none.

    benign: only of runs on these rows, in batches of any size. Rounds that cannot be read are left
    out."""
    tokens, seconds, rows = 0, 0.0, 0
    for file in (machine.outputs() / "runs").glob("*/rounds.jsonl"):
        try:
            measured = _measured(file, settings, benign)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        tokens += measured[0]
        seconds += measured[1]
        rows += measured[2]
    if not rows or not seconds:
        return None, None
    return tokens / seconds, tokens / rows


def speeds(settings: Settings) -> Speeds:
    """`measured_speed` by what a run tunes: adapters in fewer layers train faster, and other text
    has rows of another length."""

    @functools.cache
    def speed(layers: int | None, benign: tuple[str, ...] | None) -> tuple:
        return measured_speed(settings.replace(model={"lora_layers": layers}), benign)

    def of_run(run: Settings) -> tuple[float | None, float | None]:
        layers = run.model.lora_layers
        rate, row = speed(layers, None)
        if run.data.source != "world":
            row = speed(layers, tuple(run.data.benign))[1]
        return rate, row

    return of_run


def _measured(
    file: Path, settings: Settings, benign: tuple[str, ...] | None
) -> tuple[int, float, int]:
    """(tokens, seconds, rows) of a run's rounds; zeros where base, data or batches are others."""
    made = json.loads((file.parent / "settings.json").read_text(encoding="utf-8"))
    model, data, batch = made["model"], made["data"], made["training"]["batch_size"]
    same = (
        model["base"] == settings.model.base
        and model.get("lora_layers") == settings.model.lora_layers
        and data["source"] == settings.data.source
    )
    if benign is None:
        same = same and batch == settings.training.batch_size
    else:
        same = same and data["benign"] == list(benign)
    if not same:
        return 0, 0.0, 0
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rounds = [line for line in lines if "sampled" in line]

    # rows that a client sees in a round
    tuned = made["training"]["steps"] * batch
    return (
        sum(line["tokens"] for line in rounds),
        sum(line["seconds"] for line in rounds),
        sum(len(line["sampled"]) * tuned for line in rounds),
    )


def guessed_row(settings: Settings) -> float:
    """Tokens a row of a run, about, by the letters in its first client's rows."""
    rows = client_data.client_rows(settings, 0)
    letters = sum(len(row["instruction"]) + len(row["response"]) for row in rows)
    return min(settings.model.max_length, letters / max(1, len(rows)) / LETTERS + AROUND)


def run_tokens(settings: Settings, row: float) -> tuple[float, int]:
    """(trained, answered) tokens of one run, at most; row: tokens a row.

    Of a defended run without those of the run that it defends."""
    level = settings.defense.level

    # how often a model is tuned: all clients in all rounds, or each round of the defence
    tunings = settings.defense.rounds
    if level == 0:
        tunings = settings.federation.rounds * settings.federation.sampled
    elif level == "project":
        tunings = 0
    step = settings.training.batch_size * row
    trained = tunings * settings.training.steps * step

    evaluation = settings.evaluation
    prompts = evaluation.harmful + evaluation.benign
    answered = prompts * evaluation.max_new_tokens

    # Level 3 writes two kinds of rows, asked and answered. What a generator writes for level 2 is
    # written once a seed, and not counted.
    if level == 3:
        answered += 4 * settings.data.generated * settings.model.max_length
    return trained, answered


def run_seconds(
    settings: Settings, found: Mapping[str, KnownModel], rate: float | None, row: float
) -> float:
    """How long one run takes: training at rate tokens/s, answers and judges as ASSUMED."""
    evaluation = settings.evaluation
    flops, bandwidth = ASSUMED[planned_device(settings)]
    trained, answered = run_tokens(settings, row)
    base = found["model.base"].parameters or 0

    # training: forward and backward
    if rate is None:
        total = _training_work(settings, found["model.base"], trained, row) / flops
    else:
        total = trained / rate

    # prompts: one pass; they are taken to be as long as a row
    prompts = evaluation.harmful + evaluation.benign
    total += 2 * base * prompts * row / flops

    # answers: decoding, a batch at a time; a step reads all weights, and multiplies by them
    size = evaluation.batch_size
    at_once = min(size, prompts)
    reading = 2 * base / bandwidth
    multiplying = 2 * base * size / flops
    steps = math.ceil(answered / at_once)
    total += steps * max(reading, multiplying, STEP)

    # judges
    for field, one in found.items():
        group, _, judge = field.partition(".")
        if group == "evaluation" and one.parameters:
            total += _judge_seconds(settings, judge, one.parameters)
    return total


def _training_work(settings: Settings, base: KnownModel, trained: float, row: float) -> float:
    """The FLOPs of training on so many tokens, forward and backward, in rows of so many tokens.

    Layers below the adapter are computed forward, and once for each of the clients' rows."""
    shape, upper = base.shape, settings.model.lora_layers
    whole = 4 * (base.parameters or 0)
    if shape is None or upper is None or upper >= shape.layers:
        return whole * trained
    a_layer = (shape.parameters() - shape.vocabulary * shape.hidden) / shape.layers
    lower = a_layer * (shape.layers - upper)
    rows = settings.federation.clients * settings.data.rows * row
    return (whole - 4 * lower) * trained + 2 * lower * min(trained, rows)


def _judge_seconds(settings: Settings, judge: str, parameters: int) -> float:
    """How long a judge takes: it reads the prompts with their responses, and may write."""
    evaluation = settings.evaluation
    flops, bandwidth = ASSUMED[planned_device(settings)]
    asked = getattr(evaluation, ABOUT[judge])

    read = asked * (evaluation.max_new_tokens + READ)
    reading = 2 * parameters * read / flops

    batches = math.ceil(asked / evaluation.batch_size)
    step = max(2 * parameters / bandwidth, STEP)
    writing = batches * WRITTEN[judge] * step
    return reading + writing
