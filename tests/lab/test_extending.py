"""docs/extending.md: every example is run as the page has it, as a new user would."""

import re

import pytest
import yaml
from tiny_runs import tiny_settings

from fedlib.lab import runs
from fedlib.settings import machine, own_methods, presets

PAGE = (machine.ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
# a code block, and the settings lines that follow it up to the next block or heading
EXAMPLES = [
    (code, re.findall(r"^    (\w+: \{.*?\})(?: +#.*)?$", after, re.MULTILINE))
    for code, after in re.findall(r"```python\n(.*?)```(.*?)(?=```|\n## |\Z)", PAGE, re.DOTALL)
]
NAMES = [re.findall(r"^def (\w+)", code, re.MULTILINE)[-1] for code, _ in EXAMPLES]
SETTINGS = [
    pytest.param(code, name, line, id=f"{name}-{i}")
    for name, (code, lines) in zip(NAMES, EXAMPLES, strict=True)
    for i, line in enumerate(lines)
]


def asked(line):
    """The fields of a settings line that name a method of one's own."""
    [(group, fields)] = yaml.safe_load(line).items()
    if "poison" in fields:
        return {"data.poison.trigger"}
    return {f"{group}.{name}" for name in fields}


def test_the_page_has_every_field_in_few_lines():
    assert set().union(*(asked(line) for _, lines in EXAMPLES for line in lines)) == {
        *own_methods.FIELDS,
        "federation.compare",
        "defense.compare",
    }
    for code, lines in EXAMPLES:
        assert lines, "settings that name it"
        assert sum(bool(line.strip()) for line in code.splitlines()[1:]) < 10


def test_the_table_says_what_each_is_handed():
    for field, (first, offered) in own_methods.FIELDS.items():
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{field}`"))
        cells = [cell.strip() for cell in row.split("|")]
        assert re.sub(r" \[[A-Z, ]+\]", "", cells[3]).split(", ") == list(offered or [""])
        assert len(first) == 1 or all(name in cells[2] for name in first)


@pytest.mark.parametrize("code, name, line", SETTINGS)
def test_an_example_runs_as_written(tmp_path, code, name, line):
    """The file and the settings lie in a folder of the user's, with a space in its name."""
    folder = tmp_path / "my lab"
    folder.mkdir()
    (folder / "mine.py").write_text(code)
    (folder / "own.yaml").write_text(f"preset: smoke\n{line}\nmodel: {{device: cpu}}\n")
    settings = presets.load(str(folder / "own.yaml"))
    if "compare" in line:
        compared = [*settings.federation.compare, *settings.defense.compare]
        assert f"{folder}/mine.py:{name}" in compared
        return

    run = runs.get(tiny_settings(settings, data={"rows": 24}))
    assert all(isinstance(value, int | float) for value in run.scores().values())
    in_the_name = set(asked(line)) - {"evaluation.judges", "defense.filter"}
    assert not in_the_name or f"-{name}" in run.folder.name
