"""What all tests share: an empty run store, runs in this process, one thread, tiny settings."""

from pathlib import Path
from typing import Any

import pytest
import tally
import torch

from fedlib.lab.loaded import load_base
from fedlib.models.adapter import attach_lora
from fedlib.settings import presets
from fedlib.settings.schema import Settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest goes first, so that no core waits for it at the end."""
    items.sort(key=lambda item: item.path.stem != "test_notebooks")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Where faults were asked for (make faults): how many were tried, and how many did harm."""
    if tally.ASKED:
        failed = [report.nodeid for report in terminalreporter.stats.get("failed", [])]
        for line in tally.table(failed):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # results must not depend on the machine's cores


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The outputs folder of this test only, so that no test reads or spoils a person's runs."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(folder))
    # Runs are made in this process, where monkeypatch and breakpoints work.
    monkeypatch.setenv("FEDLIB_JOBS", "0")
    return folder


def smoke_settings(**changes: Any) -> Settings:
    """Preset smoke on one dataset, with changes to groups of settings (model={...}, ...)."""
    data = {"benign": ["lmsys-like"], "unaligned_share": 0.5}
    return presets.load("smoke", data=data).replace(**changes)


@pytest.fixture
def smoke() -> Settings:
    """Preset smoke on one dataset, on the CPU: the smallest run that takes every path."""
    return smoke_settings(model={"device": "cpu"})


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    """(the world's base with a fresh LoRA adapter, its tokenizer), shared by a module's tests."""
    settings = smoke_settings(model={"device": "cpu"})
    base, tokenizer = load_base(settings)
    return attach_lora(base, settings.model, settings.seed), tokenizer


@pytest.fixture
def axes():
    """Axes in the style of the figures. What cannot be drawn on them fails at the end."""
    from fedlib.papers import output

    plt = output.figure_style()
    fig, axes = plt.subplots()
    yield axes
    fig.canvas.draw()
    plt.close("all")
