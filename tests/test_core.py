"""The core knows no file, no store and no preset: it works on values that it is handed.

tests/test_layout.py imports it in a new process, and looks what comes with it."""

import ast

import pytest

from fedlib.settings import machine

PACKAGE = machine.ROOT / "fedlib"
ROOMS = ("aggregation", "attack", "defense", "swat")
SINGLE = ("callbacks", "federation", "signals", "synthesis", "training")
FILES = [PACKAGE / f"{name}.py" for name in SINGLE]
FILES += sorted(file for room in ROOMS for file in (PACKAGE / room).glob("*.py"))
ABOVE = ("fedlib.lab", "fedlib.sources", "fedlib.papers", "fedlib.commands")
SETTINGS = ("fedlib.settings.presets", "fedlib.settings.machine")  # files and folders
TOUCHES_FILES = ("open(", "Path(", "pathlib", "os.path", "shutil", ".write_text", ".read_text")
TOUCHES_FILES += (".write_bytes", ".read_bytes", ".mkdir(", ".glob(", "safetensors", "json.")


def module_name(file):
    parts = file.relative_to(machine.ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def text_of(file):
    return file.read_text(encoding="utf-8")


def imported(tree):
    """Every module and name that is imported, those inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_core_is_all_there():
    assert len(FILES) > 15
    assert all(file.is_file() for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_no_import_of_the_core_leads_upwards(file):
    for name in imported(ast.parse(text_of(file))):
        assert not name.startswith((*ABOVE, *SETTINGS))


def test_imports_inside_functions_are_found():
    code = "import a.b\ndef f():\n    from c import d, e\n    import g"
    assert imported(ast.parse(code)) == {"a.b", "c.d", "c.e", "g"}


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_the_core_touches_no_file(file):
    text = text_of(file)
    assert [what for what in TOUCHES_FILES if what in text] == []
