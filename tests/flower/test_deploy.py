"""Federations over Flower's own processes: examples/deploy/run.sh on loopback, and Ray.

Each takes a minute or so, so they are run where FEDLIB_DEPLOY=1 asks for them; test_nodes.py drives
the same code in one process every time."""

import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("flwr", reason="extra flower is not installed")

from conftest import smoke_settings

from fedlib.flower import server
from fedlib.lab import checks, keys, steps, store
from fedlib.settings import machine
from fedlib.settings.errors import SettingsError

SAME = "the adapter is the same, byte for byte, as in one process"
SCRIPT = machine.ROOT / "examples" / "deploy" / "run.sh"
slow = pytest.mark.skipif(
    os.environ.get("FEDLIB_DEPLOY") != "1", reason="minutes: FEDLIB_DEPLOY=1 runs it"
)


def deployed(*options):
    """What run.sh printed."""
    for tool in ("bash", "openssl", "ssh-keygen", "pgrep"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    done = subprocess.run(
        ["bash", str(SCRIPT), *options],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable},
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@slow
def test_a_plain_deployment_gives_the_same_adapter():
    assert SAME in deployed("--plain")


@slow
def test_with_tls_and_authentication_a_stranger_is_refused():
    said = deployed("--stranger")
    assert "the node that is not registered was refused" in said and SAME in said


@slow
def test_a_node_that_is_killed_in_mid_round_is_left_out():
    said = deployed("--fault", "killed")
    assert "round 2 without {'1': " in said and SAME in said


@slow
def test_a_node_that_sends_nan_is_left_out():
    said = deployed("--plain", "--fault", "nan")
    assert "round 2 without {'1': 'its update holds NaN (" in said and SAME in said


@slow
def test_the_simulation_gives_the_same_run(monkeypatch, tmp_path):
    """On Ray: preset smoke, three of ten clients in each of two rounds."""
    found = []
    for engine in ("local", "flower"):
        monkeypatch.setenv("FEDLIB_OUTPUTS", str(tmp_path / engine))
        settings = smoke_settings(model={"device": "cpu"}, federation={"engine": engine})
        folder = keys.run_folder(settings)
        folder.mkdir(parents=True)
        steps.run_federation(settings, folder)
        records = store.read_lines(folder / "rounds.jsonl")
        for record in records:
            del record["seconds"]
        adapter = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
        found.append((folder.name, adapter, records))
    assert found[0] == found[1]


# --- what is refused before anything starts


def test_an_unknown_option_of_the_script_is_refused():
    done = subprocess.run(["bash", str(SCRIPT), "--fast"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "run.sh: unknown: --fast\n")


@pytest.mark.parametrize(
    "run_config, message",
    [
        ({"presett": "smoke"}, r"run-config: presett: no such field; did you mean 'preset'\?"),
        ({"preset": "smoke", "seed": -1}, r"replace\(\): seed: "),
        ({"preset": "smoke", "wait": 0}, r"run-config: wait: must be a number of seconds, got 0"),
        ({"preset": "smoke", "wait": "no"}, r"run-config: wait: must be a number of seconds"),
    ],
)
def test_a_wrong_run_config_is_named(run_config, message):
    with pytest.raises(SettingsError, match=message) as error:
        server.asked_for(run_config)
    assert "\n" not in str(error.value)


@pytest.fixture
def all_installed(monkeypatch):
    """The extra's other package, ray, need not be there: nothing is simulated here."""
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: name)


def test_a_folder_of_another_federation_is_left_as_it_is(tmp_path, all_installed):
    settings = smoke_settings(federation={"engine": "flower"})
    (tmp_path / "settings.json").write_text(settings.replace(seed=3).model_dump_json())
    with pytest.raises(SettingsError, match=r"holds a federation with another seed: name a"):
        server.make_run(settings, tmp_path, None)
    assert [file.name for file in tmp_path.iterdir()] == ["settings.json"]


def test_what_flower_cannot_do_is_refused(monkeypatch, all_installed):
    settings = smoke_settings(
        federation={"engine": "flower"},
        data={"poison": {"trigger": "tokens"}},
        defense={"filter": "gradient"},
    )
    with pytest.raises(SettingsError, match=r"defense\.filter: gradient looks at the rows of all"):
        checks.check_run(settings)
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"flwr is not installed: pip install .*\[flower\]"):
        checks.check_run(smoke_settings(federation={"engine": "flower"}))
