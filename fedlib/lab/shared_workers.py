"""Workers that several processes share: who has them answers on a socket, the others ask there.

`fedlib reproduce` has them, and its notebooks ask: a worker is then started once, not once for each
notebook. The socket is a file in a folder that only this user can enter. No torch."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from fedlib.settings.schema import Settings

Submit = Callable[[Settings], Future]
ASKED = ("base", "run")  # what workers are asked to make


def socket_place() -> str | None:
    """The socket that FEDLIB_WORKERS names, or None."""
    return os.environ.get("FEDLIB_WORKERS") or None


@contextmanager
def asking(place: str) -> Iterator[tuple[Submit, Submit]]:
    """(have a run's base made, have a run made) by the workers that answer at `place`.

    The futures end in what the workers' do."""
    waiting: dict[int, Future] = {}
    numbers = itertools.count()
    with Client(place, "AF_UNIX") as connection:
        threading.Thread(target=_hear, args=(connection, waiting), daemon=True).start()

        def submit(kind: str, settings: Settings) -> Future:
            number, future = next(numbers), Future()
            waiting[number] = future
            connection.send((number, kind, settings.model_dump_json()))
            return future

        yield partial(submit, "base"), partial(submit, "run")


def _hear(connection: Connection, waiting: dict[int, Future]) -> None:
    """End each future as its answer comes; all of them when the workers are gone."""
    try:
        while True:
            number, result, error = connection.recv()
            future = waiting.pop(number)
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
    except (EOFError, OSError):
        for future in waiting.values():
            future.set_exception(RuntimeError("the workers that notebooks share have gone"))


@contextmanager
def answering(folder: Path, submit: Callable[[str, str], Future]) -> Iterator[str]:
    """A block in which others are answered at the place it gives: a socket in folder.

    submit(one of ASKED, settings as JSON) has it made."""
    place = str(folder / "workers")
    with Listener(place, "AF_UNIX") as listener:
        threading.Thread(target=_welcome, args=(listener, submit), daemon=True).start()
        yield place


def _welcome(listener: Listener, submit: Callable[[str, str], Future]) -> None:
    """Serve everybody who connects, until the listener is closed."""
    while True:
        try:
            connection = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, submit), daemon=True).start()


def _serve(connection: Connection, submit: Callable[[str, str], Future]) -> None:
    """Have made what one process asks for, and tell it how each thing ended."""
    one_at_a_time = threading.Lock()

    def tell(number: int, future: Future) -> None:
        error = future.exception()
        answer: tuple[int, Any, Any] = (number, None if error else future.result(), error)
        try:
            with one_at_a_time:
                connection.send(answer)
        except OSError:
            pass  # nobody waits for it any more

    try:
        while True:
            number, kind, settings_json = connection.recv()
            submit(kind, settings_json).add_done_callback(partial(tell, number))
    except (EOFError, OSError):
        connection.close()
