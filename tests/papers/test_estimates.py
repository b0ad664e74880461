"""Estimates and tests over seeds, on numbers small enough to check by hand."""

import itertools

import numpy as np
import pandas as pd
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


@pytest.mark.parametrize("single", [3.0, [3.0], [[3.0]], np.array([3.0])])
def test_a_single_number_has_no_interval(single):
    mean, low, high = estimates.interval(single)
    assert mean == 3 and np.isnan(low) and np.isnan(high)
    assert estimates.interval_text(single) == "3.0"


@pytest.mark.parametrize("shape", [(5,), (2,), (1, 7), (5, 7)])
def test_constant_values_have_no_width(shape):
    assert estimates.interval(np.full(shape, 2.5)) == (2.5, 2.5, 2.5)
    assert estimates.interval_text(np.full(shape, 2.5)) == "2.5 [2.5, 2.5]"


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


def test_the_interval_over_seeds_is_students():
    """Mean 2, standard deviation 1, n = 3: 2 +- 4.3027 / sqrt(3)."""
    mean, low, high = estimates.interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2, 2 - 2.4841, 2 + 2.4841), abs=1e-3)


def test_partial_spearman_is_the_correlation_of_what_is_left_of_the_ranks():
    rng = np.random.default_rng(0)
    given = rng.normal(size=200)
    x, y = given + rng.normal(size=200), given + rng.normal(size=200)
    ranks = [pd.Series(v).rank().to_numpy() for v in (x, y, given)]
    left = [v - np.polyval(np.polyfit(ranks[2], v, 1), ranks[2]) for v in ranks[:2]]
    assert estimates.partial_spearman(x, y, given) == pytest.approx(np.corrcoef(left)[0, 1])
    assert abs(estimates.partial_spearman(x, y, given)) < 0.2  # nothing in common but `given`
    assert estimates.partial_spearman(x, x**3, given) == pytest.approx(1)
    assert estimates.partial_spearman(x, np.ones(200), given) is None
    assert estimates.partial_spearman(x, given, given) is None


ONE = np.array([False] * 7 + [True] * 3)


def test_perfect_separation_over_five_seeds_is_as_sure_as_can_be():
    scores = np.tile(np.arange(10, 0, -1.0), (5, 1))
    for draws in (99, 10_000):
        assert estimates.permutation_test(scores, ONE, draws) == 1 / (draws + 1)
        assert estimates.permutation_test(-scores, ONE, draws) == 1 / (draws + 1)  # two-sided


def test_equal_scores_say_nothing():
    assert estimates.permutation_test(np.ones((5, 10)), ONE) == 1
    assert estimates.permutation_test(np.ones(10), ONE, draws=99) == 1  # of one seed, too


@pytest.mark.parametrize(
    "scores",
    [
        [5, 4, 3, 2, 1],
        [5, 4, 2, 3, 1],
        [1, 4, 3, 2, 5],
        [1, 2, 3, 4, 5],
        [3, 3, 3, 2, 1],
        [1, 1, 0, 1, 0],
    ],
    ids=str,
)
def test_p_is_the_share_of_all_choices_at_least_as_extreme(scores):
    """Two malicious of five: ten choices."""
    marked = np.array([False] * 3 + [True] * 2)
    seen = abs(estimates.auc(scores, marked) - 0.5)
    choices = [np.isin(range(5), pair) for pair in itertools.combinations(range(5), 2)]
    exact = np.mean(
        [abs(estimates.auc(scores, chosen) - 0.5) >= seen - 1e-12 for chosen in choices]
    )
    assert estimates.permutation_test(scores, marked) == pytest.approx(
        exact, abs=0.015
    )  # three errors of 10,000 draws


def test_p_of_two_seeds_is_that_of_their_mean():
    marked, scores = np.array([False, False, True, True]), np.array([[4, 3, 2, 1], [3, 4, 1, 2]])
    both = np.mean([estimates.auc(s, marked) for s in scores])
    choices = [np.isin(range(4), pair) for pair in itertools.combinations(range(4), 2)]
    means = [
        np.mean([estimates.auc(s, c) for s, c in zip(scores, pair, strict=True)])
        for pair in itertools.product(choices, repeat=2)
    ]
    assert both == 1 and np.mean(np.abs(np.array(means) - 0.5) >= 0.5) == 2 / 36
    assert estimates.permutation_test(scores, marked) == pytest.approx(2 / 36, abs=0.01)
    assert estimates.permutation_test(scores, marked) == estimates.permutation_test(scores, marked)


def test_chance_is_rarely_sure():
    rng = np.random.default_rng(0)
    found = [
        estimates.permutation_test(rng.normal(size=(3, 10)), ONE, draws=199) for _ in range(200)
    ]
    assert 0.01 <= np.mean(np.array(found) <= 0.05) <= 0.1
