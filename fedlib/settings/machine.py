"""What depends on the machine: where outputs go, what a written path means, the device."""

import ctypes
import functools
import os
from pathlib import Path

from fedlib.settings import errors, groups

ROOT = Path(__file__).resolve().parents[2]


def outputs() -> Path:
    """The folder for everything that is made: outputs/ in the repository, or FEDLIB_OUTPUTS."""
    # a file of settings for a container may bring its quotes along, and a quoted ~ as it is
    named = os.environ.get("FEDLIB_OUTPUTS", "").strip("\"'")
    return Path(os.path.expanduser(named)) if named else ROOT / "outputs"


def made_folder(folder: Path) -> Path:
    """A folder of the outputs, made where it is missing; SettingsError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        problem = "" if os.access(folder, os.W_OK) else "it cannot be written to"
    except OSError as error:
        problem = str(error.strerror)
    if problem:
        raise errors.SettingsError(
            f"outputs: {folder}: {problem}; FEDLIB_OUTPUTS names another folder for all outputs"
        )
    return folder


def path(text: str) -> Path:
    """A path as settings give it: absolute, from the home folder, or from the repository's root."""
    return ROOT / Path(text).expanduser()


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_inside(name: str) -> bool:
    """Whether a name in a file of data leads to a place in the folder that it is about."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


@functools.cache
def has_gpu() -> bool:
    """Whether the CUDA driver sees a device. Asked without torch; heeds CUDA_VISIBLE_DEVICES."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    # The driver returns 0 where a call succeeds.
    if cuda.cuInit(0) != 0:
        return False
    count = ctypes.c_int(0)
    return cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def device(model: groups.Model) -> str:
    """cpu or cuda: what model.device means here; SettingsError where there is no such device."""
    if model.device == "cuda" and not has_gpu():
        raise errors.SettingsError(
            "model.device: cuda: no CUDA device is visible here; use auto or cpu"
        )
    if model.device == "auto":
        return "cuda" if has_gpu() else "cpu"
    return model.device


def dtype(model: groups.Model) -> str:
    """float32 or bfloat16: what model.dtype means on this machine's device."""
    # The device comes first, so that one which is missing is named whatever the precision.
    automatic = "bfloat16" if device(model) == "cuda" else "float32"
    return automatic if model.dtype == "auto" else model.dtype
