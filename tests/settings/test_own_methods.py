"""A person's own methods: found by FILE.py:NAME, read anew when the file changes."""

import pytest

from fedlib.settings import own_methods
from fedlib.settings.errors import DataError, SettingsError

FIELD = "data.poison.trigger"


def test_only_a_name_in_a_python_file_is_an_own_method():
    assert own_methods.is_own("mine.py:trigger")
    for name in ("phrase", "mine.py", "world:chat", "mine.txt:trigger"):
        assert not own_methods.is_own(name)


def test_the_file_is_read_anew_when_it_changes(tmp_path):
    file = tmp_path / "mine.py"
    for value in (1, 2):
        file.write_text(f"method = {value}\n")
        assert own_methods.find(FIELD, f"{file}:method") == value
    assert own_methods.find(FIELD, f"{file}:other") is None


def test_a_file_that_fails_is_one_line_with_the_fields_name(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("1 / 0\n")
    with pytest.raises(SettingsError) as error:
        own_methods.find(FIELD, f"{file}:method")
    assert str(error.value) == f"{FIELD}: {file}: ZeroDivisionError: division by zero"


def test_content_is_the_files_and_empty_for_other_names(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("method = 1\n")
    first = own_methods.content(f"{file}:method")
    file.write_text("method = 2\n")
    assert first != own_methods.content(f"{file}:method") != ""
    assert own_methods.content("phrase") == own_methods.content(None) == ""
    with pytest.raises(DataError, match="no such file"):
        own_methods.content(f"{tmp_path}/other.py:method")
