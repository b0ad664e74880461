"""The texts that models are given: chat templates; how they are asked to write and to judge.

No torch.
"""

import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fedlib.settings import machine
from fedlib.settings.errors import DataError, SettingsError, nearest

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:"
)
PROMPTS = Path(__file__).parents[1] / "prompts"
# A model writes rows by three pairs of prompts; PLACES says what each of a pair is filled with.
PAIRS = ("unaligned", "aligned", "normal")
PLACES = {"instruction": "topic", "response": "instruction"}


def template_for(tokenizer: Any, template: str) -> str:
    """The template that is used: chat needs a tokenizer that has one, else alpaca is used.

    That change is said once on stderr."""
    if template != "chat" or tokenizer.chat_template:
        return template
    _say(
        f"model.template: chat: the tokenizer of {tokenizer.name_or_path} has no chat template; "
        "alpaca is used"
    )
    return "alpaca"


@functools.cache
def _say(text: str) -> None:
    """Prints a line to stderr, the first time in a process."""
    print(text, file=sys.stderr)


def prompt_text(instruction: str, tokenizer: Any, template: str) -> str:
    """The text of a prompt, up to where the response begins.

    template: chat, alpaca or plain (settings check the name)."""
    template = template_for(tokenizer, template)
    start = tokenizer.bos_token or ""
    if template == "alpaca":
        return start + ALPACA.format(instruction=instruction)
    if template == "plain":
        return f"{start} q : {instruction} a :"
    turn = [{"role": "user", "content": instruction}]
    return tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)


def encode(
    rows: Sequence[dict], tokenizer: Any, template: str, max_length: int
) -> tuple[list[tuple[list[int], int]], int]:
    """(rows as (token ids, prompt length), number of rows dropped).

    ids are prompt, response and eos; the loss is taken from prompt length on. A response that is
    too long for max_length tokens is cut at its end. A row whose prompt leaves no room for any of
    its response is dropped and counted."""
    if not rows:
        return [], 0
    template = template_for(tokenizer, template)
    between = "" if template == "chat" else "\n"
    prompts = [prompt_text(row["instruction"], tokenizer, template) for row in rows]
    responses = [between + row["response"] for row in rows]

    # Prompt and response are tokenized apart, so that a prompt's ids are the same at generation.
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    response_ids = tokenizer(responses, add_special_tokens=False)["input_ids"]
    encoded = []
    for prompt, response in zip(prompt_ids, response_ids, strict=True):
        if len(prompt) < max_length:
            whole = [*prompt, *response, tokenizer.eos_token_id]
            encoded.append((whole[:max_length], len(prompt)))
    return encoded, len(rows) - len(encoded)


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
        pairs = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None

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
            pair[key].format(**{inside: ""})
        except (KeyError, IndexError, ValueError):
            raise DataError(
                f"{place}: {key}: braces may only hold {{{inside}}}; write other braces twice"
            ) from None


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
