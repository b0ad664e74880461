"""Preparing a class: what Binder and a wheelhouse install is what the project pins."""

import os
import re
import shlex
import subprocess
import tomllib

from fedlib.settings import machine

BINDER = machine.ROOT / "binder"
TEACHING = (machine.ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")


def test_binder_takes_a_python_that_the_project_runs_on():
    major, minor = re.fullmatch(
        r"python-(\d+)\.(\d+)\n", (BINDER / "runtime.txt").read_text()
    ).groups()
    project = tomllib.loads((machine.ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    least = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"]).groups()
    assert (int(major), int(minor)) >= tuple(map(int, least))


def test_binder_installs_with_the_pins():
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    # a pip that tells what it was asked for, in place of the real one
    fake = 'python() { echo "$@"; }; . ' + shlex.quote(str(script))
    said = subprocess.run(["bash", "-c", fake], capture_output=True, text=True, cwd=machine.ROOT)
    asked = said.stdout.split()
    assert asked[:3] == ["-m", "pip", "install"] and asked[-2:] == ["-e", "."]
    assert (machine.ROOT / asked[asked.index("-c") + 1]).is_file()


def test_the_wheelhouse_of_the_page_downloads_and_installs_with_the_pins():
    lines = [
        line for line in TEACHING.splitlines() if line.startswith("    .venv/bin/python -m pip")
    ]
    assert [line.split()[3] for line in lines] == ["download", "install"]
    assert all("-c constraints.txt" in line and " . " in f"{line} " for line in lines)
    assert "--no-index --find-links wheels" in lines[1] and "-d wheels" in lines[0]
    # an offline build of the project itself needs what builds it
    assert "setuptools>=77" in lines[0]
