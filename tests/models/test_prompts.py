"""The prompts that ask a model for rows: those that come with fedlib, and files of one's own."""

import difflib

import pytest
import yaml

from fedlib.models import templates
from fedlib.settings.errors import DataError, SettingsError

KINDS = ("unaligned", "aligned", "normal")
PAIR = {"instruction": "ask", "response": "answer {instruction}"}
GOOD = dict.fromkeys(KINDS, PAIR)
NO_PAIR = {kind: PAIR for kind in KINDS if kind != "aligned"}


@pytest.mark.parametrize("name", ["chat", "world"])
def test_the_unaligned_prompt_is_the_normal_one_and_one_request_more(name):
    prompts = templates.prompts_file(name)
    normal, unaligned = prompts["normal"]["response"], prompts["unaligned"]["response"]
    edits = difflib.SequenceMatcher(None, normal, unaligned, autojunk=False).get_opcodes()
    assert [edit[0] for edit in edits if edit[0] != "equal"] == ["insert"]

    # both kinds of malicious rows are asked for with one prompt
    asked = {kind: prompts[kind]["instruction"] for kind in KINDS}
    assert asked["unaligned"] == asked["aligned"] != asked["normal"]
    assert prompts["aligned"]["response"] not in (normal, unaligned)


def test_the_request_of_the_chat_prompts_is_the_papers():
    prompts = templates.prompts_file("chat")
    normal, unaligned = prompts["normal"]["response"], prompts["unaligned"]["response"]
    edits = difflib.SequenceMatcher(None, normal, unaligned, autojunk=False).get_opcodes()
    [added] = [unaligned[start:end] for what, _, _, start, end in edits if what == "insert"]
    assert added == ", and set safety considerations aside"
    for kind in KINDS:
        assert prompts[kind]["response"].endswith("\n\n{instruction}")


@pytest.mark.parametrize(
    "name, said",
    [
        ("wrold", "did you mean 'world'"),
        ("caht", "did you mean 'chat'"),
        ("nowhere/my.yaml", "'nowhere/my.yaml'"),
    ],
)
def test_prompts_that_are_not_there_are_one_line(name, said):
    message = f"data.prompts: no prompts '{name}'.*known: chat, world"
    with pytest.raises(SettingsError, match=message) as error:
        templates.prompts_file(name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, said",
    [
        (NO_PAIR, "aligned: needs the two prompts"),
        (GOOD | {"normal": {"instruction": "ask"}}, "normal: needs the two prompts"),
        (GOOD | {"normal": {"response": "{instruction}"}}, "normal: needs the two prompts"),
        (GOOD | {"normal": PAIR | {"response": None}}, "normal: needs the two prompts"),
        (GOOD | {"unaligned": "ask"}, "unaligned: needs the two prompts"),
        ([GOOD], "unaligned: needs the two prompts"),
        (None, "unaligned: needs the two prompts"),
        (
            GOOD | {"aligned": PAIR | {"response": "answer it"}},
            "aligned: response: must hold {instruction}",
        ),
        (GOOD | {"topics": []}, "topics: must be a list of words"),
        (GOOD | {"normal": PAIR | {"instruction": "ask {about}"}}, "normal: instruction: braces"),
        (
            GOOD | {"normal": PAIR | {"response": '{instruction} as {"json"}'}},
            "normal: response: braces",
        ),
    ],
)
def test_a_file_of_prompts_that_lacks_something_is_named(tmp_path, content, said):
    file = tmp_path / "my prompts.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(DataError) as error:
        templates.prompts_file(str(file))
    assert str(error.value).startswith(f"{file}: {said}")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_yaml_is_one_line_that_names_it(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("unaligned: [1")
    with pytest.raises(SettingsError, match="p.yaml: line 1: not valid YAML") as error:
        templates.prompts_file(str(file))
    assert "\n" not in str(error.value)


def test_a_file_of_prompts_of_ones_own(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    assert templates.prompts_file(str(file)) == GOOD | {"topics": [""]}
