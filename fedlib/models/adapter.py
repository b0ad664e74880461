"""The LoRA adapter: attached to a base, read and set as one vector, written in PEFT's format."""

import functools
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners import lora
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from fedlib.models import frozen
from fedlib.settings import errors, identity
from fedlib.settings.errors import DataError, SettingsError, nearest
from fedlib.settings.groups import Model

# Four harmless warnings: peft itself makes that call; peft sets the option right; peft asks the hub
# for what is in the cache; peft looks for the base at a relative path.
warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
warnings.filterwarnings("ignore", "Unable to fetch remote file", UserWarning)
warnings.filterwarnings("ignore", "Could not find a config file", UserWarning)
# Progress bars and reminders of transformers would fill the notebooks.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

# The fields of an adapter's config that may say anything.
PLAIN = ("r", "lora_alpha", "lora_dropout", "target_modules", "fan_in_fan_out", "task_type")
PLAIN += ("inference_mode", "peft_type", "peft_version", "base_model_name_or_path", "revision")
SMALL = 32768  # numbers in a weight; multiplying once is faster up to there, slower above


def attach_lora(base: Any, options: Model, seed: int) -> Any:
    """A PeftModel: the base with a fresh LoRA adapter (Hu et al. 2022), which changes nothing yet.

    The adapter depends on the seed only, and the caller's random state is left as it was.
    SettingsError, with the base's linear modules, if model.lora_targets does not fit."""
    targets = None if options.lora_targets == "default" else options.lora_targets
    wanted = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        bias="none",
        target_modules=targets,
        exclude_modules=_outside(base, options.lora_layers) if options.lora_layers else None,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(identity.derive(seed, "adapter"))
        try:
            tuned = get_peft_model(base, wanted)
        except ValueError as error:
            known = ", ".join(_linear_names(base))
            raise SettingsError(
                f"model.lora_targets: {options.lora_targets} does not fit this model; its linear "
                f"modules: {known} ({str(error).splitlines()[0]})"
            ) from None
    _check_targets(tuned, targets or ())
    if options.lora_layers:
        # on disk the adapter names what it has, not what was left out
        wanted.target_modules = set(tuned.base_model.targeted_module_names)
        wanted.exclude_modules = None
    return multiply_once(tuned)


def _outside(base: Any, upper: int) -> list[str]:
    """The names of all modules outside the upper layers; SettingsError if there are not so many."""
    layers = frozen.decoder_layers(base)
    if upper > len(layers):
        raise SettingsError(
            f"model.lora_layers: {upper} is more than the {len(layers)} layers of this model"
        )
    inside = {part for layer in layers[len(layers) - upper :] for part in layer.modules()}
    return [name for name, part in base.named_modules() if name and part not in inside]


def _check_targets(tuned: Any, targets: Sequence[str] | str) -> None:
    """SettingsError where one of the targets fits no module, or one that shares its weight.

    tuned: a PeftModel; PEFT is silent as long as one target fits."""
    adapted = tuned.base_model.targeted_module_names
    base = tuned.get_base_model()
    for target in [] if isinstance(targets, str) else targets:
        if not any(f".{name}".endswith(f".{target}") for name in adapted):
            known = nearest(target, _linear_names(base))
            raise SettingsError(f"model.lora_targets: {target!r} fits no module{known}")

    # Merged, an adapter on one of two modules with one weight would change both.
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    weights = [getattr(part, "base_layer", part).weight for part in ends if part is not None]
    if len(weights) == 2 and weights[0] is weights[1]:
        for name in adapted:
            if base.get_submodule(name) in ends:
                raise SettingsError(
                    f"model.lora_targets: {name} shares its weight with the other end of the model "
                    "(tied embeddings), so that a merged adapter would change both: leave it out"
                )


def _linear_names(base: Any) -> list[str]:
    """The last parts of the names of a model's linear modules, such as q_proj."""
    found = set()
    for name, part in base.named_modules():
        if isinstance(part, nn.Linear | lora.LoraLayer) and ".lora_" not in name:
            found.add(name.removesuffix(".base_layer").split(".")[-1])
    return sorted(found)


def multiply_once(tuned: Any) -> Any:
    """The PeftModel, whose SMALL adapted modules now multiply once, by W + scale B A.

    PEFT makes three products, and calling them takes longer there than the arithmetic
    (benchmarks/round.py). The result is the same except for rounding. A module with dropout, or
    with an adapter in another precision than its weight, is left as PEFT made it."""
    for part in tuned.modules():
        if type(part) is not lora.Linear or type(part.base_layer) is not nn.Linear:
            continue
        small = part.weight.numel() <= SMALL
        same_precision = part.lora_A["default"].weight.dtype == part.weight.dtype
        no_dropout = isinstance(part.lora_dropout["default"], nn.Identity)
        if small and same_precision and no_dropout:
            part.forward = functools.partial(_once, part)
    return tuned


def _once(part: Any, x: Tensor) -> Tensor:
    """The forward pass of an adapted linear module, x [..., in] -> [..., out]."""
    if part.merged or part.disable_adapters:
        return lora.Linear.forward(part, x)
    a, b = part.lora_A["default"].weight, part.lora_B["default"].weight
    weight = torch.addmm(part.weight, b, a, alpha=part.scaling["default"])
    return linear(x, weight, part.bias)


def parameters(tuned: Any) -> list[nn.Parameter]:
    """The adapter's parameters in the vector's fixed order: by name."""
    by_name = sorted(tuned.named_parameters())
    return [parameter for _, parameter in by_name if parameter.requires_grad]


def get_vector(tuned: Any) -> Tensor:
    """The adapter as one float32 vector [D], a copy."""
    parts = parameters(tuned)
    device = parts[0].device
    return torch.cat([part.detach().flatten().float().to(device) for part in parts])


@torch.no_grad()
def set_vector(tuned: Any, vector: Tensor) -> None:
    """Write a vector [D] into the adapter; ValueError if the adapter is of another length."""
    parts = parameters(tuned)
    sizes = [part.numel() for part in parts]
    if vector.shape != (sum(sizes),):
        raise ValueError(
            f"the adapter has {sum(sizes)} parameters, the vector's shape is {tuple(vector.shape)}"
        )
    for part, piece in zip(parts, vector.split(sizes), strict=True):
        part.copy_(piece.view_as(part))


def write_adapter(tuned: Any, folder: Path, base: str, commit: str | None) -> None:
    """Write the adapter in PEFT's format, byte for byte reproducible (PEFT's own writer is not).

    base (folder or name on the hub), commit: what the adapter's config says it belongs to."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().float().cpu().contiguous()
        for name, value in sorted(get_peft_model_state_dict(tuned).items())
    }
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    fields = tuned.peft_config["default"].to_dict() | {"inference_mode": True}
    fields |= {"base_model_name_or_path": base, "revision": commit}
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in fields.items()}
    text = json.dumps(plain, indent=1, sort_keys=True, default=str)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def read_adapter(folder: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    """(config, tensors) of a LoRA adapter in PEFT's format; DataError where it is no plain one.

    PEFT would follow some fields of a config to modules that it imports and to files elsewhere."""
    file = folder / "adapter_config.json"
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read ({type(error).__name__})") from None
    if not isinstance(fields, dict) or fields.get("peft_type") != "LORA":
        raise DataError(f"{file}: is not that of a LoRA adapter")

    # all but the plain fields must say what they say in any plain adapter
    usual = json.loads(json.dumps(LoraConfig().to_dict(), default=str))
    for name, value in fields.items():
        if name not in PLAIN and value and value != usual.get(name):
            said = json.dumps(value)[:60]
            raise DataError(f"{file}: {name}: {said}: only plain LoRA adapters are read")
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{folder / 'adapter_model.safetensors'}: cannot be read ({error})"
        ) from None

    # memory is taken by the config, so that must fit the tensors
    most = max((max(tensor.shape, default=0) for tensor in tensors.values()), default=0)
    rank: Any = fields.get("r")
    alpha: Any = fields.get("lora_alpha")
    dropout: Any = fields.get("lora_dropout")
    targets: Any = fields.get("target_modules")
    fits = {
        "r": _is_number(rank) and isinstance(rank, int) and 1 <= rank <= most,
        "lora_alpha": _is_number(alpha),
        "lora_dropout": _is_number(dropout) and 0 <= dropout < 1,
        "target_modules": isinstance(targets, list) and all(isinstance(t, str) for t in targets),
    }
    for name, right in fits.items():
        if not right:
            said = json.dumps(fields.get(name))[:60]
            raise DataError(f"{file}: {name}: {said} does not fit the adapter's tensors")
    wanted = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        fan_in_fan_out=fields.get("fan_in_fan_out") is True,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return wanted, tensors


def _is_number(value: Any) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and math.isfinite(value)


def read_alignment(file: Path) -> dict[str, Tensor]:
    """{module: V [out, in]}: what alignment added to each weight of a base.

    file: the LoRA factors A and B of that training, with their scale in its metadata. V is
    scale B A. DataError where it holds no such thing."""
    found = {}
    try:
        with safe_open(file, "pt") as stored:
            scale = float(stored.metadata()["scale"])
            names = list(stored.keys())
            state = {name: stored.get_tensor(name).float() for name in names}
        for name in names:
            module, ending, _ = name.partition(".lora_A.weight")
            if ending:
                product = scale * state[f"{module}.lora_B.weight"] @ state[name]
                found[module.removeprefix("base_model.model.")] = product
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{file}: holds no alignment: {errors.one_line(error)}") from None
    return found
