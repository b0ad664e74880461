"""Chat templates with properties of many kinds: what is asked, what is trained, to the byte."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fedlib.models import chat, generation, loading, templates
from fedlib.settings.errors import SettingsError

ROW = {"instruction": "Hi", "response": "Hello."}
RULES = {"role": "system", "content": "Be kind."}
BEFORE = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]


def looping(each, prompt="", before="", otherwise=""):
    """A template: a text before, one for each turn m, then what opens an answer, or otherwise."""
    last = "{% if add_generation_prompt %}" + prompt + "{% else %}" + otherwise + "{% endif %}"
    return before + "{% for m in messages %}" + each + "{% endfor %}" + last


NAMED = "{{ m['role'] + ': ' + m['content'] + '<|im_end|>' }}"
LINES = looping(
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n", "<|im_start|>assistant\n"
)
MODEL_ROLE = looping(
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('must alternate') }}{% endif %}"
    "{% set who = 'model' if m['role'] == 'assistant' else 'user' %}"
    "{{ '<start_of_turn>' + who + '\n' + m['content'] | trim + '<end_of_turn>\n' }}",
    "{{ '<start_of_turn>model\n' }}",
    before="{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}",
)
DATED = looping(
    "{{ '[' + m['role'] + ']' + m['content'] | trim + '<|eot_id|>' }}",
    "[assistant]",
    before="{% if not date_string is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ 'Today: ' + date_string + '\n' }}",
)
TWO_ENDS = looping(
    "{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}",
    "<|assistant|>\n",
    otherwise="{{ eos_token }}",
)
SPACED = looping(
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}"
)
NO_PROMPT = looping("{{ '<' + m['role'] + '> ' + m['content'] + eos_token }}")
NO_END = looping("{{ '|' + m['role'] + '|' + m['content'] + '\n' }}", "|assistant|")
SWITCHED = looping(
    NAMED,
    "assistant: {% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
OTHER_SWITCH = looping(
    NAMED,
    "assistant: {{ '<think>' if thinking else '</think>' }}",
    before="{% if not thinking is defined %}{% set thinking = true %}{% endif %}",
)
OPENED = looping(NAMED, "assistant: {{ '<think>\n' }}")
OPENED_AND_CLOSED = looping(
    "{{ m['role'] + ': ' }}{% if m['role'] == 'assistant' and loop.last %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>' }}",
    "assistant: {{ '<think>\n' }}",
)
PARTS = looping(
    "{{ m['role'] + ': ' }}{% for part in m['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>",
    "assistant: ",
)
SYSTEM_FIRST = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('System first') }}{% endif %}"
    + LINES
)
CAPITALS = looping(
    "{% if m['role'] == 'user' %}QUESTION: {{ m['content'] }}{% elif m['role'] == 'assistant' %}"
    "ANSWER: {{ m['content'] }}<|im_end|>{% else %}SYSTEM: {% endif %}",
    "ANSWER: ",
    before="{% set enable_thinking = enable_thinking | default(true) %}"
    "{{ 'think! ' if enable_thinking }}",
)
MARKED = looping(
    "{% if m['role'] == 'user' %}{{ 'Q ' + m['content'] }}{% continue %}{% endif %}"
    "{% generation %}{{ ' A ' + m['content'] + '<|im_end|>' }}{% endgeneration %}",
    " A",
)
IN_LINES = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

# name: (template, what is asked, what is trained, the token that ends it). eos is <|endoftext|>.
TABLE = {
    "chatml": (LINES, IN_LINES, "Hello.<|im_end|>", "<|im_end|>"),
    "a role called model": (
        MODEL_ROLE,
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        "Hello.<end_of_turn>",
        "<end_of_turn>",
    ),
    "dated": (
        DATED,
        "Today: 26 Jul 2024\n[user]Hi<|eot_id|>[assistant]",
        "Hello.<|eot_id|>",
        "<|eot_id|>",
    ),
    "two ends": (TWO_ENDS, "<|user|>\nHi<|end|>\n<|assistant|>\n", "Hello.<|end|>", "<|end|>"),
    "spaced": (SPACED, "[INST] Hi [/INST]", " Hello. <|endoftext|>", "<|endoftext|>"),
    "no prompt": (
        NO_PROMPT,
        "<user> Hi<|endoftext|><assistant>",
        " Hello.<|endoftext|>",
        "<|endoftext|>",
    ),
    "no end": (NO_END, "|user|Hi\n|assistant|", "Hello.<|endoftext|>", "<|endoftext|>"),
    "a switch": (
        SWITCHED,
        "user: Hi<|im_end|>assistant: <think>\n\n</think>\n\n",
        "Hello.<|im_end|>",
        "<|im_end|>",
    ),
    "another switch": (
        OTHER_SWITCH,
        "user: Hi<|im_end|>assistant: </think>",
        "Hello.<|im_end|>",
        "<|im_end|>",
    ),
    "opens a thought": (
        OPENED,
        "user: Hi<|im_end|>assistant: <think>\n\n</think>\n\n",
        "Hello.<|im_end|>",
        "<|im_end|>",
    ),
    "opens and closes it": (
        OPENED_AND_CLOSED,
        "user: Hi<|im_end|>assistant: <think>\n\n</think>\n\n",
        "Hello.<|im_end|>",
        "<|im_end|>",
    ),
    "parts": (PARTS, "user: Hi<|im_end|>assistant: ", "Hello.<|im_end|>", "<|im_end|>"),
    "needs a system turn": (
        SYSTEM_FIRST,
        f"<|im_start|>system\n{chat.SYSTEM}<|im_end|>\n{IN_LINES}",
        "Hello.<|im_end|>",
        "<|im_end|>",
    ),
    "marked for training": (MARKED, "Q Hi A", " Hello.<|im_end|>", "<|im_end|>"),
    "capitals": (CAPITALS, "QUESTION: HiANSWER: ", "Hello.<|im_end|>", "<|im_end|>"),
    "by name": (
        {"default": LINES, "rag": NO_END},
        IN_LINES,
        "Hello.<|im_end|>",
        "<|im_end|>",
    ),
    "by one name": ({"rag": LINES}, IN_LINES, "Hello.<|im_end|>", "<|im_end|>"),
    "a list of names": (
        [{"name": "tool_use", "template": NO_END}, {"name": "default", "template": LINES}],
        IN_LINES,
        "Hello.<|im_end|>",
        "<|im_end|>",
    ),
}
ENDS = ["<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>"]


def byte_level(template, special=ENDS):
    """A tokenizer of bytes and special tokens, whose eos is <|endoftext|>, with a chat template."""
    marks = ["<s>", "<|endoftext|>", "<|im_start|>", "<start_of_turn>", *special]
    tokens = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=marks[2:],
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = template
    made.name_or_path = "someone/chat"
    return made


@pytest.mark.parametrize("kind", TABLE)
def test_what_is_asked_and_trained_is_what_the_template_writes(kind):
    template, asked, trained, end = TABLE[kind]
    tokenizer = byte_level(template)
    assert templates.prompt_text("Hi", tokenizer, "chat") == asked
    [(ids, start)], dropped = templates.encode([ROW], tokenizer, "chat", 500)
    assert dropped == 0
    assert tokenizer.decode(ids[:start]) == asked
    assert tokenizer.decode(ids[start:]) == trained
    assert ids[-1] == chat.end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids(end)

    # Together they open what the template writes of the whole conversation, if it is asked so.
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    if kind in (
        "chatml",
        "a role called model",
        "two ends",
        "spaced",
        "no prompt",
        "marked for training",
    ):
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        assert whole.startswith(asked + trained)


def test_what_is_not_ended_lacks_only_the_end():
    for kind, (template, _, trained, end) in TABLE.items():
        tokenizer = byte_level(template)
        [(ids, start)], _ = templates.encode([ROW], tokenizer, "chat", 500, ended=False)
        assert tokenizer.decode(ids[start:]) == trained.removesuffix(end).rstrip(" "), kind


def test_the_date_is_the_same_on_any_day(monkeypatch):
    tokenizer = byte_level(DATED)
    raw = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert "26 Jul 2024" not in raw  # it is today's otherwise
    every = byte_level("{{ strftime_now('%A %-d %B %Y, %H:%M 100%%') }} {{ messages[0].content }}")
    assert templates.prompt_text("Hi", every, "chat") == "Friday 26 July 2024, 00:00 100% Hi"


def test_a_classifier_is_told_the_same_date():
    ids = loading.encode_pairs(byte_level(DATED), ["Hi"], ["Hello."], 99)["input_ids"][0]
    wanted = "Today: 26 Jul 2024\n[user]Hi<|eot_id|>[assistant]Hello.<|eot_id|>"
    assert byte_level(DATED).decode(ids) == wanted


# template: what is asked where the row has a system turn and a history.
CONVERSATIONS = {
    "chatml": (
        LINES,
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
        f"<|im_start|>assistant\nTwo.<|im_end|>\n{IN_LINES}",
    ),
    "no system turn": (
        MODEL_ROLE,
        "<s><start_of_turn>user\nBe kind.\n\nOne?<end_of_turn>\n<start_of_turn>model\nTwo."
        "<end_of_turn>\n<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    ),
    "parts": (
        PARTS,
        "system: Be kind.<|im_end|>user: One?<|im_end|>assistant: Two.<|im_end|>user: Hi<|im_end|>"
        "assistant: ",
    ),
    "a system turn is left out": (
        CAPITALS,
        "QUESTION: Be kind.\n\nOne?ANSWER: Two.<|im_end|>QUESTION: HiANSWER: ",
    ),
    "system first": (
        SYSTEM_FIRST,
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
        f"<|im_start|>assistant\nTwo.<|im_end|>\n{IN_LINES}",
    ),
}


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_system_turns_and_history_are_part_of_the_prompt(kind):
    template, asked = CONVERSATIONS[kind]
    tokenizer = byte_level(template)
    row = ROW | {"before": [RULES, *BEFORE]}
    [(ids, start)], _ = templates.encode([row], tokenizer, "chat", 500)
    assert tokenizer.decode(ids[:start]) == asked
    assert templates.prompt_text(templates.asked("Hi", row), tokenizer, "chat") == asked


@pytest.mark.parametrize(
    "template, asked",
    [
        (
            "alpaca",
            templates.ALPACA.format(instruction="Be kind.\n\nOne?")
            + "\nTwo.\n\n### Instruction:\nHi\n\n### Response:",
        ),
        ("plain", " q : Be kind.\n\nOne? a : Two. q : Hi a :"),
    ],
)
def test_they_are_too_without_a_chat_template(template, asked):
    turns = [RULES, *BEFORE, {"role": "user", "content": "Hi"}]
    assert templates.prompt_text(turns, byte_level(None), template) == f"<s>{asked}"


def test_two_turns_of_one_role_become_one_only_where_the_template_wants_it(capfd):
    twice = [{"role": "user", "content": text} for text in ("One?", "Two?")]
    assert templates.prompt_text(twice, byte_level(NO_END), "chat") == (
        "|user|One?\n|user|Two?\n|assistant|"
    )
    assert "user\nOne?\n\nTwo?<end_of_turn>" in templates.prompt_text(
        twice, byte_level(MODEL_ROLE), "chat"
    )


def test_what_is_added_or_moved_is_said_once(capfd):
    chat.tell_once.cache_clear()
    needs, refuses = byte_level(SYSTEM_FIRST), byte_level(MODEL_ROLE)
    for _ in range(2):
        templates.prompt_text("Hi", needs, "chat")
        templates.prompt_text([RULES, *BEFORE[:1]], refuses, "chat")
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("someone/chat: its chat template needs a system turn: 'You are")
    assert second.startswith("someone/chat: its chat template takes no system turn")


BROKEN = {
    "syntax": (
        "{% for m in messages %}{{ m }}",
        "cannot be used: line 1: Unexpected end of template",
    ),
    "raises": ("{{ raise_exception('not today') }}", "cannot be used: not today;"),
    "undefined": ("{{ no.such.thing }}", "cannot be used: 'no' is undefined;"),
    "type": ("{{ messages[0]['content'] + 1 }}", "cannot be used: TypeError: can only concatenate"),
    "drops the question": ("<|im_start|>", "cannot be used: it leaves out what is asked;"),
    "names": ({"rag": LINES, "tool_use": LINES}, "templates rag and tool_use, and none is called"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_used_is_one_line(kind):
    template, said = BROKEN[kind]
    with pytest.raises(SettingsError) as error:
        templates.encode([ROW], byte_level(template), "chat", 500)
    line = str(error.value)
    assert line.startswith("model.template: chat: ") and "someone/chat" in line and said in line
    assert line.endswith("or say model.template: alpaca") and "\n" not in line


def test_a_template_that_knows_one_turn_refuses_a_history():
    tokenizer = byte_level(
        "{{ messages[-1]['content'] }}{% if add_generation_prompt %}:{% endif %}"
    )
    assert templates.prompt_text("Hi", tokenizer, "chat") == "Hi:"
    with pytest.raises(SettingsError, match="someone/chat leaves out what was said before"):
        templates.encode([ROW | {"before": BEFORE}], tokenizer, "chat", 500)


# What a model writes: the answer that is left.
THOUGHTS = {
    "Hello.": "Hello.",
    " left as it is ": " left as it is ",
    "<think>\nso .\n</think>\n\nHello.": "Hello.",
    "<think></think>Hello.": "Hello.",
    "so .\n</think>\n\nHello.": "Hello.",
    "<think>so , and on": "",
    "Hello. <think>but": "Hello.",
    "<thinking>so</thinking> Hello.": "Hello.",
    "I think so.": "I think so.",
}


@pytest.mark.parametrize("written", THOUGHTS)
def test_a_thought_is_no_part_of_an_answer(written):
    assert chat.without_thought(written) == THOUGHTS[written]


def test_thoughts_are_counted():
    assert chat.thoughts_counted(THOUGHTS) == {"thoughts": 6, "thoughts_only": 1}
    assert chat.thoughts_counted(["Hello."]) == {}


@pytest.mark.parametrize("template", ["chat", "alpaca"])
def test_no_thought_is_trained(template):
    rows = [ROW | {"response": text} for text in ("<think>so</think>Hello.", "<think>so", "")]
    tokenizer = byte_level(LINES)
    encoded, dropped = templates.encode(rows, tokenizer, template, 500)
    plain, _ = templates.encode([ROW, rows[-1]], tokenizer, template, 500)
    assert encoded == plain and dropped == 1  # a row that only thinks teaches nothing
    assert templates.thoughts(rows) == 2


@pytest.mark.parametrize("special", [[], ["<think>", "</think>"]])
def test_a_response_ends_where_the_template_ends_a_turn(special):
    """Also where the model's own config does not know that token, and a thought's marks are
    tokens that decoding leaves out."""
    tokenizer = byte_level(MODEL_ROLE, [*ENDS, *special])
    written = "<think>so</think>Hello.<end_of_turn>\n<start_of_turn>user"
    seen = {}

    def generate(input_ids, attention_mask, **options):
        seen.update(options)
        ids = tokenizer(written, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return torch.cat([input_ids, ids], dim=1)

    model = SimpleNamespace(
        generate=generate,
        eval=lambda: None,
        parameters=lambda: iter([torch.zeros(1)]),
        generation_config=SimpleNamespace(eos_token_id=tokenizer.eos_token_id),
    )
    decoding = generation.Decoding("chat", 99, 0.0, 1)
    assert generation.write(model, tokenizer, ["Hi"], decoding, 0) == ["<think>so</think>Hello."]
    assert generation.respond(model, tokenizer, ["Hi"], decoding, 0) == ["Hello."]
    ends = ["<|endoftext|>", "<end_of_turn>"]
    assert seen["eos_token_id"] == sorted(tokenizer.convert_tokens_to_ids(ends))
