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


def test_the_world_s_first_table_is_that_of_its_file():
    columns = [("lmsys-like", "3"), ("lmsys-like", "10"), ("wild-like", "3"), ("wild-like", "10")]
    cells = {}
    for row in read_rows(RESULTS / "claims" / "tables" / "10_table1.csv"):
        best = f"{row['method']} " if row["row"].startswith("best") else ""
        paper = f" ({row['md_judge (paper)']})" if row["md_judge (paper)"] else ""
        cells[row["row"], row["dataset"], row["sampled"]] = f"{best}{row['md_judge']}{paper}"
    shown = [row for row in table_rows(5, "results.md") if row[0] in {name for name, *_ in cells}]
    assert len(shown) == 6
    for name, *own in shown:
        assert own == [cells[name, *column] for column in columns]


def test_the_world_s_backdoor_is_that_of_its_file():
    rows = read_rows(RESULTS / "claims" / "tables" / "20_concentration.csv")
    injected, natural = ([r for r in rows if r["kind"] == kind] for kind in ("injected", "natural"))
    accuracy = [
        f"{a['accuracy']} / {b['accuracy']}" for a, b in zip(injected, natural, strict=True)
    ]
    wanted = [[row["asr"] for row in injected], [row["asr"] for row in natural], accuracy]
    shown = [
        row[1:] for row in table_rows(5, "results.md") if re.match("injected|natural|clean", row[0])
    ]
    assert shown == wanted


def test_the_world_s_tuning_is_that_of_its_file():
    rows = read_rows(RESULTS / "claims" / "tables" / "32_table.csv")
    columns = [(m, t) for m in ("chat", "chat-deep") for t in ("format", "skill")]
    names = {
        "plain tuning": "plain tuning",
        "SWAT": "SWAT",
        "warm-up: random": "warm-up of random modules",
        "warm-up: fragile": "warm-up of fragile modules",
    }
    shown = {row[0]: row[1:] for row in table_rows(5, "results.md")}
    for scenario in ("benign", "attack"):
        answered = {column: [] for column in columns}
        for method, name in names.items():
            own = {
                (r["model"], r["task"]): r
                for r in rows
                if (r["scenario"], r["method"]) == (scenario, method)
            }
            for column in columns:
                answered[column].append(own[column]["answered"])
            if own[columns[0]]["unsafe"]:
                cells = [f"{own[c]['unsafe']} ({own[c]['task_accuracy']})" for c in columns]
                assert shown[f"{scenario}: {name}"] == cells
        last = shown[f"answered, {scenario}: plain; SWAT; random; fragile"]
        assert last == ["; ".join(answered[column]) for column in columns]


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
    assert {16.5, 3.8, 29.3} <= known and 16.4 not in known
    assert numbers("MT-1: 16.5 [-3.8, 1,000] of W3 in 99%.") == {
        (16.5, 1),
        (3.8, 1),
        (1000, 0),
        (99, 0),
    }


def test_the_pictures_are_drawn_from_these_files():
    file = machine.ROOT / "docs" / "figures" / "draw.py"
    spec = importlib.util.spec_from_file_location("draw", file)
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
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
