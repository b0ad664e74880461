"""`fedlib reproduce`: a failed notebook stops no other, an interrupt stops all of them.

The page of the real notebooks is checked in tests/test_notebooks.py, which executes them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from fedlib.commands import page, reproduce
from fedlib.settings import machine, presets
from fedlib.settings.errors import SettingsError

NOTEBOOKS = sorted(reproduce.NOTEBOOKS.glob("*.ipynb"))


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def parameters(notebook):
    return [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]


# ---- a failure stays alone

MAIN = """
import sys
from pathlib import Path
from fedlib.commands import reproduce

# here, so that the spawned workers see it too
reproduce.NOTEBOOKS = Path(__file__).parent / "notebooks"
if __name__ == "__main__":
    sys.exit(reproduce.reproduce_notebooks("smoke", jobs=2))
"""


def notebook(source):
    """The first notebook's frame around one cell."""
    made = read(NOTEBOOKS[0])
    cell = parameters(made)[0] | {"source": source, "metadata": {}, "id": "only"}
    return json.dumps(made | {"cells": [made["cells"][0], parameters(made)[0], cell]})


def lay(folder, sources):
    """Notebooks of one cell each in a folder, and main.py, which reproduces them."""
    (folder / "notebooks").mkdir()
    for name, source in sources.items():
        (folder / "notebooks" / f"{name}.ipynb").write_text(notebook(source), encoding="utf-8")
    (folder / "main.py").write_text(MAIN, encoding="utf-8")


def test_an_interrupt_stops_all_notebooks(tmp_path, store):
    """Also those that had not begun: three, two at a time."""
    slow = "open('{folder}/begun{i}', 'w'); import time; time.sleep(100)"
    lay(tmp_path, {f"1{i}_slow": slow.format(folder=tmp_path, i=i) for i in range(3)})
    # a job in the background would ignore an interrupt
    heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    call = subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
        preexec_fn=heeds,
    )
    while len(list(tmp_path.glob("begun*"))) < 2 and call.poll() is None:
        time.sleep(0.1)
    os.killpg(call.pid, signal.SIGINT)
    said, _ = call.communicate(timeout=60)
    assert call.returncode != 0
    assert not (tmp_path / "begun2").exists()

    # and it is said how to go on, also on the page
    assert "stopped: 0 of 3 done" in said
    assert "to go on: " in said and "-m fedlib reproduce --preset smoke" in said
    text = (store / "smoke" / "index.html").read_text(encoding="utf-8")
    assert "0 of 3 notebooks are done." in text and "reproduce --preset smoke" in text


def test_the_short_ones_come_first_and_the_claims_last():
    names = ["00_tour", "01_three_papers", "10_safety_table1", "20_backdoor", "90_claims"]
    waves = reproduce._waves(names)
    assert waves == [names[:2], names[2:4], names[4:]]
    assert reproduce._waves(["10_a"]) == [["10_a"]]


def test_a_failed_notebook_does_not_stop_the_others(tmp_path, store):
    bad, good = "raise ValueError('this one fails')", "print(preset, 6 * 7)"
    lay(tmp_path, {"10_bad": bad, "11_good": good})
    done = subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr[-2000:]
    assert re.search(r"10_bad .* failed in cell \d+: ValueError: this one fails", done.stdout)
    assert re.search(r"11_good .* done", done.stdout)
    assert "1 of 2 notebooks done" in done.stdout
    text = (store / "smoke" / "index.html").read_text(encoding="utf-8")
    assert "smoke 42" in text and "this one fails" in text

    # it was said beforehand what would come, a line told of each end, and all before the summary
    lines = done.stdout.splitlines()
    assert "2 notebooks" in lines[0]
    ends = [re.match(r" ([12]) of 2 +1[01]_", line) for line in lines]
    assert sum(map(bool, ends)) == 2

    # one that was killed in the middle
    executed = store / "smoke" / "executed"
    made = read(executed / "11_good.ipynb")
    made["metadata"]["papermill"]["end_time"] = None
    (executed / "11_good.ipynb").write_text(json.dumps(made), encoding="utf-8")
    # and one whose file was cut off while it was written
    (executed / "12_cut.ipynb").write_text('{"cells": [', encoding="utf-8")
    names = ["10_bad", "11_good", "12_cut"]
    text = page.write_page(presets.load("smoke"), executed, names).read_text(encoding="utf-8")
    states = re.findall(r'<p class="state .*?">(.*?),? ', text)
    assert states == ["failed", "unfinished", "not"]


@pytest.mark.parametrize("preset, outputs", [("own.yaml", None), ("smoke", "here")])
def test_a_relative_path_means_the_same_to_the_kernels(tmp_path, monkeypatch, preset, outputs):
    """They run in notebooks/; reproduce is called elsewhere, where own.yaml and the outputs lie."""
    own = "preset: smoke\nevaluation: {harmful: 4}\n"
    (tmp_path / "own.yaml").write_text(own, encoding="utf-8")
    wanted, seen = [], []

    def wave(pool, names, given, executed, *_):
        wanted.append((executed.resolve().parent, presets.load(preset).evaluation))
        # as a kernel would see it
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(reproduce.NOTEBOOKS)
            settings = presets.load(given)
            seen.append((machine.outputs().resolve() / settings.preset, settings.evaluation))

    monkeypatch.setattr(reproduce, "_wave", wave)
    monkeypatch.chdir(tmp_path)
    if outputs:
        monkeypatch.setenv("FEDLIB_OUTPUTS", outputs)
    reproduce.reproduce_notebooks(preset, only="90")
    assert len(seen) == 1
    assert seen == wanted


@pytest.mark.parametrize("length, elsewhere", [(20, False), (80, True), (150, True)])
def test_sockets_fit_whatever_tmpdir_is(tmp_path, monkeypatch, length, elsewhere):
    """libzmq takes 107 bytes: notebook names of 19 letters leave 66 to the folder."""
    place = str(tmp_path)[:5] + "t" * (length - 5)
    monkeypatch.setattr(reproduce.tempfile, "gettempdir", lambda: place)
    monkeypatch.setattr(reproduce.os, "access", lambda *_: True)
    found = reproduce._short_place(["00_tour", "11_safety_figure300"])
    assert (found != place) == elsewhere
    assert len(f"{found}/fedlib-12345678/11_safety_figure300-5") <= 107


def test_without_a_short_folder_tmpdir_is_named(monkeypatch):
    monkeypatch.setattr(reproduce.os, "access", lambda *_: False)
    with pytest.raises(SettingsError, match="TMPDIR: .* too long for sockets"):
        reproduce._short_place(["00_tour"])
