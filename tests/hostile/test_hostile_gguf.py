"""GGUF files from anybody: read, or refused in one line before anything large is allocated."""

import shutil

import pytest
import standins
from fuzzing import fuzzed, tried
from hypothesis import given
from hypothesis import strategies as st

from fedlib.models import gguf_files

pytest.importorskip("gguf", reason="the package gguf is not installed")

# the head holds the counts, the names and the lengths; numbers that are far too large
HUGE = st.sampled_from(
    [b"\xff" * 8, b"\xff" * 4, b"\x00" * 8, b"\xff\xff\xff\x7f", b"\x00\x10" * 4]
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return standins.write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@fuzzed(30, "GGUF files")
@given(at=st.floats(0, 1), near=st.booleans(), new=st.binary(min_size=1, max_size=8) | HUGE)
def test_a_good_file_with_bytes_replaced(tmp_path, tiny, at, near, new):
    whole = tiny.read_bytes()
    # half of the tries change one of the first bytes, where the counts stand
    place = int(at * (64 if near else len(whole)))
    file = tmp_path / "changed.gguf"
    file.write_bytes(whole[:place] + new + whole[place + len(new) :])
    folder = tmp_path / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    tried(lambda: gguf_files.unpack(file, folder))


@fuzzed(10, "GGUF files")
@given(at=st.floats(0, 1))
def test_a_file_that_is_cut_off(tmp_path, tiny, at):
    whole = tiny.read_bytes()
    file = tmp_path / "cut.gguf"
    file.write_bytes(whole[: int(at * (len(whole) - 1))])
    folder = tmp_path / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    tried(lambda: gguf_files.unpack(file, folder))
