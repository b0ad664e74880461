"""The labels and colours of the methods."""

import pandas as pd
import pytest

from fedlib.papers import methods, tables
from fedlib.settings import presets


def test_methods_have_a_label_and_a_colour_each():
    labels, colours = zip(*methods.METHODS.values(), strict=True)
    assert len(set(labels)) == len(set(colours)) == len(methods.METHODS)
    paper = set(tables.published_table("safety_table1")["method"])
    ours = {"FedAvg (control)", "Multi-Krum"}
    assert set(labels[:13]) - ours <= paper  # as the paper writes them


@pytest.fixture
def fresh(monkeypatch):
    """The tables as they are before any own method is drawn."""
    monkeypatch.setattr(methods, "LABEL", methods._Labels(methods.LABEL))
    monkeypatch.setattr(methods, "COLOUR", dict(methods.METHODS.values()))


def test_own_methods_have_a_label_and_a_colour_that_no_other_has(fresh):
    names = [f"a b/mine.py:rule{i}" for i in range(len(methods.OWN_COLOURS) - 1)]
    names.append("lab.rules:rule")
    labels = [methods.LABEL[name] for name in names]
    assert labels[0] == "rule0 (mine.py)" and labels[-1] == "rule (lab.rules)"
    colours = [methods.COLOUR[label] for label in labels]
    assert sorted(colours) == sorted(methods.OWN_COLOURS)
    assert len({colour.upper() for colour in methods.COLOUR.values()}) == len(methods.COLOUR)
    assert [methods.LABEL[name] for name in names] == labels


def test_there_is_a_colour_however_many_there_are(fresh):
    for i in range(2 * len(methods.OWN_COLOURS)):
        assert methods.COLOUR[methods.LABEL[f"mine.py:rule{i}"]] in methods.OWN_COLOURS


def test_the_label_of_a_name_that_is_no_method_is_an_error(fresh):
    for name in ("krun", "mine.py", ""):
        with pytest.raises(KeyError):
            methods.LABEL[name]


def test_a_run_under_an_own_method_is_a_row_of_its_own(fresh):
    settings = presets.load("smoke", federation={"aggregator": "mine.py:rule"})
    assert tables.method_label(settings) == "rule (mine.py)"
    settings = presets.load("smoke", defense={"level": "mine.py:halve"})
    assert tables.method_label(settings) == "halve (mine.py)"
    assert methods.level_label(2) == "Repair: level 2"
    assert methods.level_label("project") == "Projection"


def test_scores_of_own_judges_stand_behind_the_others():
    settings = presets.load("smoke", evaluation={"judges": ["rule", "mine.py:polite"]})
    columns = tables.score_columns(settings)
    assert columns == [*tables.SCORES, "polite", "benign_polite"]
    frame = pd.DataFrame({"method": ["a"], "rule": [50.0], "polite": [25.0]})
    assert list(tables.summary_table(frame, ["method"], columns)["polite"]) == ["25.00"]


def test_own_scores_of_safe_prompts_stand_there_where_such_prompts_are_asked():
    settings = presets.load(
        "smoke",
        data={
            "source": "local",
            "folder": "rows",
            "benign": ["benign.csv"],
            "aligned": "aligned.csv",
            "unaligned": "unaligned.csv",
            "harmful": "harmful.csv",
            "over_refusal": "safe.csv",
        },
        evaluation={"judges": ["rule", "mine.py:polite"]},
    )
    columns = tables.score_columns(settings)
    assert columns[len(tables.SCORES) :] == ["polite", "benign_polite", "over_refusal_polite"]
