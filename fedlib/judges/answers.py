"""The answers of language models that judge, kept by content, so that none is asked for twice."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from fedlib.settings import identity, machine

Pair = tuple[str, str]  # a prompt and the response to it
TABLE = "create table if not exists answers (key text primary key, answer text)"
FIND = "select answer from answers where key = ?"
KEEP = "insert or replace into answers values (?, ?)"


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
    folder = machine.made_folder(machine.outputs() / "runs")
    keys = [identity.digest([asked_as, *pair]) for pair in pairs]
    # Runs in several processes share the file; each waits for the others.
    base = sqlite3.connect(folder / "answers.sqlite", timeout=120)
    try:
        with base:
            base.execute(TABLE)
        known = _find(base, set(keys))

        # Equal pairs have equal keys; one of them is asked for.
        missing = {key: i for i, key in enumerate(keys) if key not in known}
        if missing:
            for i, answer in ask(list(missing.values())):
                known[keys[i]] = answer
                if fine(answer):
                    with base:
                        base.execute(KEEP, (keys[i], answer))
    finally:
        base.close()
    return [known[key] for key in keys]


def _find(base: sqlite3.Connection, keys: set[str]) -> dict[str, str]:
    """{key: answer} of the keys that are kept."""
    found = {}
    for key in keys:
        for (answer,) in base.execute(FIND, (key,)):
            found[key] = answer
    return found
