"""Helpers: a process that makes runs and dies at a chosen moment, and a digest of what is left.

The processes are forked from one that has imported everything and computed nothing, so that each
starts in no time. This module itself imports no torch."""

import ctypes
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["fedlib.lab.steps", "fedlib.lab.runs"])
CAPABILITIES_VERSION = 0x20080522  # of Linux
# What Python tells an audit hook of before it changes a folder or opens a file.
CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def start(
    outputs: Path, settings: list[Any], die_at: int = 0, before: Callable | None = None
) -> BaseProcess:
    """A process that makes runs into outputs; before() is called in it ahead of them.

    die_at: the change in outputs (from 1) ahead of which it is killed, if it comes so far. What it
    prints goes to said_file(outputs), at the end how many changes it made."""
    asked = [one.model_dump_json() for one in settings]
    process = FORKS.Process(target=_make, args=(outputs, asked, die_at, before))
    process.start()
    return process


def said_file(outputs: Path) -> Path:
    """What the processes of an outputs folder print."""
    return outputs.with_suffix(".said")


def _make(outputs: Path, asked: list[str], die_at: int, before: Callable | None) -> None:
    import torch

    from fedlib.lab import runs
    from fedlib.settings.errors import SettingsError
    from fedlib.settings.schema import Settings

    os.environ |= {"FEDLIB_OUTPUTS": str(outputs), "FEDLIB_JOBS": "0"}
    torch.set_num_threads(1)
    descriptor = os.open(said_file(outputs), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    changes = _count_changes(outputs, die_at)
    if before:
        before()
    # as the command line does
    try:
        runs.get_all([Settings.model_validate_json(one) for one in asked])
    except SettingsError as error:
        print(error, flush=True)
        sys.exit(2)
    print(len(changes), flush=True)


def _count_changes(outputs: Path, die_at: int) -> list[str]:
    """A list that grows by each change in outputs; this process is killed ahead of one of them."""
    changes: list[str] = []

    def count(event: str, given: tuple) -> None:
        if event not in CHANGES or not str(given[0]).startswith(str(outputs)):
            return
        changes.append(event)
        if len(changes) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    return changes


def allow_bytes(size: int) -> None:
    """Let this process write no file longer than that: more is an error, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def give_up_capabilities() -> None:
    """Make this process one that a folder's permissions hold for, even if root runs it."""
    header = struct.pack("=Ii", CAPABILITIES_VERSION, 0)
    none = bytes(24)  # effective, permitted and inheritable, twice 32 bits each
    if ctypes.CDLL(None, use_errno=True).capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def digest(outputs: Path) -> dict[str, str]:
    """{file: digest} of all that runs left in a store; how long a round took is left out."""
    found = {}
    for file in sorted((outputs / "runs").rglob("*")):
        name = file.relative_to(outputs / "runs")
        # it holds the digests of the files, seconds included
        if not file.is_file() or name.parts[0] == ".locks" or name.name == "done.json":
            continue
        content = file.read_bytes()
        if name.name == "rounds.jsonl":
            lines = [json.loads(line) | {"seconds": 0} for line in content.splitlines()]
            content = json.dumps(lines).encode()
        found[str(name)] = hashlib.sha256(content).hexdigest()
    return found
