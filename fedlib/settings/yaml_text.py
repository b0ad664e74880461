"""YAML as people write it, and as anybody could: each trap is one line here, and no surprise."""

import re
from typing import Any

import yaml

from fedlib.settings.errors import SettingsError

LARGEST = 100_000  # values of a text, counted wherever an alias repeats them
LONGEST = 100  # digits of a number
# YAML reads 010 as 8 and 1:30 as 90.
OTHER_NUMBER = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9_]+(:[0-9_]+)+")


def parsed(place: str, text: str) -> Any:
    """What a text in YAML holds; SettingsError, with the place and line, where it holds nothing
    that can be used."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        line, said = _line(text, error), " ".join(str(problem).split())
    except RecursionError:
        line, said = "?", "it is nested too deep"
    except ValueError as error:  # such as the 99th of a month
        line, said = "?", str(error)
    raise SettingsError(f"{place}: line {line}: not valid YAML ({said})")


def _line(text: str, error: yaml.YAMLError) -> int | str:
    mark = getattr(error, "problem_mark", None)
    if mark:
        return mark.line + 1
    at = getattr(error, "position", None)
    return "?" if at is None else text.count("\n", 0, at) + 1


def _wrong(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Loader(yaml.SafeLoader):
    """YAML's own loader would let the last of two equal keys win, and read 010 as 8."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """The mapping as it is written, or an error where a key stands twice."""
        node = super().compose_mapping_node(anchor)
        # before `<<` brings in the fields of another mapping, which may come again
        keys = [str(key.value) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise _wrong("a key stands twice", node)
        return node

    def construct_yaml_int(self, node: Any) -> int:
        """A whole number, or an error where YAML means another one than a person would."""
        if len(node.value) > LONGEST:
            raise _wrong(f"a number of {len(node.value):,} digits", node)
        number = super().construct_yaml_int(node)
        if OTHER_NUMBER.fullmatch(node.value):
            raise _wrong(f"YAML reads {node.value} as {number}: write that, or put quotes", node)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _check_size(node: yaml.Node) -> None:
    """An error where aliases make a value endless, or larger than any settings are."""
    known: dict[int, int] = {}
    above: set[int] = set()

    def size(node: Any) -> int:
        if id(node) in above:
            raise _wrong("a value contains itself", node)
        if id(node) not in known:
            above.add(id(node))
            inside = node.value if isinstance(node, yaml.CollectionNode) else []
            pairs = isinstance(node, yaml.MappingNode)
            parts = [part for pair in inside for part in pair] if pairs else inside
            known[id(node)] = 1 + sum(map(size, parts))
            above.discard(id(node))
        if known[id(node)] > LARGEST:
            raise _wrong(f"more than {LARGEST:,} values: do aliases repeat them?", node)
        return known[id(node)]

    size(node)
