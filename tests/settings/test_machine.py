"""The machine: the device and precision that auto stands for, paths, the folder of outputs."""

import types

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
