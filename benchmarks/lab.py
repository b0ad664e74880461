"""Where the core-seconds of a cold `fedlib reproduce` go, by stage.

Run: pip install -c constraints.txt -e .[bench];
OMP_NUM_THREADS=1 python benchmarks/lab.py [--preset mini] [--only GLOB] [--raw FILE]
py-spy looks at every process of the command 20 times a second. A look at a thread that works counts
as a twentieth of a core-second, for the stage of the innermost function that has one. --raw: read
an earlier run's looks, which `py-spy record --format raw` wrote, in the place of running it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

RATE = 20  # looks a second
# (stage, parts of "function (file:line)" that tell it). The innermost frame that has one decides,
# so that a model's forward pass counts where it is called from.
STAGES = (
    ("imports and starts", ("(<frozen importlib", "spawn_main (", "_prepare (")),
    ("training: backward", ("_engine_run_backward (",)),
    ("training: optimiser", ("Optimizer.", "AdamW.", "clip_grad", "torch/optim/")),
    ("training: forward", ("response_loss (",)),
    ("training: batches and the rest", ("tune (fedlib/training", "client_update (", "collate (")),
    ("detection, BSNR, aggregation", ("callbacks.py", "signals.py", "fedlib/aggregation/")),
    ("rows and their tokens", ("fedlib/sources/", "encode_clients (", "encode (fedlib", "poison")),
    ("rows written by models", ("fedlib/synthesis.py",)),
    ("probes and robustness", ("fedlib/swat/",)),
    ("judges", ("fedlib/judges/", "_marks (")),
    ("answers", ("fedlib/models/generation.py", "_responses (")),
    ("loading models", ("fedlib/models/", "fedlib/lab/loaded.py")),
    ("keys, digests, files", ("fedlib/lab/keys.py", "fedlib/lab/store.py", "fedlib/settings/")),
    ("bootstrap and tables", ("estimates.py", "tables.py", "_results.py", "claims.py")),
    ("figures", ("matplotlib/", "seaborn/", "fedlib/papers/")),
    ("the page", ("fedlib/commands/page", "nbconvert/")),
    ("notebooks' machinery", ("papermill/", "nbclient/", "ipykernel/", "jupyter", "zmq/")),
    ("runs: the rest", ("fedlib/lab/", "fedlib/federation.py", "fedlib/defense/")),
    ("the command itself", ("fedlib/commands/", "rich/", "fedlib/__main__")),
)
# Where a thread waits: py-spy does not see everywhere that it does nothing.
WAITS = (
    " (selectors.py",
    "wait (threading.py",
    "(multiprocessing/connection.py",
    "_watch_pipe_fd (",
    "ParentPoller",
    "(ipykernel/heartbeat.py",
    "device (zmq/",
    "_worker (concurrent/futures",
    "_main (multiprocessing/spawn",
    " spawn_main(",
    "(multiprocessing/popen",
    "_wave (fedlib",
)


def stage(frames: list[str]) -> str:
    """The stage of one look, by its frames, the innermost last."""
    for frame in reversed(frames):
        for name, signs in STAGES:
            if any(sign in frame for sign in signs):
                return name
    return "else"


def core_seconds(raw: Path) -> Counter:
    """{stage: core-seconds} of the stacks that py-spy wrote, and how often each was seen."""
    found: Counter = Counter()
    for line in raw.read_text(encoding="utf-8", errors="replace").splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [part for part in stack.split(";") if not part.startswith("process ")]
        if frames and not any(sign in frames[-1] for sign in WAITS):
            found[stage(frames)] += int(count) / RATE
    return found


def watch(preset: str, only: str, raw: Path) -> float:
    """Run the command cold in a folder of its own, looked at by py-spy; its seconds."""
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if spy is None:
        sys.exit("py-spy is missing: pip install -c constraints.txt -e .[bench]")
    command = [spy, "record", "--subprocesses", "--format", "raw", "--rate", str(RATE)]
    command += ["--output", str(raw), "--", sys.executable, "-m", "fedlib", "reproduce"]
    command += ["--preset", preset, "--only", only]
    with tempfile.TemporaryDirectory(prefix="fedlib-lab-") as outputs:
        began = time.monotonic()
        subprocess.run(command, env=os.environ | {"FEDLIB_OUTPUTS": outputs}, check=True)
        return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--only", default="*")
    parser.add_argument("--raw", type=Path)
    asked = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        raw = asked.raw or Path(folder) / "looks.txt"
        if not asked.raw:
            print(f"{watch(asked.preset, asked.only, raw):.0f} s in all")
        found = core_seconds(raw)
    whole = sum(found.values())
    for name, seconds in found.most_common():
        print(f"{name:<32} {seconds:8.1f} core-seconds {seconds / whole:6.1%}")
    print(f"{'all':<32} {whole:8.1f} core-seconds")


if __name__ == "__main__":
    main()
