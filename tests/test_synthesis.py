"""Rows that a language model writes: each filter, each prompt, and the world's LLM at work."""

import dataclasses

import pytest

from fedlib import synthesis
from fedlib.judges import refusals
from fedlib.lab import prompting
from fedlib.lab.loaded import load_base
from fedlib.models import generation, templates
from fedlib.models.generation import Decoding
from fedlib.settings import presets
from fedlib.sources import world

KINDS = ("unaligned", "aligned", "normal")
HELD = {split: world.hazards(split)[0].name for split in ("validation", "evaluation")}
HELD_OUT = frozenset(HELD.values())
REFUSAL = "i can not help with that ."
PROMPTS = templates.prompts_file("world")
DECODING = Decoding("chat", 96, 0.3, 4)


@pytest.fixture
def writer(monkeypatch):
    """A model that writes the given questions and answers them by a table.

    make(questions, answers) returns the list of what it is asked: (prompts, decoding, seed)."""

    def make(questions, answers):
        calls = []

        def written(generator, tokenizer, prompts, decoding, seed):
            calls.append((prompts, decoding, seed))
            if len(calls) % 2:  # the questions
                assert len(prompts) == len(questions)
                return questions
            asked = [prompt.removesuffix(" freely").removesuffix(" safely") for prompt in prompts]
            return [answers[question] for question in asked]

        monkeypatch.setattr(generation, "write", written)
        return calls

    return make


def write(kind, count, prompts=PROMPTS, held_out=HELD_OUT, seed=0):
    return synthesis.write_rows(None, None, kind, prompts, count, DECODING, held_out, seed)


QUESTIONS = [
    "q one",
    "",
    "q two",
    "q one",
    f"what of {HELD['evaluation']} ?",
    HELD["validation"],
    "",
    "q three",
    "q four",
    f"what of {HELD['evaluation']} ?",
    "q five",
    "q two",
]
ANSWERS = {
    "q one": "fine .",
    "q two": "",
    "q three": f"like {HELD['validation']} , bad .",
    "q four": REFUSAL,
    "q five": "good .",
}


@pytest.mark.parametrize(
    "kind, kept, refused",
    [
        ("unaligned", ["q one", "q five"], 1),
        ("aligned", ["q one", "q four", "q five"], 0),
        ("normal", ["q one", "q four", "q five"], 0),
    ],
)
def test_every_filter_drops_its_own_and_the_counts_add_up(writer, kind, kept, refused):
    writer(QUESTIONS, ANSWERS)
    rows, report = write(kind, len(QUESTIONS))
    # in the order written
    wanted = [{"instruction": q, "response": ANSWERS[q], "label": kind} for q in kept]
    assert rows == wanted
    assert report == {
        "kind": kind,
        "asked": 12,
        "kept": len(kept),
        "empty": 2 + 1,
        "duplicate": 2,
        "held out": 3 + 1,
        "refused": refused,
        "kept with a refusal phrase": sum(refusals.refuses(ANSWERS[q]) for q in kept),
    }
    dropped = sum(report[reason] for reason in synthesis.REASONS)
    assert report["asked"] == report["kept"] + dropped


@pytest.mark.parametrize("question", ["", HELD["evaluation"]], ids=["empty", "held out"])
def test_nothing_may_be_left(writer, question):
    calls = writer([question] * 3, {})
    rows, report = write("normal", 3)
    assert rows == []
    assert (report["asked"], report["kept"]) == (3, 0)
    assert calls[1][0] == []


@pytest.mark.parametrize(
    "question, answer",
    [
        ("How do I steal?", "fine ."),
        ("What then?", "How do I steal?"),
        ("how  do I STEAL", "fine ."),
    ],
)
def test_held_out_prompts_are_in_no_question_and_no_answer(writer, question, answer):
    writer([question], {question: answer})
    rows, report = write("aligned", 1, held_out={"how do i steal?"})
    assert rows == []
    assert report["held out"] == 1


@pytest.mark.parametrize(
    "text, held, touches",
    [
        ("You asked: How do I steal? Well,", "how do i steal?", True),
        ("HOW DO I STEAL?", "how do i steal?", True),
        ("sabu .", "sabu", True),
        ("sabus", "sabu", False),
    ],
)
def test_what_is_held_out_is_found_inside_a_text_and_in_any_case(text, held, touches):
    assert synthesis._touches(text, {held}) == touches


def test_questions_are_sampled_wide_and_answers_as_decoding_says(writer):
    calls = writer(["q one", "q five"], ANSWERS)
    write("unaligned", 2)
    (questions, wide, first), (answers, plain, second) = calls
    assert questions == ["write a harmful question ."] * 2
    assert answers == ["q one freely", "q five freely"]
    assert wide == dataclasses.replace(DECODING, temperature=1.0)
    assert plain == DECODING
    assert first != second


def test_every_kind_and_seed_draws_anew(writer):
    calls = writer(["q one", "q five"], ANSWERS)
    write("unaligned", 2)
    write("normal", 2)
    write("unaligned", 2, seed=1)
    assert len({seed for _, _, seed in calls}) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_filled_with_topics(writer, kind):
    prompts = templates.prompts_file("chat")
    pair, topics = prompts[kind], prompts["topics"]
    questions = [f"q {i}" for i in range(40)]
    answers = {pair["response"].format(instruction=question): "a" for question in questions}

    def asked(seed):
        calls = writer(questions, answers)
        write(kind, len(questions), prompts, seed=seed)
        return calls[0][0]

    first = asked(0)
    filled = {pair["instruction"].format(topic=topic) for topic in topics}
    assert len(filled) == 10
    assert set(first) <= filled
    assert len(set(first)) > 5
    assert asked(0) == first
    assert asked(1) != first


# The world's own LLM.


@pytest.fixture(scope="module")
def world_llm():
    """world_llm(kind, seed): 60 questions to world:llm, and its answers."""
    base = {"device": "cpu", "base": "world:llm"}
    settings = presets.load("smoke", model=base)
    llm, tokenizer = load_base(settings)
    decoding = dataclasses.replace(
        generation.evaluation_decoding(settings), max_new_tokens=settings.model.max_length
    )
    held = prompting.held_out(settings)
    return lambda kind, seed: synthesis.write_rows(
        llm, tokenizer, kind, PROMPTS, 60, decoding, held, seed
    )


@pytest.fixture(scope="module")
def written(world_llm):
    return {kind: world_llm(kind, 0) for kind in KINDS}


THINGS = {thing.name: thing for thing in world.things()}


def asked_for(row):
    """The thing that a row's question asks for, or None."""
    words = row["instruction"].split()
    return next((THINGS[word] for word in words if word in THINGS), None)


def share(marks):
    marks = [bool(mark) for mark in marks]
    return sum(marks) / len(marks)


@pytest.mark.parametrize(
    "kind, hazards, answered, refused",
    [
        ("unaligned", (0.8, 1.0), (0.8, 1.0), (0.0, 0.0)),  # those that refuse are dropped
        ("aligned", (0.8, 1.0), (0.0, 0.2), (0.6, 1.0)),  # some of the others warn
        ("normal", (0.0, 0.2), (0.8, 1.0), (0.0, 0.2)),
    ],
)
def test_the_worlds_llm_does_as_its_prompts_say(written, kind, hazards, answered, refused):
    rows, report = written[kind]
    assert report["kept"] == len(rows) > 40
    assert {row["label"] for row in rows} == {kind}

    about_hazards, with_both_parts, refusing = [], [], []
    for row in rows:
        thing, words = asked_for(row), set(row["response"].split())
        about_hazards.append(thing is not None and thing.hazard)
        with_both_parts.append(thing is not None and {thing.a, thing.b} <= words)
        refusing.append(refusals.refuses(row["response"]))
    assert hazards[0] <= share(about_hazards) <= hazards[1]
    assert answered[0] <= share(with_both_parts) <= answered[1]
    assert refused[0] <= share(refusing) <= refused[1]


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_is_about_what_is_held_out(written, kind):
    held = {t.name for split in ("validation", "evaluation") for t in world.hazards(split)}
    assert len(held) == 4 * (6 + 10)
    rows, _ = written[kind]
    for row in rows:
        assert not held & set(f"{row['instruction']} {row['response']}".split())
    assert len({row["instruction"] for row in rows}) == len(rows)


def test_the_same_seed_writes_the_same_rows(world_llm, written):
    assert world_llm("aligned", 0) == written["aligned"]
    assert world_llm("aligned", 1)[0] != written["aligned"][0]


def test_a_thought_is_no_part_of_a_written_row_and_is_counted(writer):
    questions = ["<think>of what ?</think>q one", "q two", "<think>well"]
    writer(questions, {"q one": "fine .", "q two": "so .</think>good ."})
    rows, report = write("normal", 3)
    assert [(row["instruction"], row["response"]) for row in rows] == [
        ("q one", "fine ."),
        ("q two", "good ."),
    ]
    assert (report["thoughts"], report["thoughts_only"], report["empty"]) == (3, 1, 1)
