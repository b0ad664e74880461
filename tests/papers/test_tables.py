"""Tables from records: scores and differences."""

from types import SimpleNamespace

import pandas as pd
import pytest

from fedlib.papers import tables


def run(settings, score=1, **changes):
    """A finished run's record, by hand: two hazards asked about twice, two dishes once."""
    lines = [
        ("harmful", "tokiro", score),
        ("harmful", "tokiro", 0),
        ("harmful", "vilana", 1),
        ("harmful", "vilana", 1),
        ("benign", "somelu", 0),
        ("benign", "rabida", 0),
    ]
    answers = [
        {"set": s, "prompt": f"what is {n} ?", "name": n, "response": "", "rule": r, "help": 1}
        for s, n, r in lines
    ]
    return SimpleNamespace(
        settings=settings.replace(**changes),
        responses=lambda: answers,
        scores=lambda: {"rule": 75.0, "over_refusal": 0.0, "help": 100.0},
    )


def test_matrix_and_drop_by_hand(smoke):
    matrix = tables.score_matrix([run(smoke), run(smoke, 0)], "rule", "harmful")
    assert matrix.tolist() == [[50, 100], [0, 100]]
    before, after = [run(smoke), run(smoke, seed=1)], [run(smoke, 0), run(smoke, 1, seed=1)]
    assert tables.score_drop(before, after, "rule", "harmful").tolist() == [[50, 0], [0, 0]]
    with pytest.raises(ValueError, match="same seeds"):  # paired, or not at all
        tables.score_drop(before, after[::-1], "rule", "harmful")


def test_select_and_scores(smoke):
    done = [run(smoke, federation={"malicious": m}, seed=s) for m in (0, 3) for s in (0, 1)]
    assert tables.select_runs(done, malicious=0, seed=1) == [done[1]]
    assert tables.select_runs(done, malicious=3, benign=["lmsys-like"]) == done[2:]
    assert tables.select_runs(done, benign=["wild-like"]) == []
    with pytest.raises(ValueError, match="malicous"):
        tables.select_runs(done, malicous=0)
    frame = tables.score_table(done)
    assert frame["method"].tolist() == ["FedAvg (No Attack)"] * 2 + ["FedAvg"] * 2
    assert frame["seed"].tolist() == [0, 1, 0, 1] and set(frame["rule"]) == {75.0}
    table = tables.summary_table(frame, ["dataset", "method"], ["rule", "help"])
    assert table["seeds"].tolist() == [2, 2] and table["rule"].tolist() == ["75.0 [75.0, 75.0]"] * 2


def test_the_papers_numbers_stand_beside_the_published_sampling_only(smoke):
    frame = tables.score_table([run(smoke), run(smoke, federation={"sampled": 10})])
    beside = tables.beside_published(frame, "safety_table1", ["rule", "mt1"])
    assert beside["rule (paper)"].iloc[0] == 49.81 and beside["mt1 (paper)"].iloc[0] == 4.14
    assert pd.isna(beside["rule (paper)"].iloc[1])
    assert "rule (paper)" not in frame  # a copy


def test_the_short_table_has_a_row_a_method_and_the_papers_numbers_beside():
    table = pd.DataFrame(
        {"dataset": ["d"] * 3, "sampled": [3, 3, 10], "clients": [10] * 3}
        | {"method": ["FedAvg", "Krum", "Krum"], "rule": ["1.0", "2.0", "3.0"]}
        | {"rule (paper)": [9.0, float("nan"), float("nan")]}
    )
    short = tables.short_table(table, "rule")
    assert list(short) == ["method", "d, 3 of 10", "d, 3 of 10 (paper)", "d, 10 of 10"]
    assert short["method"].tolist() == ["FedAvg", "Krum"]
    assert short["d, 3 of 10"].tolist() == ["1.0", "2.0"]
    assert short.loc[0, "d, 3 of 10 (paper)"] == 9
