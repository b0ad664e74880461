"""Figures, tables and claims from records alone: intervals, verdicts, and what is never shown."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fedlib.papers import claims, estimates, output, tables

MARGINS = ("at_least", "at_most", "within")
COLUMNS = "id,paper,claim,metric,margin,published,measured,low,high,seeds,status".split(",")
CLAIMS = claims._claims()
SECRET = "bada and lemo make it"


# ---- intervals


@pytest.mark.parametrize("single", [3.0, [3.0], [[3.0]], np.array([3.0])])
def test_a_single_number_has_no_interval(single):
    mean, low, high = estimates.interval(single)
    assert mean == 3 and np.isnan(low) and np.isnan(high)
    assert estimates.text(single) == "3.0"


@pytest.mark.parametrize("shape", [(5,), (2,), (1, 7), (5, 7)])
def test_constant_values_have_no_width(shape):
    assert estimates.interval(np.full(shape, 2.5)) == (2.5, 2.5, 2.5)
    assert estimates.text(np.full(shape, 2.5)) == "2.5 [2.5, 2.5]"


def test_the_interval_is_of_the_mean_and_repeatable():
    values = [[0.0, 2.0, 4.0], [2.0, 4.0, 6.0]]  # seeds differ by 2, things by 2 and 2
    mean, low, high = estimates.interval(values)
    assert mean == 3 and 0 <= low < 3 < high <= 6
    assert estimates.interval(values) == (mean, low, high)
    assert estimates.interval(np.array(values) + 10) == pytest.approx(
        (mean + 10, low + 10, high + 10)
    )


def test_seeds_that_differ_widen_it_however_many_things():
    apart = np.array([0.0, 10, 20, 30, 40])[:, None] + np.zeros((5, 200))
    _, low, high = estimates.interval(apart)
    _, few_low, few_high = estimates.interval(apart[:, 0])
    assert (low, high) == pytest.approx((few_low, few_high), abs=2) and high - low > 20


@pytest.mark.parametrize("seeds", [1, 5])
def test_things_that_differ_widen_it_however_alike_the_seeds(seeds):
    mean, low, high = estimates.interval(np.tile([0.0, 10, 20, 30, 40], (seeds, 1)))
    assert mean == 20 and low < 15 and high > 25


def test_a_95_percent_interval_covers_about_95_percent():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        _, low, high = estimates.interval(rng.normal(1.0, 2.0, size=5), draws=1000)
        covered += low <= 1.0 <= high
    assert 0.85 * 300 <= covered <= 0.99 * 300


# ---- verdicts

VERDICTS = [  # margin, low, high, seeds, status
    ({"at_least": 20}, 20, 30, 5, "holds"),
    ({"at_least": 20}, 19, 30, 5, "inconclusive"),
    ({"at_least": 20}, 5, 20, 5, "inconclusive"),
    ({"at_least": 20}, 5, 19, 5, "does not hold"),
    ({"at_least": 20}, 25, 30, 4, "preliminary"),
    ({"at_least": 20}, 5, 10, 1, "preliminary"),
    ({"at_most": 6}, -3, 6, 5, "holds"),
    ({"at_most": 6}, -3, 7, 9, "inconclusive"),
    ({"at_most": 6}, 7, 8, 5, "does not hold"),
    ({"at_most": 6}, 1, 2, 4, "preliminary"),
    ({"within": [0.35, 0.65]}, 0.35, 0.65, 5, "holds"),
    ({"within": [0.35, 0.65]}, 0.3, 0.5, 5, "inconclusive"),
    ({"within": [0.35, 0.65]}, 0.5, 0.7, 5, "inconclusive"),
    ({"within": [0.35, 0.65]}, 0.3, 0.7, 5, "inconclusive"),
    ({"within": [0.35, 0.65]}, 0.7, 0.8, 5, "does not hold"),
    ({"within": [0.35, 0.65]}, 0.1, 0.2, 5, "does not hold"),
    ({"within": [0.35, 0.65]}, 0.4, 0.5, 4, "preliminary"),
]


@pytest.mark.parametrize("margin, low, high, seeds, status", VERDICTS, ids=str)
def test_verdict(margin, low, high, seeds, status):
    assert claims.verdict(margin, {"low": low, "high": high, "seeds": seeds}) == status


@pytest.mark.parametrize("margin", [{"at_least": 20}, {"at_most": 6}, {"within": [0, 1]}], ids=str)
def test_nothing_measured_is_not_run(margin):
    assert claims.verdict(margin, {}) == "not run"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c["id"])
def test_every_claim_is_whole(claim):
    assert (
        claim["paper"] in ("S", "B", "W")
        and claim["claim"]
        and claim["metric"]
        and "published" in claim
    )
    kinds = [k for k in MARGINS if k in claim]
    assert len(kinds) == 1
    bound = claim[kinds[0]]
    if kinds == ["within"]:
        assert len(bound) == 2 and bound[0] < bound[1]
    else:
        assert isinstance(bound, int | float)
    unknown = set(claim) - {"id", "paper", "claim", "unit", "metric", "published", *MARGINS}
    assert not unknown, f"nobody reads {unknown}"


def test_ids_are_there_once():
    ids = [c["id"] for c in CLAIMS]
    assert len(set(ids)) == len(ids) > 0


def by_id(verdicts, claim):
    return verdicts.set_index("id").loc[claim]


def test_measure_and_claims(smoke, store):
    assert (claims.verdicts(smoke)["status"] == "not run").all()
    claim = next(c["id"] for c in CLAIMS if c.get("at_least") == 20)
    values = np.full((5, 3), 40.0)
    assert claims.record(smoke, claim, values) == (40, 40, 40)
    row = by_id(claims.verdicts(smoke), claim)
    assert (row["status"], row["measured"], row["low"], row["high"], row["seeds"]) == (
        "holds",
        40,
        40,
        40,
        5,
    )
    claims.record(smoke, claim, values[:4])
    row = by_id(claims.verdicts(smoke), claim)
    assert (row["status"], row["seeds"]) == ("preliminary", 4)

    written = pd.read_csv(store / "smoke" / "claims.csv")
    assert list(written.columns) == COLUMNS and written["id"].tolist() == [c["id"] for c in CLAIMS]
    assert by_id(written, claim)["status"] == "preliminary"
    assert set(written.drop(index=written.index[written["id"] == claim])["status"]) == {"not run"}


@pytest.mark.parametrize(
    "change, status",
    [
        ({"federation": {"rounds": 3}}, "not run"),
        ({"seeds": [0, 1, 2, 3, 4, 5]}, "not run"),
        ({"evaluation": {"harmful": 9}}, "not run"),
        ({"model": {"lora_rank": 4}}, "not run"),
        (
            {"evaluation": {"show_responses": True}},
            "holds",
        ),  # changes what is shown, not what is measured
        ({"seed": 4}, "holds"),  # a notebook sets it run by run
    ],
    ids=str,
)
def test_what_was_measured_with_other_settings_is_not_run(smoke, change, status):
    claim = next(c["id"] for c in CLAIMS if c.get("at_least") == 20)
    claims.record(smoke, claim, [40.0] * 5)
    assert by_id(claims.verdicts(smoke.replace(**change)), claim)["status"] == status


def test_one_seed_given_five_times_is_one_seed(smoke):
    """Verdicts need five seeds; repeating one must not pass for that, wherever it is refused."""
    with pytest.raises(ValueError):
        claims.record(smoke.replace(seeds=[0] * 5), CLAIMS[0]["id"], [40.0] * 5)


def test_an_unknown_claim_names_the_nearest(smoke, store):
    known = CLAIMS[0]["id"]
    with pytest.raises(ValueError, match=f"did you mean '{known}'"):
        claims.record(smoke, known[:-1], [1.0])
    assert not list(store.rglob("*.json"))


# ---- records


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
        {"set": s, "prompt": f"what is {n} ?", "name": n, "response": SECRET, "rule": r, "help": 1}
        for s, n, r in lines
    ]
    return SimpleNamespace(
        settings=settings.replace(**changes),
        responses=lambda: answers,
        scores=lambda: {"rule": 75.0, "over_refusal": 0.0, "help": 100.0},
    )


def test_matrix_and_drop_by_hand(smoke):
    assert tables.matrix([run(smoke), run(smoke, 0)], "rule", "harmful").tolist() == [
        [50, 100],
        [0, 100],
    ]
    before, after = [run(smoke), run(smoke, seed=1)], [run(smoke, 0), run(smoke, 1, seed=1)]
    assert tables.drop(before, after, "rule", "harmful").tolist() == [[50, 0], [0, 0]]
    with pytest.raises(ValueError, match="same seeds"):  # paired, or not at all
        tables.drop(before, after[::-1], "rule", "harmful")


def test_select_and_scores(smoke):
    done = [run(smoke, federation={"malicious": m}, seed=s) for m in (0, 3) for s in (0, 1)]
    assert tables.select(done, malicious=0, seed=1) == [done[1]]
    assert tables.select(done, malicious=3, benign=["lmsys-like"]) == done[2:]
    assert tables.select(done, benign=["wild-like"]) == []
    with pytest.raises(ValueError, match="malicous"):
        tables.select(done, malicous=0)
    frame = tables.scores(done)
    assert frame["method"].tolist() == ["FedAvg (No Attack)"] * 2 + ["FedAvg"] * 2
    assert frame["seed"].tolist() == [0, 1, 0, 1] and set(frame["rule"]) == {75.0}
    table = tables.summary(frame, ["dataset", "method"], ["rule", "help"])
    assert table["seeds"].tolist() == [2, 2] and table["rule"].tolist() == ["75.0 [75.0, 75.0]"] * 2


def test_the_papers_numbers_stand_beside_the_published_sampling_only(smoke):
    frame = tables.scores([run(smoke), run(smoke, federation={"sampled": 10})])
    beside = tables.beside(frame, "safety_table1", ["rule", "mt1"])
    assert beside["rule (paper)"].iloc[0] == 49.81 and beside["mt1 (paper)"].iloc[0] == 4.14
    assert pd.isna(beside["rule (paper)"].iloc[1])
    assert "rule (paper)" not in frame  # a copy


@pytest.mark.parametrize("show", [False, True])
def test_responses_to_harmful_prompts_are_redacted(smoke, show):
    shown = tables.examples(run(smoke.replace(evaluation={"show_responses": show})))
    harmful = shown[shown["set"] == "harmful"]
    assert len(harmful) == 4 and shown[shown["set"] == "benign"]["response"].eq(SECRET).all()
    if show:
        assert harmful["response"].eq(SECRET).all()
    else:
        assert SECRET not in harmful.to_csv() and "bada" not in harmful.to_html()
        assert harmful["response"].iloc[0] == "[redacted: refusal, 5 words]"
        assert harmful["response"].iloc[1] == "[redacted: no refusal, 5 words]"


@pytest.mark.parametrize("show", [False, True])
def test_rows_show_no_unaligned_answer(smoke, show):
    own = [
        {
            "label": label,
            "instruction": f"q {label} {i}",
            "response": f"{label} answer {i}",
            "topic": "t",
        }
        for label in ("normal", "aligned", "unaligned")
        for i in range(3)
    ]
    shown = tables.rows(
        smoke.replace(evaluation={"show_responses": show}), {0: own[:6], 9: own}, per_label=2
    )
    assert shown["client"].tolist() == [0] * 4 + [9] * 6
    assert ("unaligned answer" in shown.to_csv()) == show
    assert shown[shown["label"] == "normal"]["response"].str.startswith("normal answer").all()


# ---- files


def test_tables_and_figures_are_files(smoke, store):
    frame = pd.DataFrame({"method": ["FedAvg"], "rule": [49.812345]})
    assert output.table(smoke, frame, "t") is frame
    assert pd.read_csv(store / "smoke/tables/t.csv").equals(frame)
    assert "| 49.81" in (store / "smoke/tables/t.md").read_text()
    plt = output.style()
    fig, _ = plt.subplots()
    assert output.figure(smoke, fig, "f") is fig
    output.figure(smoke, fig, "again")
    folder = store / "smoke/figures"
    assert (folder / "f.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "f.pdf").read_bytes()[:4] == b"%PDF"
    assert (
        b"CreationDate" not in (folder / "f.pdf").read_bytes()
    )  # the same figure is the same file
    assert (folder / "f.pdf").read_bytes() == (folder / "again.pdf").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == ["again.pdf", "again.png", "f.pdf", "f.png"]
    plt.close(fig)


PAPER = [  # Table 1 of paper S: method, dataset, rule, md_judge, rm, mt1
    ("FedAvg (No Attack)", "LMSYS-Chat", 82.88, 66.15, -1.72, 4.19),
    ("FedAvg", "LMSYS-Chat", 49.81, 25.96, -2.97, 4.14),
    ("Ours: Level 2", "LMSYS-Chat", 77.31, 84.23, -0.99, 4.23),
    ("FedAvg (No Attack)", "WildChat", 79.04, 43.27, -1.63, 4.75),
    ("FedAvg", "WildChat", 38.65, 12.31, -2.73, 4.54),
    ("Ours: Level 3", "WildChat", 51.54, 57.69, -1.90, 4.39),
]


def test_published_table_1():
    table = tables.published("safety_table1")
    assert len(table) == 22
    assert table.groupby("dataset")["method"].nunique().to_dict() == dict.fromkeys(
        tables.STANDS_FOR, 11
    )
    assert not table.isna().any().any()
    stands = {v: k for k, v in tables.STANDS_FOR.items()}
    for method, dataset, *numbers in PAPER:
        row = table[(table["method"] == method) & (table["dataset"] == stands[dataset])]
        assert row[["rule", "md_judge", "rm", "mt1"]].iloc[0].tolist() == numbers


def test_published_tables_3_and_4():
    table = tables.published("safety_table3").set_index(["method", "defended"])
    assert len(table) == 14 and not table.isna().any().any()
    assert table.loc[("Krum", False), ["rule", "md_judge", "rm", "mt1"]].tolist() == [
        55.38,
        27.88,
        -2.88,
        4.16,
    ]
    assert table.loc[("Residual", True), ["rule", "md_judge", "rm", "mt1"]].tolist() == [
        78.08,
        86.92,
        -0.94,
        4.29,
    ]
    table = tables.published("safety_table4").set_index(["clients", "method"])
    assert (
        len(table) == 10
        and table.loc[(100, "DnC"), "md_judge"] == 15.19
        and table.loc[(50, "Ours"), "rule"] == 81.73
    )


def test_every_published_table_has_a_test():
    found = {p.stem for p in tables.PUBLISHED.glob("*.csv")}
    known = {"safety_table1", "safety_table3", "safety_table4", "safety_fig3b_weights"}
    assert found == known, "check the new table's numbers"


def test_claims_agree_with_the_published_tables():
    by_id = {c["id"]: c["published"] for c in CLAIMS}
    table, clean, attack = (
        tables.published("safety_table1").set_index(["dataset", "method"]),
        "FedAvg (No Attack)",
        "FedAvg",
    )
    others = ["Median", "TrimmedMean", "Krum", "DnC", "FoolsGold", "Residual"]
    for name in tables.STANDS_FOR:
        at = table.loc[name]
        wanted = {
            "S1-md_judge": at["md_judge"][clean] - at["md_judge"][attack],
            "S1-rule": at["rule"][clean] - at["rule"][attack],
            "S2": at["mt1"][clean] - at["mt1"][attack],
            "S5": at["md_judge"][clean] - at["md_judge"]["Ours: Level 2"],
            "S6": at["md_judge"]["Ours: Level 3"] - at["md_judge"][others].max(),
            "S9": at["mt1"][attack] - at["mt1"]["Ours: Level 2"],
        }
        assert {k: by_id[f"{k}-{name}-sampled"] for k in wanted} == pytest.approx(wanted, abs=0.005)
    table = tables.published("safety_table3").pivot(
        index="method", columns="defended", values="md_judge"
    )
    assert by_id["S7-sampled"] == pytest.approx((table[True] - table[False]).min(), abs=0.005)
    table = tables.published("safety_table4").set_index(["clients", "method"])["md_judge"]
    for k in (50, 100):
        assert by_id[f"S8-S1-{k}"] == pytest.approx(table[k, clean] - table[k, attack], abs=0.005)
        assert by_id[f"S8-S5-{k}"] == pytest.approx(table[k, clean] - table[k, "Ours"], abs=0.005)


def test_methods_have_a_label_and_a_colour_each():
    labels, colours = zip(*tables.METHODS.values(), strict=True)
    assert len(set(labels)) == len(set(colours)) == len(tables.METHODS)
    paper = set(tables.published("safety_table1")["method"])
    assert (
        set(labels[:13]) - {"FedAvg (control)", "Multi-Krum"} <= paper
    )  # as the paper writes them


def test_a_measure_keeps_its_settings(smoke, store):
    claims.record(smoke, CLAIMS[0]["id"], [1.0])
    record = json.loads((store / "smoke" / "measures" / f"{CLAIMS[0]['id']}.json").read_text())
    assert record["seeds"] == 1 and record["measured"] == 1 and np.isnan(record["low"])


def test_the_interval_over_seeds_is_students():
    """Mean 2, standard deviation 1, n = 3: 2 +- 4.3027 / sqrt(3)."""
    mean, low, high = estimates.interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2, 2 - 2.4841, 2 + 2.4841), abs=1e-3)
