"""A person's own methods, which settings name as FILE.py:NAME or package.module:NAME.

FIELDS says where such a name is accepted and what the method is handed. docs/extending.md shows
each. What a method returns is checked where it is used."""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from fedlib.settings import errors, groups, identity, machine
from fedlib.settings.errors import SettingsError

# field: (what the method is handed first, in this order; what it may ask for by name)
FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "federation.aggregator": (
        ("updates",),
        ("sizes", "f", "history", "generator", "variant"),
    ),
    "data.attack": (("rows",), ("client", "rng", "source")),
    "data.poison.trigger": (("instruction", "rng"), ()),
    "defense.filter": (("rows",), ("model", "encode")),
    "defense.level": (
        ("update",),
        ("model", "tokenizer", "rows", "encode", "training", "rounds", "seed"),
    ),
    "evaluation.judges": (("prompts", "responses"), ()),
}

_loaded: dict[str, str] = {}  # packages that methods came from: the content they had


@dataclass(frozen=True)
class Own:
    """A method of a person's own: called like a function, every failure is one line.

    field: the setting that names it; name: as the setting has it; asks: what it takes by name;
    at: where in the work it is called, for the line."""

    field: str
    name: str
    function: Callable[..., Any]
    asks: tuple[str, ...] = ()
    at: str = ""

    def within(self, place: str) -> "Own":
        """The same method, called at a place: client 3, round 2 of 5."""
        return replace(self, at=place)

    def __call__(self, *given: Any, **offered: Any) -> Any:
        """What the function returns; SettingsError, with file and line, where it raises."""
        asked = {name: value for name, value in offered.items() if name in self.asks}
        try:
            return self.function(*given, **asked)
        except SettingsError:
            raise
        except (Exception, SystemExit) as error:  # a script may end the process
            source = inspect.unwrap(self.function)
            file = getattr(getattr(source, "__code__", None), "co_filename", None)
            raise self.refused(errors.one_line(error, file)) from None

    def refused(self, problem: str) -> SettingsError:
        """The error, one line, that says what is wrong with this method or what it returned."""
        place = f"{self.at}: " if self.at else ""
        return SettingsError(f"{self.field}: {self.name}: {place}{problem}")


def is_own(name: Any) -> bool:
    """Whether a method's name is FILE.py:NAME or package.module:NAME."""
    return isinstance(name, str) and re.fullmatch(groups.OWN, name) is not None


def called(name: str) -> str:
    """What a method is called: NAME of FILE.py:NAME; a built-in method's name is its own."""
    return name.rpartition(":")[2]


def method(field: str, name: Any) -> Any:
    """The Own method that a setting names, or the name as it is where it is built in.

    SettingsError where the file, the module or the name is missing, or where the function does not
    take what FIELDS says that it is handed."""
    if not is_own(name):
        return name
    function = find(field, name)
    if not callable(function):
        raise SettingsError(f"{field}: {name}: must be a function, is {type(function).__name__}")
    return checked(Own(field, name, function))


def checked(own: Own) -> Own:
    """The method with what it asks for by name; SettingsError where its signature does not fit."""
    first, offered = FIELDS[own.field]
    try:
        signature = inspect.signature(own.function)
    except ValueError:  # some compiled functions do not say
        return own
    parameters = list(signature.parameters.values())
    by_name = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)

    # the first ones are handed by their place
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = places[: len(first)]
    asks = tuple(n for n in offered if (takes_all or n in by_name) and n not in taken)
    problem = next((f"its first parameter is {n!r}" for n in taken if n in offered), "")
    try:
        signature.bind(*first, **dict.fromkeys(asks))
    except TypeError as error:
        problem = problem or str(error)
    if problem:
        further = f", and by name what it asks for of {', '.join(offered)}" if offered else ""
        raise own.refused(f"{problem}; it is handed {', '.join(first)}{further}")
    return replace(own, asks=asks)


def counted(field: str, name: Any) -> Any:
    """What counts in a key: [NAME, a digest of the source] of an own method, else the name."""
    return [called(name), content(name, field)] if is_own(name) else name


def content(name: str | None, field: str = "data.poison.trigger") -> str:
    """A digest of the source that an own method comes from, for keys; "" for other names.

    Of a file its own bytes, of a module all Python files of its top package. DataError where there
    is no such file, SettingsError where there is no such module."""
    if not is_own(name):
        return ""
    place = str(name).rpartition(":")[0]
    if not place.endswith(".py"):
        return _package_content(_package_files(field, place))
    try:
        return identity.file_digest(machine.path(place))
    except errors.DataError as error:
        raise errors.DataError(f"{field}: {error}") from None


def find(field: str, name: str) -> Any:
    """What NAME is in the file or module; SettingsError, one line, where it cannot be had."""
    place, _, wanted = name.rpartition(":")
    digest = content(name, field)
    if place.endswith(".py"):
        module = _file_module(field, machine.path(place), digest)
    else:
        module = _named_module(field, place, digest)
    if not hasattr(module, wanted):
        known = [n for n, value in vars(module).items() if _is_offered(n, value, module)]
        raise SettingsError(f"{field}: {place} has no {wanted!r}{errors.nearest(wanted, known)}")
    return getattr(module, wanted)


def _is_offered(name: str, value: Any, module: ModuleType) -> bool:
    """Whether a name of a module may be a method: public, and not imported from elsewhere."""
    if name.startswith("_") or isinstance(value, ModuleType):
        return False
    named = inspect.isfunction(value) or inspect.isclass(value)
    return not named or value.__module__ == module.__name__


# --- files


@functools.lru_cache(maxsize=64)
def _file_module(field: str, file: Path, digest: str) -> ModuleType:
    """The file as a module, executed once for each content it has had."""
    name = f"{file.stem}_{digest[:12]}"
    spec: Any = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise SettingsError(f"{field}: {file}: {errors.one_line(error, str(file))}") from None
    return module


def beside(settings: Any, file: Path) -> Any:
    """The content of a settings file, with FILE.py:NAME made absolute where FILE lies beside it.

    A file in the repository's root is found without that; SettingsError where there are two."""
    if isinstance(settings, dict):
        return {key: beside(value, file) for key, value in settings.items()}
    if isinstance(settings, list):
        return [beside(value, file) for value in settings]
    if not is_own(settings):
        return settings

    place, _, name = settings.rpartition(":")
    near, usual = file.resolve().parent / Path(place).expanduser(), machine.path(place)
    if not place.endswith(".py") or not near.is_file() or near == usual.resolve():
        return settings
    if usual.is_file():
        raise SettingsError(f"{file}: {settings}: which of the two, {near} or {usual}?")
    return f"{near}:{name}"


# --- modules


def _package_files(field: str, dotted: str) -> dict[str, Path]:
    """{place: file} of the Python files of a module's top package, or of the module by itself."""
    top = dotted.partition(".")[0]
    root = str(machine.ROOT)
    if root not in sys.path:
        sys.path.append(root)
    importlib.invalidate_caches()

    spec = None
    with contextlib.suppress(ValueError):  # a module without a spec has no file
        spec = importlib.util.find_spec(top)
    if spec is None:
        raise SettingsError(
            f"{field}: no module {top!r}: install it, or put it in {root}; a file: FILE.py:NAME"
        )
    files: dict[str, Path] = {}
    for folder in map(Path, spec.submodule_search_locations or []):
        files |= {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.py")}
    if spec.origin and spec.origin.endswith(".py"):
        files |= {Path(spec.origin).name: Path(spec.origin)}
    if not files:
        raise SettingsError(f"{field}: module {top!r} has no Python source")
    return files


def _package_content(files: Mapping[str, Path]) -> str:
    """A digest of the content of a package's files; a large package is read only once."""
    known = []
    for place, file in sorted(files.items()):
        stat = file.stat()
        known.append((place, file, stat.st_mtime_ns, stat.st_size))
    return _digest_of(tuple(known))


@functools.lru_cache(maxsize=64)
def _digest_of(files: tuple[tuple[str, Path, int, int], ...]) -> str:
    return identity.digest([[place, identity.file_digest(file)] for place, file, _, _ in files])


def _named_module(field: str, dotted: str, digest: str) -> ModuleType:
    """A module by its name, imported anew where a file of its package has changed."""
    top = dotted.partition(".")[0]
    if _loaded.get(top, digest) != digest:
        for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
            del sys.modules[name]
    try:
        module = importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        # the module itself, not one that it needs
        if error.name and f"{dotted}.".startswith(f"{error.name}."):
            raise SettingsError(f"{field}: no module {dotted!r}{_near_modules(dotted)}") from None
        raise SettingsError(f"{field}: {dotted}: {errors.one_line(error)}") from None
    except (Exception, SystemExit) as error:
        raise SettingsError(f"{field}: {dotted}: {errors.one_line(error)}") from None
    _loaded[top] = digest
    return module


def _near_modules(dotted: str) -> str:
    """The end of an error line: the module of the same package that is named most like it."""
    parent, _, last = dotted.rpartition(".")
    package = sys.modules.get(parent)
    if package is None or not hasattr(package, "__path__"):
        return ""
    return errors.nearest(last, [found.name for found in pkgutil.iter_modules(package.__path__)])
