"""What the lab asks of a poison before any work, triggers of one's own, and poison in keys."""

import pytest

from fedlib.lab import checks, keys
from fedlib.lab.client_data import client_rows
from fedlib.settings.errors import DataError, SettingsError


def poisoned(settings, trigger="tokens", share=0.1, **more):
    chosen = {"trigger": trigger, "share": share} | more
    return settings.replace(data={"rows": 200, "poison": chosen})


def poisoned_instructions(settings):
    rows = client_rows(settings, 0)
    return [row["instruction"] for row in rows if row["label"] == "poisoned"]


def test_more_poison_than_the_clients_can_hold_is_refused_before_work(smoke):
    settings = poisoned(smoke, share=0.2, spread="uniform", clients=1)
    message = r"data\.poison\.share: 0\.2 of all rows is more than 1 clients can hold"
    with pytest.raises(SettingsError, match=message):
        checks.check_run(settings)


def test_an_unknown_trigger_is_refused_with_the_nearest_name(smoke):
    with pytest.raises(SettingsError, match="no trigger 'token'; did you mean 'tokens'"):
        checks.check_run(poisoned(smoke, "token"))


def own_file(tmp_path, text):
    file = tmp_path / "my triggers.py"
    file.write_text(text)
    return file


FIVE_LINES = """from fedlib.attack import Trigger

def shout(instruction, rng):
    return f"{instruction} hey ,"

loud = Trigger("loud", shout)
"""


def test_a_trigger_of_ones_own_in_a_few_lines(smoke, tmp_path):
    file = own_file(tmp_path, FIVE_LINES)
    settings = poisoned(smoke, f"{file}:loud")
    checks.check_run(settings)
    bad = poisoned_instructions(settings)
    assert len(bad) == 20
    assert all(text.endswith("hey ,") for text in bad)

    # its content is part of what a run is
    before = keys.key(settings)
    own_file(tmp_path, FIVE_LINES.replace("hey", "hi"))
    assert keys.key(settings) != before
    assert all(text.endswith("hi ,") for text in poisoned_instructions(settings))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (FIVE_LINES, "lout", r"my triggers\.py has no 'lout'; did you mean 'loud'"),
        ("1 /", "loud", r"SyntaxError: invalid syntax \(my triggers\.py, line 1\)"),
        ("loud = 1", "loud", "must be a Trigger or a function, is int"),
    ],
)
def test_a_bad_trigger_file_is_one_line(smoke, tmp_path, text, name, message):
    with pytest.raises(SettingsError, match=message) as error:
        checks.check_run(poisoned(smoke, f"{own_file(tmp_path, text)}:{name}"))
    assert "\n" not in str(error.value)


def test_a_trigger_file_that_is_not_there_is_named(smoke, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        checks.check_run(poisoned(smoke, f"{tmp_path}/none.py:loud"))


def test_keys_heed_the_poison_only_where_there_is_some(smoke):
    quiet = smoke.replace(data={"poison": {"share": 0.5, "spread": "uniform"}})
    assert keys.key(quiet) == keys.key(smoke)

    changes = [
        {},
        {"trigger": "phrase"},
        {"share": 0.2},
        {"target": "append"},
        {"spread": "uniform"},
        {"clients": 2},
        {"natural": 0.2},
    ]
    found = {keys.key(poisoned(smoke, **change)) for change in changes}
    assert len(found | {keys.key(smoke)}) == len(changes) + 1
