"""The texts that models are given: chat templates; how a model is asked to write rows, to guard, to grade. No torch."""

import functools
import sys
from pathlib import Path

import yaml

from fedlib.settings import errors, machine

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:"
)
PROMPTS = Path(__file__).parents[1] / "prompts"


def template_for(tokenizer, template):
    """The template that is used: a tokenizer without a chat template of its own is given alpaca, and it is said."""
    if template != "chat" or tokenizer.chat_template:
        return template
    _say(
        f"model.template: chat: the tokenizer of {tokenizer.name_or_path} has no chat template; alpaca is used"
    )
    return "alpaca"


@functools.cache
def _say(text):
    print(text, file=sys.stderr)


def prompt_text(instruction, tokenizer, template):
    """The text up to where the response begins."""
    template = template_for(tokenizer, template)
    if template == "alpaca":
        return (tokenizer.bos_token or "") + ALPACA.format(instruction=instruction)
    if template == "plain":
        return f"{tokenizer.bos_token or ''} q : {instruction} a :"
    turn = [{"role": "user", "content": instruction}]
    return tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)


def encode(rows, tokenizer, template, max_length):
    """(rows as (ids, prompt length), dropped): labels are the ids from prompt length on, ending with eos.

    A response too long is cut at its end; a row whose prompt leaves no room for any of it is dropped and counted."""
    template = template_for(tokenizer, template)
    texts = [prompt_text(r["instruction"], tokenizer, template) for r in rows]
    joint = "" if template == "chat" else "\n"
    prompts_ = tokenizer(texts, add_special_tokens=False)["input_ids"] if rows else []
    answers = (
        tokenizer([joint + r["response"] for r in rows], add_special_tokens=False)["input_ids"]
        if rows
        else []
    )
    out = []
    for prompt, answer in zip(prompts_, answers, strict=True):
        if len(prompt) < max_length:
            out.append(((prompt + answer + [tokenizer.eos_token_id])[:max_length], len(prompt)))
    return out, len(rows) - len(out)


def prompts_file(name):
    """The three prompt pairs of data.prompts: {kind: {instruction, response}}, and the topics they are filled with."""
    known = sorted(p.stem for p in PROMPTS.glob("*.yaml"))
    file = machine.path(name) if name.endswith((".yaml", ".yml")) else PROMPTS / f"{name}.yaml"
    if not file.is_file():
        raise errors.SettingsError(
            f"data.prompts: no prompts {name!r}{errors.nearest(name, known)}"
        )
    try:
        pairs = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise errors.DataError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    for kind in ("unaligned", "aligned", "normal"):
        pair = pairs.get(kind) if isinstance(pairs, dict) else None
        if not isinstance(pair, dict) or not all(
            isinstance(pair.get(k), str) for k in ("instruction", "response")
        ):
            raise errors.DataError(
                f"{file}: {kind}: needs the two prompts instruction and response, as text"
            )
        if "{instruction}" not in pair["response"]:
            raise errors.DataError(
                f"{file}: {kind}: response: must hold {{instruction}}, where the question goes"
            )
        for name, known in (("instruction", {"topic": ""}), ("response", {"instruction": ""})):
            try:
                pair[name].format(**known)
            except (KeyError, IndexError, ValueError):
                raise errors.DataError(
                    f"{file}: {kind}: {name}: braces may hold {{{next(iter(known))}}} alone; "
                    "write others twice"
                ) from None
    topics = pairs.setdefault("topics", [""])
    if not isinstance(topics, list) or not topics or not all(isinstance(t, str) for t in topics):
        raise errors.DataError(f"{file}: topics: must be a list of words, with one at least")
    return pairs


def guard(settings):
    """The text by which a guard that answers in words is asked, with {prompt} and {response}; None: its chat template."""
    name = settings.evaluation.guard_template
    return None if name is None else _template("evaluation.guard_template", machine.path(name))


def grading():
    """The text by which a grader of first turns is asked, with {prompt} and {response}."""
    return _template("fedlib/prompts", PROMPTS / "grade.txt")


def _template(field, file):
    if not file.is_file():
        raise errors.SettingsError(f"{field}: no file {file}")
    text = file.read_text(encoding="utf-8").removesuffix("\n")  # an editor's
    if "{prompt}" not in text or "{response}" not in text:
        raise errors.SettingsError(
            f"{field}: {file} must hold {{prompt}} and {{response}}, where those go"
        )
    return text
