"""`fedlib plan`: what a preset needs before anything starts, and what is to be done first.

Models, data, memory, disk, hours. Nothing is fetched or trained. No torch."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from fedlib.commands import plan_sizes, plan_time
from fedlib.commands.plan_sizes import KnownModel
from fedlib.lab import store
from fedlib.models import checkpoints, hub, templates
from fedlib.papers import grids
from fedlib.settings import machine, presets
from fedlib.settings.errors import DataError, SettingsError, nearest
from fedlib.settings.schema import Settings
from fedlib.sources import hub_rows

ROW_BYTES = 2_000  # of a dataset's row
WIDTH = 120  # of what is printed, at least, so that no name is cut


@dataclass
class Counted:
    """The notebooks' runs: a table, seconds by run, and the notebooks that were not counted.

    seconds: {settings as JSON: seconds}; refused: {reason: notebooks}."""

    table: Table
    seconds: dict[str, float] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)


def print_plan(preset: str, only: str = "") -> tuple[int, float, int]:
    """Print what a preset needs; returns (runs in all, seconds, bytes on the device).

    only: the beginning of the names of the notebooks to count. SettingsError where no notebook has
    it, or where the base's size is not known."""
    settings = presets.load(preset)
    found = plan_sizes.known_models(settings)
    base = found["model.base"]
    if base.shape is None or base.parameters is None:
        raise SettingsError(
            f"model.base: {base.name}: its size is not known before its config.json is here: hf "
            f"download {hub.parts(base.name)[0]} config.json"
        )
    chosen = [name for name in grids.GRIDS if name.startswith(only.rstrip("*"))]
    if not chosen:
        known = nearest(only, [*grids.GRIDS])
        raise SettingsError(f"--only: no notebook begins with {only!r}{known}")

    # count
    speeds = plan_time.speeds(settings)
    rate, row = speeds(settings)
    counted = _count(settings, chosen, found, speeds)
    runs = len(counted.seconds)
    memory = plan_sizes.training_memory(settings, base.parameters, base.shape)
    adapters = runs * plan_sizes.adapter_size(settings.model, base.shape)

    # print
    console = Console(soft_wrap=True, highlight=False)
    console.width = max(console.width, WIDTH)
    for table in (_model_table(found), _data_table(settings), counted.table):
        if table.row_count:
            console.print(table)
    lines = [
        *_hour_lines(settings, counted, rate, row),
        *_byte_lines(settings, found, memory, adapters),
    ]
    for reason, notebooks in counted.refused.items():
        lines.append(f"not counted: {', '.join(notebooks)}: {reason}")
    for step in first_steps(settings, found):
        lines.append(f"first: {step}")
    for line in lines:
        console.print(line)
    return runs, sum(counted.seconds.values()), memory


def _count(
    settings: Settings,
    chosen: Sequence[str],
    found: Mapping[str, KnownModel],
    speeds: plan_time.Speeds,
) -> Counted:
    """Count the runs of notebooks; a run that several of them ask for counts once in all.

    Where its rows were not measured, their length is guessed from their letters, or taken as the
    longest that is allowed."""
    columns = ("notebook", "runs", "not yet made", "million tokens", "hours")
    counted = Counted(Table(*columns, box=None))
    models_here = all(one.here for one in found.values())
    data_here = all(_rows_here(settings, name) for name in _datasets(settings))
    at_once = plan_time.runs_at_once(settings)
    for notebook in chosen:
        try:
            if not data_here and _looks_at_rows(settings, notebook):
                raise SettingsError("counted once its data are here")
            wanted = grids.notebook_runs(settings, notebook)
            missing = "?"
            if data_here and models_here:
                missing = str(sum(not store.is_there(run) for run in wanted))

            # its runs' tokens and seconds
            used, trained = {}, 0.0
            for run in wanted:
                rate, row = speeds(run)
                length = row or (plan_time.guessed_row(run) if data_here else run.model.max_length)
                tokens, _ = plan_time.run_tokens(run, length)
                seconds = plan_time.run_seconds(run, found, rate, length)
                trained += tokens / 1e6
                used[run.model_dump_json()] = seconds / at_once
        except (SettingsError, DataError) as error:
            counted.refused.setdefault(str(error), []).append(notebook)
            continue

        hours = _hours(sum(used.values()))
        counted.table.add_row(notebook, str(len(wanted)), missing, f"{trained:.1f}", hours)
        counted.seconds |= used
    return counted


def _looks_at_rows(settings: Settings, notebook: str) -> bool:
    """Whether a notebook's grid is made of the rows themselves, so that it needs them here."""
    poisons, tunes = notebook.startswith(("01", "2")), notebook.startswith("3")
    return poisons or (tunes and bool(settings.swat.pairs))


# --- what is to be done first


def first_steps(settings: Settings, found: Mapping[str, KnownModel]) -> list[str]:
    """What a person must do first, a line each."""
    from huggingface_hub import get_token

    gated = _gated_places(settings, found)
    steps = [f"gated: accept the terms at https://huggingface.co/{place}" for place in gated]
    if gated and not get_token():
        steps.append("log in: hf auth login (or set HF_TOKEN); no token is here")
    if "md_judge" in settings.judges:
        try:
            templates.guard(settings.evaluation.guard_template)
        except SettingsError as error:
            steps.append(str(error))
    graded = bool({"mt1", "strongreject"} & set(settings.judges))
    graded = graded and checkpoints.at_endpoint(settings)
    if graded and not os.environ.get("OPENAI_API_KEY"):
        steps.append(f"set OPENAI_API_KEY for {settings.evaluation.grader}, if it asks for one")
    if settings.data.source == "hub" and not machine.has_gpu():
        steps.append("a CUDA device: none is visible here")
    return steps


def _gated_places(settings: Settings, found: Mapping[str, KnownModel]) -> list[str]:
    """The hub's pages where terms must be accepted: models, then datasets without a copy here."""
    places = [_bare(one.name) for one in found.values() if one.gated]
    for name in _datasets(settings):
        if hub_rows.find_dataset(name).gated and not hub_rows.copy_of(settings, name):
            places.append(f"datasets/{_bare(name)}")
    return places


def _bare(name: str) -> str:
    """OWNER/NAME of OWNER/NAME[:PART][@COMMIT]."""
    return name.partition("@")[0].partition(":")[0]


def _datasets(settings: Settings) -> dict[str, str]:
    """{name: field} of the hub's datasets that the preset's notebooks use."""
    if 1 in settings.defense.compare:
        settings = settings.replace(defense={"level": 1})
    return hub_rows.datasets_named(settings)


def _rows_here(settings: Settings, name: str) -> bool:
    """Whether a dataset's rows are here: a copy, or rows that were taken before."""
    asked = {"dataset": name, "pool": settings.data.pool}
    return bool(hub_rows.copy_of(settings, name) or hub_rows.taken_before(name, asked))


# --- what is printed


def _hour_lines(
    settings: Settings, counted: Counted, rate: float | None, row: float | None
) -> Iterator[str]:
    """How many runs there are, how long they take, and how that is known."""
    runs = len(counted.seconds)
    total = sum(counted.seconds.values())
    one = total * plan_time.runs_at_once(settings) / max(1, runs)
    yield f"in all {runs} runs, about {_hours(total)} hours; one run {_hours(one)}"

    how = "no run of this base is here to measure; the length of rows is guessed; all"
    if rate:
        measured = f"{rate:,.0f} tokens/s" + (f" in rows of {row:.0f}" if row else "")
        how = f"training as measured here, {measured}; answers and judges"
    flops, bandwidth = plan_time.ASSUMED[plan_time.planned_device(settings)]
    assumed = f"{flops / 1e12:g} TFLOP/s and {bandwidth / 1e12:g} TB/s"
    yield f"({how} at an assumed {assumed})"


def _byte_lines(
    settings: Settings, found: Mapping[str, KnownModel], needed: int, adapters: int
) -> Iterator[str]:
    """Memory and disk; adapters: the parameters of all runs' adapters together."""
    yield f"device memory in training: about {needed / 1e9:.1f} GB"

    # a model that two fields name is fetched once, in two bytes a parameter
    fetched = {}
    for one in found.values():
        if one.parameters and not one.here:
            fetched[one.name] = 2 * one.parameters / 1e9
    models = sum(fetched.values())
    rows = settings.data.pool * ROW_BYTES * len(_datasets(settings)) / 1e9
    kept = 4 * adapters / 1e9
    yield (
        f"disk: {models:.1f} GB of models to fetch, {rows:.2f} GB of rows, "
        f"{kept:.2f} GB of adapters"
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f}" if seconds >= 360 else f"{seconds / 3600:.2f}"


def _yes(value: bool) -> str:
    return "yes" if value else ""


def _model_table(found: Mapping[str, KnownModel]) -> Table:
    columns = ("model", "name", "parameters (M)", "bf16 weights (GB)", "gated", "here")
    table = Table(*columns, box=None)
    for name, one in found.items():
        count = size = "?"
        if one.parameters:
            count = f"{one.parameters / 1e6:,.1f}"
            size = f"{2 * one.parameters / 1e9:.2f}"
        bare = one.name.partition("@")[0]
        table.add_row(name, bare, count, size, _yes(one.gated), _yes(one.here))
    return table


def _data_table(settings: Settings) -> Table:
    table = Table("data", "name", "gated", "here", box=None)
    for name, place in _datasets(settings).items():
        gated = hub_rows.find_dataset(name).gated
        here = _rows_here(settings, name)
        table.add_row(place, name, _yes(gated), _yes(here))
    return table
