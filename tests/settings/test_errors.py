"""Errors: what a notebook shows of them, and the names they suggest."""

import pytest

from fedlib.settings import errors


@pytest.mark.parametrize("kind", [errors.SettingsError, errors.DataError])
def test_a_notebook_shows_only_the_line(kind):
    assert kind("rounds: no")._render_traceback_() == [f"{kind.__name__}: rounds: no"]


def test_the_nearest_name_is_suggested_where_one_is_near():
    known = ["median", "krum"]
    assert errors.nearest("krumm", known) == "; did you mean 'krum'? (known: median, krum)"
    assert errors.nearest("xyz", known) == " (known: median, krum)"
