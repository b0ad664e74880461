"""TODO: what this room is for."""

import ctypes
import functools
import os
from pathlib import Path

from fedlib.settings import errors

ROOT = Path(__file__).resolve().parents[2]


def outputs():
    """The folder for everything that is made: outputs/ in the repository, or FEDLIB_OUTPUTS."""
    return Path(os.environ.get("FEDLIB_OUTPUTS") or ROOT / "outputs")


def path(text):
    """A path written in settings: absolute, from the home folder, or relative to the repository's root."""
    return ROOT / Path(text).expanduser()


@functools.cache
def has_gpu():
    """Whether the CUDA driver sees a device (asked without torch, heeding CUDA_VISIBLE_DEVICES)."""
    try:
        cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
    except OSError:
        return False
    return (
        cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    )


def device(settings):
    wanted = settings.model.device
    if wanted == "cuda" and not has_gpu():
        raise errors.SettingsError(
            "model.device: cuda: no CUDA device is visible here; use auto or cpu"
        )
    return ("cuda" if has_gpu() else "cpu") if wanted == "auto" else wanted


def dtype(settings):
    return {"auto": "bfloat16" if device(settings) == "cuda" else "float32"}.get(
        settings.model.dtype, settings.model.dtype
    )
