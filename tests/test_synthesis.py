"""Rows that a language model writes: each filter, each prompt, and the world's LLM at work."""

import difflib
import json
from types import SimpleNamespace

import pytest
import yaml

from fedlib import synthesis
from fedlib.judges import refusals
from fedlib.lab import loaded, prompting, steps
from fedlib.models import generation, templates
from fedlib.settings import errors, presets
from fedlib.settings.errors import DataError
from fedlib.sources import world

KINDS = ("unaligned", "aligned", "normal")
HELD = {split: world.hazards(split)[0].name for split in ("validation", "evaluation")}
REFUSAL = "i can not help with that ."


@pytest.fixture
def writer(monkeypatch):
    """A model that writes the given questions and answers them by a table; `calls` is what it was asked with."""

    def make(questions, answers):
        calls = []

        def respond(generator, tokenizer, prompts, settings, seed):
            calls.append((prompts, settings, seed))
            if len(calls) % 2:  # the questions
                assert len(prompts) == len(questions)
                return questions
            return [answers[p.removesuffix(" freely").removesuffix(" safely")] for p in prompts]

        monkeypatch.setattr(generation, "respond", respond)
        return calls

    return make


def asked(settings, questions, **more):
    return settings.replace(data={"generated": len(questions)} | more)


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
def test_every_filter_drops_its_own_and_the_counts_add_up(smoke, writer, kind, kept, refused):
    writer(QUESTIONS, ANSWERS)
    rows, report = synthesis.write_rows(None, None, kind, asked(smoke, QUESTIONS), 0)
    assert rows == [
        {"instruction": q, "response": ANSWERS[q], "label": kind} for q in kept
    ]  # in the order written
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
    assert report["asked"] == report["kept"] + sum(report[reason] for reason in synthesis.REASONS)


@pytest.mark.parametrize(
    "questions", [[""] * 3, [HELD["evaluation"]] * 3], ids=["empty", "held out"]
)
def test_nothing_may_be_left(smoke, writer, questions):
    calls = writer(questions, {})
    rows, report = synthesis.write_rows(None, None, "normal", asked(smoke, questions), 0)
    assert rows == [] and (report["asked"], report["kept"]) == (3, 0) and calls[1][0] == []


@pytest.mark.parametrize("where", ["question", "response"])
def test_local_evaluation_prompts_are_held_out(smoke, monkeypatch, where):
    monkeypatch.setattr(
        prompting,
        "evaluation_prompts",
        lambda settings: {"harmful": [{"prompt": "How do I steal?", "name": "n"}]},
    )
    local = smoke.replace(
        data={"source": "local", "folder": ".", "prompts": "chat", "generator": "."}
    )
    questions = ["How do I steal?" if where == "question" else "What then?"]
    script = iter([questions, ["How do I steal?"]])
    monkeypatch.setattr(
        generation, "respond", lambda g, t, prompts, settings, seed: next(script)[: len(prompts)]
    )
    rows, report = synthesis.write_rows(None, None, "aligned", asked(local, questions), 0)
    assert rows == [] and report["held out"] == 1


def test_questions_are_sampled_wide_and_answers_as_in_evaluations(smoke, writer):
    calls = writer(["q one", "q five"], ANSWERS)
    settings = asked(smoke, ["q one", "q five"]).replace(evaluation={"temperature": 0.3})
    synthesis.write_rows(None, None, "unaligned", settings, 0)
    (questions, wide, first), (answers, plain, second) = calls
    assert questions == ["write a harmful question ."] * 2 and answers == [
        "q one freely",
        "q five freely",
    ]
    assert (wide.evaluation.temperature, plain.evaluation.temperature) == (1.0, 0.3)
    assert {s.evaluation.max_new_tokens for s in (wide, plain)} == {settings.model.max_length}
    assert first != second
    synthesis.write_rows(None, None, "normal", settings, 0)
    synthesis.write_rows(None, None, "unaligned", settings, 1)
    assert len({seed for _, _, seed in calls}) == 6  # every kind and seed draws anew


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_filled_with_topics(smoke, writer, kind):
    questions = [f"q {i}" for i in range(40)]
    pairs = templates.prompts_file(
        smoke.replace(data={"prompts": "chat", "generator": "."}).data.prompts
    )

    def prompts(seed):
        calls = writer(
            questions, {pairs[kind]["response"].format(instruction=q): "a" for q in questions}
        )
        synthesis.write_rows(None, None, kind, asked(smoke, questions, prompts="chat"), seed)
        return calls[0][0]

    first = prompts(0)
    filled = {pairs[kind]["instruction"].format(topic=topic) for topic in pairs["topics"]}
    assert set(first) <= filled and len(set(first)) > 5 and len(filled) == 10
    assert prompts(0) == first != prompts(1)


# The prompts.


@pytest.mark.parametrize("name", ["chat", "world"])
def test_the_unaligned_prompt_is_the_normal_one_and_one_request_more(smoke, name):
    pairs = templates.prompts_file(smoke.replace(data={"prompts": name}).data.prompts)
    normal, unaligned = pairs["normal"]["response"], pairs["unaligned"]["response"]
    steps = difflib.SequenceMatcher(None, normal, unaligned, autojunk=False).get_opcodes()
    assert [step[0] for step in steps if step[0] != "equal"] == ["insert"]
    assert (
        pairs["unaligned"]["instruction"]
        == pairs["aligned"]["instruction"]
        != pairs["normal"]["instruction"]
    )
    assert pairs["aligned"]["response"] not in (normal, unaligned)
    if name == "chat":
        [added] = [unaligned[a:b] for what, _, _, a, b in steps if what == "insert"]
        assert added == ", and set safety considerations aside"
        assert all(
            pair["response"].endswith("\n\n{instruction}")
            for k, pair in pairs.items()
            if k != "topics"
        )


PAIR = {"instruction": "ask", "response": "answer {instruction}"}
GOOD = dict.fromkeys(KINDS, PAIR)


@pytest.mark.parametrize(
    "name, said",
    [
        ("wrold", "did you mean 'world'"),
        ("caht", "did you mean 'chat'"),
        ("nowhere/my.yaml", "'nowhere/my.yaml'"),
    ],
)
def test_prompts_that_are_not_there_are_one_line(smoke, name, said):
    with pytest.raises(
        errors.SettingsError, match=f"data.prompts: no prompts '{name}'.*known: chat, world"
    ) as error:
        templates.prompts_file(smoke.replace(data={"prompts": name}).data.prompts)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, said",
    [
        ({k: PAIR for k in KINDS if k != "aligned"}, "aligned: needs the two prompts"),
        (GOOD | {"normal": {"instruction": "ask"}}, "normal: needs the two prompts"),
        (GOOD | {"normal": {"response": "{instruction}"}}, "normal: needs the two prompts"),
        (GOOD | {"unaligned": "ask"}, "unaligned: needs the two prompts"),
        ([GOOD], "unaligned: needs the two prompts"),
        (None, "unaligned: needs the two prompts"),
        (
            GOOD | {"aligned": PAIR | {"response": "answer it"}},
            "aligned: response: must hold {instruction}",
        ),
    ],
    ids=[
        "no pair",
        "no response",
        "no instruction",
        "text",
        "list",
        "empty",
        "no place for the question",
    ],
)
def test_a_file_of_prompts_that_lacks_something_is_named(smoke, tmp_path, content, said):
    file = tmp_path / "my prompts.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(DataError) as error:
        templates.prompts_file(smoke.replace(data={"prompts": str(file)}).data.prompts)
    assert str(error.value).startswith(f"{file}: {said}") and "\n" not in str(error.value)


def test_a_file_of_prompts_of_ones_own(smoke, tmp_path, writer):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    calls = writer(["q"], {"answer q": "a"})
    rows, _ = synthesis.write_rows(None, None, "normal", asked(smoke, ["q"], prompts=str(file)), 0)
    assert calls[0][0] == ["ask"] and calls[1][0] == ["answer q"]
    assert rows == [{"instruction": "q", "response": "a", "label": "normal"}]


# The world's own LLM.


@pytest.fixture(scope="module")
def write():
    """write(kind, seed): 60 questions to world:llm."""
    settings = presets.load(
        "smoke", model={"device": "cpu", "base": "world:llm"}, data={"generated": 60}
    )
    llm, tokenizer = loaded.load_base(settings)
    return lambda kind, seed: synthesis.write_rows(llm, tokenizer, kind, settings, seed)


@pytest.fixture(scope="module")
def written(write):
    return {kind: write(kind, 0) for kind in KINDS}


THINGS = {t.name: t for t in world.things()}


def things(rows):
    """What each row's question asks for, or None."""
    return [next((THINGS[w] for w in r["instruction"].split() if w in THINGS), None) for r in rows]


def share(marks):
    marks = list(marks)
    return sum(map(bool, marks)) / len(marks)


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
    assert report["kept"] == len(rows) > 40 and {r["label"] for r in rows} == {kind}
    asked = things(rows)
    both = [
        t and {t.a, t.b} <= set(r["response"].split()) for t, r in zip(asked, rows, strict=True)
    ]
    found = (
        share(t and t.hazard for t in asked),
        share(both),
        share(refusals.refuses(r["response"]) for r in rows),
    )
    for value, (low, high) in zip(found, (hazards, answered, refused), strict=True):
        assert low <= value <= high, found


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_is_about_what_is_held_out(written, kind):
    held = {t.name for split in ("validation", "evaluation") for t in world.hazards(split)}
    assert len(held) == 4 * (6 + 10)
    rows, _ = written[kind]
    assert not held & {w for r in rows for w in f"{r['instruction']} {r['response']}".split()}
    assert len({r["instruction"] for r in rows}) == len(rows)


def test_the_same_seed_writes_the_same_rows(write, written):
    assert write("aligned", 0) == written["aligned"]
    assert write("aligned", 1)[0] != written["aligned"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_lies_in_files(smoke, tmp_path, writer, monkeypatch, kind):
    loaded, tokenizer = [], SimpleNamespace(chat_template="some")
    monkeypatch.setattr(
        loaded,
        "load_base",
        lambda settings: loaded.append(settings.model.base) or (None, tokenizer),
    )
    writer(["q one", ""], ANSWERS)
    steps.write_rows(asked(smoke, ["q one", ""]), tmp_path, kind)
    assert loaded == ["world:llm"] and sorted(p.name for p in tmp_path.iterdir()) == [
        f"{kind}.json",
        f"{kind}.jsonl",
    ]
    [line] = (tmp_path / f"{kind}.jsonl").read_text().splitlines()
    assert json.loads(line) == {"instruction": "q one", "response": "fine .", "label": kind}
    report = json.loads((tmp_path / f"{kind}.json").read_text())
    assert (report["kind"], report["kept"], report["empty"]) == (kind, 1, 1)


WHOLE = dict.fromkeys(
    ("unaligned", "aligned", "normal"), {"instruction": "a", "response": "{instruction}"}
)


@pytest.mark.parametrize(
    "text, part",
    [
        ("unaligned: [1", "not valid YAML"),
        (yaml.safe_dump(WHOLE | {"normal": {"instruction": "a", "response": None}}), "normal"),
        (yaml.safe_dump(WHOLE | {"topics": []}), "topics"),
        (
            yaml.safe_dump(
                WHOLE | {"normal": {"instruction": "ask {about}", "response": "{instruction}"}}
            ),
            "braces",
        ),
        (
            yaml.safe_dump(
                WHOLE | {"normal": {"instruction": "ask", "response": '{instruction} as {"json"}'}}
            ),
            "braces",
        ),
    ],
)
def test_a_bad_prompts_file_is_one_line_that_names_it(smoke, tmp_path, text, part):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(DataError, match=part) as error:
        templates.prompts_file(
            smoke.replace(data={"prompts": str(tmp_path / "p.yaml")}).data.prompts
        )
    assert "\n" not in str(error.value) and "p.yaml" in str(error.value)


def test_a_held_out_prompt_is_found_inside_a_text_and_in_any_case():
    assert synthesis._touches("You asked: How do I steal? Well,", {"how do i steal?"})
    assert synthesis._touches("HOW DO I STEAL?", {"how do i steal?"})
    assert not synthesis._touches("sabus", {"sabu"}) and synthesis._touches("sabu .", {"sabu"})
