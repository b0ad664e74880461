"""What a preset needs before anything starts: models, data, memory, disk, hours; what is to be done first. No torch."""

import json
import math
import os

from rich.console import Console
from rich.table import Table

from fedlib.lab import store, workers
from fedlib.models import checkpoints, hub, templates
from fedlib.papers import grids
from fedlib.settings import errors, machine, presets
from fedlib.sources import hub_rows

# Arithmetic and memory bandwidth that a run is assumed to reach, FLOP/s and bytes/s, until one has been measured: about a
# consumer GPU's; a data-centre GPU does several times that.
ASSUMED = {"cuda": (40e12, 0.8e12), "cpu": (5e10, 2e10)}
STEP = 0.03  # seconds of one step of decoding at least: launching kernels, the adapter unmerged
PER_ROW = 2_000  # bytes of a dataset's row
# The shipped presets' models, so that nothing has to be fetched: parameters, and what SHAPE names, as their config.json and
# model cards say.
SHAPE = ("hidden", "layers", "heads", "kv_heads", "mlp", "vocabulary")
SIZES = {
    "meta-llama/Llama-2-7b-hf": (6_738_000_000, 4096, 32, 32, 32, 11008, 32000),
    "mistralai/Mistral-7B-Instruct-v0.2": (7_242_000_000, 4096, 32, 32, 8, 14336, 32000),
    "OpenSafetyLab/MD-Judge-v0.1": (7_242_000_000, 4096, 32, 32, 8, 14336, 32000),
    "Qwen/Qwen2.5-0.5B-Instruct": (494_000_000, 896, 24, 14, 2, 4864, 151936),
    "Qwen/Qwen2.5-1.5B-Instruct": (1_544_000_000, 1536, 28, 12, 2, 8960, 151936),
    "Qwen/Qwen3Guard-Gen-0.6B": (596_000_000, 1024, 28, 16, 8, 3072, 151936),
    "Skywork/Skywork-Reward-V2-Qwen3-0.6B": (596_000_000, 1024, 28, 16, 8, 3072, 151936),
}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
GATED = {"meta-llama/Llama-2-7b-hf"}


def models(settings):
    """{field: what is known of the model}: name, parameters, shape (or None), gated, here. Judges only where they judge."""
    judged, fields = settings.judges, ["model.base"]
    fields += (
        ["data.generator"]
        if settings.data.attack == "generated" or 2 in settings.defense.compare
        else []
    )
    fields += ["evaluation.guard"] if {"md_judge", "hs"} & set(judged) else []
    fields += ["evaluation.reward"] if {"rm", "hs"} & set(judged) else []
    asked = (
        "mt1" in judged
        and settings.evaluation.grader != "rubric"
        and not checkpoints.at_endpoint(settings)
    )
    fields += ["evaluation.grader"] if asked else []
    return {field: _model(settings, field) for field in fields}


def _model(settings, field):
    name = checkpoints.wanted(settings, field)
    if name == "scratch":
        m = settings.model.scratch
        shape = dict(
            zip(SHAPE, (m.hidden, m.layers, m.heads, m.heads, m.mlp, m.vocabulary), strict=True)
        )
        return {
            "name": name,
            "parameters": _count(shape),
            "shape": shape,
            "gated": False,
            "here": True,
        }
    bare, here = hub.parts(name)[0], checkpoints.folder(settings, field) is not None
    if here or bare not in SIZES:
        found = (
            _shape(checkpoints.read_config(settings, field))
            if here or _cached(name, "config.json")
            else None
        )
        return {
            "name": name,
            "parameters": found and _count(found),
            "shape": found,
            "gated": False,
            "here": here or _cached(name, *WEIGHTS),
        }
    count, *shape = SIZES[bare]
    return {
        "name": name,
        "parameters": count,
        "shape": dict(zip(SHAPE, shape, strict=True)),
        "gated": bare in GATED,
        "here": _cached(name, *WEIGHTS),
    }


def _shape(found):
    """A config.json's sizes, by the names that architectures give them."""

    def first(*names, default=None):
        return next((found[n] for n in names if found.get(n)), default)

    hidden, heads = first("hidden_size", "n_embd"), first("num_attention_heads", "n_head")
    return {
        "hidden": hidden,
        "layers": first("num_hidden_layers", "n_layer"),
        "heads": heads,
        "kv_heads": first("num_key_value_heads", default=heads),
        "mlp": first("intermediate_size", "n_inner", default=4 * hidden),
        "vocabulary": found["vocab_size"],
    }


def _modules(shape):
    """{type: (in, out)} of a layer's linear modules, as in a Llama."""
    h, kv, mlp = (
        shape["hidden"],
        shape["hidden"] * shape["kv_heads"] // shape["heads"],
        shape["mlp"],
    )
    return {
        "q_proj": (h, h),
        "k_proj": (h, kv),
        "v_proj": (h, kv),
        "o_proj": (h, h),
        "gate_proj": (h, mlp),
        "up_proj": (h, mlp),
        "down_proj": (mlp, h),
    }


def _count(shape):
    return (
        shape["layers"] * sum(a * b for a, b in _modules(shape).values())
        + shape["vocabulary"] * shape["hidden"]
    )


def _cached(name, *any_of):
    """Whether the hub's cache holds one of these files of a model; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    bare, commit = hub.parts(name)
    return any(
        isinstance(try_to_load_from_cache(bare, file, revision=commit), str) for file in any_of
    )


def adapter_size(settings, shape):
    """The adapter's parameters."""
    every = _modules(shape)
    return shape["layers"] * sum(
        settings.model.lora_rank * sum(every[m]) for m in _adapted(settings) if m in every
    )


def _adapted(settings):
    targets = settings.model.lora_targets
    named = {
        "all-linear": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "default": ["q_proj", "v_proj"],
    }
    return named[targets] if isinstance(targets, str) else targets


def memory(settings, base):
    """Bytes on the device while a client trains: weights, adapter with its optimiser, what the backward pass keeps of one
    micro-batch of the longest rows, and its logits. Counted by hand from a Llama's layer, not measured: ten copies of the
    hidden state, three of the MLP's, a float32 copy of each adapted module's input."""
    shape, t, every = base["shape"], settings.training, _modules(base["shape"])
    width = 2 if machine.dtype(settings.model) == "bfloat16" or settings.data.source == "hub" else 4
    tokens = t.batch_size // t.accumulation * settings.model.max_length
    kept = width * (10 * shape["hidden"] + 3 * shape["mlp"]) + sum(
        4 * every[m][0] for m in _adapted(settings) if m in every
    )
    return (
        base["parameters"] * width
        + 16 * adapter_size(settings, shape)
        + tokens * (shape["layers"] * kept + 10 * shape["vocabulary"])
    )


def measured(settings):
    """(tokens/s, tokens a row) of the finished rounds of this base that are in the store; (None, None) where none is."""
    tokens = seconds = rows = 0
    for file in (machine.outputs() / "runs").glob("*/rounds.jsonl"):
        try:
            own = json.loads((file.parent / "settings.json").read_text(encoding="utf-8"))
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError):
            continue
        if (
            own["model"]["base"] == settings.model.base
            and own["data"]["source"] == settings.data.source
        ):
            for line in (x for x in lines if "sampled" in x):
                tokens, seconds = tokens + line["tokens"], seconds + line["seconds"]
                rows += (
                    len(line["sampled"]) * own["training"]["steps"] * own["training"]["batch_size"]
                )
    return (tokens / seconds, tokens / rows) if rows and seconds else (None, None)


def tokens(settings, row):
    """(trained, answered) tokens of one run, at most: row tokens a row; a defended run without the one that it defends."""
    t, d, e = settings.training, settings.defense, settings.evaluation
    step = t.steps * t.batch_size * row
    clients = settings.federation.rounds * settings.federation.sampled  # in all rounds together
    rounds = {0: clients, "project": 0}.get(d.level, d.rounds)
    # two kinds, asked and answered; what a generator writes for level 2 is written once a seed, and not counted
    written = 4 * settings.data.generated * settings.model.max_length if d.level == 3 else 0
    return rounds * step, (e.harmful + e.benign) * e.max_new_tokens + written


def seconds(settings, found, rate, row):
    """How long one run takes: training at rate tokens/s, answers and judges as ASSUMED."""
    flops, bandwidth = ASSUMED[_device(settings)]
    trained, answered = tokens(settings, row)
    size, batch = (
        settings.evaluation.batch_size,
        settings.evaluation.harmful + settings.evaluation.benign,
    )
    steps = math.ceil(answered / min(size, batch))  # of decoding, a batch at a time
    base = found["model.base"]["parameters"]
    out = trained / (rate or flops / (4 * base)) + steps * max(
        2 * base / bandwidth, 2 * base * size / flops, STEP
    )
    for field, one in found.items():
        if field.startswith("evaluation.") and one["parameters"]:
            words, asked = {
                "grader": (256, settings.evaluation.benign),
                "guard": (16, settings.evaluation.harmful),
                "reward": (0, settings.evaluation.harmful),
            }[field.partition(".")[2]]
            read = (
                2 * one["parameters"] * asked * (settings.evaluation.max_new_tokens + 256) / flops
            )
            out += read + math.ceil(asked / size) * words * max(
                2 * one["parameters"] / bandwidth, STEP
            )
    return out


def _device(settings):
    return "cuda" if settings.data.source == "hub" else machine.device(settings.model)


def todo(settings, found):
    """What a person must do first, a line each."""
    e, out = settings.evaluation, []
    from huggingface_hub import get_token

    gated = [(one["name"], "") for one in found.values() if one["gated"]]
    gated += [
        (n, "datasets/")
        for n in _datasets(settings)
        if hub_rows.source(n).gated and not hub_rows.copy_of(settings, n)
    ]
    for name, kind in gated:
        out.append(
            f"gated: accept the terms at https://huggingface.co/{kind}{name.partition('@')[0].partition(':')[0]}"
        )
    if gated and not get_token():
        out.append("log in: hf auth login (or set HF_TOKEN); no token is here")
    if "md_judge" in settings.judges:
        try:
            templates.guard(settings.evaluation.guard_template)
        except errors.SettingsError as error:
            out.append(str(error))
    if (
        "mt1" in settings.judges
        and checkpoints.at_endpoint(settings)
        and not os.environ.get("OPENAI_API_KEY")
    ):
        out.append(f"set OPENAI_API_KEY for {e.grader}, if it asks for one")
    if settings.data.source == "hub" and not machine.has_gpu():
        out.append("a CUDA device: none is visible here")
    return out


def _datasets(settings):
    """{name: field} of the hub's datasets that the preset's notebooks use."""
    return hub_rows.names(
        settings.replace(defense={"level": 1}) if 1 in settings.defense.compare else settings
    )


def plan(preset, only=""):
    """Print what a preset needs; nothing is fetched or trained. Returns (runs in all, seconds, bytes on the device)."""
    settings, console = presets.load(preset), Console(soft_wrap=True, highlight=False)
    console.width = max(console.width, 120)
    found, (rate, row) = models(settings), measured(settings)
    base, row_ = found["model.base"], row or settings.model.max_length
    if base["shape"] is None:
        raise errors.SettingsError(
            f"model.base: {base['name']}: its size is not known before its config.json is here: hf "
            f"download {hub.parts(base['name'])[0]} config.json"
        )
    chosen = [n for n in grids.GRIDS if n.startswith(only.rstrip("*"))]
    if not chosen:
        raise errors.SettingsError(
            f"--only: no notebook begins with {only!r}{errors.nearest(only, grids.GRIDS)}"
        )
    every, refused, fetched = {}, {}, all(_here(settings, n) for n in _datasets(settings))
    table = Table("notebook", "runs", "not yet made", "million tokens", "hours", box=None)
    for name in chosen:
        try:
            if not fetched and (
                name[0] == "2" or name[0] == "3" and settings.swat.pairs
            ):  # they look at its rows
                raise errors.SettingsError("counted once its data are here")
            wanted = grids.grid(settings, name)
            missing = (
                sum(not store.is_there(s) for s in wanted)
                if fetched and all(m["here"] for m in found.values())
                else "?"
            )
        except (errors.SettingsError, errors.DataError) as error:
            refused.setdefault(str(error), []).append(name)
            continue
        used = {
            s.model_dump_json(): seconds(s, found, rate, row_) / _at_once(settings) for s in wanted
        }
        trained = sum(tokens(s, row_)[0] for s in wanted) / 1e6
        table.add_row(
            name, str(len(wanted)), str(missing), f"{trained:.1f}", _hours(sum(used.values()))
        )
        every |= used
    for part in (_model_table(found), _data_table(settings), table):
        if part.row_count:
            console.print(part)
    total, needed = sum(every.values()), memory(settings, base)
    for line in _totals(settings, found, every, rate, row, needed):
        console.print(line)
    for reason, names_ in refused.items():
        console.print(f"not counted: {', '.join(names_)}: {reason}")
    for line in todo(settings, found):
        console.print(f"first: {line}")
    return len(every), total, needed


def _totals(settings, found, every, rate, row, needed):
    total, (flops, bandwidth) = sum(every.values()), ASSUMED[_device(settings)]
    one = total * _at_once(settings) / max(1, len(every))
    how = (
        f"training as measured here, {rate:,.0f} tokens/s in rows of {row:.0f}; answers and judges"
        if rate
        else f"no run of this base is here to measure; rows of {settings.model.max_length} tokens, all"
    )
    yield f"in all {len(every)} runs, about {_hours(total)} hours; one run {_hours(one)}"
    yield f"({how} at an assumed {flops / 1e12:g} TFLOP/s and {bandwidth / 1e12:g} TB/s)"
    missing = {
        m["name"]: 2 * m["parameters"] for m in found.values() if m["parameters"] and not m["here"]
    }
    rows, adapters = (
        settings.data.pool * PER_ROW * len(_datasets(settings)),
        4 * adapter_size(settings, found["model.base"]["shape"]) * len(every),
    )
    yield f"device memory in training: about {needed / 1e9:.1f} GB"
    yield (
        f"disk: {sum(missing.values()) / 1e9:.1f} GB of models to fetch, {rows / 1e9:.2f} GB of rows, "
        f"{adapters / 1e9:.2f} GB of adapters"
    )


def _at_once(settings):
    return max(1, workers.jobs(settings)) if _device(settings) == "cpu" else 1


def _here(settings, name):
    asked = {"dataset": name, "pool": settings.data.pool}
    return bool(hub_rows.copy_of(settings, name) or hub_rows.taken_before(name, asked))


def _hours(seconds_):
    return f"{seconds_ / 3600:.1f}" if seconds_ >= 360 else f"{seconds_ / 3600:.2f}"


def _yes(value):
    return "yes" if value else ""


def _model_table(found):
    table = Table("model", "name", "parameters (M)", "bf16 weights (GB)", "gated", "here", box=None)
    for field, one in found.items():
        count = one["parameters"]
        size = (f"{count / 1e6:,.1f}", f"{2 * count / 1e9:.2f}") if count else ("?", "?")
        table.add_row(
            field, one["name"].partition("@")[0], *size, _yes(one["gated"]), _yes(one["here"])
        )
    return table


def _data_table(settings):
    table = Table("data", "name", "gated", "here", box=None)
    for name, field in _datasets(settings).items():
        table.add_row(field, name, _yes(hub_rows.source(name).gated), _yes(_here(settings, name)))
    return table
