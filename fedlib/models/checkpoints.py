"""Where the models that settings name lie, and what identifies their content. No torch.

A model is named by a field such as model.base: a world model (world:NAME), a folder, a GGUF file
(gguf:PATH, or gguf:WHEEL in an installed package), or OWNER/NAME[@COMMIT] on the hub.
"""

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlib.models import chat, gguf_files, hub, templates
from fedlib.settings import groups, identity, machine
from fedlib.settings.errors import DataError, SettingsError, nearest
from fedlib.settings.schema import Settings

WORLD_MODELS = Path(__file__).parents[1] / "world_models"
# Names that a field may also hold, which mean no checkpoint; only error lines show them here.
OTHER_NAMES = {"model.base": ["scratch"], "evaluation.grader": ["rubric"]}
# How the names of architectures in config.json end, and what such a model is.
ARCHITECTURES = {
    "ForSequenceClassification": "classifier",
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
}
# Models that read and do not write: their head is another.
OTHER_HEADS = (
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForPreTraining",
)

# What config.json calls a model's sizes: its weights tell how large they can be at most.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
WIDTHS = ("hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "vocab_size")
WIDTHS += ("num_attention_heads", "n_head", "num_key_value_heads", "head_dim", "num_experts")


def wanted(settings: Settings, field: str) -> str:
    """The name that a field such as model.base holds."""
    group, name = field.split(".")
    return getattr(getattr(settings, group), name)


def added_to(name: str) -> str | None:
    """The name of the base that a world model's alignment is added to; None where it is whole."""
    file = WORLD_MODELS / name.removeprefix("world:") / "base.json"
    if not name.startswith("world:") or not file.is_file():
        return None
    return json.loads(file.read_text(encoding="utf-8"))["base"]


def folder(settings: Settings, field: str) -> Path | None:
    """The folder of the model that a field such as model.base names; None if it is on the hub.

    SettingsError, with the nearest known name, if it is no world model, folder or hub name."""
    name = wanted(settings, field)
    known = sorted(f"world:{place.name}" for place in WORLD_MODELS.iterdir() if place.is_dir())
    if name.startswith("world:"):
        if name not in known:
            raise SettingsError(f"{field}: no model {name!r}{nearest(name, known)}")
        return WORLD_MODELS / name.removeprefix("world:")
    if gguf_files.is_gguf(name):
        raise SettingsError(
            f"{field}: {name}: a GGUF file can be model.base or data.generator only"
        )

    place = machine.path(name)
    if place.is_dir():
        return place

    # It is no folder here. A name on the hub holds one slash; say what else was meant.
    if name.startswith((".", "/", "~")):
        raise SettingsError(f"{field}: no folder {place}")
    if name.partition("@")[0].count("/") != 1:
        known += OTHER_NAMES.get(field, [])
        raise SettingsError(f"{field}: no model {name!r}{nearest(name, known)}")
    return None


def source(settings: Settings, field: str) -> tuple[str, str | None]:
    """(folder or name on the hub, commit or None) of a field's model, for from_pretrained."""
    place = folder(settings, field)
    if place is not None:
        return str(place), None
    name = wanted(settings, field)
    return hub.parts(name)[0], hub.commit(name)


def revision(settings: Settings, field: str) -> str | list:
    """What identifies a model's content: a digest of its folder, or [name on the hub, commit].

    SettingsError if a folder holds no safetensors, or an adapter, which names a base elsewhere."""
    name = wanted(settings, field)
    if gguf_files.is_gguf(name):
        return ["gguf", gguf_files.gguf_revision(field, name)]
    place = folder(settings, field)
    if place is None:
        return list(source(settings, field))
    if (place / "adapter_config.json").is_file():
        raise SettingsError(
            f"{field}: {place} holds an adapter, not a whole model: merge it first (a run's: "
            "fedlib export RUN --to FOLDER --merged)"
        )
    if not any(place.glob("*.safetensors")):
        raise SettingsError(
            f"{field}: {place} holds no weights as .safetensors, and others are not loaded"
        )

    # Reading gigabytes takes a while: the digest is kept until a file's size or time changes.
    state = []
    for file in sorted(place.iterdir()):
        found = file.stat()
        state.append((file.name, found.st_size, found.st_mtime_ns))
    own = _digest(place, tuple(state))

    # An alignment that is kept by itself counts together with the base that it is added to.
    base = added_to(name)
    if base is None:
        return own
    return [own, gguf_files.gguf_revision(field, base)]


@functools.lru_cache(maxsize=8)
def _digest(place: Path, _state: tuple) -> str:
    _check_files(place)
    files = [file for file in sorted(place.iterdir()) if file.is_file()]
    return identity.digest([[file.name, identity.file_digest(file)] for file in files])


def _check_files(place: Path) -> None:
    """DataError where a folder's files lead out of it, or would fill the memory before one knows
    that they do not fit."""
    index = place / "model.safetensors.index.json"
    if index.is_file():
        shards = _json_object(index).get("weight_map")
        shards = shards.values() if isinstance(shards, dict) else [None]
        if not all(isinstance(name, str) and Path(name).name == name for name in shards):
            raise DataError(f"{index}: weight_map must name files of this folder")

    # no model is built whose sizes its weights cannot have
    tensors, values = _counted(sorted(place.glob("*.safetensors")))
    read = {}
    for name in ("config.json", "generation_config.json"):
        read[name] = _json_object(place / name) if (place / name).is_file() else {}
    config = read["config.json"]
    for name in sorted(set(LAYERS + WIDTHS) & set(config)):
        most = tensors if name in LAYERS else values
        size = config[name]
        if size is not None and not (type(size) is int and 1 <= size <= most):
            raise DataError(
                f"{place / 'config.json'}: {name}: {str(size)[:60]}: must be a number from 1 to "
                f"{most:,}, of {tensors:,} weights with {values:,} values in all"
            )


def _counted(files: Sequence[Path]) -> tuple[int, int]:
    """(how many tensors, how many values in them) safetensors files hold, by their headers."""
    from safetensors import SafetensorError, safe_open

    tensors, values = 0, 0
    for file in files:
        try:
            with safe_open(file, "numpy") as stored:
                for name in stored.keys():  # noqa: SIM118
                    tensors += 1
                    values += math.prod(stored.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file}: not a whole safetensors file ({error})") from None
    return tensors, values


def _json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; DataError where it holds none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{file}: holds no JSON object that can be read")
    return found


def chat_version(settings: Settings, field: str) -> list[int]:
    """How the chat template of a field's model is used, for keys: [chat.VERSION].

    [] where the model has none, and where it belongs to this project: VERSION changes nothing
    there."""
    name = wanted(settings, field)
    wheel = gguf_files.is_gguf(name) and name.removeprefix(gguf_files.PREFIX) in gguf_files.WHEELS
    if wheel or name == "scratch" or name.startswith("world:"):
        return []
    if gguf_files.is_gguf(name):
        return [chat.VERSION]
    place = folder(settings, field)
    if place is None or any(place.glob("chat_template*")):
        return [chat.VERSION]
    try:
        config = _json_object(place / "tokenizer_config.json")
    except DataError:  # loading says what is wrong
        return []
    return [chat.VERSION] if config.get("chat_template") else []


def read_config(settings: Settings, field: str) -> dict[str, Any]:
    """The config.json of the model that a field names; SettingsError if it cannot be read."""
    place = folder(settings, field)
    if place is None:
        file = hub.model_file(wanted(settings, field), "config.json")
    else:
        file = place / "config.json"
    try:
        return _json_object(file)
    except DataError:
        raise SettingsError(f"{field}: {place} holds no config.json that can be read") from None


def _architecture(settings: Settings, field: str) -> str:
    """The first architecture that a model's config.json names; empty where it names none."""
    names = read_config(settings, field).get("architectures")
    first = names[0] if isinstance(names, list) and names else ""
    return first if isinstance(first, str) else ""


def kind(settings: Settings, field: str) -> str:
    """What a field's model is by its config.json: classifier (of sequences) or causal (an LM).

    For any other architecture the result is its name."""
    name = _architecture(settings, field)
    for ending, found in ARCHITECTURES.items():
        if name.endswith(ending):
            return found
    return name


def check_causal(settings: Settings, field: str) -> None:
    """SettingsError unless what a field names is whole and a causal LM by its config.json.

    field: model.base or data.generator; a name without a checkpoint of its own passes. The base
    must have as many layers as the adapter is to be in."""
    name = wanted(settings, field)
    if gguf_files.is_gguf(name) or added_to(name) or name in ("scratch", groups.WRITTEN_FILES):
        return
    place = folder(settings, field)
    found = _architecture(settings, field)
    if found.endswith(OTHER_HEADS):
        raise SettingsError(
            f"{field}: {place or name} is a {found}, not a causal LM: it has no head that writes, "
            "and one would be made up at random"
        )
    config, upper = read_config(settings, field), settings.model.lora_layers
    layers = next((config[name] for name in LAYERS if name in config), None)
    if field == "model.base" and upper and isinstance(layers, int) and upper > layers:
        raise SettingsError(
            f"model.lora_layers: {upper} is more than the {layers} layers of {place or name}"
        )


def judge_revision(settings: Settings, field: str) -> str | list:
    """What identifies a judge's model, and how it is asked where that can be chosen.

    field: evaluation.guard or evaluation.reward. SettingsError, before any work, if the model
    cannot be that judge."""
    found = kind(settings, field)
    if field == "evaluation.guard" and found == "causal":
        template = templates.guard(settings.evaluation.guard_template)
        own = chat_version(settings, field) if template is None else []
        return [revision(settings, field), template, *own]

    wrong = _misfit(field, found, _labels(settings, field), settings.evaluation.verdict)
    if wrong:
        place = folder(settings, field) or wanted(settings, field)
        raise SettingsError(f"{field}: {place} {wrong}")
    return revision(settings, field)


def _labels(settings: Settings, field: str) -> list[str]:
    """The labels of a classifier, in lower case.

    transformers does not save the names that it gives by itself."""
    config = read_config(settings, field)
    named = config.get("id2label")
    if not named:
        named = {i: f"label_{i}" for i in range(config.get("num_labels", 2))}
    return [str(label).lower() for label in named.values()]


def _misfit(field: str, found: str, labels: list[str], verdict: str) -> str | None:
    """Why a model of this kind with these labels cannot be the judge that a field asks for.

    verdict: evaluation.verdict, which says what a guard's label or number means."""
    if found != "classifier":
        other = ", nor a causal LM" if field == "evaluation.guard" else ""
        return f"is not a sequence classifier{other}"
    if field == "evaluation.guard":
        form = groups.VERDICT.fullmatch(verdict)
        if form and form["side"]:
            one = len(labels) == 1
            return None if one else f"has {len(labels)} labels, and {verdict!r} needs one number"
        label = form["word"].lower() if form else "safe"
        if label not in labels:
            hint = "" if form else "; say which one means what, evaluation.verdict"
            return f"has no label called {label}; its labels: {', '.join(labels)}{hint}"
    if field == "evaluation.reward" and len(labels) != 1:
        return f"must have one label, the reward; it has {len(labels)}"
    return None


def at_endpoint(settings: Settings) -> bool:
    """Whether the grader is asked over HTTP."""
    return settings.evaluation.grader.startswith(("http://", "https://"))


def grader_revision(settings: Settings, asked_with: str = "grade") -> list:
    """What identifies the grader and how it is asked.

    asked_with: a file of fedlib/prompts, as `templates.grading` takes it. SettingsError, before any
    work, if it cannot be a grader."""
    options = settings.evaluation
    if at_endpoint(settings):
        return [options.grader, options.grader_model, templates.grading(asked_with)]
    if kind(settings, "evaluation.grader") != "causal":
        raise SettingsError(
            f"evaluation.grader: {options.grader} is not a causal LM; also known: rubric, an "
            "endpoint http(s)://HOST/v1"
        )
    own = chat_version(settings, "evaluation.grader")
    return [revision(settings, "evaluation.grader"), templates.grading(asked_with), *own]
