"""Seeds and digests: fixed, since every result and every folder's name rests on them."""

import hashlib

import pytest

from fedlib.settings import identity
from fedlib.settings.errors import DataError


def test_derived_seeds_are_distinct_and_fixed():
    purposes = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a1"), (0, "a", "1")]
    made = [identity.derive(*purpose) for purpose in purposes]
    assert len(set(made)) == len(made)
    assert all(0 <= seed < 2**63 for seed in made)
    # The first 8 bytes of sha256('[0, "a"]'), halved: by hand, since every result hangs on it.
    assert identity.derive(0, "a") == int("4a2978d91c0194c6", 16) >> 1


def test_a_digest_heeds_values_and_not_the_order_of_keys():
    values = {"a": 1, "b": [2]}, {"b": [2], "a": 1}, {"a": 1, "b": [3]}
    first, turned, other = map(identity.digest, values)
    assert first == turned != other
    assert len(identity.digest(None)) == 12


def test_a_files_digest_is_that_of_its_bytes(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b"some bytes")
    assert identity.file_digest(file) == hashlib.sha256(b"some bytes").hexdigest()


def test_a_file_that_is_not_there_is_named_with_the_nearest(tmp_path):
    (tmp_path / "rows.csv").touch()
    with pytest.raises(DataError, match="row.csv: no such file; did you mean 'rows.csv'"):
        identity.file_digest(tmp_path / "row.csv")
    with pytest.raises(DataError, match="no such file .nor the folder"):
        identity.file_digest(tmp_path / "nowhere" / "row.csv")
