"""Settings by dotted names such as model.scratch.steps, and the line of an error."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fedlib.settings import groups, schema
from fedlib.settings.errors import SettingsError

TEXT = {"folder": "somewhere"}  # what preset text needs; settings do not look into the folder


def fields(group: type[groups.Group] = schema.Settings, prefix: str = "") -> Iterator[str]:
    """The dotted name of every single setting, groups within groups included."""
    for name, field in group.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, groups.Group):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def nested(dotted: str, value: Any) -> Any:
    """{"a": {"b": value}} for a.b."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} for {"a": {"b": value}}."""
    # data.fields is the one setting that is a mapping.
    if not isinstance(value, dict) or prefix == "data.fields.":
        return {prefix.rstrip("."): value}
    found = {}
    for name, inner in value.items():
        found |= flat(inner, f"{prefix}{name}.")
    return found


def changes(before: schema.Settings, after: schema.Settings) -> set[str]:
    """The dotted names of the settings that differ."""
    first, second = flat(before.model_dump()), flat(after.model_dump())
    return {name for name in first if first[name] != second[name]}


def message(call: Callable, *given: Any, **named: Any) -> str:
    """The one line of the SettingsError that a call raises."""
    with pytest.raises(SettingsError) as error:
        call(*given, **named)
    line = str(error.value)
    assert "\n" not in line
    return line


def missing(parts: list[str], line: str) -> list[str]:
    """Those of the parts that a line does not hold."""
    return [part for part in parts if part not in line]
