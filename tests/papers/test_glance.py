"""The few runs that stand for the three papers are all among those of other notebooks."""

import pytest

from fedlib.lab import keys
from fedlib.papers import glance, grids
from fedlib.settings import presets
from fedlib.settings.errors import SettingsError

PARTS = {
    glance.safety_runs: ("10_safety_table1", 5),
    glance.backdoor_runs: ("22_backdoor_defenses", 6),
    glance.tuning_runs: ("32_swat_table", 4),
}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_nothing_is_run_for_the_glance_only(part):
    mini = presets.load("mini", model={"device": "cpu"})
    name, count = PARTS[part]
    elsewhere = grids.notebook_runs(mini, name)
    elsewhere += grids.notebook_runs(mini, "20_backdoor_concentration")
    few = part(mini)
    assert len(few) == count
    assert {keys.key(run) for run in few} <= {keys.key(run) for run in elsewhere}


def test_a_paper_that_cannot_run_does_not_keep_the_others_from_running(monkeypatch):
    mini = presets.load("mini", model={"device": "cpu"})
    every = glance.all_runs(mini)
    assert len(every) == sum(count for _, count in PARTS.values())

    def fails(settings):
        raise SettingsError("swat.pairs: none")

    monkeypatch.setattr(glance, "PAPERS", (*glance.PAPERS[:2], fails))
    assert glance.all_runs(mini) == every[:11]
