"""Runs on the workers of a dask cluster: the same runs, whatever dies, or one clear line."""

import concurrent.futures
import contextlib
import os
import signal
import threading
import time
import types

import pytest
from filelock import FileLock, SoftFileLock
from tiny_runs import local_settings, record, tiny_settings

from fedlib.lab import cluster, keys, runs, store
from fedlib.settings import machine
from fedlib.settings.errors import SettingsError

LONG = 30  # rounds: enough to be killed in


@pytest.fixture
def tiny(smoke):
    return tiny_settings(smoke)


@pytest.fixture(scope="module")
def two_workers():
    """A scheduler in this process, with two worker processes of one thread each."""
    distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
    options = {"dashboard_address": ":0", "memory_limit": None, "silence_logs": 50}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as made:
        yield made


@pytest.fixture
def on_cluster(two_workers, monkeypatch):
    monkeypatch.setenv("FEDLIB_CLUSTER", two_workers.scheduler_address)
    return two_workers


# --- what is made


def test_two_workers_make_the_same_runs_and_one_failure_stops_no_other(
    tiny, tmp_path, on_cluster, monkeypatch
):
    monkeypatch.setenv("FEDLIB_STATUS", str(tmp_path / "status"))
    wrong = tiny.replace(model={"lora_targets": ["nonsense"]})
    wanted = [wrong, tiny, tiny.replace(seed=1)]
    with pytest.raises(SettingsError, match="model.lora_targets: .*q_proj") as error:
        runs.get_all(wanted)
    assert "\n" not in str(error.value)
    assert [store.is_there(settings) for settings in wanted] == [False, True, True]
    assert (tmp_path / "status").read_text().startswith("executed 3 of 3 missing runs")
    made = record(keys.run_folder(tiny))

    # nothing says where it was made, and the lock that was held meanwhile has gone
    for file in machine.outputs().rglob("*"):
        assert not file.is_file() or on_cluster.scheduler_address.encode() not in file.read_bytes()
    assert not list(store.locks().glob("cluster-*"))

    # the same bits as in this very process
    monkeypatch.delenv("FEDLIB_CLUSTER")
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(tmp_path / "here"))
    assert record(runs.get(tiny).folder) == made


def test_the_run_of_a_worker_that_dies_goes_on_from_its_last_round(
    tiny, tmp_path, on_cluster, monkeypatch
):
    settings = tiny.replace(federation={"rounds": LONG})
    folder = keys.run_folder(settings)
    found = []
    asking = threading.Thread(target=lambda: found.append(runs.get(settings)))
    asking.start()
    while not (folder / "checkpoint.safetensors").exists():
        assert asking.is_alive()
        time.sleep(0.005)
    busy = [name for name, tasks in on_cluster.scheduler.workers.items() if tasks.processing]
    assert len(busy) == 1
    nanny = next(one for one in on_cluster.workers.values() if one.worker_address == busy[0])
    os.kill(nanny.pid, signal.SIGKILL)
    assert not store.intact(folder)
    first = (folder / "rounds.jsonl").read_text().splitlines()[0]
    asking.join(120)
    assert found, "it was not made again"

    # the first round was not made again: it has the seconds it had
    assert (folder / "rounds.jsonl").read_text().splitlines()[0] == first
    monkeypatch.delenv("FEDLIB_CLUSTER")
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(tmp_path / "here"))
    assert record(runs.get(settings).folder) == record(folder)


# --- what is asked for before anything is made


@pytest.mark.parametrize(
    "given, said",
    [
        ("host:8786", "'host:8786' is no address of a scheduler: write tcp://HOST:8786"),
        ("http://host:8786", "'http://host:8786' is no address"),
        ("tcp://host", "'tcp://host' is no address"),
        ("tcp://me:secret@host:8786", "'host:8786' is no address"),
        ("tcp://127.0.0.1:9", "tcp://127.0.0.1:9: no scheduler answers there"),
    ],
)
def test_a_wrong_address_is_one_line_before_any_work(tiny, monkeypatch, given, said):
    pytest.importorskip("distributed", reason="needs the extra cluster")
    monkeypatch.setenv("FEDLIB_CLUSTER", given)
    monkeypatch.setattr(cluster, "ANSWER", 1)
    with pytest.raises(SettingsError) as error:
        runs.get(tiny)
    line = str(error.value)
    assert line.startswith(f"FEDLIB_CLUSTER: {said}")
    assert "\n" not in line and "secret" not in line
    assert not keys.run_folder(tiny).exists()


def test_no_address_means_this_machine(monkeypatch):
    assert cluster.address() is None
    monkeypatch.setenv("FEDLIB_CLUSTER", "")
    assert cluster.address() is None


def test_a_worker_that_would_make_another_run_is_found(tiny, store, tmp_path):
    """What each worker is asked: it must see the folder, heed its locks, and mean the same run."""
    asked = cluster._asked(tiny)
    halved = tiny.replace(model={"dtype": "bfloat16"})
    with cluster._held_lock() as held:
        assert cluster._problem(*asked, held) == ""
        unseen = cluster._problem(*asked, str(tmp_path / "no/runs/.locks/x"))
        other = cluster._problem(halved.model_dump_json(), asked[1], held)
        here_only = local_settings(tmp_path, tiny)
        (tmp_path / "files" / "safe.csv").unlink()
        nowhere = cluster._problem(here_only.model_dump_json(), asked[1], held)
    assert unseen.startswith(f"it does not see {tmp_path / 'no'}: all hosts must share")
    assert "its precision bfloat16" in other and "write out model.dtype" in other
    assert "safe.csv" in nowhere

    # a lock that nobody seems to hold
    free = store / "runs" / ".locks" / "free"
    free.touch()
    assert "do not hold between hosts" in cluster._problem(*asked, str(free))
    with FileLock(free):
        assert cluster._problem(*asked, str(free)) == ""


@pytest.mark.parametrize(
    "threads, answer, said",
    [
        (4, "", "worker one would make 4 runs at a time in one process: start workers with"),
        (1, "no module fedlib", "worker one: no module fedlib"),
        (1, "", ""),
    ],
)
def test_a_worker_that_cannot_work_is_named(tiny, threads, answer, said):
    client = types.SimpleNamespace(
        nthreads=lambda: {"one": threads}, run=lambda *_, **__: {"one": answer}
    )
    asked = cluster._asked(tiny)
    if not said:
        cluster._check_workers(client, "tcp://a:1", asked, "lock")
        return
    with pytest.raises(SettingsError, match=f"^FEDLIB_CLUSTER: {said}"):
        cluster._check_workers(client, "tcp://a:1", asked, "lock")


@pytest.mark.parametrize(
    "named, said",
    [
        ("CancelledError", "tcp://a:1: the scheduler has gone; finished rounds and runs are kept"),
        ("KilledWorker", "tcp://a:1: 4 workers died at run-1/eval-2 .out of memory"),
    ],
)
def test_what_dies_meanwhile_is_one_line(tiny, monkeypatch, named, said):
    distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
    died = {
        "CancelledError": concurrent.futures.CancelledError(),
        "KilledWorker": distributed.KilledWorker("run-1/eval-2.abc", None, 3),
    }
    client = types.SimpleNamespace(
        nthreads=lambda: {"one": 1}, run=lambda *_, **__: {}, get_executor=lambda **_: None
    )
    monkeypatch.setattr(cluster, "_client", lambda address: contextlib.nullcontext(client))
    with pytest.raises(SettingsError, match=f"^FEDLIB_CLUSTER: {said}"):
        with cluster.connected("tcp://a:1", tiny):
            raise died[named]


def test_without_a_worker_a_line_says_what_is_waited_for(tiny, capsys):
    client = types.SimpleNamespace(nthreads=dict, run=lambda *_, **__: {})
    cluster._check_workers(client, "tcp://empty:1", cluster._asked(tiny), "lock")
    assert "tcp://empty:1: no worker yet; runs begin when" in capsys.readouterr().err


def test_a_folder_without_locks_is_refused(store, monkeypatch):
    """Two hosts would both make a run there, and a dead one's would never be taken over."""
    monkeypatch.setattr(cluster, "FileLock", SoftFileLock)
    with pytest.raises(SettingsError, match="this file system has no locks"):
        with cluster._held_lock():
            pass
