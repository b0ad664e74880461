"""What depends on the machine: where outputs go, what a written path means, the device."""

import ctypes
import errno
import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedlib.settings import errors, groups

ROOT = Path(__file__).resolve().parents[2]
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # what only writing can meet
DENIED = {errno.EACCES, errno.EPERM}  # what reading can meet too


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


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Make one line, a SettingsError, of an error that says that place cannot be written to."""
    try:
        yield
    except Exception as error:
        problem = _unwritable(error)
        if not problem:
            raise
        raise errors.SettingsError(
            f"outputs: {place}: {problem}; what is finished is kept, and the same command goes on "
            "once that is mended; FEDLIB_OUTPUTS names another folder for all outputs"
        ) from None


def _unwritable(error: Exception) -> str:
    """Why a file of the outputs could not be written; "" where the error is about another thing."""
    number = error.errno if isinstance(error, OSError) else None
    # the libraries written in Rust have the number in their message only
    in_text = re.search(r"\(os error (\d+)\)", str(error))
    if in_text:
        number = int(in_text[1])
    named = str(getattr(error, "filename", None) or "")
    denied = number in DENIED and named.startswith(str(outputs()))
    return os.strerror(number) if number and (denied or number in NO_ROOM) else ""


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


def has_gpu() -> bool:
    """Whether the CUDA driver sees a device. Asked without torch; heeds CUDA_VISIBLE_DEVICES."""
    return _count_gpus() > 0


def gpus() -> list[str]:
    """The CUDA devices of this process, each as CUDA_VISIBLE_DEVICES names it for a worker."""
    return visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), _count_gpus())


def visible_devices(given: str | None, count: int) -> list[str]:
    """The names of `count` devices that a process sees, given its CUDA_VISIBLE_DEVICES.

    A name there is a number or an identifier; where nothing is given they are 0, 1, ..."""
    if given is None:
        return [str(i) for i in range(count)]
    # the driver stops at the first name that it does not know
    return [name.strip() for name in given.split(",")][:count]


@functools.cache
def _count_gpus() -> int:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    # The driver returns 0 where a call succeeds.
    if cuda.cuInit(0) != 0:
        return 0
    count = ctypes.c_int(0)
    return count.value if cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


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
