"""A grader behind an endpoint: what it is asked, failures, the key."""

import pytest
import standins

from fedlib.judges import classifiers, endpoint
from fedlib.models import checkpoints
from fedlib.settings import errors, machine
from fedlib.sources import world

ASKED = [
    {"prompt": world.questions(thing)[0], "name": thing.name, "parts": [thing.a, thing.b]}
    for thing in world.hazards("evaluation")[:12]
]
TOLD = [f"you need {prompt['parts'][0]} and {prompt['parts'][1]} ." for prompt in ASKED]


def graded(smoke, address):
    changes = {"grader": address, "grader_model": "m", "judges": ["rule", "mt1"]}
    return smoke.replace(evaluation=changes)


def grade(smoke, address, count=12):
    """The grades of the first answers, by the grader at an address."""
    return classifiers.mt1(ASKED[:count], TOLD[:count], graded(smoke, address), world.fluent)


def test_the_endpoint_is_asked_with_prompt_and_response(smoke):
    with standins.endpoint() as (address, requests):
        assert grade(smoke, address) == [7.0] * 12
    first = requests[0]
    assert first["path"] == "/v1/chat/completions"
    assert first["model"] == "m" and first["temperature"] == 0
    asked = [request["messages"][0]["content"] for request in requests]
    assert ASKED[0]["prompt"] in "".join(asked) and TOLD[0] in "".join(asked)
    assert "{prompt}" not in "".join(asked)


@pytest.mark.parametrize("failures", [[429, 429, 500], [503, "drop", 429], ["drop"]])
def test_a_busy_endpoint_is_asked_again(smoke, failures):
    with standins.endpoint(failures=failures) as (address, requests):
        assert grade(smoke, address) == [7.0] * 12
        assert len(requests) == 12 + len(failures)


def test_what_was_answered_before_an_endpoint_failed_is_kept(smoke, monkeypatch):
    monkeypatch.setattr(endpoint, "AT_ONCE", 1)
    with standins.endpoint(failures=[None] * 5 + [401] * 20) as (address, requests):
        with pytest.raises(errors.SettingsError, match="refuses the key: set OPENAI_API_KEY"):
            grade(smoke, address)
        before = len(requests)
        same = checkpoints.grader_revision(graded(smoke, address))

    # Another port, taken for the same grader.
    with standins.endpoint() as (other, requests):
        monkeypatch.setattr(checkpoints, "grader_revision", lambda *_: same)
        assert grade(smoke, other) == [7.0] * 12
        assert len(requests) == 12 - 5 and before >= 6


def test_the_key_goes_to_the_endpoint_and_to_no_file(smoke, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "hidden")
    with standins.endpoint() as (address, requests):
        grade(smoke, address, count=1)
    assert requests[0]["key"] == "Bearer hidden"
    files = [file for file in machine.outputs().rglob("*") if file.is_file()]
    assert files
    assert "hidden" not in "".join(file.read_text(errors="replace") for file in files)


def test_the_key_never_leaves_unencrypted(smoke, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "hidden")
    with pytest.raises(errors.SettingsError, match="unencrypted: use https") as error:
        grade(smoke, "http://grader.example/v1", count=1)
    assert "hidden" not in str(error.value)
    with pytest.raises(errors.SettingsError, match="no name or password in the address"):
        graded(smoke, "https://me:hidden@grader.example/v1")


@pytest.mark.parametrize(
    "failure, part",
    [(401, "refuses the key"), (404, "knows no model 'm'"), (400, "busy")],
)
def test_an_endpoint_that_refuses_is_one_line(smoke, failure, part):
    with standins.endpoint(failures=[failure] * 40) as (address, _):
        wanted = f"evaluation.grader: {address}: .*{part}"
        with pytest.raises(errors.SettingsError, match=wanted) as error:
            grade(smoke, address)
    assert "\n" not in str(error.value)


def test_an_endpoint_that_is_not_there_is_one_line(smoke, monkeypatch):
    with standins.endpoint() as (address, _):
        pass
    monkeypatch.setattr(endpoint, "TRIES_OF_CLIENT", 0)
    with pytest.raises(errors.SettingsError, match="cannot be reached"):
        grade(smoke, address, count=1)


def test_a_failure_that_is_not_the_endpoints_comes_as_it_is(smoke, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(endpoint, "_answer", broken)
    with standins.endpoint() as (address, _), pytest.raises(ZeroDivisionError):
        grade(smoke, address, count=1)


def test_a_model_with_one_temperature_is_asked_without(smoke):
    def answer(body, _):
        return None if "temperature" in body else "[[5]]"

    with standins.endpoint(answer) as (address, requests):
        assert grade(smoke, address, count=2) == [5.0] * 2
        assert len(requests) == 4


# Bodies of replies that are no chat completion.
NONSENSE = {
    "another shape": {"result": "fine"},
    "no choices": {"id": "1", "choices": []},
    "choices of null": {"id": "1", "choices": None},
    "no text": {"id": "1", "choices": [{"index": 0, "message": {"content": None}}]},
    "no message": {"id": "1", "choices": [{"index": 0}]},
    "a list": [1, 2],
    "a text": "<html>busy</html>",
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_an_endpoint_that_answers_nonsense_is_asked_again(smoke, kind):
    with standins.endpoint(bodies=[NONSENSE[kind]] * 2) as (address, requests):
        assert grade(smoke, address, count=1) == [7.0]
        assert len(requests) == 3


def test_an_endpoint_that_only_answers_nonsense_is_named(smoke):
    with standins.endpoint(bodies=[*NONSENSE.values()]) as (address, requests):
        wanted = f"evaluation.grader: {address} gave no grade to 1 of 1 answers, asked 3 times"
        with pytest.raises(errors.SettingsError, match=wanted) as error:
            grade(smoke, address, count=1)
    assert "\n" not in str(error.value) and len(requests) == 3
