"""The package's shape: who imports whom, what is needed to import it, and what its files must not hold."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from fedlib.settings import machine

# A module may import fedlib modules of earlier lines only. Imports inside functions are not looked at.
LAYERS = [
    {"schema", "signal"},
    {"config"},
    {"files", "world"},
    {"poison", "tasks", "hub", "templates"},
    {"data", "checkpoints"},
    {"store", "asking"},
    {"judge", "attack"},
    {"runs", "report"},
    {"plots", "safety", "backdoor", "secure"},
    {"model", "generation", "training", "ranks", "progress"},
    {"aggregation", "filters", "swat"},
    {"synthesis", "pretraining"},
    {"defense"},
    {"federation"},
    {"reproduce", "plan", "export"},
    {"__main__"},
]
ALONE = {
    "schema",
    "ranks",
    "signal",
    "training",
    "progress",
}  # import no other fedlib module, not even settings
NO_TORCH = [
    "config",
    "runs",
    "report",
    "data",
    "files",
    "store",
    "world",
    "signal",
    "poison",
    "attack",
    "safety",
    "backdoor",
    "secure",
    "tasks",
    "hub",
    "templates",
    "checkpoints",
    "asking",
    "plan",
]
NOTEBOOK_TOOLS = [
    "papermill",
    "nbconvert",
    "nbformat",
    "IPython",
    "ipykernel",
    "jupyter_client",
    "matplotlib",
    "seaborn",
    "datasets",
    "openai",
    "flwr",
    "rich",
]
SOURCES = sorted((machine.ROOT / "fedlib").glob("*.py"))
MODULES = [p.stem for p in SOURCES if p.stem != "__init__"]
NOT_CORE = {"plots", "plan", "reproduce", "__main__"}
PYPROJECT = tomllib.loads((machine.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MACHINE = re.compile(r"(?<![\w.~$}>-])/(?:work|root|home|Users|mnt|opt|srv|media|tmp)/[\w.-]+")


def imported(source):
    """The fedlib modules that a module imports at its top level."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "fedlib":
                found |= {a.name for a in node.names}
            elif node.module and node.module.startswith("fedlib."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("fedlib.")}
    return found


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=machine.ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def requirement(text):
    return re.match(r"[A-Za-z0-9._-]+", text)[0].lower().replace("_", "-")


def test_every_module_has_its_layer():
    listed = [m for layer in LAYERS for m in layer]
    assert sorted(listed) == sorted(MODULES), "a new module goes into LAYERS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    at = next(i for i, layer in enumerate(LAYERS) if module in layer)
    allowed = set().union(*LAYERS[:at])
    found = imported((machine.ROOT / "fedlib" / f"{module}.py").read_text(encoding="utf-8"))
    assert found <= (set() if module in ALONE else allowed)


def test_imports_are_found():
    assert imported(
        "from fedlib import a, b\nimport fedlib.c\nfrom fedlib.d import e\nimport os\n"
        "def f():\n    from fedlib import g"
    ) == {"a", "b", "c", "d"}


def test_aggregation_knows_neither_models_nor_settings():
    tree = ast.parse((machine.ROOT / "fedlib" / "aggregation.py").read_text(encoding="utf-8"))
    names = {
        a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names
    }
    names |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names <= {"torch", "numpy", "math", "functools", "concurrent", "sklearn", "fedlib"}
    assert imported((machine.ROOT / "fedlib" / "aggregation.py").read_text(encoding="utf-8")) == {
        "ranks"
    }


def test_records_are_read_without_torch():
    code = f"import sys\nfrom fedlib import {', '.join(NO_TORCH)}\n"
    code += "print({'torch', 'transformers'} & set(sys.modules))"
    assert python(code).strip() == "set()"


def test_the_core_needs_no_notebook_tools():
    core = [m for m in MODULES if m not in NOT_CORE]
    assert len(core) > 10
    # None in sys.modules: importing it fails, and looking for it finds nothing, as where it is not installed
    code = (
        f"import sys\nfor name in {NOTEBOOK_TOOLS}: sys.modules[name] = None\n"
        f"from fedlib import {', '.join(core)}\nprint('imported')"
    )
    assert python(code).strip() == "imported"


def test_the_environment_file_agrees_with_pyproject():
    environment = yaml.safe_load((machine.ROOT / "environment.yml").read_text(encoding="utf-8"))
    project = PYPROJECT["project"]
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert environment["name"] == project["name"]
    assert sorted(conda) == ["pip", f"python{project['requires-python']}"]
    assert pip == ["-c constraints.txt", "-e .[dev]"] and "dev" in project["optional-dependencies"]


def test_every_dependency_is_pinned():
    lines = (machine.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    assert len(wanted) > 20 and not {requirement(w) for w in wanted} - {
        requirement(p) for p in pins
    }
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("file", SOURCES, ids=lambda p: p.name)
def test_a_source_file_is_one_room(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 320
    assert ast.get_docstring(ast.parse(text)) or not text.strip(), (
        "a line that says what the module is for"
    )


@pytest.mark.parametrize("file", SOURCES, ids=lambda p: p.name)
def test_nothing_is_loaded_that_could_run_code(file):
    """Weights come as safetensors, models from transformers' own classes."""
    unsafe = re.compile(
        r"trust_remote_code(?!=False)|\bpickle\b|torch\.load\b|\b(?:eval|exec)\(|yaml\.load\("
    )
    text = re.sub(r"\.eval\(\)", "", file.read_text(encoding="utf-8"))  # a model's mode
    assert not unsafe.findall(text)


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=machine.ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout: nothing says which files are tracked")
    return [
        file
        for name in listed.stdout.split("\0")
        if name and (file := machine.ROOT / name).is_file()
    ]


def test_no_file_names_a_folder_of_one_machine():
    files, found = tracked(), []
    assert machine.ROOT / "pyproject.toml" in files
    for file in files:
        content = file.read_bytes()
        if (
            file == Path(__file__) or b"\0" in content
        ):  # this file lists them; weights and images are no text
            continue
        found += [
            f"{file.relative_to(machine.ROOT)}: {m}"
            for m in MACHINE.findall(content.decode("utf-8"))
        ]
    assert not found


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("see /home/ann/lab", True),
        ('"/tmp/out"', True),
        ("x = '/srv/lab'", True),
        ("https://a.org/home/b", False),
        ("~/mnt/x", False),
        ("a/tmp/b", False),
    ],
)
def test_machine_folders_are_recognised(text, wrong):
    assert bool(MACHINE.search(text)) == wrong


def test_outputs_are_not_tracked():
    inside = [f.relative_to(machine.ROOT).as_posix() for f in tracked() if "outputs" in f.parts]
    assert inside == ["outputs/.gitkeep"]


PAGES = sorted(machine.ROOT.glob("*.md")) + sorted(machine.ROOT.glob("docs/*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text) + re.findall(
        r"`(docs/[\w.-]+|params/[\w.-]+)`", text
    )
    missing = [
        link
        for link in links
        if not (page.parent / link).exists() and not (machine.ROOT / link).exists()
    ]
    assert not missing
