"""Estimates and tests over seeds, on numbers small enough to check by hand."""

import numpy as np
import pytest

from fedlib.papers import estimates


def test_mean_similarity_leaves_out_oneself():
    cosine = [[1.0, 0.5, -0.5], [0.5, 1.0, 0.0], [-0.5, 0.0, 1.0]]
    assert estimates.mean_similarity(cosine).tolist() == pytest.approx([0.0, 0.25, -0.25])
    assert estimates.mean_similarity(np.array(cosine)).shape == (3,)


@pytest.mark.parametrize(
    "benign, malicious, expected",
    [
        ([0.9, 0.8], [0.1], 1.0),  # all malicious ones are lower: found
        ([0.1, 0.2], [0.9], 0.0),  # higher: the wrong way round
        ([0.5, 0.5], [0.5, 0.5], 0.5),  # ties count half
        ([0.5, 0.2], [0.5], 0.25),  # one tie (a half), one wrong (none), of two pairs
        ([0.4, 0.6, 0.8], [0.5, 0.3], 5 / 6),  # of six pairs only 0.5 against 0.4 is wrong
    ],
)
def test_auc_by_hand(benign, malicious, expected):
    marked = [False] * len(benign) + [True] * len(malicious)
    assert estimates.auc(benign + malicious, marked) == pytest.approx(expected)


@pytest.mark.parametrize("malicious", [[True, True], [False, False]])
def test_auc_needs_both_kinds(malicious):
    with pytest.raises(ValueError, match="both benign and malicious"):
        estimates.auc([0.1, 0.2], malicious)
