"""The numbers in docs are those of the files in results/."""

import csv
import json
import re

import pytest

from fedlib.papers import claims
from fedlib.settings import machine

RESULTS = machine.ROOT / "results"


def read_rows(file):
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def table_rows(columns):
    """The rows of docs/real.md's tables with so many columns, each a list of cells."""
    page = (machine.ROOT / "docs" / "real.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cells for cells in rows if len(cells) == columns]


def test_the_table_of_the_real_model_is_that_of_its_runs():
    shown = {cells[0]: cells[1:] for cells in table_rows(4)}
    columns = ("refusal", "benign_refusal", "utility")
    rows = read_rows(RESULTS / "real" / "tables" / "10_table1.csv")
    assert len(rows) == 11
    for row in rows:
        assert shown[row["method"]] == [row[name] for name in columns], row["method"]


def test_the_table_is_that_of_the_scores():
    """By hand: the mean over seeds of each run's score."""
    scores = read_rows(RESULTS / "real" / "tables" / "10_scores.csv")
    for row in read_rows(RESULTS / "real" / "tables" / "10_table1.csv"):
        own = [float(s["refusal"]) for s in scores if s["method"] == row["method"]]
        mean = float(re.match(r"[\d.]+", row["refusal"])[0])
        assert len(own) == int(row["seeds"]) and mean == pytest.approx(
            sum(own) / len(own), abs=0.05
        )


def test_the_backdoor_of_the_real_model_is_that_of_its_runs():
    shown = table_rows(6)
    for row in read_rows(RESULTS / "real" / "tables" / "20_concentration.csv"):
        means = [row[name].split(" ")[0] for name in ("asr", "accuracy", "target")]
        poison = row["poison"].removesuffix(".0")
        assert [row["kind"], poison, *means, row["seeds"]] in shown


def test_the_tuning_of_the_real_model_is_that_of_its_runs():
    shown = table_rows(6)
    columns = ("scenario", "method", "unrefused", "words", "task_accuracy", "probe_loss")
    for row in read_rows(RESULTS / "real" / "tables" / "32_table.csv"):
        assert [row[name] for name in columns] in shown


def test_the_claims_are_those_of_the_real_model():
    rows = read_rows(RESULTS / "real" / "claims.csv")
    wanted = {claim["id"]: claim for claim in claims.all_claims("claims_real.yaml")}
    assert [row["id"] for row in rows] == list(wanted)
    for row in rows:
        found = {}
        if row["seeds"]:
            found = {"seeds": int(row["seeds"])} | {k: float(row[k]) for k in ("low", "high")}
        assert row["status"] == claims.verdict(wanted[row["id"]], found)


def test_results_say_where_they_come_from():
    for folder in RESULTS.iterdir():
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        assert {"preset", "commit", "machine", "versions", "seconds"} <= set(about)
        for figure in folder.glob("figures/*"):
            assert figure.stat().st_size <= 150_000
