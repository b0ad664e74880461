"""Nothing that could run code from data stands in the package."""

import ast

import pytest

from fedlib.settings import machine

SOURCES = sorted((machine.ROOT / "fedlib").rglob("*.py"))
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile"}
UNSAFE_YAML = {"unsafe_load", "full_load", "UnsafeLoader", "FullLoader", "Loader"}


def faults(source):
    """What in a source could run code from data: names, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import):
            found += [(a.name, line) for a in node.names if a.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            found.append((node.module, line))
        elif isinstance(node, ast.Attribute) and node.attr in UNSAFE_YAML:
            found += [(node.attr, line)] if ast.unparse(node.value) == "yaml" else []
        elif isinstance(node, ast.Call):
            found += [(name, line) for name in _called(node)]
    return found


def _called(node):
    name = ast.unparse(node.func)
    options = {key.arg: ast.unparse(key.value) for key in node.keywords}
    if name in CALLS:
        return [name]
    if name == "torch.load" and options.get("weights_only") != "True":
        return [name]
    if name in ("np.load", "numpy.load") and options.get("allow_pickle", "False") != "False":
        return [name]
    trusts = options.get("trust_remote_code", "False") != "False"
    is_pickle = name.endswith((".read_pickle", "joblib.load"))
    return [name] if trusts or is_pickle else []


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.stem)
def test_no_source_reads_a_pickle_or_runs_data(file):
    assert faults(file.read_text(encoding="utf-8")) == []


CAUGHT = [
    "import pickle",
    "from joblib import load",
    "import torch\ntorch.load(file)",
    "torch.load(file, weights_only=False)",
    "np.load(file, allow_pickle=True)",
    "pd.read_pickle(file)",
    "eval(text)",
    "yaml.load(text, Loader=yaml.FullLoader)",
    "AutoModel.from_pretrained(name, trust_remote_code=True)",
]


@pytest.mark.parametrize("source", CAUGHT)
def test_what_the_scan_finds(source):
    assert len(faults(source)) == 1


@pytest.mark.parametrize("source", ["torch.load(file, weights_only=True)", "model.eval()"])
def test_what_it_lets_pass(source):
    assert faults(source) == []
