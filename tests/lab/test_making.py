"""What must be made before a run, in which order, by whom, and what others find meanwhile."""

import threading

import pytest

from fedlib.lab import judging, keys, runs, steps, store

GENERATED = {"attack": "generated"}
# each kind of work of level 2, in order, and the function that does it
WORK = {
    "run": (steps, "run_federation"),
    "aligned": (steps, "have_rows_written"),
    "normal": (steps, "have_rows_written"),
    "defended": (steps, "run_posthoc"),
    "evaluation": (judging, "evaluate"),
}
BY_NAME = {name: what for what, (_, name) in WORK.items() if name != "have_rows_written"}


def at(settings, level, **changes):
    return settings.replace(defense={"level": level}).replace(**changes)


def folder_of(settings, kind):
    folders = {
        "run": keys.run_folder(keys.attacked(settings)),
        "defended": keys.run_folder(settings),
        "evaluation": keys.evaluation_folder(settings),
    }
    return folders[kind] if kind in folders else keys.written_folder(settings, kind)


@pytest.mark.parametrize(
    "level, more, made",
    [
        (0, {}, ["run", "evaluation"]),
        (0, GENERATED, ["unaligned", "run", "evaluation"]),
        (1, {}, ["run", "defended", "evaluation"]),
        (1, GENERATED, ["unaligned", "run", "defended", "evaluation"]),
        (2, {}, ["run", "aligned", "normal", "defended", "evaluation"]),
        (2, GENERATED, ["unaligned", "run", "aligned", "normal", "defended", "evaluation"]),
        (3, {}, ["run", "defended", "evaluation"]),
    ],
)
def test_what_it_needs_is_made_first(smoke, monkeypatch, level, more, made):
    calls = []

    def ensure(settings, folder, make, wait):
        kind = getattr(make, "keywords", {}).get("kind") or BY_NAME[make.__name__]
        calls.append((kind, settings, folder))

    monkeypatch.setattr(store, "ensure", ensure)
    settings = at(smoke, level, data=more)
    steps.make(settings)
    assert [kind for kind, _, _ in calls] == made
    for kind, own, folder in calls:
        assert own.defense.level == (0 if kind in ("run", "unaligned") else level)
        if kind in BY_NAME.values():
            assert folder == folder_of(settings, kind)


def test_undefended_runs_come_first_in_a_list(smoke, monkeypatch):
    made = []
    monkeypatch.setattr(steps, "make", lambda settings: made.append(settings.defense.level))
    monkeypatch.setattr(store.Run, "rounds", lambda run: [])
    runs.get_all([at(smoke, 2), at(smoke, 1), at(smoke, 0), at(smoke, 0, seed=1)])
    assert made == [0, 0, 2, 1]


@pytest.fixture
def work(monkeypatch):
    """Each kind of work of level 2 replaced by nothing; their calls."""
    made = []

    def noted(what):
        def do(settings, folder, kind=what):
            made.append(kind)

        return do

    for what, (module, name) in WORK.items():
        monkeypatch.setattr(module, name, noted(what))
    return made


@pytest.mark.parametrize("kind", WORK)
def test_who_comes_meanwhile_is_told_and_later_finds_it(smoke, monkeypatch, work, kind):
    settings, started, go = at(smoke, 2), threading.Event(), threading.Event()
    module, name = WORK[kind]

    def slow(settings, folder, kind=kind, wanted=kind):
        work.append(kind)
        if kind == wanted:
            started.set()
            assert go.wait(60)

    monkeypatch.setattr(module, name, slow)
    other = threading.Thread(target=steps.make, args=[settings])
    other.start()
    try:
        assert started.wait(60)
        with pytest.raises(store.Busy) as busy:
            steps.make(settings, wait=False)
        assert busy.value.args == (folder_of(settings, kind),)
        assert not store.is_there(settings)
    finally:
        go.set()
        other.join(60)
    assert store.is_there(settings)
    assert work == list(WORK)

    # the lock is free, and nothing is left to do
    steps.make(settings, wait=False)
    assert work == list(WORK)


@pytest.mark.parametrize("kind", WORK)
def test_work_that_fails_leaves_its_lock_free(smoke, monkeypatch, work, kind):
    module, name = WORK[kind]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, lambda settings, folder, kind=None: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                steps.make(at(smoke, 2), wait=False)
    steps.make(at(smoke, 2), wait=False)
    assert store.is_there(at(smoke, 2))
    assert work == list(WORK)
