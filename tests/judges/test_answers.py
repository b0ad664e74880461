"""The answers that are kept: asked for once, and again where their file is damaged."""

import os
import sqlite3

import pytest

from fedlib.judges import answers
from fedlib.settings import machine

PAIRS = [("how?", f"so {number}") for number in range(40)]
RIGHT = [f"grade of so {number}: {'fine ' * 40}" for number in range(40)]


@pytest.fixture
def asked():
    """The numbers of the pairs that were asked about."""
    return []


@pytest.fixture
def get(asked):
    def call(pairs=PAIRS):
        def ask(indices):
            asked.extend(indices)
            return ((i, f"grade of {pairs[i][1]}: {'fine ' * 40}") for i in indices)

        return answers.kept(["judge"], pairs, ask)

    return call


def file():
    return machine.outputs() / "runs" / "answers.sqlite"


def change(content):
    """Replace one kept letter, so that the file is as whole as before."""
    return content.replace(b"grade of so 7: fine", b"grade of so 7: fiNe")


DAMAGES = [  # what happens to the file's content; how many answers are then asked for
    (lambda content: content, 0),
    (lambda content: content[: len(content) // 2], 40),
    (lambda content: content[:50], 40),
    (lambda content: b"", 40),
    (lambda content: b"\0" * len(content), 40),
    (lambda content: b"no data base" + content[12:], 40),
    (change, 1),
    (lambda content: change(content).replace(b"fiNe", b"fi\xffe"), 1),
    (lambda content: content.replace(b"text primary key, answer", b"text primary key, answeR"), 0),
    (lambda content: content.replace(b"text primary key, answer", b"text primary key, enswer"), 40),
]
NAMES = "none half start empty zeros header letter bytes capital column".split()


@pytest.mark.parametrize("damage, again", DAMAGES, ids=NAMES)
def test_a_damaged_file_of_answers_is_noticed(get, asked, capsys, damage, again):
    assert get() == RIGHT == get()
    assert asked == list(range(40))

    asked.clear()
    before = file().read_bytes()
    content = damage(before)
    assert (content == before) == (damage is DAMAGES[0][0])
    file().write_bytes(content)
    assert get() == RIGHT
    assert len(asked) == again
    # a whole file is put aside and spoken of, a single answer is only asked for again
    put_aside = again == 40 and content != b""
    said = "answers.sqlite is damaged: it is now answers.damaged" in capsys.readouterr().err
    assert said == put_aside
    assert file().with_name("answers.damaged").exists() == put_aside

    asked.clear()
    assert get() == RIGHT
    assert asked == []


def test_a_file_that_was_removed_is_made_anew(get, asked):
    get()
    os.remove(file())
    assert get() == RIGHT
    assert len(asked) == 80


def test_answers_of_an_earlier_version_count(get, asked):
    """They have no digests."""
    get()
    with sqlite3.connect(file()) as base:
        base.execute("drop table digests")
    base.close()
    assert get() == RIGHT
    assert len(asked) == 40


def test_a_file_in_use_is_no_damage(get, monkeypatch, capsys):
    get()
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, timeout: connect(file, timeout=0))
    with connect(file()) as busy:
        busy.execute("begin exclusive")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            get()
    busy.close()
    assert file().exists() and capsys.readouterr().err == ""
