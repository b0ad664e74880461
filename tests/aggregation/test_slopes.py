"""The repeated median by counting, against all slopes of all values: the same to the bit."""

import numpy as np
import pytest

from fedlib.aggregation import ranks, slopes

SIZE = 300
KINDS = {
    "normal": lambda x: x,
    "heavy tails": lambda x: np.tan(x),
    "an outlier": lambda x: np.concatenate([x[:1] * 1e30, x[1:]]),
    "attackers": lambda x: np.concatenate([3 * x[:8] + 1, x[8:]]),
    "ties": lambda x: x.round(1),
    "few values": lambda x: x.round(0),
    "mostly zero": lambda x: np.where(np.abs(x) < 1, 0, x),
    "all alike": lambda x: np.zeros_like(x) + 0.5,
    "tiny": lambda x: x * 1e-40,
    "a line": lambda x: np.arange(len(x))[:, None] * 0.125 + 0 * x,
}


def whole(ordered):
    """The repeated median of all slopes, none left out."""
    return ranks.middle(np.sort(slopes._all_inner_medians(ordered), axis=0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clients", [32, 33, 64, 101])
@pytest.mark.parametrize("kind", KINDS)
def test_counted_is_computed(kind, clients, dtype):
    drawn = np.random.default_rng(clients).normal(size=(clients, SIZE))
    ordered = np.sort(KINDS[kind](drawn).astype(dtype), axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        found, wanted = slopes.repeated_median_slope(ordered), whole(ordered)
    assert found.dtype == wanted.dtype == dtype
    assert np.array_equal(found, wanted)


def test_by_hand():
    """Values on the line 2 x, one of them moved far off."""
    ordered = np.sort(2.0 * np.arange(40)[:, None], axis=0)
    ordered[-1] = 1000.0
    assert slopes.repeated_median_slope(ordered) == [2.0]


def test_most_inner_medians_are_never_computed(monkeypatch):
    """Else it would be right, and as slow as before."""
    wanted = []
    plain = slopes._inner_medians
    monkeypatch.setattr(
        slopes, "_inner_medians", lambda o, w: (wanted.append(w.mean()), plain(o, w))[1]
    )
    drawn = np.random.default_rng(0).normal(size=(100, SIZE))
    slopes.repeated_median_slope(np.sort(drawn, axis=0))
    assert len(wanted) == 1 and wanted[0] < 0.25
