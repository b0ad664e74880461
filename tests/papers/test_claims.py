"""Claims: each is whole, is recorded where it is about the settings, and gets its verdict."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from fedlib.papers import claims, tables
from fedlib.settings import machine

MARGINS = ("at_least", "at_most", "within")


COLUMNS = "id,paper,claim,metric,margin,published,measured,low,high,seeds,status".split(",")


CLAIMS = claims.all_claims()


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
    made = {"family", "variant"}  # of `over`
    unknown = set(claim) - {"id", "paper", "claim", "unit", "metric", "published", *MARGINS} - made
    assert not unknown, f"nobody reads {unknown}"


def test_ids_are_there_once():
    ids = [c["id"] for c in CLAIMS]
    assert len(set(ids)) == len(ids) > 0


@pytest.mark.parametrize(
    "claim, family, variant",
    [
        (
            "S1-rule-wild-like-full",
            "Malicious clients' unaligned data lowers safety by Rule",
            "wild-like, full",
        ),
        ("S8-S1-50", "The attack lowers safety with 50 and 100 clients", "50"),
        ("B5-dnc", "Positive control, one boosted client, is stopped by each of 9 rules", "dnc"),
        ("B1", "An injected trigger in under 10% of everybody's rows is learned", ""),
        ("W4-skill", "SWAT lowers ASR by at least a third", "attack, skill"),
    ],
)
def test_claims_that_differ_in_a_variant_are_a_family(claim, family, variant):
    [found] = [known for known in CLAIMS if known["id"] == claim]
    assert (found["family"], found["variant"]) == (family, variant)


@pytest.mark.parametrize("file", ["claims.yaml", "claims_real.yaml"])
def test_each_claim_has_its_notebook(file):
    notebooks = {notebook.stem for notebook in (machine.ROOT / "notebooks").glob("*.ipynb")}
    known = claims.all_claims(file)
    assert {claims.notebook_of(claim["id"]) for claim in known} <= notebooks
    variants = [(claim["paper"], claim["family"], claim["variant"]) for claim in known]
    assert len(set(variants)) == len(variants)
    with pytest.raises(ValueError, match="X1"):
        claims.notebook_of("X1-full")


def by_id(verdicts, claim):
    return verdicts.set_index("id").loc[claim]


def test_measure_and_claims(smoke, store):
    assert (claims.claim_verdicts(smoke)["status"] == "not run").all()
    claim = next(c["id"] for c in CLAIMS if c.get("at_least") == 20)
    values = np.full((5, 3), 40.0)
    assert claims.record_claim(smoke, claim, values) == (40, 40, 40)
    row = by_id(claims.claim_verdicts(smoke), claim)
    assert (row["status"], row["seeds"]) == ("holds", 5)
    assert (row["measured"], row["low"], row["high"]) == (40, 40, 40)
    claims.record_claim(smoke, claim, values[:4])
    row = by_id(claims.claim_verdicts(smoke), claim)
    assert (row["status"], row["seeds"]) == ("preliminary", 4)

    written = pd.read_csv(store / smoke.preset / "claims.csv")
    assert list(written.columns) == COLUMNS
    assert written["id"].tolist() == [c["id"] for c in CLAIMS]
    assert by_id(written, claim)["status"] == "preliminary"
    others = written[written["id"] != claim]
    assert set(others["status"]) == {"not run"}


@pytest.mark.parametrize(
    "change, status",
    [
        ({"federation": {"rounds": 3}}, "not run"),
        ({"seeds": [0, 1, 2, 3, 4, 5]}, "not run"),
        ({"evaluation": {"harmful": 9}}, "not run"),
        ({"model": {"lora_rank": 4}}, "not run"),
        # changes what is shown, not what is measured
        ({"evaluation": {"show_responses": True}}, "holds"),
        ({"seed": 4}, "holds"),  # a notebook sets it run by run
    ],
    ids=str,
)
def test_what_was_measured_with_other_settings_is_not_run(smoke, change, status):
    claim = next(c["id"] for c in CLAIMS if c.get("at_least") == 20)
    claims.record_claim(smoke, claim, [40.0] * 5)
    assert by_id(claims.claim_verdicts(smoke.replace(**change)), claim)["status"] == status


ELSEWHERE = {"source": "local", "folder": "x", "benign": ["mine.json"]}
ONLY_ABOUT = {  # changes after which a paper's claims are not about the settings
    "S": [
        {"data": ELSEWHERE},
        {"data": {"benign": ["wild-like"]}},
        {"data": {"attack": "generated"}},
    ],
    "B": [
        {"data": ELSEWHERE},
        {"data": {"benign": ["wild-like"]}},
        {"data": {"poison": {"share": 0.04}}},
        {"data": {"poison": {"target": "append"}}},
    ],
    "W": [{"data": ELSEWHERE}, {"swat": {"models": ["world:chat"]}}],
}


@pytest.mark.parametrize("paper", claims.PAPERS)
def test_a_claim_is_recorded_where_it_is_about_the_settings_only(smoke, store, paper):
    claim = next(c["id"] for c in CLAIMS if c["paper"] == paper)
    assert claims.is_about(paper, smoke)
    for changes in ONLY_ABOUT[paper]:
        assert not claims.is_about(paper, smoke.replace(**changes)), changes
        assert claims.record_claim(smoke.replace(**changes), claim, [1.0]) is None
    assert not list(store.rglob("*.json"))
    assert claims.record_claim(smoke, claim, [1.0])


def test_one_seed_given_five_times_is_one_seed(smoke):
    """Verdicts need five seeds; repeating one must not pass for that, wherever it is refused."""
    with pytest.raises(ValueError):
        claims.record_claim(smoke.replace(seeds=[0] * 5), CLAIMS[0]["id"], [40.0] * 5)


def test_an_unknown_claim_names_the_nearest(smoke, store):
    known = CLAIMS[0]["id"]
    with pytest.raises(ValueError, match=f"did you mean '{known}'"):
        claims.record_claim(smoke, known[:-1], [1.0])
    assert not list(store.rglob("*.json"))


@pytest.mark.parametrize("content", [b"", b'{"measured": 4', b"[]", b"\xff"])
def test_a_damaged_measure_counts_as_not_run(smoke, store, capsys, content):
    claim = CLAIMS[0]["id"]
    claims.record_claim(smoke, claim, [1.0])
    (file,) = store.rglob(f"{claim}.json")
    file.write_bytes(content)
    assert by_id(claims.claim_verdicts(smoke), claim)["status"] == "not run"
    assert f"{file} is damaged" in capsys.readouterr().out


def test_a_measure_keeps_its_settings(smoke, store):
    claims.record_claim(smoke, CLAIMS[0]["id"], [1.0])
    record = json.loads((store / smoke.preset / "measures" / f"{CLAIMS[0]['id']}.json").read_text())
    assert record["seeds"] == 1 and record["measured"] == 1 and np.isnan(record["low"])


def test_claims_agree_with_the_published_tables():
    by_id = {c["id"]: c["published"] for c in CLAIMS}
    table = tables.published_table("safety_table1").set_index(["dataset", "method"])
    clean, attack = "FedAvg (No Attack)", "FedAvg"
    others = ["Median", "TrimmedMean", "Krum", "DnC", "FoolsGold", "Residual"]
    for name in tables.STANDS_FOR:
        at = table.loc[name]
        wanted = {
            "S1-md_judge": at["md_judge"][clean] - at["md_judge"][attack],
            "S1-rule": at["rule"][clean] - at["rule"][attack],
            "S2": at["mt1"][clean] - at["mt1"][attack],
            "S5": at["md_judge"][clean] - at["md_judge"]["Repair: level 2"],
            "S6": at["md_judge"]["Repair: level 3"] - at["md_judge"][others].max(),
            "S9": at["mt1"][attack] - at["mt1"]["Repair: level 2"],
        }
        assert {k: by_id[f"{k}-{name}-sampled"] for k in wanted} == pytest.approx(wanted, abs=0.005)
    table = tables.published_table("safety_table3")
    table = table.pivot(index="method", columns="defended", values="md_judge")
    least = (table[True] - table[False]).min()
    assert by_id["S7-sampled"] == pytest.approx(least, abs=0.005)
    table = tables.published_table("safety_table4").set_index(["clients", "method"])["md_judge"]
    for k in (50, 100):
        assert by_id[f"S8-S1-{k}"] == pytest.approx(table[k, clean] - table[k, attack], abs=0.005)
        assert by_id[f"S8-S5-{k}"] == pytest.approx(
            table[k, clean] - table[k, "Repair: level 2"], abs=0.005
        )


def test_every_claim_is_measured_somewhere():
    papers = machine.ROOT / "fedlib" / "papers"
    sources = [file.read_text(encoding="utf-8") for file in papers.glob("*_results.py")]
    for file in (machine.ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        sources += ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    written = set(re.findall(r'f?"([A-Z]\d+(?:-[^"{]*)?)["{]', "\n".join(sources)))
    stems = set()
    for name in ("claims.yaml", "claims_real.yaml"):
        listed = (tables.PUBLISHED / name).read_text(encoding="utf-8")
        # a claim about the real model has R- before the id that a notebook writes
        stems |= {c.partition("{")[0] for c in re.findall(r"^- id: (?:R-)?(\S+)", listed, re.M)}
    assert stems and stems == written


def test_the_real_model_has_claims_of_its_own(smoke):
    real = smoke.replace(
        data={"source": "local", "folder": "x", "aligned": "a.csv", "prompts": "chat"},
        model={"base": claims.REAL_MODEL},
    )
    wanted = [claim["id"] for claim in claims.all_claims("claims_real.yaml")]
    assert [claim["id"] for claim in claims.claims_for(real)] == wanted
    assert all(name.startswith("R-") for name in wanted)
    assert claims.claims_for(smoke) == claims.all_claims()


def test_a_measure_of_one_seed_may_have_no_interval(tmp_path):
    file = tmp_path / "S4-krum.json"
    file.write_text('{"measured": 0.5, "low": NaN, "high": NaN, "seeds": 1, "settings": "s"}')
    assert claims._measured(file)["measured"] == 0.5
    file.write_text('{"measured": NaN, "low": 0, "high": 1, "seeds": 1, "settings": "s"}')
    assert claims._measured(file) == {}
