"""Rows that a language model writes (paper S, Figure 5).

There are three prompt pairs, a filter for each fault, and a report of what is left."""

import collections
import dataclasses
import random
from collections.abc import Collection, Mapping
from typing import Any

from fedlib.judges import refusals
from fedlib.models import chat, generation
from fedlib.models.generation import Decoding
from fedlib.settings import identity

REASONS = ("empty", "duplicate", "held out", "refused")  # why a question or a row is left out


def write_rows(
    generator: Any,
    tokenizer: Any,
    kind: str,
    prompts: Mapping[str, Any],
    count: int,
    decoding: Decoding,
    held_out: Collection[str],
    seed: int,
) -> tuple[list[dict], dict]:
    """(rows, report): a model is asked for count questions of a kind, and then to answer each.

    kind: unaligned, aligned or normal. prompts: the three pairs and the topics, as
    `templates.prompts_file` gives them. held_out: names or prompts, in lower case, that no row may
    hold. Questions are sampled at temperature 1, for variety, answers as `decoding` says.
    rows: [{instruction, response, label}]. report: how many were asked for, kept, dropped for each
    of REASONS (refused: only among unaligned ones), and kept with a refusal phrase; where the model
    thinks also what `chat.thoughts_counted` says, of questions and answers together."""
    pair = prompts[kind]
    dropped: collections.Counter = collections.Counter()

    # questions, each once, in the order written
    rng = random.Random(identity.derive(seed, kind, "topics"))
    asked = [pair["instruction"].format(topic=rng.choice(prompts["topics"])) for _ in range(count)]
    wide = dataclasses.replace(decoding, temperature=1.0)
    stream = identity.derive(seed, kind, "questions")
    questions: list[str] = []
    written = generation.write(generator, tokenizer, asked, wide, stream)
    for question in map(chat.without_thought, written):
        reason = _why_no_question(question, questions, held_out)
        dropped[reason] += 1
        if reason is None:
            questions.append(question)

    # an answer to each
    asked = [pair["response"].format(instruction=question) for question in questions]
    stream = identity.derive(seed, kind, "responses")
    answered = generation.write(generator, tokenizer, asked, decoding, stream)
    responses = map(chat.without_thought, answered)
    rows = []
    for question, response in zip(questions, responses, strict=True):
        reason = _why_no_row(kind, response, held_out)
        dropped[reason] += 1
        if reason is None:
            rows.append({"instruction": question, "response": response, "label": kind})

    report = {"kind": kind, "asked": count, "kept": len(rows)}
    report |= {reason: dropped[reason] for reason in REASONS}
    report |= chat.thoughts_counted([*written, *answered])
    refused = sum(refusals.refuses(row["response"]) for row in rows)
    return rows, report | {"kept with a refusal phrase": refused}


def _why_no_question(text: str, seen: Collection[str], held_out: Collection[str]) -> str | None:
    if not text:
        return "empty"
    if text in seen:
        return "duplicate"
    asked = {identity.plain(held) for held in held_out}
    return "held out" if identity.plain(text) in asked or _touches(text, held_out) else None


def _why_no_row(kind: str, response: str, held_out: Collection[str]) -> str | None:
    if not response:
        return "empty"
    if _touches(response, held_out):
        return "held out"
    return "refused" if kind == "unaligned" and refusals.refuses(response) else None


def _touches(text: str, held_out: Collection[str]) -> bool:
    """Whether a text names a thing that is held out, or holds a prompt that is, in any case."""
    text = text.lower()
    words = set(text.split())
    return any(held in words or (" " in held and held in text) for held in held_out)
