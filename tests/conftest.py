"""What all tests share: an empty run store, runs made in this process, one thread, tiny settings."""

import pytest
import torch

from fedlib.lab import loaded
from fedlib.models import adapter
from fedlib.settings import presets


def pytest_collection_modifyitems(items):
    """The file that takes longest goes first, so that no core waits for it at the end."""
    items.sort(key=lambda item: item.path.stem != "test_notebooks")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # results must not depend on the machine's cores


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """The outputs folder of this test alone, so that no test reads or spoils a person's runs."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(folder))
    monkeypatch.setenv(
        "FEDLIB_JOBS", "0"
    )  # in this process, where monkeypatch and breakpoints work
    return folder


def smoke_settings(**changes):
    return presets.load("smoke", data={"benign": ["lmsys-like"], "unaligned_share": 0.5}).replace(
        **changes
    )


@pytest.fixture
def smoke():
    """Preset smoke on one dataset, on the CPU: the smallest run that takes every path."""
    return smoke_settings(model={"device": "cpu"})


@pytest.fixture(scope="module")
def loaded():
    """(the world's base with a fresh LoRA adapter, its tokenizer); a module shares them."""
    settings = smoke_settings(model={"device": "cpu"})
    base, tokenizer = loaded.load_base(settings)
    return adapter.attach_lora(base, settings.model, settings.seed), tokenizer
