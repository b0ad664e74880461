"""The answers of language models that judge, kept by content, so that none is asked for twice."""

import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fedlib.settings import identity, machine

Pair = tuple[str, str]  # a prompt and the response to it
TABLE = "create table if not exists answers (key text primary key, answer text)"
DIGESTS = "create table if not exists digests (key text primary key, digest text)"
FIND = "select answer, digest from answers left join digests using (key) where key = ?"
KEEP = "insert or replace into answers values (?, ?)"
KEEP_DIGEST = "insert or replace into digests values (?, ?)"
# What SQLite says of a file that it cannot make sense of; other errors are about its use.
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


def kept(
    asked_as: list,
    pairs: Sequence[Pair],
    ask: Callable[[list[int]], Iterable[tuple[int, str]]],
    fine: Callable[[str], object] = bool,
) -> list[str]:
    """The answers to pairs [N], from outputs/runs/answers.sqlite or asked for now, each pair once.

    asked_as: what else decides an answer, as JSON. ask(indices of pairs) yields (index, answer).
    Each answer is kept when it comes, so that an interruption loses little. An answer that is not
    fine is returned but not kept."""
    file = machine.made_folder(machine.outputs() / "runs") / "answers.sqlite"
    keys = [identity.digest([asked_as, *pair]) for pair in pairs]
    with _opened(file) as base:
        known = _find(base, set(keys))
        # Equal pairs have equal keys; one of them is asked for.
        missing = {key: i for i, key in enumerate(keys) if key not in known}
        for i, answer in ask(list(missing.values())) if missing else ():
            known[keys[i]] = answer
            if fine(answer):
                with base:
                    base.execute(KEEP, (keys[i], answer))
                    base.execute(KEEP_DIGEST, (keys[i], identity.digest([keys[i], answer])))
    return [known[key] for key in keys]


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """The data base of answers. Where it is damaged, it is put aside, a line says so, and an empty
    one takes its place.

    Runs in several processes share the file; each waits for the others."""
    base = _connected(file)
    try:
        whole = base.execute("pragma quick_check").fetchone()[0] == "ok"
        if whole:
            _make_tables(base)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in DAMAGED:
            raise
        whole = False
    if not whole:
        base.close()
        _put_aside(file)
        base = _connected(file)
        _make_tables(base)
    try:
        yield base
    finally:
        base.close()


def _connected(file: Path) -> sqlite3.Connection:
    base = sqlite3.connect(file, timeout=120)
    # a damaged letter is no reason to stop: the digest tells
    base.text_factory = lambda text: text.decode(errors="replace")
    return base


def _make_tables(base: sqlite3.Connection) -> None:
    with base:
        base.execute(TABLE)
        base.execute(DIGESTS)
        base.execute("select key, answer, digest from answers join digests using (key) limit 0")


def _put_aside(file: Path) -> None:
    aside = file.with_suffix(".damaged")
    with suppress(FileNotFoundError):  # another run was quicker
        os.replace(file, aside)
    # what SQLite had left to do was meant for that file
    file.with_name(f"{file.name}-journal").unlink(missing_ok=True)
    print(f"{file} is damaged: it is now {aside.name}, and answers are asked anew", file=sys.stderr)


def _find(base: sqlite3.Connection, keys: set[str]) -> dict[str, str]:
    """{key: answer} of the keys that are kept, without answers that are not what was kept.

    Answers of earlier versions have no digest: they are taken as they are."""
    found = {}
    for key in keys:
        for answer, digest in base.execute(FIND, (key,)):
            if digest in (None, identity.digest([key, answer])):
                found[key] = answer
    return found
