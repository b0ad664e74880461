"""The world's aligned chat model as paper W tunes it, for tests of SWAT and what goes with it."""

import torch

from fedlib.lab.loaded import load_base
from fedlib.models import adapter
from fedlib.settings import presets

MODEL = {"base": "world:chat", "lora_targets": "all-linear", "device": "cpu"}
TUNER = {"clients": 1, "sampled": 1, "malicious": 0, "expected": 0}
LAYERS = 6
CELLS = 7 * LAYERS  # module types by layers


def chat_settings():
    """Preset smoke with a single tuner of the chat model."""
    return presets.load("smoke", model=MODEL, data={"benign": ["format"]}, federation=TUNER)


def with_adapter(settings, scale=0.0):
    """The chat model with a LoRA adapter, moved by random numbers of this scale."""
    base, _ = load_base(settings)
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    vector = adapter.get_vector(tuned)
    drawn = torch.randn(vector.shape, generator=torch.Generator().manual_seed(1))
    adapter.set_vector(tuned, vector + scale * drawn)
    return tuned
