"""The LoRA adapter: attached, as one flat vector, saved in PEFT's format."""

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners import lora
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from fedlib.settings import identity
from fedlib.settings.errors import SettingsError
from fedlib.settings.groups import Model

# Harmless: peft's own call; what is then set right; peft asks the hub for what is in the cache; peft
# looks for the base at a relative path.
warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
warnings.filterwarnings("ignore", "Unable to fetch remote file", UserWarning)
warnings.filterwarnings("ignore", "Could not find a config file", UserWarning)
# Reminders of transformers would stand in the notebooks.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

SMALL = 32768  # numbers in a weight; above it the whole product costs more than it saves


def attach_lora(base: nn.Module, options: Model, seed: int) -> Any:
    """A PeftModel with a fresh LoRA adapter (Hu et al. 2022), the same for every method of a seed."""
    targets = None if options.lora_targets == "default" else options.lora_targets
    wanted = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        bias="none",
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(identity.derive(seed, "adapter"))
        try:
            return multiply_once(get_peft_model(base, wanted))
        except ValueError as error:
            every = base.named_modules()
            known = {n.split(".")[-1] for n, part in every if isinstance(part, nn.Linear)}
            raise SettingsError(
                f"model.lora_targets: {options.lora_targets} does not fit this model; its linear "
                f"modules: {', '.join(sorted(known))} ({str(error).splitlines()[0]})"
            ) from None


def multiply_once(tuned: Any) -> Any:
    """The PeftModel with its SMALL adapted modules multiplying once, by W + scale B A.

    PEFT's three products and what comes with them take longer there than the arithmetic
    (benchmarks/round.py). The same function but for rounding; with dropout, or an adapter in another
    precision than the weight, a module stays PEFT's own."""
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
    if part.merged or part.disable_adapters:
        return lora.Linear.forward(part, x)
    a, b = part.lora_A["default"].weight, part.lora_B["default"].weight
    weight = torch.addmm(part.weight, b, a, alpha=part.scaling["default"])
    return linear(x, weight, part.bias)


def parameters(tuned: nn.Module) -> list[nn.Parameter]:
    """The adapter's parameters in the vector's fixed order: by name."""
    return [p for _, p in sorted(tuned.named_parameters()) if p.requires_grad]


def get_vector(tuned: nn.Module) -> Tensor:
    """The adapter as one float32 vector [D], a copy."""
    parts = parameters(tuned)
    device = parts[0].device
    return torch.cat([part.detach().flatten().float().to(device) for part in parts])


@torch.no_grad()
def set_vector(tuned: nn.Module, vector: Tensor) -> None:
    """Write a vector [D] into the adapter; ValueError if its length is not the adapter's."""
    parts = parameters(tuned)
    sizes = [part.numel() for part in parts]
    if vector.shape != (sum(sizes),):
        raise ValueError(
            f"the adapter has {sum(sizes)} parameters, the vector's shape is {tuple(vector.shape)}"
        )
    for part, piece in zip(parts, vector.split(sizes), strict=True):
        part.copy_(piece.view_as(part))


def save_adapter(tuned: Any, folder: Path, base: str, commit: str | None) -> None:
    """Write the adapter in PEFT's format, byte for byte reproducible (PEFT's own writer is not).

    base, commit: what the adapter's config says it belongs to."""
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


def read_alignment(file: Path) -> dict[str, Tensor]:
    """{module: V [out, in]}: what alignment added to each weight of a base, from its LoRA factors."""
    with safe_open(file, "pt") as stored:
        scale = float(stored.metadata()["scale"])
        names = list(stored.keys())
        state = {name: stored.get_tensor(name).float() for name in names}
    found = {}
    for name in names:
        module, ending, _ = name.partition(".lora_A.weight")
        if ending:
            product = scale * state[f"{module}.lora_B.weight"] @ state[name]
            found[module.removeprefix("base_model.model.")] = product
    return found
