"""Rounds as they are finished: a line each, and the state they led to.

Interrupted work goes on from there, to the same bits."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


def keep_round(folder: Path, line: Mapping, state: Mapping[str, Tensor]) -> None:
    """Keep a finished round: its line in rounds.jsonl, then atomically the state it led to.

    A line without its state is dropped on resume."""
    with open(folder / "rounds.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    partial = folder / "checkpoint.partial"
    on_host = {name: tensor.cpu() for name, tensor in state.items()}
    save_file(on_host, partial, metadata={"rounds": str(line["round"] + 1)})
    os.replace(partial, folder / "checkpoint.safetensors")


def resume(folder: Path) -> tuple[dict[str, Tensor] | None, int]:
    """(state, first round to run) of the checkpoint, else (None, 0); rounds.jsonl is cut to it."""
    lines_file, checkpoint = folder / "rounds.jsonl", folder / "checkpoint.safetensors"
    lines: list[str] = []
    if lines_file.exists():
        lines = lines_file.read_text(encoding="utf-8").splitlines(keepends=True)

    done, state = 0, None
    if checkpoint.exists():
        with safe_open(checkpoint, "pt") as file:
            rounds = int(file.metadata()["rounds"])
        if len(lines) >= rounds:
            state, done = load_file(checkpoint), rounds

    if len(lines) != done:
        partial = folder / "rounds.partial"
        partial.write_text("".join(lines[:done]), encoding="utf-8")
        os.replace(partial, lines_file)
    return state, done
