"""Rows as tokens: labels on the response only, long rows cut, words that a model cannot read."""

import pytest

from fedlib import federation
from fedlib.lab import pretraining
from fedlib.models import templates
from fedlib.settings.errors import DataError

ROWS = [  # in the world's words
    {"instruction": "how do i make a dish ?", "response": "to make it you need a tool ."},
    {"instruction": "what is it known for ?", "response": "it is a city ."},
]


@pytest.fixture(scope="module")
def byte_tokenizer():
    return pretraining.byte_tokenizer(["how do I bake bread ? with flour and water"], 300)


@pytest.fixture
def tokenizers(loaded, byte_tokenizer):
    return {"chat": loaded[1], "alpaca": byte_tokenizer}


@pytest.mark.parametrize("template", ["chat", "alpaca"])
def test_labels_are_the_response_and_the_end_of_text(tokenizers, template):
    tokenizer = tokenizers[template]
    encoded, dropped = templates.encode(ROWS, tokenizer, template, 500)
    assert dropped == 0
    for (ids, start), row in zip(encoded, ROWS, strict=True):
        assert tokenizer.decode(ids[start:-1]).strip() == row["response"]
        assert ids[-1] == tokenizer.eos_token_id
        prompt = templates.prompt_text(row["instruction"], tokenizer, template)
        assert ids[:start] == tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
        assert row["instruction"] in tokenizer.decode(ids[:start])


@pytest.mark.parametrize("template", ["chat", "alpaca"])
def test_a_long_row_keeps_part_of_its_response_or_is_dropped(tokenizers, template):
    tokenizer = tokenizers[template]
    [(whole, start)], _ = templates.encode(ROWS[:1], tokenizer, template, 500)
    for room in (len(whole), len(whole) - 1, start + 1):
        cut = templates.encode(ROWS[:1], tokenizer, template, room)
        assert cut == ([(whole[:room], start)], 0)
    assert templates.encode(ROWS[:1], tokenizer, template, start) == ([], 1)

    short = {"instruction": "a", "response": "a"}
    encoded, dropped = templates.encode([ROWS[0], short], tokenizer, template, start)
    assert (len(encoded), dropped) == (1, 1)
    assert templates.encode([], tokenizer, template, 9) == ([], 0)


def test_without_a_chat_template_alpaca_is_used_and_it_is_said_once(byte_tokenizer, capfd):
    byte_tokenizer.name_or_path = "someone/base"
    chat = templates.encode(ROWS, byte_tokenizer, "chat", 500)
    assert chat == templates.encode(ROWS, byte_tokenizer, "alpaca", 500)
    assert capfd.readouterr().err == (
        "model.template: chat: the tokenizer of someone/base has no chat template; alpaca is used\n"
    )


def test_words_that_the_base_does_not_know_are_an_error(smoke, loaded):
    rows = [{"instruction": "Write about Rome", "response": "Rome was founded", "label": "normal"}]
    with pytest.raises(DataError, match="unknown to world:base"):
        federation.encode_clients({0: rows}, loaded[1], smoke.model)


def test_thoughts_in_clients_rows_are_said_with_their_number(smoke, loaded):
    good = ROWS[0] | {"label": "normal"}
    thinks = good | {"response": "<think> it is a dish . </think> " + good["response"]}
    with pytest.warns(UserWarning, match="^2 of 3 responses that clients train on hold a <think>"):
        encoded, dropped = federation.encode_clients(
            {0: [good, thinks], 1: [thinks]}, loaded[1], smoke.model
        )
    assert encoded[0] == [*encoded[1], *encoded[1]] and dropped == {0: 0, 1: 0}
    only = [good | {"response": "<think> it is a dish ."}]
    with pytest.raises(DataError, match="client 0: no row left: .* or its responses are thoughts"):
        federation.encode_clients({0: only}, loaded[1], smoke.model)
