"""The papers' own numbers, and where they stand beside ours."""

import csv

import numpy as np
import pandas as pd
import pytest

from fedlib.papers import methods, tables

JUDGES = ["rule", "md_judge", "rm", "mt1"]
PAPER = [  # Table 1 of paper S: method, dataset, rule, md_judge, rm, mt1
    ("FedAvg (No Attack)", "LMSYS-Chat", 82.88, 66.15, -1.72, 4.19),
    ("FedAvg", "LMSYS-Chat", 49.81, 25.96, -2.97, 4.14),
    ("Repair: level 2", "LMSYS-Chat", 77.31, 84.23, -0.99, 4.23),
    ("FedAvg (No Attack)", "WildChat", 79.04, 43.27, -1.63, 4.75),
    ("FedAvg", "WildChat", 38.65, 12.31, -2.73, 4.54),
    ("Repair: level 3", "WildChat", 51.54, 57.69, -1.90, 4.39),
]


def test_published_table_1():
    table = tables.published_table("safety_table1")
    assert len(table) == 22
    methods_each = table.groupby("dataset")["method"].nunique().to_dict()
    assert methods_each == dict.fromkeys(tables.STANDS_FOR, 11)
    assert not table.isna().any().any()
    stands = {v: k for k, v in tables.STANDS_FOR.items()}
    for method, dataset, *numbers in PAPER:
        row = table[(table["method"] == method) & (table["dataset"] == stands[dataset])]
        assert row[JUDGES].iloc[0].tolist() == numbers


def test_published_tables_3_and_4():
    table = tables.published_table("safety_table3").set_index(["method", "defended"])
    assert len(table) == 14 and not table.isna().any().any()
    assert table.loc[("Krum", False), JUDGES].tolist() == [55.38, 27.88, -2.88, 4.16]
    assert table.loc[("Residual", True), JUDGES].tolist() == [78.08, 86.92, -0.94, 4.29]
    table = tables.published_table("safety_table4").set_index(["clients", "method"])
    assert len(table) == 10
    assert table.loc[(100, "DnC"), "md_judge"] == 15.19
    assert table.loc[(50, "Repair: level 2"), "rule"] == 81.73


def test_every_published_table_has_a_test():
    found = {p.stem for p in tables.PUBLISHED.glob("*.csv")}
    known = {"safety_table1", "safety_table3", "safety_table4", "safety_fig3b_weights"}
    assert found == known, "check the new table's numbers"


def cell(name, **wanted):
    """The first row of a published file, as it is written, with these values."""
    with open(tables.PUBLISHED / f"{name}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return next(row for row in rows if wanted.items() <= row.items())


@pytest.mark.parametrize(
    "name, keys, count",
    [
        ("safety_table1", {"method", "dataset"}, 22),
        ("safety_table3", {"method", "defended"}, 14),
        ("safety_table4", {"clients", "method"}, 10),
    ],
)
def test_published_tables_have_a_row_a_method_and_a_column_a_score(name, keys, count):
    table = tables.published_table(name)
    assert set(table.columns) == keys | set(JUDGES) and len(table) == count
    assert len(table.drop_duplicates(list(keys))) == count and not table.isna().any().any()
    shares = table[["rule", "md_judge"]].to_numpy()
    assert ((0 <= shares) & (shares <= 100)).all()
    assert table["mt1"].between(1, 10).all() and (table["rm"] < 0).all()
    assert set(table["method"]) <= set(methods.COLOUR)


def frame(*rows):
    """Rows of measured scores; each beside the paper's number should be."""
    usual = {"sampled": 3, "clients": 10, "rule": "50.0", "md_judge": "50.0"}
    return pd.DataFrame([usual | row for row in rows])


def test_table_1_by_hand():
    measured = frame(
        {"dataset": "wild-like", "method": "Krum"},
        {"dataset": "lmsys-like", "method": "Repair: level 3"},
        {"dataset": "lmsys-like", "method": "FedAvg (control)"},
    )
    out = tables.beside_published(measured, "safety_table1", ["rule", "md_judge"])
    krum = cell("safety_table1", method="Krum", benign_dataset="WildChat")
    assert [float(krum["rule"]), float(krum["md_judge"])] == [40.0, 9.42]
    assert out["rule (paper)"].tolist()[:2] == [40.0, 62.69]
    assert out["md_judge (paper)"].tolist()[:2] == [9.42, 72.88]
    assert out.iloc[2].isna().tolist().count(True) == 2  # the paper has no such control
    assert out["rule"].tolist() == ["50.0"] * 3


def test_table_3_by_hand():
    measured = frame(
        {"method": "Krum", "defended": True},
        {"method": "Krum", "defended": False},
        {"method": "FedAvg", "defended": True},
        {"method": "Residual", "defended": False},
    )
    out = tables.beside_published(measured, "safety_table3", ["md_judge", "mt1"])
    yes = cell("safety_table3", metric="md_judge", with_defense="yes")
    no = cell("safety_table3", metric="md_judge", with_defense="no")
    assert [float(yes["Krum"]), float(no["Krum"])] == [82.31, 27.88]
    assert out["md_judge (paper)"].tolist() == [82.31, 27.88, 84.23, 23.65]
    assert out["mt1 (paper)"].tolist() == [3.88, 4.16, 4.14, 4.04]


def test_table_4_by_hand():
    measured = frame(
        {"clients": 50, "method": "FedAvg", "sampled": 10},
        {"clients": 100, "method": "Repair: level 2", "sampled": 10},
        {"clients": 100, "method": "DnC", "sampled": 10},
        {"clients": 10, "method": "FedAvg", "sampled": 10},
    )
    out = tables.beside_published(measured, "safety_table4", ["md_judge"])
    ours = cell("safety_table4", clients="100", method="Repair: level 2")
    assert float(ours["md_judge"]) == 82.12
    assert out["md_judge (paper)"].tolist()[:3] == [11.35, 82.12, 15.19]
    assert np.isnan(out["md_judge (paper)"].iloc[3])  # 10 of 10, which is not in the table either


def test_no_number_stands_beside_full_participation():
    measured = frame({"dataset": "wild-like", "method": "Krum", "sampled": 10})
    out = tables.beside_published(measured, "safety_table1", ["rule"])
    assert out["rule (paper)"].isna().all()
