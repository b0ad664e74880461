"""`fedlib compare`: own claims beside kept ones, every rule by a number that a person can check."""

import csv
import json
import re

import pytest

from fedlib import __main__
from fedlib.commands import compare
from fedlib.papers import claims
from fedlib.settings import machine
from fedlib.settings.errors import DataError, SettingsError

COLUMNS = "id paper claim metric margin published measured low high seeds status".split()
# By hand. S1-rule asks for at least 15 points, S9 for at most 0.3 of a grade.
RULE, GRADE = "S1-rule-lmsys-like-full", "S9-lmsys-like-full"
CASES = [  # claim; kept mean, low, high, status; own mean, low, high; what is said, why
    (RULE, (20, 16, 24, "holds"), (21, 15, 27), "agrees", "your mean lies in the interval"),
    (RULE, (20, 16, 24, "holds"), (26, 23, 29), "agrees", "the intervals overlap"),
    (RULE, (20, 16, 24, "holds"), (26, 24, 28), "agrees", "the intervals overlap"),
    (RULE, (20, 16, 24, "holds"), (29, 25, 33), "differs", "the intervals do not meet"),
    (RULE, (20, 16, 24, "holds"), (11, 7, 15), "differs", "the intervals do not meet"),
    (RULE, (20, 16, 24, "holds"), (23, "", ""), "agrees", "your mean lies in the interval"),
    (RULE, (20, 16, 24, "holds"), (25, "", ""), "differs", "your mean lies outside the interval"),
    (RULE, (20, "", "", "holds"), (24, 19, 29), "agrees", "its mean lies in your interval"),
    (RULE, (20, "", "", "holds"), (27, 21, 33), "differs", "its mean lies outside your interval"),
    (RULE, ("", "", "", "holds"), (15, 9, 21), "agrees", "the same side of the margin"),
    (RULE, ("", "", "", "holds"), (14, 9, 19), "differs", "the other side of the margin"),
    (RULE, ("", "", "", "does not hold"), (14, 9, 19), "agrees", "the same side"),
    (GRADE, ("", "", "", "holds"), (0.3, 0, 1), "agrees", "the same side"),
    (GRADE, ("", "", "", "holds"), (0.4, 0, 1), "differs", "the other side"),
    (
        RULE,
        ("", "", "", "inconclusive"),
        (14, 9, 19),
        "cannot be said",
        "the verdict is inconclusive",
    ),
    (RULE, ("", "", "", "not run"), (14, 9, 19), "cannot be said", "not measured in results/"),
    (RULE, (20, 16, 24, "holds"), ("", "", ""), "not run by you", ""),
]


def read(folder, rows):
    folder.mkdir(parents=True)
    with open(folder / "claims.csv", "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerows([COLUMNS, *rows])
    return folder / "claims.csv"


def row(claim, numbers, seeds=5, status="holds"):
    return [claim, "S", "what is claimed", "how", ">= 15", "", *numbers, seeds, status]


@pytest.mark.parametrize("claim, kept, own, said, why", CASES)
def test_a_claim_agrees_or_differs(tmp_path, claim, kept, own, said, why):
    theirs = read(tmp_path / "theirs", [row(claim, kept[:3], status=kept[3])])
    mine = read(tmp_path / "mine", [row(claim, own)])
    found = compare._compared(compare._read(theirs)[claim], compare._read(mine)[claim])
    assert found[0] == said
    assert why in found[1]


@pytest.fixture
def kept(tmp_path):
    folder = tmp_path / "kept" / "claims"
    rows = [
        row("S1-rule-lmsys-like-full", (20, 16, 24)),
        row("S1-rule-wild-like-full", (30, 26, 34)),
        row("B1", ("", "", ""), status="not run"),
        row("B2", ("", "", ""), status="not run"),
    ]
    read(folder, rows)
    about = {"commit": "abc1234", "machine": "a machine"}
    (folder / "about.json").write_text(json.dumps(about))
    return folder.parent


def test_nothing_is_left_out_in_silence(store, kept, capsys):
    own = [
        row("S1-rule-lmsys-like-full", (21, 15, 27), seeds=1, status="preliminary"),
        row("B1", (90, 80, 100), seeds=1, status="preliminary"),
        row("mine", (1, 0, 2), seeds=1, status="preliminary"),
    ]
    read(store / "mini+abc", own)
    compare.compare_claims("mini+abc", kept)
    printed = capsys.readouterr().out
    assert "beside results/claims (commit abc1234; a machine); settings were changed" in printed
    (line,) = [line for line in printed.splitlines() if line.strip().startswith("S1-rule")]
    shown = re.split(r"\s{2,}", line.strip())
    assert shown[1:5] == [">= 15", "20 [16, 24]", "21 [15, 27]", "agrees"]
    for said in (
        "4 claims: 1 agrees, 0 differs, 1 cannot be said, 2 not run by you",
        "of those not run by you, 1 are not in results/ either",
        "yours, but not measured in results/: B1",
        "yours, but no claim of results/: mine",
        "you have 1 seed(s): a first look; verdicts take 5",
    ):
        assert said in printed


def test_the_kept_results_agree_with_themselves(store, capsys):
    for preset in ("claims", "real"):
        rows = (machine.ROOT / "results" / preset / "claims.csv").read_bytes()
        (store / preset).mkdir(parents=True)
        (store / preset / "claims.csv").write_bytes(rows)
        assert __main__.main(["compare", preset]) == 0
        printed = capsys.readouterr().out
        agree = re.search(r"claims: (\d+) agrees, 0 differs", printed)
        assert agree and int(agree[1]) > 10


@pytest.mark.parametrize(
    "folder, preset, said",
    [
        ("mini", "mni", "did you mean 'mini'"),
        ("small", "small", "keeps nothing to set small beside (there are: claims)"),
    ],
)
def test_where_there_is_nothing_to_compare(store, kept, folder, preset, said):
    read(store / folder, [row("B1", (1, 0, 2))])
    with pytest.raises(SettingsError, match=re.escape(said)):
        compare.compare_claims(preset, kept)


@pytest.mark.parametrize(
    "rows, said",
    [
        ([], "holds no claims"),
        ([row("B1", (1, 0, 2)), row("B1", (1, 0, 2))], "line 3: B1 stands twice"),
        ([row("B1", ("many", 0, 2))], "line 2: measured: must be a number, got 'many'"),
        ([row("B1", (1, "inf", 2))], "line 2: low: must be a finite number, got 'inf'"),
        ([row("B1", (1, 0, 2))[:9]], "line 2: no seeds"),
    ],
)
def test_a_damaged_file_is_one_line(store, kept, rows, said):
    file = read(store / "mini", rows)
    with pytest.raises(DataError) as raised:
        compare.compare_claims("mini", kept)
    assert str(raised.value).startswith(f"{file}: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_ids_of_the_kept_claims_are_those_that_are_claimed():
    for preset, file in (("claims", "claims.yaml"), ("real", "claims_real.yaml")):
        kept = compare._read(machine.ROOT / "results" / preset / "claims.csv")
        assert list(kept) == [claim["id"] for claim in claims.all_claims(file)]
