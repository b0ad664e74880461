"""Keep what a preset gave: copy it from outputs/<preset> to results/<preset>.

Run: python results/keep.py claims [--papers S B W]
Claims, tables and figures come along as the notebooks wrote them; a table that is written no more
is yours to delete. about.json says which code made
them, on which machine, when, and how long it took. Papers that are not named stay as they are.
"""

import argparse
import csv
import importlib.metadata
import io
import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from fedlib.settings import machine

NOTEBOOKS = {"S": "1", "B": "2", "W": "3"}  # how the names of a paper's notebooks begin
CLAIMS = "90_claims"
# The figures that README and docs show.
FIGURES = {"S": ["10_md_judge"], "B": ["20_concentration"], "W": ["32_asr"]}
COLOURS = 64  # of a kept figure: a quarter of the bytes, and no difference to the eye
VERSIONS = ("torch", "transformers", "peft")


def read_claims(file: Path) -> list[dict[str, str]]:
    """The rows of a claims.csv; none where there is no such file."""
    if not file.exists():
        return []
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def merge_claims(made: Path, kept: Path, papers: list[str]) -> str:
    """claims.csv with the rows of these papers from outputs/, of all others from results/.

    A claim that was not run stays as it was kept."""
    before = {row["id"]: row for row in read_claims(kept)}
    rows = []
    for row in read_claims(made):
        other = row["paper"] not in papers or row["status"] == "not run"
        rows.append(before.get(row["id"], row) if other else row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def processor() -> str:
    """The processor's name, where the machine says it."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = re.search(r"model name\s*: (.*)", text)
    return found[1].strip() if found else platform.processor() or platform.machine()


def commit() -> str:
    """The commit of the code; '+' where something was changed since."""
    named = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(
        named, cwd=machine.ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def times(folder: Path, first: str) -> dict[str, Any]:
    """When a paper's notebooks were executed, and the seconds of each."""
    found = {}
    for file in sorted(folder.glob(f"{first}*.ipynb")):
        about = json.loads(file.read_text(encoding="utf-8"))["metadata"]["papermill"]
        if about["exception"] or not about["end_time"]:
            sys.exit(f"{file}: it did not end; run fedlib reproduce again")
        found[file.stem] = about
    return {
        "date": max(about["end_time"] for about in found.values())[:10],
        "seconds of each notebook": {name: round(a["duration"]) for name, a in found.items()},
    }


def keep(preset: str, papers: list[str]) -> None:
    """Copy these papers' claims, tables and figures, and write about.json."""
    made, kept = machine.outputs() / preset, machine.ROOT / "results" / preset
    for what in ("tables", "figures"):
        (kept / what).mkdir(parents=True, exist_ok=True)

    about_file = kept / "about.json"
    about = json.loads(about_file.read_text(encoding="utf-8")) if about_file.exists() else {}
    parts = {part["paper"]: part for part in about.get("parts", [])}
    for paper in papers:
        first = NOTEBOOKS[paper]
        for table in sorted((made / "tables").glob(f"{first}[0-9]_*.csv")):
            shutil.copyfile(table, kept / "tables" / table.name)
        for name in FIGURES[paper]:
            figure = Image.open(made / "figures" / f"{name}.png").convert("RGB")
            figure.quantize(COLOURS).save(kept / "figures" / f"{name}.png", optimize=True)
        parts[paper] = {
            "paper": paper,
            "commit": commit(),
            "machine": f"{machine.cores()} cores of {processor()}",
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
            **times(made / "executed", first),
        }

    merged = merge_claims(made / "claims.csv", kept / "claims.csv", papers)
    (kept / "claims.csv").write_text(merged, encoding="utf-8")
    # what was written by hand stays where some papers do
    about = {} if set(papers) == set(NOTEBOOKS) else about
    done = [parts[paper] for paper in NOTEBOOKS if paper in parts]
    seconds = [sum(part.get("seconds of each notebook", {}).values()) for part in done]
    last = parts[papers[-1]]
    about |= {"preset": preset, "seconds": sum(seconds), "parts": done}
    about |= {name: last[name] for name in ("commit", "machine", "versions")}
    about_file.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(f"kept {', '.join(papers)} in {kept}; draw the pictures anew: docs/figures/draw.py")


def main() -> None:
    """Read what is asked for, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset")
    parser.add_argument("--papers", nargs="+", choices=list(NOTEBOOKS), default=list(NOTEBOOKS))
    asked = parser.parse_args()
    if not (machine.outputs() / asked.preset / "executed" / f"{CLAIMS}.ipynb").exists():
        sys.exit(f"{asked.preset}: run first: fedlib reproduce --preset {asked.preset}")
    keep(asked.preset, asked.papers)


if __name__ == "__main__":
    main()
