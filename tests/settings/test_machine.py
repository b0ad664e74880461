"""The machine: the device and precision that auto stands for, paths, the folder of outputs."""

import types
from pathlib import Path

import pytest

from fedlib.settings import machine
from fedlib.settings.errors import SettingsError
from fedlib.settings.presets import load

DEVICES = [  # (model.device, model.dtype), whether a GPU is there, what they mean
    (("auto", "auto"), False, "cpu", "float32"),
    (("auto", "auto"), True, "cuda", "bfloat16"),
    (("cpu", "auto"), True, "cpu", "float32"),
    (("cuda", "float32"), True, "cuda", "float32"),
    (("cpu", "bfloat16"), False, "cpu", "bfloat16"),
]


@pytest.mark.parametrize("asked, gpu, device, dtype", DEVICES)
def test_device_and_precision(monkeypatch, asked, gpu, device, dtype):
    monkeypatch.setattr(machine, "has_gpu", lambda: gpu)
    model = types.SimpleNamespace(device=asked[0], dtype=asked[1])
    assert (machine.device(model), machine.dtype(model)) == (device, dtype)


def test_cuda_without_a_device_is_an_error_and_auto_is_not(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    assert machine.device(load("smoke").model) == "cpu"
    missing = load("smoke", model={"device": "cuda", "dtype": "float32"}).model
    for asked in (machine.device, machine.dtype):
        with pytest.raises(SettingsError, match="no CUDA device"):
            asked(missing)


def test_paths_are_absolute_or_from_home_or_from_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert machine.path(str(tmp_path)) == tmp_path
    assert machine.path("~/x") == tmp_path / "home" / "x"
    assert machine.path("data") == machine.ROOT / "data"


def test_outputs_follow_the_environment(store, monkeypatch):
    assert machine.outputs() == store
    monkeypatch.delenv("FEDLIB_OUTPUTS")
    assert machine.outputs() == machine.ROOT / "outputs"


@pytest.mark.parametrize("named", ["~/lab", "'~/lab'", '"~/lab"', "HOME/lab"])
def test_outputs_may_be_quoted(monkeypatch, tmp_path, named):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FEDLIB_OUTPUTS", named.replace("HOME", str(tmp_path)))
    assert machine.outputs() == tmp_path / "lab"


def test_outputs_are_made_where_they_are_missing(store):
    assert machine.made_folder(store / "runs" / ".locks").is_dir()


def test_outputs_that_cannot_be_used_are_one_line(tmp_path, monkeypatch):
    def line(folder):
        with pytest.raises(SettingsError) as error:
            machine.made_folder(folder)
        assert str(error.value).startswith(f"outputs: {folder}: ")
        assert "FEDLIB_OUTPUTS names another folder" in str(error.value)
        return str(error.value)

    (tmp_path / "file").touch()
    assert "Not a directory" in line(tmp_path / "file" / "runs")
    assert "File exists" in line(tmp_path / "file")
    assert "No such file" in line(Path("/proc/nowhere/runs"))
    monkeypatch.setattr(machine.os, "access", lambda *_: False)  # nothing is read-only to root
    assert "cannot be written to" in line(tmp_path)


@pytest.mark.parametrize(
    "given, count, expected",
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("1", 1, ["1"]),
        ("3, GPU-8a", 2, ["3", "GPU-8a"]),
        # the driver stops at the first name that it does not know
        ("0,9", 1, ["0"]),
        ("", 0, []),
        ("-1", 0, []),
    ],
)
def test_a_workers_device_is_named_as_it_was_given(given, count, expected):
    assert machine.visible_devices(given, count) == expected
