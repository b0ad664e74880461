"""The picture of the claims: rows, places and verdicts that can be checked by hand."""

import numpy as np
import pandas as pd
import pytest

from fedlib.papers import claim_picture, claims


def row(name, variant, measured, status="holds", bounds=(20, np.inf), **more):
    low, high = (measured - 5, measured + 5) if measured is not None else (None, None)
    made = {"id": name, "paper": "S", "family": "Safety falls", "variant": variant}
    made |= {"measured": measured, "low": low, "high": high, "seeds": 5, "status": status}
    made |= {"bounds": bounds, "unit": "points", "metric": "how", "margin": f">= {bounds[0]}"}
    return made | {"published": None} | more


def families(*rows):
    [paper] = claim_picture.claim_papers(pd.DataFrame(rows))
    return paper.families


def test_variants_share_a_row_and_its_scale():
    """From 0 to 100: the zone from 20 on, dots at 30 and 95, the ends at 0 and 100."""
    [family] = families(row("S1-a", "a", 30.0, published=40.0), row("S1-b", "b", 95.0))
    edge = claim_picture.EDGE

    def place(value):
        return 100 * (value + 100 * edge) / (100 + 200 * edge)

    assert family.zone == (pytest.approx(place(20), abs=0.01), 100)
    first, second = family.claims
    assert first.dot == pytest.approx(place(30), abs=0.01)
    assert first.diamond == pytest.approx(place(40), abs=0.01)
    assert second.interval == pytest.approx((place(90), place(100)), abs=0.01)
    assert second.diamond is None and second.published == ""
    assert (first.measured, first.margin) == ("30 [25, 35]", "at least 20")
    assert [text for _, text in family.ticks] == ["0", "20"]
    assert first.notebook == "10_safety_table1"


SAID = [  # status, measured, what is said
    ("holds", 30.0, "holds"),
    ("does not hold", 5.0, "does not hold"),
    ("inconclusive", 21.0, "inconclusive"),
    ("preliminary", 30.0, "inside so far"),
    ("preliminary", 19.9, "outside so far"),
    ("not run", None, "not run"),
]


@pytest.mark.parametrize("status, measured, said", SAID)
def test_what_is_said(status, measured, said):
    [family] = families(row("S1-a", "", measured, status))
    assert family.claims[0].said == said
    assert family.counts == [(said, 1)]
    assert (family.claims[0].dot is None) == (measured is None)


def test_every_claim_is_in_the_picture(smoke):
    papers = claim_picture.claim_papers(claims.claim_verdicts(smoke))
    found = [one.id for paper in papers for family in paper.families for one in family.claims]
    assert sorted(found) == sorted(claim["id"] for claim in claims.all_claims())
    assert [paper.title[:7] for paper in papers] == ["Paper S", "Paper B", "Paper W"]
    assert [paper.counts[0][0] for paper in papers] == ["not run"] * 3
