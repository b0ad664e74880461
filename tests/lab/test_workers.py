"""Worker processes of one machine: how many, on which device each, and what a worker sees."""

import contextlib
import shlex
import subprocess

import pytest

from fedlib.lab import runs, store, workers
from fedlib.settings import machine


@pytest.mark.parametrize(
    "count, gpus, expected",
    [
        (3, [], ["", "", ""]),
        (1, ["0", "1"], ["0"]),
        (2, ["0", "1"], ["0", "1"]),
        # several runs may share a card
        (4, ["0", "1"], ["0", "1", "0", "1"]),
        (3, ["2", "GPU-8a"], ["2", "GPU-8a", "2"]),
        (2, ["0"], ["0", "0"]),
    ],
)
def test_devices_are_assigned_in_turn(count, gpus, expected):
    assert workers.assign_devices(count, gpus) == expected


# A task says what its worker sees, when another worker has been asked too.
SEEN = "touch {0}/$$; while [ $(ls {0} | wc -l) -lt 2 ]; do sleep 0.05; done; "
SEEN += "printf %s $CUDA_VISIBLE_DEVICES"


def test_each_spawned_worker_sees_its_own_device(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-8a")
    devices = workers.assign_devices(2, machine.visible_devices("0,GPU-8a", 2))
    ask = ["sh", "-c", SEEN.format(shlex.quote(str(tmp_path)))]
    with workers.start_pool(devices, wanted=2) as pool:
        asked = [pool.submit(subprocess.check_output, ask, timeout=60) for _ in range(2)]
        assert sorted(future.result() for future in asked) == [b"0", b"GPU-8a"]


@pytest.mark.parametrize(
    "devices, own, expected",
    [
        (["", "", ""], None, [0, 1, 2]),
        (["", ""], "0", [0, 1]),
        # a worker waits for a place of its own device, whatever else is free
        (["0", "1", "0", "1"], "1", [1, 3]),
        (["0", "1", "0"], "1", [1]),
    ],
)
def test_a_worker_takes_the_places_of_its_device(monkeypatch, devices, own, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if own:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", own)
    with contextlib.ExitStack() as held:
        for _ in expected:
            held.enter_context(workers._slot(devices))
        taken = sorted(int(file.name.rpartition("slot")[2]) for file in store.locks().iterdir())
    assert taken == expected


@pytest.mark.parametrize(
    "device, jobs, expected",
    [
        ("cuda", None, ["0", "1"]),
        ("cuda", "3", ["0", "1", "0"]),
        ("cpu", "2", ["", ""]),
    ],
)
def test_two_pretended_gpus_make_a_run_each(smoke, monkeypatch, device, jobs, expected):
    class Started(BaseException):
        pass

    def start(devices, wanted):
        assert wanted == 4
        raise Started(devices)

    monkeypatch.delenv("FEDLIB_JOBS")
    if jobs:
        monkeypatch.setenv("FEDLIB_JOBS", jobs)
    monkeypatch.setattr(machine, "_count_gpus", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(workers, "start_pool", start)
    settings = smoke.replace(model={"device": device})
    with pytest.raises(Started) as started:
        runs.get_all([settings.replace(seed=seed) for seed in range(4)])
    assert started.value.args[0] == expected
