"""The pictures of the claims: words, shapes and numbers, and what is said below them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from axes_read import lines, same

from fedlib.papers import claim_charts, claim_picture, claims, output

PAGE = 11  # inches; no picture is taller


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def verdict(name, family, variant, bounds, found, status, seeds=5, published=None):
    measured, low, high = found or (None, None, None)
    row = {"id": name, "paper": name[0], "family": family, "variant": variant, "status": status}
    row |= {"measured": measured, "low": low, "high": high, "seeds": seeds, "bounds": bounds}
    row |= {"unit": "points", "metric": "", "published": published}
    return row | {"margin": f">= {bounds[0]}"}


FALLS = ("Safety falls", "lmsys-like, full"), ("Safety falls", "krum")
SOME = pd.DataFrame(
    [
        verdict("S1-a", *FALLS[0], (15, np.inf), (30, 25, 35), "holds", published=40.19),
        verdict("S1-b", *FALLS[1], (15, np.inf), (5, 4, 6), "does not hold"),
        verdict("S2", "It is found", "", (15, np.inf), None, "not run", seeds=None),
        verdict("B1", "A trigger is learned", "", (85, np.inf), (50,) * 3, "preliminary", seeds=1),
    ]
)


def drawn(letter, verdicts=SOME):
    fig = claim_charts.claim_forest(verdicts, letter)
    fig.canvas.draw()
    [axes] = fig.axes
    return axes, [text.get_text() for text in axes.texts]


def test_claims_are_in_words_with_their_numbers_and_verdicts():
    _, words = drawn("S")
    assert {"Safety falls", "It is found", "holds if at least 15, in points"} <= set(words)
    assert {"lmsys-like, all clients", "Krum"} <= set(words), "no codes"
    assert {"30 [25, 35]", "40.2", "✓ holds", "✗ does not hold", "– not run"} <= set(words)
    assert "holds: 1, does not hold: 1, not run: 1" in words
    assert not any("S1" in text or "trigger" in text for text in words)


def test_a_verdict_has_its_own_shape():
    """Without colour, too, a picture says which is which."""
    looks = [(shape, filled) for shape, _, filled in claim_charts.SIGNS.values()]
    assert len(set(looks)) == len(looks)
    assert set(claim_charts.SIGNS) == set(claim_picture.ORDER) - {"not run"}

    # one point each is a claim; what the legend shows has none
    axes, _ = drawn("S")
    for said in ("holds", "does not hold"):
        shape, colour, _ = claim_charts.SIGNS[said]
        [dot] = [line for line in lines(axes, shape) if len(line.get_xdata()) == 1]
        assert same(dot.get_color(), colour)
    diamonds = [line for line in lines(axes, "D") if len(line.get_xdata()) == 1]
    assert len(diamonds) == 1, "one has a published number"


def test_places_lie_within_the_scale():
    axes, _ = drawn("S")
    [dot] = [line for line in lines(axes, "o") if len(line.get_xdata()) == 1]
    [cross] = [line for line in lines(axes, "X") if len(line.get_xdata()) == 1]
    left, right = claim_charts.SCALE
    assert left < cross.get_xdata()[0] < dot.get_xdata()[0] < right
    assert dot.get_ydata()[0] < cross.get_ydata()[0], "in the order of the claims"


def test_one_seed_is_a_first_look():
    axes, words = drawn("B")
    assert f"outside so far: 1. {output.ONE_SEED}" in words
    assert not any(output.ONE_SEED in text for text in drawn("S")[1])
    [dot] = [line for line in lines(axes, "v") if len(line.get_xdata()) == 1]
    assert same(dot.get_color(), "white")


def test_a_paper_without_claims():
    _, words = drawn("W")
    assert words == ["No claims about paper W with these settings."]
    assert claim_charts.claims_said(SOME, "W") == []


@pytest.mark.parametrize("letter", claims.PAPERS)
def test_every_claim_fits_a_page(smoke, letter):
    """Nothing is measured here: a row a claim all the same, and no text beyond the edges."""
    verdicts = claims.claim_verdicts(smoke)
    axes, words = drawn(letter, verdicts)
    assert words.count("– not run") == (verdicts["paper"] == letter).sum()
    fig = axes.figure
    assert fig.get_size_inches()[1] <= PAGE
    for text in axes.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= fig.bbox.x1 and box.y0 >= 0 and box.y1 <= fig.bbox.y1
    assert claim_charts.claims_said(verdicts, letter)[1:] == []


def test_words_and_variants_do_not_meet(smoke):
    for letter in claims.PAPERS:
        axes, _ = drawn(letter, claims.claim_verdicts(smoke))
        boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
        for number, box in enumerate(boxes):
            # a pixel may be shared
            small = box.padded(-1)
            assert not any(small.overlaps(other.padded(-1)) for other in boxes[number + 1 :])


def test_what_is_said_of_a_paper():
    said = claim_charts.claims_said(SOME, "S")
    assert said[0] == "The claims of paper S are 3. Holds: 1, does not hold: 1, not run: 1."
    assert said[1].endswith("- Safety falls: 1 of 2 outside the margin.") and len(said) == 2
    assert claim_charts.claims_said(SOME, "B")[-1] == "A verdict takes 5 seeds."
    held = claim_charts.claims_said(SOME[SOME["id"] == "S1-a"], "S")
    assert held[-1] == "None of those measured is outside its margin."
