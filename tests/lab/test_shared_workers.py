"""Workers that several processes share: what is asked over a socket, and what comes back."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from fedlib.lab import shared_workers, workers
from fedlib.settings.errors import SettingsError


def test_everybody_who_asks_hears_the_result_of_what_they_asked(smoke, tmp_path):
    def made(kind, settings_json):
        return kind, settings_json

    with ThreadPoolExecutor() as pool:
        submit = lambda kind, settings_json: pool.submit(made, kind, settings_json)  # noqa: E731
        with (
            shared_workers.answering(tmp_path, submit) as place,
            shared_workers.asking(place) as (first_base, first_run),
            shared_workers.asking(place) as (_, second_run),
        ):
            seeds = [smoke.replace(seed=seed) for seed in range(8)]
            asked = [first_run(one) for one in seeds[::2]] + [
                second_run(one) for one in seeds[1::2]
            ]
            wanted = [("run", one.model_dump_json()) for one in seeds[::2] + seeds[1::2]]
            assert [future.result(10) for future in asked] == wanted
            assert first_base(smoke).result(10) == ("base", smoke.model_dump_json())


def test_what_fails_is_raised_where_it_was_asked(smoke, tmp_path):
    def fails(kind, settings_json):
        future = Future()
        future.set_exception(SettingsError("data.rows: too few"))
        return future

    with (
        shared_workers.answering(tmp_path, fails) as place,
        shared_workers.asking(place) as (_, submit_run),
        pytest.raises(SettingsError, match=r"^data\.rows: too few$"),
    ):
        submit_run(smoke).result(10)


def test_where_the_workers_go_nobody_waits_for_ever(smoke, tmp_path):
    def hang_up(kind, settings_json):
        raise EOFError  # as when the process that answers ends

    with (
        shared_workers.answering(tmp_path, hang_up) as place,
        shared_workers.asking(place) as (_, submit_run),
        pytest.raises(RuntimeError, match="have gone"),
    ):
        submit_run(smoke).result(10)


@pytest.fixture
def pool_of_threads(monkeypatch):
    """A pool whose workers are threads, and the event that lets them end their work."""
    go_on = threading.Event()
    monkeypatch.setattr(workers, "start_pool", lambda devices, wanted: ThreadPoolExecutor(wanted))
    monkeypatch.setattr(workers, "_work", lambda settings_json, devices: go_on.wait(10))
    return workers._Pool(["", ""]), go_on


def test_a_run_that_two_ask_for_is_made_once(pool_of_threads):
    pool, go_on = pool_of_threads
    first, second, other = (pool.submit("run", text) for text in ("a", "a", "b"))
    assert first is second and first is not other
    go_on.set()
    assert first.result(10) and other.result(10)
    # asked again later, it is looked at again
    assert pool.submit("run", "a") is not first


def test_a_killed_worker_is_replaced(pool_of_threads):
    pool, go_on = pool_of_threads
    go_on.set()

    class Broken:
        def submit(self, work):
            raise BrokenProcessPool

    pool.executor = Broken()
    assert pool.submit("run", "a").result(10)
