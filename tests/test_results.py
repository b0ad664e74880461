"""The numbers in README and docs are those of the files in results/.

A sentence with numbers ends in a comment that names the rows behind them (docs/code.md)."""

import csv
import fnmatch
import importlib.util
import json
import re

import pytest
import yaml
from PIL import Image

from fedlib.papers import claims
from fedlib.settings import machine

RESULTS = machine.ROOT / "results"


def read_rows(file):
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def table_rows(columns, page="real.md"):
    """The rows of the tables of a page with so many columns, each a list of cells."""
    text = (machine.ROOT / "docs" / page).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
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


def test_the_attack_s_cost_by_seed_is_that_of_the_scores():
    scores = read_rows(RESULTS / "real" / "tables" / "10_scores.csv")
    by = {(row["method"], row["seed"]): float(row["refusal"]) for row in scores}
    lost = [by["FedAvg (No Attack)", seed] - by["FedAvg", seed] for seed in "012"]
    further = read_rows(RESULTS / "real" / "tables" / "further.csv")
    (said,) = [row["value"] for row in further if row["id"] == "S1-by-seed"]
    assert re.findall(r"\d+", said) == [f"{points:g}" for points in lost]


def test_the_backdoor_of_the_real_model_is_that_of_its_runs():
    shown = table_rows(5)
    for row in read_rows(RESULTS / "real" / "tables" / "20_concentration.csv"):
        poison = row["poison"].removesuffix(".0")
        assert [row["kind"], poison, row["asr"], row["accuracy"], row["target"]] in shown


def test_the_tuning_of_the_real_model_is_that_of_its_runs():
    shown = table_rows(6)
    columns = ("scenario", "method", "unrefused", "words", "task_accuracy", "probe_loss_rise")
    for row in read_rows(RESULTS / "real" / "tables" / "32_table.csv"):
        assert [row[name] for name in columns] in shown


def test_the_cut_s_tables_are_those_of_its_run():
    tables = {
        "01_safety": ("method", "refusal", "benign_refusal", "affirmation", "utility"),
        "01_backdoor": ("kind", "poison (%)", "aggregator", "filter", "asr", "accuracy", "target"),
        "01_tuning": ("method", "unrefused", "words", "task_accuracy", "probe_loss_rise"),
    }
    for table, names in tables.items():
        shown = table_rows(len(names))
        for row in read_rows(RESULTS / "cut" / "tables" / f"{table}.csv"):
            assert [row[name] for name in names] in shown, row


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
    for file in RESULTS.glob("*/about.json"):
        folder, about = file.parent, json.loads(file.read_text(encoding="utf-8"))
        assert {"preset", "commit", "machine", "versions", "seconds"} <= set(about)
        for figure in folder.glob("figures/*"):
            assert figure.stat().st_size <= 150_000


# --- the tables of docs/results.md


RULES = ("Median", "TrimmedMean", "Krum", "DnC", "FoolsGold", "Residual")
SHOWN = {
    "no attack": "FedAvg (No Attack)",
    "under attack": "FedAvg",
    "best existing defence": "",
    "level 1, existing rows": "Repair: level 1",
    "level 2, rows by an off-the-shelf LLM": "Repair: level 2",
    "level 3, rows by the attacked model": "Repair: level 3",
}


def mean_of(cell):
    """The mean of a cell such as 88.8 [85.5, 92.1]."""
    return float(re.match(r"-?[\d.]+", cell)[0])


def safety_lines():
    """The rows of the page's table of paper S: safe answers (%), the paper's beside them."""
    columns = {}
    for row in read_rows(RESULTS / "claims" / "tables" / "10_table1.csv"):
        columns.setdefault((row["dataset"], row["sampled"]), {})[row["method"]] = row
    lines = []
    for said, method in SHOWN.items():
        cells = [said]
        for rows in columns.values():
            name = method or max(RULES, key=lambda rule: mean_of(rows[rule]["md_judge"]))
            paper = rows[name]["md_judge (paper)"]
            cell = f"{rows[name]['md_judge']}{f' ({float(paper):.1f})' if paper else ''}"
            cells.append(cell if method else f"{name} {cell}")
        lines.append(cells)
    return lines


def backdoor_lines():
    """The rows of the page's table of paper B."""
    rows = read_rows(RESULTS / "claims" / "tables" / "20_concentration.csv")
    return [
        [r["kind"], r["poison"].removesuffix(".0"), r["asr"], r["accuracy"], r["target"]]
        for r in sorted(rows, key=lambda r: r["kind"])
    ]


def tuning_lines():
    """The rows of the page's table of paper W: ASR, answered in full, task accuracy; means."""
    rows = read_rows(RESULTS / "claims" / "tables" / "32_table.csv")
    lines = {}
    for row in rows:
        if row["scenario"] != "untuned":
            three = (mean_of(row[name]) for name in ("unsafe", "answered", "task_accuracy"))
            cells = lines.setdefault(f"{row['scenario']}: {row['method']}", [])
            cells.append(", ".join(f"{value:.0f}" for value in three))
    return [[name, *cells] for name, cells in sorted(lines.items(), reverse=True)]


@pytest.mark.parametrize("lines", [safety_lines, backdoor_lines, tuning_lines])
def test_the_world_s_tables_are_those_of_their_files(lines):
    wanted = lines()
    shown = table_rows(5, "results.md")
    assert len(wanted) >= 6
    for row in wanted:
        assert row in shown, row


def loaded(file):
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_was_not_run_and_other_papers_stay_as_they_were_kept(tmp_path):
    rows = {
        "kept": [("S1", "S", "holds"), ("B1", "B", "holds"), ("B2", "B", "holds")],
        "made": [
            ("S1", "S", "new"),
            ("B1", "B", "new"),
            ("B2", "B", "not run"),
            ("B3", "B", "new"),
        ],
    }
    for name, lines in rows.items():
        text = "\n".join(["id,paper,status", *(",".join(line) for line in lines), ""])
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    keep = loaded(RESULTS / "keep.py")
    merged = keep.merge_claims(tmp_path / "made.csv", tmp_path / "kept.csv", ["B"])
    assert merged.splitlines()[1:] == ["S1,S,holds", "B1,B,new", "B2,B,holds", "B3,B,new"]


def test_how_many_claims_have_a_published_number():
    rows = read_rows(RESULTS / "claims" / "claims.csv")
    own = [row["paper"] for row in rows if row["published"]]
    page = (machine.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert f"Only {len(own)} of the {len(rows)} claims have a number" in page
    assert f"{own.count('S')} of paper S, {own.count('B')} of paper B, none of paper W" in page
    assert own.count("W") == 0


def test_verdicts_agree_with_the_intervals_that_were_kept():
    wanted = {claim["id"]: claim for claim in claims.all_claims()}
    rows = read_rows(RESULTS / "claims" / "claims.csv")
    assert [row["id"] for row in rows] == list(wanted)
    for row in rows:
        assert row["status"] in ("holds", "does not hold", "inconclusive")
        if row["low"]:
            found = {"seeds": int(row["seeds"])} | {k: float(row[k]) for k in ("low", "high")}
            assert row["status"] == claims.verdict(wanted[row["id"]], found), row["id"]


# --- the numbers of sentences

NUMBER = re.compile(r"(?<![\w.,-])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|\.\d|-\w)")
SOURCES = re.compile(r"<!-- results: (.*?) -->", re.DOTALL)
# The target of a link, how sure an interval is, what is numbered.
NO_RESULT = re.compile(r"\]\(.*?\)|95% interval|([Nn]otebooks?|Table) \d+( to \d+)?")
SET = "<!-- set, not measured -->"  # a paragraph about settings and trials
# page: where its results begin and end
PARTS = {
    "README.md": ("## Three answers", "Where the two disagree"),
    "docs/results.md": ("## Paper S", r"\Z"),
    "docs/real.md": ("## Paper S on it", "## Not run"),
}


def numbers(text):
    """{(value, its decimals)} of a text's numbers."""
    found = [number.replace(",", "") for number in NUMBER.findall(text)]
    return {(abs(float(number)), len(number.partition(".")[2])) for number in found}


def values(source):
    """The numbers of the rows that a comment names: PRESET CLAIM, PRESET TABLE/CELL/..., ..."""
    preset, _, name = source.strip().partition(" ")
    table, *cells = name.split("/")
    rows = read_rows(RESULTS / preset / "claims.csv")
    if table.startswith("verdicts "):
        own = [r["status"] for r in rows if r["paper"] == table[-1]]
        kinds = ("holds", "does not hold", "inconclusive")
        return {float(n) for n in (len(own), *map(own.count, kinds))}
    if table == "settings":
        files = [machine.ROOT / "params" / f"{file}.yaml" for file in ("mini", preset)]
        found = {value for file in files for value in leaves(yaml.safe_load(file.read_text()))}
        return found | {100 * value for value in found}
    if (RESULTS / preset / "tables" / f"{table}.csv").exists():
        rows = read_rows(RESULTS / preset / "tables" / f"{table}.csv")
        rows = [r for r in rows if all(fnmatch.filter(r.values(), cell) for cell in cells)]
    else:
        rows = [row for row in rows if fnmatch.fnmatchcase(row["id"], name)]
    assert rows, f"no row is called {source!r}"
    return {value for row in rows for cell in row.values() for value, _ in numbers(cell)}


def leaves(content):
    """The numbers of nested settings."""
    if isinstance(content, dict):
        return {value for one in content.values() for value in leaves(one)}
    number = isinstance(content, int | float) and not isinstance(content, bool)
    return {abs(float(content))} if number else set()


def sentences(page):
    """The (text, sources) of each paragraph, list item and row of a page's part with results."""
    start, end = PARTS[page]
    text = (machine.ROOT / page).read_text(encoding="utf-8")
    part = re.search(f"{re.escape(start)}(.*?){end}", text, re.DOTALL)[1]
    checked_elsewhere = page != "README.md"  # tables, cell by cell
    for block in re.split(r"\n\s*\n|\n(?=[-|#] ?)", part):
        if SET in block or (block.startswith("|") and checked_elsewhere):
            continue
        # each comment speaks of what stands before it
        pieces = re.split(r"(<!-- results: .*?-->)", block, flags=re.DOTALL)
        for said, comment in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
            said = NO_RESULT.sub("", said)
            yield said, SOURCES.findall(comment)


@pytest.mark.parametrize("page", PARTS)
def test_each_number_is_one_of_the_files(page):
    wrong = []
    for text, sources in sentences(page):
        known = {
            value for part in sources for source in part.split(";") for value in values(source)
        }
        for value, decimals in numbers(text):
            # as it is rounded on the page
            if not any(abs(value - one) <= 0.5 * 10**-decimals + 1e-9 for one in known):
                wrong.append((value, text.strip()[:90], sources))
    assert not wrong, "\n".join(map(str, wrong))


def test_a_wrong_number_is_found():
    known = values("claims W3-format")
    assert {16.5, 3.837, 29.34} <= known and 16.4 not in known
    assert numbers("MT-1: 16.5 [-3.8, 1,000] of W3 in 99%.") == {
        (16.5, 1),
        (3.8, 1),
        (1000, 0),
        (99, 0),
    }


def test_the_pictures_are_drawn_from_these_files():
    file = machine.ROOT / "docs" / "figures" / "draw.py"
    draw = loaded(file)
    pictures = sorted(file.parent.glob("*.png"))
    assert [picture.stem for picture in pictures] == sorted(draw.PICTURES)
    for picture in pictures:
        assert picture.stat().st_size <= 150_000
        drawn_from = Image.open(picture).text["Description"]
        assert drawn_from == draw.source_digest(picture.stem), "run draw.py again"
    for name, (_, table) in draw.REAL_PICTURES.items():
        drawn_from = Image.open(RESULTS / "real" / "figures" / f"{name}.png").text["Description"]
        assert drawn_from == draw.scores_digest(table), "run draw.py again"


def test_the_readme_is_two_screens():
    assert len((machine.ROOT / "README.md").read_text(encoding="utf-8")) <= 8000
