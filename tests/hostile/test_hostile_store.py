"""The store, the record of claims and the secrets of whoever runs it."""

import json

import pytest
import standins
from conftest import smoke_settings
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from fedlib.lab import runs, store
from fedlib.papers import claims
from fedlib.settings import identity, presets
from fedlib.settings.errors import SettingsError

SECRETS = {"HF_TOKEN": "hf_" + 34 * "a", "OPENAI_API_KEY": "a-key-of-no-known-form"}


@pytest.mark.parametrize("name", ["../secret.txt", "{outside}", "a/../../secret.txt"])
def test_a_seal_covers_files_of_its_folder_only(tmp_path, name):
    outside, folder = tmp_path / "secret.txt", tmp_path / "run"
    folder.mkdir()
    outside.write_text("secret")
    files = {name.format(outside=outside): identity.file_digest(outside)}
    (folder / "done.json").write_text(json.dumps({"files": files}))
    assert not store.intact(folder)


@fuzzed(60, "seals of stored runs")
@given(content=st.binary(max_size=30) | st.sampled_from([b"[" * 100_000, b'{"files": {"a": []}}']))
def test_a_seal_of_any_bytes(tmp_path, content):
    (tmp_path / "done.json").write_bytes(content)
    assert store.intact(tmp_path) in (content.replace(b" ", b"") == b'{"files":{}}', False)


NUMBER = st.none() | st.floats() | st.integers() | st.text(max_size=3) | st.lists(st.integers())


@fuzzed(60, "records of claims")
@given(
    record=st.dictionaries(
        st.sampled_from(["measured", "low", "high", "seeds", "settings"]), NUMBER
    )
)
def test_a_record_of_a_claim_is_whole_or_counts_as_not_run(tmp_path, record):
    file = tmp_path / "S1.json"
    file.write_text(json.dumps(record))
    found = claims._measured(file)
    assert claims.verdict({"at_least": 0.5}, found) in (
        ("not run",) if found == {} else ("holds", "does not hold", "inconclusive", "preliminary")
    )


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b"3", b'{"measured": 1}', b""])
def test_a_damaged_record_of_a_claim_is_said(tmp_path, content, capsys):
    file = tmp_path / "S1.json"
    file.write_bytes(content)
    assert claims._measured(file) == {}
    assert "its claim counts as not run" in capsys.readouterr().out


@pytest.fixture
def secrets(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return list(SECRETS.values())


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("place", ["grader", "base"])
def test_settings_hold_no_secret_and_no_error_shows_one(secrets, name, place):
    value = SECRETS[name]
    grader = {"evaluation": {"grader": f"https://h/v1?key={value}", "grader_model": "m"}}
    given = {"grader": grader, "base": {"model": {"base": f"owner/{value}"}}}[place]
    with pytest.raises(SettingsError, match="holds what looks like a key or token") as error:
        presets.load("smoke", **given)
    assert value not in str(error.value)


def test_a_run_writes_no_secret_whatever_an_endpoint_repeats(secrets, tmp_path):
    def repeats(asked, count):
        return f"[[7]] you sent {' '.join(secrets)}"

    with standins.endpoint(repeats) as (address, requests):
        evaluation = {"grader": address, "grader_model": "m", "judges": ["rule", "mt1"]}
        settings = smoke_settings(model={"device": "cpu"}, evaluation=evaluation)
        runs.get(settings)
    assert f"Bearer {SECRETS['OPENAI_API_KEY']}" in {request["key"] for request in requests}

    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 5
    for file in written:
        content = file.read_bytes()
        assert not any(secret.encode() in content for secret in secrets), file


def test_no_error_quotes_a_secret(secrets):
    assert str(SettingsError(f"it said: {secrets[1]}\nno")) == "it said: ***\\nno"
