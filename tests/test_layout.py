"""The package's shape: who imports whom, what an import needs, what its files must not hold."""

import ast
import collections
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from fedlib.settings import groups, machine

PACKAGE = machine.ROOT / "fedlib"

# Rooms and modules from the bottom up: each may import from its own line and from lines above it.
LAYERS = [
    {"settings"},
    {"models"},
    {"judges"},
    {"aggregation", "training", "signals"},
    {"attack", "swat", "synthesis", "stacked"},
    {"callbacks", "defense"},
    {"federation"},
    {"sources"},
    {"lab", "flower"},
    {"papers"},
    {"lessons"},
    {"commands"},
    {"__main__"},
]
# What a reader of the three papers reads: it is handed values, and knows no file, store or preset.
CORE = {"aggregation", "training", "signals", "stacked", "attack", "swat", "synthesis"}
CORE |= {"callbacks", "defense", "federation"}
NO_TORCH = (
    "settings.presets settings.own_methods sources papers.grids papers.tables papers.claims "
    "papers.estimates papers.output lab.runs lab.store lab.keys lab.checks lab.client_data "
    "lab.prompting models.hub models.checkpoints models.templates judges.matching judges.refusals "
    "judges.words judges.panel signals attack commands.plan commands.reproduce commands.compare "
    "lessons.recording lessons.pictures lessons.tuning_pictures lessons.poison_exercises "
    "lessons.controls lessons.teachers"
).split()
NOTEBOOK_TOOLS = (
    "papermill nbconvert nbformat IPython ipykernel jupyter_client matplotlib seaborn datasets "
    "openai flwr dask distributed rich ipywidgets"
).split()
NEEDS_NOTEBOOK_TOOLS = {"commands", "__main__", "flower"}  # and what draws figures
SOURCES = sorted(PACKAGE.rglob("*.py"))
PYPROJECT = tomllib.loads((machine.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MACHINE = re.compile(r"(?<![\w.~$}>-])/(?:work|root|home|Users|mnt|opt|srv|media|tmp)/[\w.-]+")


def module_name(file):
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = [module_name(file) for file in SOURCES]


def room(module):
    """What a module belongs to in LAYERS: its folder, or itself."""
    return module.split(".")[1]


CORE_MODULES = [name for name in MODULES if name != "fedlib" and room(name) in CORE]
WITHOUT_TOOLS = [
    name
    for name in MODULES
    if room(f"{name}.") not in NEEDS_NOTEBOOK_TOOLS and "figures" not in name
]


def imported(source, known=()):
    """The fedlib modules that a module imports anywhere, in its functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value}  # a module's name kept as a string imports it as well
    return {name for name in found if name in known}


GRAPH = {
    module_name(file): imported(file.read_text(encoding="utf-8"), MODULES)
    - {module_name(file), "fedlib"}
    for file in SOURCES
}


def circle(graph):
    """A list of modules that import each other in a circle; empty where there is none."""
    state, path = {}, []

    def visit(node):
        state[node] = "open"
        path.append(node)
        for other in sorted(graph[node]):
            # a package and its own modules are one room: its __init__ may gather them
            if other.startswith(f"{node}."):
                continue
            if state.get(other) == "open":
                return path[path.index(other) :]
            if other not in state and (found := visit(other)):
                return found
        state[node] = "closed"
        path.pop()
        return []

    for node in graph:
        if node not in state and (found := visit(node)):
            return found
    return []


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=machine.ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def requirement(text):
    return re.match(r"[A-Za-z0-9._-]+", text)[0].lower().replace("_", "-")


# --- who imports whom


def test_every_room_has_its_layer():
    listed = [name for layer in LAYERS for name in layer]
    rooms = {room(module) for module in MODULES if module != "fedlib"}
    assert sorted(listed) == sorted(rooms), "a new room goes into LAYERS"


@pytest.mark.parametrize("module", [m for m in MODULES if m != "fedlib"])
def test_imports_run_downwards(module):
    at = next(i for i, layer in enumerate(LAYERS) if room(module) in layer)
    allowed = set().union(*LAYERS[: at + 1])
    assert {room(name) for name in GRAPH[module]} <= allowed


def test_no_circle():
    assert circle(GRAPH) == []


def test_a_circle_is_found():
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()})) == {"a", "b", "c"}
    assert circle({"a": {"a.x", "b"}, "a.x": {"a"}, "b": set()}) == []


def test_imports_are_found():
    source = (
        "from fedlib import a, b\nimport fedlib.c\nfrom fedlib.d import e\nimport os\n"
        "WORK = 'fedlib.h'\ndef f():\n    from fedlib import g"
    )
    known = [f"fedlib.{name}" for name in "abcdgh"]
    assert imported(source, known) == set(known)


@pytest.fixture(scope="module")
def in_a_new_process():
    """What a new process without notebook tools said: it imports the core, then all that can.

    [the fedlib modules that the core's import loads, what could be imported afterwards]"""
    # None in sys.modules: importing it fails, and looking for it finds nothing
    code = f"import sys, importlib\nfor name in {NOTEBOOK_TOOLS}: sys.modules[name] = None\n"
    code += f"for name in {CORE_MODULES}: importlib.import_module(name)\n"
    code += "print(sorted(name for name in sys.modules if name.startswith('fedlib.')))\n"
    code += f"for name in {WITHOUT_TOOLS}: importlib.import_module(name)\n"
    code += "print(sorted(name for name in sys.modules if name.startswith('fedlib.')))"
    return [ast.literal_eval(line) for line in python(code).splitlines()]


def test_the_core_is_handed_values(in_a_new_process):
    """The core is imported without lab, sources or papers, and opens no file."""
    assert len(CORE_MODULES) > 12
    loaded = in_a_new_process[0]
    assert set(CORE_MODULES) <= set(loaded)
    assert not {room(name) for name in loaded} & {"lab", "sources", "papers", "commands"}
    for file in SOURCES:
        if module_name(file) in CORE_MODULES:
            text = file.read_text(encoding="utf-8")
            assert not re.search(r"\bopen\(|\bPath\(|\.write_text|\.read_text|presets", text), file


def test_records_are_read_without_torch():
    code = "import sys, importlib\n"
    code += f"for name in {NO_TORCH}: importlib.import_module('fedlib.' + name)\n"
    code += "print({'torch', 'transformers'} & set(sys.modules))"
    assert python(code).strip() == "set()"


def test_the_core_needs_no_notebook_tools(in_a_new_process):
    assert len(WITHOUT_TOOLS) > 40
    assert set(WITHOUT_TOOLS) - {"fedlib"} <= set(in_a_new_process[1])


# --- names


def public(file):
    """The public functions and classes that a module defines at its top level."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]


def test_no_name_has_two_meanings():
    places = collections.defaultdict(list)
    for file in SOURCES:
        for name in public(file):
            places[name].append(module_name(file))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_two_modules_share_a_name():
    counts = collections.Counter(module.rpartition(".")[2] for module in MODULES)
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_module_is_called_like_one_of_python():
    names = {module.rpartition(".")[2] for module in MODULES}
    assert not names & set(sys.stdlib_module_names) - {"__main__"}


def test_notebook_parameters_are_no_modules_that_notebooks_import():
    """A notebook's cell `federation = {}` must not be shadowed, nor shadow, an import."""
    for file in (machine.ROOT / "notebooks").rglob("*.ipynb"):
        text = file.read_text(encoding="utf-8")
        for name in groups.GROUPS:
            assert not re.search(rf"import (?:[\w, ]+, )?{name}\b(?! as)", text), (file, name)


# --- what a file is like


@pytest.mark.parametrize("file", SOURCES, ids=module_name)
def test_a_source_file_is_one_room(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "a line that says what the module is for"


@pytest.mark.parametrize("file", SOURCES, ids=module_name)
def test_functions_fit_a_screen(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


@pytest.mark.parametrize("file", SOURCES, ids=module_name)
def test_public_functions_have_hints_and_docstrings(file):
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            every = [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]
            unhinted = [arg.arg for arg in every if arg.annotation is None]
            # a tokenizer is duck-typed: transformers has no one class for it
            assert set(unhinted) <= {"tokenizer", "model", "generator", "source"}, node.name
            assert node.returns is not None, node.name
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("file", SOURCES, ids=module_name)
def test_nothing_is_loaded_that_could_run_code(file):
    """Weights come as safetensors, models from transformers' own classes."""
    unsafe = re.compile(
        r"trust_remote_code(?!=False)|\bpickle\b|torch\.load\b|\b(?:eval|exec)\(|yaml\.load\("
    )
    text = re.sub(r"\.eval\(\)", "", file.read_text(encoding="utf-8"))  # a model's mode
    assert not unsafe.findall(text)


# --- the project


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
    assert len(wanted) > 20
    assert not {requirement(w) for w in wanted} - {requirement(p) for p in pins}
    assert pins["torch"] == "2.13.0"


def test_the_hooks_run_the_pinned_tools():
    text = (machine.ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    hooks = [hook for repo in yaml.safe_load(text)["repos"] for hook in repo["hooks"]]
    assert {hook["id"] for hook in hooks} >= {"ruff-check", "ruff-format", "pyrefly", "nbstripout"}


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=machine.ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout: nothing says which files are tracked")
    names = [name for name in listed.stdout.split("\0") if name]
    return [machine.ROOT / name for name in names if (machine.ROOT / name).is_file()]


def test_no_file_names_a_folder_of_one_machine():
    files, found = tracked(), []
    assert machine.ROOT / "pyproject.toml" in files
    for file in files:
        content = file.read_bytes()
        # this file lists them; weights and images are no text
        if file == Path(__file__) or b"\0" in content:
            continue
        names = MACHINE.findall(content.decode("utf-8"))
        found += [f"{file.relative_to(machine.ROOT)}: {name}" for name in names]
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
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    links += re.findall(r"`(docs/[\w.-]+|params/[\w.-]+)`", text)
    for link in links:
        assert (page.parent / link).exists() or (machine.ROOT / link).exists(), link
