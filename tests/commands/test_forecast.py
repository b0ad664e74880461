"""The forecast: which runs are missing, how long they take, and at what pace it goes."""

import pytest

from fedlib.commands import forecast
from fedlib.lab import keys, runs
from fedlib.papers import grids
from fedlib.settings import presets

DURATIONS = [
    (20, "less than a minute"),
    (80, "about a minute"),
    (170, "about 3 minutes"),
    (2 * 3600, "about 2 hours"),
    (5.25 * 3600, "about 5.2 hours"),
    (4 * 86400, "about 4 days"),
]


@pytest.mark.parametrize("seconds, said", DURATIONS)
def test_durations_in_words(seconds, said):
    assert forecast.duration(seconds) == said


def test_what_is_there_is_not_counted(smoke, monkeypatch):
    """Two runs are asked for, of which one is made; the tour asks for none."""
    made, other = smoke, smoke.replace(seed=1)
    monkeypatch.setattr(grids, "GRIDS", {"10_a": (lambda _: [made, other],)})
    names = ["00_tour", "10_a"]
    before = forecast.Forecast(smoke, names, at_once=1)
    assert before.runs == len(before.missing(names)) == 2

    runs.get(made)
    after = forecast.Forecast(smoke, names, at_once=1)
    assert after.missing(names) == {other.model_dump_json()}
    kernels = 2 * forecast.NOTEBOOK_SECONDS
    assert kernels < after.seconds_for(names)
    assert after.seconds_for(["00_tour"]) == forecast.NOTEBOOK_SECONDS
    # a spoilt run is to be made again
    (keys.evaluation_folder(made) / "scores.json").write_text("{}")
    assert len(after.missing(names)) == 2


def test_what_is_left_follows_the_pace_so_far(smoke, monkeypatch):
    """10 of 20 planned seconds took 150: with 60 of trust, what is left takes 3 times as long."""
    monkeypatch.setattr(grids, "GRIDS", {})
    clock = [0.0]
    monkeypatch.setattr(forecast.time, "monotonic", lambda: clock[0])
    told = forecast.Forecast(smoke, ["00_a", "01_b"], at_once=1)
    assert told.seconds_left(["00_a", "01_b"]) == 2 * forecast.NOTEBOOK_SECONDS
    assert (forecast.NOTEBOOK_SECONDS, forecast.TRUST) == (10, 60)
    clock[0] = 150.0
    assert told.seconds_left(["01_b"]) == 10 * (150 + 60) / (10 + 60)


def test_where_nothing_is_known_it_says_why(store):
    real = presets.load("real", data={"folder": "/not/here"})
    told = forecast.Forecast(real, ["01_three_papers"], at_once=1)
    assert "/not/here" in told.unknown and told.runs == 0
