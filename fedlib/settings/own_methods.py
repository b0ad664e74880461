"""A person's own methods, which settings name as FILE.py:NAME."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from fedlib.settings import identity, machine
from fedlib.settings.errors import SettingsError


def is_own(name: str) -> bool:
    """Whether a method's name is FILE.py:NAME, one of a person's own file."""
    return name.rpartition(":")[0].endswith(".py")


def content(name: str | None) -> str:
    """A digest of the file that FILE.py:NAME stands for, for keys; "" for other names.

    DataError where there is no such file."""
    file = (name or "").rpartition(":")[0]
    return identity.file_digest(machine.path(file)) if file else ""


def find(field: str, name: str) -> Any:
    """What FILE.py calls NAME, or None; SettingsError, which names the field, if the file fails."""
    file, _, wanted = name.rpartition(":")
    module = _module(field, machine.path(file), content(name))
    return getattr(module, wanted, None)


@functools.lru_cache(maxsize=8)
def _module(field: str, file: Path, _content: str) -> ModuleType:
    """The file as a module, executed once for each content it has had."""
    spec: Any = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingsError(f"{field}: {file}: {type(error).__name__}: {error}") from None
    return module
