"""How a tokenizer's chat template is used: without thinking, with a fixed date, up to a turn's end.

A template is tried once, on turns of one word each: what it makes of them says what it wants, and
what it would write around an answer. No torch.
"""

import contextlib
import datetime
import functools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.meta

from fedlib.models import bounds
from fedlib.settings.errors import SettingsError

VERSION = 1  # raise it when a template is used otherwise: runs of models with their own are redone

Turn = dict[str, Any]  # {role: system, user or assistant, content: text}
Asked = str | Sequence[Turn]  # a question, or turns of which the last one asks

# The variables by which templates switch thinking, each with the value that turns it off.
SWITCHES = {
    "enable_thinking": False,
    "thinking": False,
    "enable_reasoning": False,
    "disable_thinking": True,
    "thinking_budget": 0,
}
# Where a template needs a system turn and the row has none.
SYSTEM = "You are a helpful assistant."
# The day that every template is told, so that a prompt is the same tomorrow (Llama 3 knows it too).
TODAY = datetime.datetime(2024, 7, 26)
DIRECTIVES = re.compile(r"%[-#]?[a-zA-Z]")
# `{% generation %}` is transformers' own mark; it writes nothing.
GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")

# A thought: closed; opened by the prompt; left open.
THOUGHTS = (
    re.compile(r"<(think|thinking)>.*?</\1>", re.DOTALL),
    re.compile(r"^.*</think(ing)?>", re.DOTALL),
    re.compile(r"<think(ing)?>.*", re.DOTALL),
)
THOUGHT_MARKS = ("<think>", "</think>", "<thinking>", "</thinking>")
OPEN_THOUGHT = re.compile(r"<think(ing)?>\s*$")
# The words that a template is tried on: none that it would write by itself.
ASKS, SAYS, ASKS_AGAIN, RULES = "numbat", "quokka", "wombat", "bilby"


@functools.cache
def tell_once(text: str) -> None:
    """Prints a line to stderr, the first time in a process."""
    print(text, file=sys.stderr)


# --- thoughts ---------------------------------------------------------------------------------


def without_thought(text: str) -> str:
    """A text less its <think> part, be that closed, opened ahead of the text, or left open."""
    if not any(mark in text for mark in THOUGHT_MARKS):
        return text
    for thought in THOUGHTS:
        text = thought.sub("", text)
    return text.strip()


def thoughts_counted(written: Iterable[str]) -> dict[str, int]:
    """{thoughts: how many texts hold one, thoughts_only: how many hold nothing else}.

    {} where none holds a thought."""
    answers = [without_thought(text) for text in written if without_thought(text) != text]
    if not answers:
        return {}
    return {"thoughts": len(answers), "thoughts_only": answers.count("")}


# --- turns ------------------------------------------------------------------------------------


def as_turns(asked: Asked) -> list[Turn]:
    """A question as the one turn that asks it; turns as they are."""
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    return list(asked)


def with_system_asked(turns: Sequence[Turn]) -> list[Turn]:
    """The turns without a system turn: its text stands ahead of what the user says first."""
    if turns[0]["role"] != "system":
        return list(turns)
    rest = list(turns[1:])
    first = next(i for i, turn in enumerate(rest) if turn["role"] == "user")
    both = f"{turns[0]['content']}\n\n{rest[first]['content']}"
    rest[first] = rest[first] | {"content": both}
    return rest


def alternating(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with those of one role in a row made one, their texts a blank line apart."""
    found: list[Turn] = []
    for turn in turns:
        if found and found[-1]["role"] == turn["role"]:
            both = f"{found[-1]['content']}\n\n{turn['content']}"
            found[-1] = found[-1] | {"content": both}
        else:
            found.append(turn)
    return found


# --- the template -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Chat:
    """A tokenizer's chat template, and how it wants to be used."""

    tokenizer: Any
    in_parts: bool = False  # a turn's content is a list of parts
    needs_system: bool = False
    takes_system: bool = True
    takes_repeats: bool = True  # two turns of one role in a row
    takes_history: bool = True
    header: str = ""  # what the template writes ahead of an answer, and leaves out of the prompt
    lead: str = ""  # the space between the prompt and an answer
    closing: str = ""  # what follows an answer, up to and with the token that ends the turn
    end: int | None = None  # that token

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The text of turns up to where the answer begins; SettingsError if turns get lost."""
        name = self.tokenizer.name_or_path
        has_system = turns[0]["role"] == "system"
        if self.needs_system and not has_system:
            tell_once(f"{name}: its chat template needs a system turn: {SYSTEM!r} is used")
            turns = [{"role": "system", "content": SYSTEM}, *turns]
        if has_system and not self.takes_system:
            tell_once(
                f"{name}: its chat template takes no system turn: the user's turn opens with it"
            )
            turns = with_system_asked(turns)

        if not self.takes_repeats:
            turns = alternating(turns)
        said_before = [turn for turn in turns[:-1] if turn["role"] != "system"]
        if said_before and not self.takes_history:
            raise SettingsError(
                f"model.template: chat: the chat template of {name} leaves out what was said "
                "before the last question: use rows without history, or model.template: alpaca"
            )
        with said_in_a_line(self.tokenizer):
            return self.render(turns, to_be_answered=True) + self.header

    def answer(self, response: str, ended: bool = True) -> str:
        """A response as the template would write it behind the prompt, with the turn's end.

        Where it is not ended, an empty one is nothing."""
        if ended:
            return self.lead + response + self.closing
        return self.lead + response if response else ""

    def render(self, turns: Sequence[Turn], to_be_answered: bool) -> str:
        """The turns as the template writes them; what it raises is raised."""
        if self.in_parts:
            turns = [turn | {"content": in_parts(turn["content"])} for turn in turns]
        return rendered(self.tokenizer, turns, to_be_answered)


def in_parts(text: str) -> list[dict]:
    """A turn's content as the list of its one part."""
    return [{"type": "text", "text": text}]


def tried(tokenizer: Any) -> Chat:
    """The chat template of a tokenizer that has one, tried.

    SettingsError, in one line, if it cannot be used."""
    try:
        template, _ = template_of(tokenizer)
        return _try(tokenizer, template, tokenizer.eos_token)
    except ValueError as error:
        raise SettingsError(
            f"model.template: chat: {error}, or say model.template: alpaca"
        ) from None


def end_of_turn(tokenizer: Any) -> int | None:
    """The token by which the chat template ends an answer; None where it has none."""
    if not tokenizer.chat_template:
        return None
    try:
        return tried(tokenizer).end
    except SettingsError:  # a judge's template may take other turns than ours
        return None


def rendered(tokenizer: Any, turns: Sequence[Turn], to_be_answered: bool) -> str:
    """Turns in the tokenizer's chat template, without thinking and with a fixed date.

    to_be_answered: with what opens the assistant's turn. What the template raises is raised.
    SettingsError where it takes too long, or writes too much: a template is somebody's program."""
    template, switches = template_of(tokenizer)
    with bounds.bounded(_called(tokenizer.name_or_path)):
        text = tokenizer.apply_chat_template(
            turns,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=to_be_answered,
            **switches,
        )
    bounds.check_length(_called(tokenizer.name_or_path), text, turns)
    return text


@contextlib.contextmanager
def said_in_a_line(tokenizer: Any) -> Iterator[None]:
    """SettingsError, in one line, for whatever the tokenizer's template raises."""
    try:
        yield
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(_unusable(tokenizer.name_or_path, _said_by(error))) from None


def closed_thought(text: str) -> str:
    """What closes the thought that a prompt leaves open at its end; empty where it leaves none."""
    opened = OPEN_THOUGHT.search(text)
    if not opened:
        return ""
    name = opened[0].strip()[1:-1]
    return f"\n</{name}>\n\n" if text.endswith("\n") else f"\n\n</{name}>\n\n"


def template_of(tokenizer: Any) -> tuple[str, dict[str, Any]]:
    """(a tokenizer's chat template with a fixed date, the switches that turn its thinking off).

    Of several templates by name it is the default, or the only one. ValueError, in one line, if
    there is no default, or if the template is no template."""
    name, known = tokenizer.name_or_path, tokenizer.chat_template
    if isinstance(known, list):
        known = {entry["name"]: entry["template"] for entry in known}
    if isinstance(known, str):
        known = {"default": known}
    if len(known) > 1 and "default" not in known:
        raise ValueError(
            f"{name} has the chat templates {' and '.join(sorted(known))}, and none is called "
            "default: rename one in its tokenizer"
        )

    template = known["default"] if "default" in known else next(iter(known.values()))
    try:
        return _prepared(template, name)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(_unusable(name, f"line {error.lineno}: {error.message}")) from None
    except RecursionError:
        raise ValueError(_unusable(name, "it is nested too deep")) from None


def _said_by(error: Exception) -> str:
    """What a template says when it fails."""
    own = isinstance(error, jinja2.TemplateError)
    return str(error) if own else f"{type(error).__name__}: {error}"


def _called(name: str) -> str:
    return f"the chat template of {name}"


def _unusable(name: str, problem: str) -> str:
    said = " ".join(problem.split())
    return f"{_called(name)} cannot be used: {said}; mend it in its tokenizer"


@functools.lru_cache(maxsize=16)
def _prepared(template: str, name: str) -> tuple[str, dict[str, Any]]:
    """What `template_of` gives, of the template of the tokenizer `name`, read once."""
    with bounds.bounded(_called(name)):
        environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
        parsed = environment.parse(GENERATION.sub("", template))
        variables = jinja2.meta.find_undeclared_variables(parsed)
    switches = {name: off for name, off in SWITCHES.items() if name in variables}
    if "strftime_now" in variables:
        template = _with_fixed_date(template)
    return template, switches


def _with_fixed_date(template: str) -> str:
    """The template with a strftime_now of its own, a macro that knows one day only.

    transformers hands no function to a template."""
    used = [*sorted(set(DIRECTIVES.findall(template))), "%%"]
    steps = [f"replace({code!r}, {TODAY.strftime(code)!r})" for code in used]
    filled = " | ".join(["format", *steps])
    return f"{{% macro strftime_now(format) %}}{{{{ {filled} }}}}{{% endmacro +%}}{template}"


# --- trying it --------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _try(tokenizer: Any, _template: str, _eos: str | None) -> Chat:
    asks = {"role": "user", "content": ASKS}
    rules = {"role": "system", "content": RULES}
    usable = _usable(tokenizer, asks, rules)

    # What it makes of further turns.
    says = {"role": "assistant", "content": SAYS}
    again = {"role": "user", "content": ASKS_AGAIN}
    opening = [rules] if usable.needs_system else []
    takes_system = _keeps(usable, [rules, asks])
    takes_repeats = _keeps(usable, [*opening, asks, again])
    takes_history = _keeps(usable, [*opening, asks, says, again])

    # What it writes around an answer.
    prompt = usable.render([*opening, asks], to_be_answered=True)
    try:
        whole = usable.render([*opening, asks, says], to_be_answered=False)
    except SettingsError:
        raise
    except Exception:  # it wants the user to have the last word
        whole = ""
    before, _, after = whole.rpartition(SAYS)
    between = before.removeprefix(prompt) if before.startswith(prompt) else ""
    header, lead = _header_and_lead(prompt, between)
    closing, end = _closing(tokenizer, after)
    return Chat(
        tokenizer,
        in_parts=usable.in_parts,
        needs_system=usable.needs_system,
        takes_system=takes_system,
        takes_repeats=takes_repeats,
        takes_history=takes_history,
        header=header,
        lead=lead,
        closing=closing,
        end=end,
    )


def _usable(tokenizer: Any, asks: Turn, rules: Turn) -> Chat:
    """The first way to ask that the template takes: as text or in parts, without or with a system
    turn. ValueError with what it says to the plainest way if it takes none."""
    problems = []
    for needs_system in (False, True):
        for parts in (False, True):
            form = Chat(tokenizer, in_parts=parts, needs_system=needs_system)
            turns = [rules, asks] if needs_system else [asks]
            try:
                text = form.render(turns, to_be_answered=True)
            except SettingsError:
                raise
            except Exception as error:  # a template raises what it likes
                problems.append(_said_by(error))
                continue
            # A list that is printed as it is was not understood.
            if ASKS in text and str(in_parts(ASKS)) not in text:
                return form
            problems.append("it leaves out what is asked")
    raise ValueError(_unusable(tokenizer.name_or_path, problems[0]))


def _keeps(usable: Chat, turns: Sequence[Turn]) -> bool:
    """Whether the template takes these turns, and writes each of them in their order."""
    try:
        text = usable.render(turns, to_be_answered=True)
    except SettingsError:
        raise
    except Exception:  # a template raises what it likes
        return False
    places = [text.find(turn["content"]) for turn in turns]
    return -1 not in places and places == sorted(places)


def _header_and_lead(prompt: str, between: str) -> tuple[str, str]:
    """(what the prompt still needs, what opens the answer), of what the template writes between.

    Space alone is the model's to write: a prompt that ends in a space is one it never saw. All else
    is no answer. A thought that is still open there is closed, empty."""
    header = between.rstrip(" ") if between.strip() else ""
    lead = between.removeprefix(header)
    return header + closed_thought(prompt + header), lead


def _closing(tokenizer: Any, after: str) -> tuple[str, int | None]:
    """(what is written behind an answer, the token that ends it), of what the template writes.

    It ends with the first special token: what follows, such as a line break, is never generated.
    Without such a token the tokenizer's end of text ends it."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    marks = {mark for mark in [*added, *tokenizer.all_special_tokens] if mark.strip()}
    found = [(after.find(mark), -len(mark), mark) for mark in marks if mark in after]
    if not found:
        return after.rstrip() + (tokenizer.eos_token or ""), tokenizer.eos_token_id
    place, _, mark = min(found)
    return after[: place + len(mark)], tokenizer.convert_tokens_to_ids(mark)
