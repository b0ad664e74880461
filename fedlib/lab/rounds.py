"""Rounds as they are finished: a line each, and the state they led to.

Interrupted work goes on from there, to the same bits."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


def keep_round(folder: Path, line: Mapping, state: Mapping[str, Tensor]) -> None:
    """Keep a finished round: its line in rounds.jsonl, then atomically the state it led to.

    The checkpoint also holds all lines so far and a digest of everything in it, so that a resume
    needs nothing else and can trust it."""
    lines_file, partial = folder / "rounds.jsonl", folder / "checkpoint.partial"
    with open(lines_file, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    lines = lines_file.read_text(encoding="utf-8")
    on_host = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    about = {"lines": lines, "digest": _digest(lines, on_host)}
    save_file(on_host, partial, metadata=about)
    os.replace(partial, folder / "checkpoint.safetensors")


def resume(folder: Path) -> tuple[dict[str, Tensor] | None, int]:
    """(state, first round to run) of the checkpoint, else (None, 0); rounds.jsonl is that of it.

    A checkpoint that is damaged counts as none; a line says so."""
    lines_file, checkpoint = folder / "rounds.jsonl", folder / "checkpoint.safetensors"
    state, lines = None, ""
    if checkpoint.exists():
        state, lines = _read(checkpoint)
        if state is None:
            print(f"{checkpoint} is damaged: its rounds are made again", file=sys.stderr)

    # what is written beside the checkpoint may be damaged, or one round ahead of it
    if lines_file.exists() or lines:
        partial = folder / "rounds.partial"
        partial.write_text(lines, encoding="utf-8")
        os.replace(partial, lines_file)
    return state, lines.count("\n")


def _read(checkpoint: Path) -> tuple[dict[str, Tensor] | None, str]:
    """(state, lines) of a checkpoint; (None, "") where it is not what was written."""
    try:
        with safe_open(checkpoint, "pt") as file:
            about = file.metadata()
        state = load_file(checkpoint)
        if about["digest"] == _digest(about["lines"], state):
            return state, about["lines"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        pass
    return None, ""


def _digest(lines: str, state: Mapping[str, Tensor]) -> str:
    """SHA-256 of lines and tensors, with the tensors' names, types and shapes."""
    whole = hashlib.sha256(lines.encode())
    for name, tensor in sorted(state.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()
