"""The texts that models are given: chat templates; how they are asked to write and to judge.

No torch.
"""

import functools
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlib.models import chat
from fedlib.settings import machine, yaml_text
from fedlib.settings.errors import DataError, SettingsError, nearest

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:"
)
# How the templates but chat write a conversation: its first question, a further one, an answer.
TURNS = {
    "alpaca": (ALPACA, "\n\n### Instruction:\n{instruction}\n\n### Response:", "\n{instruction}"),
    "plain": (" q : {instruction} a :", " q : {instruction} a :", " {instruction}"),
}
PROMPTS = Path(__file__).parents[1] / "prompts"
KEPT = 8192  # questions whose text is remembered
# A model writes rows by three pairs of prompts; PLACES says what each of a pair is filled with.
PAIRS = ("unaligned", "aligned", "normal")
PLACES = {"instruction": "topic", "response": "instruction"}


def template_for(tokenizer: Any, template: str) -> str:
    """The template that is used: chat needs a tokenizer that has one, else alpaca is used.

    That change is said once on stderr."""
    if template != "chat" or tokenizer.chat_template:
        return template
    chat.tell_once(
        f"model.template: chat: the tokenizer of {tokenizer.name_or_path} has no chat template; "
        "alpaca is used"
    )
    return "alpaca"


def asked(question: str, row: Mapping[str, Any]) -> chat.Asked:
    """A question of a row together with the turns that the row holds before it, if any.

    before: turns {role: system, user or assistant, content}, a system turn first."""
    before = row.get("before")
    if not before:
        return question
    return [*before, {"role": "user", "content": question}]


def prompt_text(asked: chat.Asked, tokenizer: Any, template: str) -> str:
    """The text of a prompt, up to where the response begins.

    asked: a question, or turns of which the last one asks. template: chat, alpaca or plain
    (settings check the name). SettingsError if the chat template cannot be used."""
    template = template_for(tokenizer, template)
    if template == "chat":
        form = chat.tried(tokenizer)
        alone = isinstance(asked, str)
        return _in_form(form, asked) if alone else form.prompt(chat.as_turns(asked))
    turns = chat.as_turns(asked)

    # The two others know no system turn, and write earlier turns one after the other.
    first, *further = chat.alternating(chat.with_system_asked(turns))
    opening, next_question, answer = TURNS[template]
    text = (tokenizer.bos_token or "") + opening.format(instruction=first["content"])
    for turn in further:
        form = next_question if turn["role"] == "user" else answer
        text += form.format(instruction=turn["content"])
    return text


@functools.lru_cache(maxsize=KEPT)
def _in_form(form: chat.Chat, question: str) -> str:
    """The text of a question by itself. Runs of one process ask the same ones again and again."""
    return form.prompt(chat.as_turns(question))


def encode(
    rows: Sequence[dict], tokenizer: Any, template: str, max_length: int, ended: bool = True
) -> tuple[list[tuple[list[int], int]], int]:
    """(rows as (token ids, prompt length), number of rows dropped).

    ids are prompt, response and what ends it (not where `ended` is false): in the template chat
    what the chat template writes, else the end of text. The loss is taken from prompt length on. A
    response that is too long for max_length tokens is cut at its end; a <think> part of it is left
    out. A row that leaves no room for any of its response, or whose response is a thought and no
    more, is dropped and counted."""
    template = template_for(tokenizer, template) if rows else template
    prompts, responses = [], []
    for row in rows:
        response = chat.without_thought(row["response"])
        if response or not row["response"]:
            question = asked(row["instruction"], row)
            prompts.append(prompt_text(question, tokenizer, template))
            responses.append(response)

    if not prompts:
        return [], len(rows)
    write = _in_chat if template == "chat" else _one_after_the_other
    encoded = []
    for prompt, response in write(prompts, responses, tokenizer, ended):
        if len(prompt) < max_length:
            whole = [*prompt, *response]
            encoded.append((whole[:max_length], len(prompt)))
    return encoded, len(rows) - len(encoded)


def thoughts(rows: Sequence[dict]) -> int:
    """How many responses of rows hold a <think> part, which `encode` leaves out."""
    counted = chat.thoughts_counted(row["response"] for row in rows)
    return counted.get("thoughts", 0)


def _one_after_the_other(
    prompts: Sequence[str], responses: Sequence[str], tokenizer: Any, ended: bool
) -> Iterator[tuple[list[int], list[int]]]:
    """(ids of a prompt, ids of the response behind it) in the templates but chat.

    They are tokenized apart, so that a prompt's ids are the same at generation."""
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    below = [f"\n{response}" for response in responses]
    response_ids = tokenizer(below, add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id] if ended else []
    for prompt, response in zip(prompt_ids, response_ids, strict=True):
        yield prompt, [*response, *end]


def _in_chat(
    prompts: Sequence[str], responses: Sequence[str], tokenizer: Any, ended: bool
) -> Iterator[tuple[list[int], list[int]]]:
    """(ids of a prompt, ids of the response behind it) in the chat template.

    They are those of the whole text, so that a word at the seam is the word that the template
    means; where the prompt's ids would change by that, the response is tokenized apart."""
    form = chat.tried(tokenizer)
    answers = [form.answer(response, ended) for response in responses]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    whole_ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    for prompt, both, answer in zip(prompt_ids, whole_ids, answers, strict=True):
        if both[: len(prompt)] == prompt:
            yield prompt, both[len(prompt) :]
        else:
            yield prompt, tokenizer(answer, add_special_tokens=False)["input_ids"]


def prompts_file(name: str) -> dict[str, Any]:
    """The prompts of data.prompts: {unaligned, aligned, normal: {instruction, response}, topics}.

    name: a file of fedlib/prompts, or a path to a YAML file. topics: the words that the
    instruction prompts are filled with. SettingsError if there is no such file; DataError if it
    cannot be used."""
    known = sorted(file.stem for file in PROMPTS.glob("*.yaml"))
    own = name.endswith((".yaml", ".yml"))
    file = machine.path(name) if own else PROMPTS / f"{name}.yaml"
    if not file.is_file():
        raise SettingsError(f"data.prompts: no prompts {name!r}{nearest(name, known)}")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from None
    pairs = yaml_text.parsed(str(file), text)

    for kind in PAIRS:
        _check_pair(f"{file}: {kind}", pairs.get(kind) if isinstance(pairs, dict) else None)
    topics = pairs.setdefault("topics", [""])
    are_words = isinstance(topics, list) and all(isinstance(topic, str) for topic in topics)
    if not topics or not are_words:
        raise DataError(f"{file}: topics: must be a list of words, with one at least")
    return pairs


def _check_pair(place: str, pair: Any) -> None:
    """DataError unless pair is two prompts that can be filled."""
    if not isinstance(pair, dict) or not all(isinstance(pair.get(key), str) for key in PLACES):
        raise DataError(f"{place}: needs the two prompts instruction and response, as text")
    if "{instruction}" not in pair["response"]:
        raise DataError(f"{place}: response: must hold {{instruction}}, where the question goes")
    for key, inside in PLACES.items():
        try:
            places = [part[1:] for part in string.Formatter().parse(pair[key])]
        except ValueError:
            places = [("", "", None)]
        # a width in it could ask for gigabytes
        if any(part not in ((None, None, None), (inside, "", None)) for part in places):
            raise DataError(
                f"{place}: {key}: braces may only hold {{{inside}}}; write other braces twice"
            )


def guard(name: str | None) -> str | None:
    """The text by which a guard that answers in words is asked, with {prompt} and {response}.

    name: the path evaluation.guard_template; without one it is None: the guard's chat template.
    SettingsError if the file is missing or lacks a place."""
    if name is None:
        return None
    return _template("evaluation.guard_template", machine.path(name))


def grading(name: str = "grade") -> str:
    """The text by which a grader is asked, with {prompt} and {response}.

    name: of a file of fedlib/prompts: grade (of first turns) or strongreject."""
    return _template("fedlib/prompts", PROMPTS / f"{name}.txt")


def _template(field: str, file: Path) -> str:
    if not file.is_file():
        raise SettingsError(f"{field}: no file {file}")
    # Editors end a file with a line break, which is no part of the question.
    text = file.read_text(encoding="utf-8").removesuffix("\n")
    if "{prompt}" not in text or "{response}" not in text:
        raise SettingsError(f"{field}: {file} must hold {{prompt}} and {{response}}, to be filled")
    return text


def filled(template: str, prompt: str, response: str) -> str:
    """A guard's or grader's template with its {prompt} and {response} filled in.

    In one pass: a prompt that holds the text {response} stays as it is."""
    given = {"prompt": prompt, "response": response}
    return re.sub(r"\{(prompt|response)\}", lambda place: given[place[1]], template)
