"""`fedlib reproduce` killed at random moments, several times: in the end all is as without that.

It takes minutes: only where FEDLIB_FAULTS says how often to kill, a run twenty times as often as
this."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import dying
import pytest
import tally

from fedlib.settings import machine

KILLS = int(os.environ.get("FEDLIB_FAULTS", "0")) // 20
COMMAND = [sys.executable, "-m", "fedlib", "reproduce", "--preset", "smoke", "--only", "01"]
PROGRESS = re.compile(r"executed \d+ of \d+ missing runs, \d+ s")


def reproduce(outputs):
    """The command, started; it leads a process group of its own."""
    here = {"FEDLIB_OUTPUTS": str(outputs), "FEDLIB_JOBS": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        COMMAND,
        env=os.environ | here,
        cwd=machine.ROOT,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def published(outputs):
    """What a finished command leaves: runs, figures and tables as digests, a notebook's results."""
    found = dying.digest(outputs)
    for file in sorted((outputs / "smoke").glob("*/[!.]*")):
        if file.suffix != ".ipynb":
            found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
            continue
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        results = [
            [out.get("data", out.get("text")) for out in cell.get("outputs", [])] for cell in cells
        ]
        # without how far the runs were, which stands there only where some were still missing
        shown = [[one for one in outs if not PROGRESS.search(json.dumps(one))] for outs in results]
        # and without a styled table's random name and where it lay in memory
        found[file.name] = re.sub(r"T_[0-9a-f]{5}|0x[0-9a-f]+", "", json.dumps(shown))
    return found


@pytest.mark.skipif(not KILLS, reason="takes minutes: FEDLIB_FAULTS=200 asks for it")
def test_a_killed_reproduce_goes_on_to_the_same_results(tmp_path):
    whole, outputs = tmp_path / "whole", tmp_path / "outputs"
    began = time.monotonic()
    assert reproduce(whole).wait() == 0
    seconds = time.monotonic() - began

    draws, groups = random.Random("reproduce"), []
    try:
        for _ in range(KILLS):
            running = reproduce(outputs)
            groups.append(running.pid)
            time.sleep(draws.uniform(0, seconds / 2))
            running.send_signal(signal.SIGKILL)
            tally.count("fedlib reproduce killed", running.wait() == -signal.SIGKILL)
        # kernels that have not noticed yet hold their locks: the last one waits for them
        assert reproduce(outputs).wait() == 0
    finally:
        for group in groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                pass
    assert published(outputs) == published(whole)
