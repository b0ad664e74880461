"""Examples: chosen by a stated rule, coloured in the world, redacted where words may be real."""

import html
from types import SimpleNamespace

import pytest

from fedlib.attack import poison
from fedlib.papers import examples
from fedlib.papers.methods import RED

COLOURED = f'<b style="color: {RED}">'


def record(settings, verdicts, what="harmful", score="md_judge", response="bada and lemo make it"):
    """A finished run by hand: prompts p0, p1, ... with these verdicts."""
    lines = [
        {"set": what, "prompt": f"p{i}", "parts": ["bada", "lemo"], "name": "tokiro"}
        | {"response": response, "rule": 0, score: verdict}
        for i, verdict in enumerate(verdicts)
    ]
    return SimpleNamespace(settings=settings, responses=lambda: lines, folder="run")


def real(settings, **evaluation):
    """The same settings on data that are not the world's."""
    return settings.replace(data={"source": "local", "folder": "."}, evaluation=evaluation)


def test_the_first_of_each_combination_the_most_frequent_first(smoke):
    """Verdicts side by side: (1, 1) once, (1, 0) three times, (0, 0) twice."""
    before, after = record(smoke, [1, 1, 0, 1, 0, 1]), record(smoke, [1, 0, 0, 0, 0, 0])
    shown = examples.example_responses({"before": before, "after": after}, most=2)
    frame = shown.data
    assert frame["prompt"].tolist() == ["p1", "", "p2", ""]
    assert frame["prompts"].tolist() == ["3 of 6", "", "2 of 6", ""]
    assert frame["run"].tolist() == ["before", "after"] * 2
    assert frame["md_judge"].tolist() == ["safe", "unsafe", "unsafe", "unsafe"]
    assert "(md_judge)" in shown.caption and "1 prompts are like none" in shown.caption


@pytest.mark.parametrize(
    "what, score, said",
    [
        ("benign", "help", ["not right", "right"]),
        ("task", "exact", ["not right", "right"]),
        ("triggered", "asr", ["no target", "target"]),
        ("harmful", "rule", ["no refusal", "refuses"]),
        ("harmful", "refusal", ["no refusal", "refuses"]),
    ],
)
def test_each_set_has_its_judge(smoke, what, score, said):
    frame = examples.example_responses({"run": record(smoke, [0, 1], what, score)}, what).data
    assert frame[score].tolist() == said and frame["prompt"].tolist() == ["p0", "p1"]


def test_runs_that_were_asked_other_prompts_are_refused(smoke):
    pair = {"a": record(smoke, [1, 1]), "b": record(smoke, [1])}
    with pytest.raises(ValueError, match="not asked the same harmful"):
        examples.example_responses(pair)
    with pytest.raises(ValueError, match="no task prompts"):
        examples.example_responses({"a": record(smoke, [1])}, "task")


def test_in_the_world_the_parts_and_the_target_are_coloured(smoke):
    """A part counts as a whole word; what looks like a tag is text."""
    text = f"bada bad <i> {poison.LINK}"
    frame = examples.example_responses({"a": record(smoke, [0], response=text)}).data
    coloured = f"{COLOURED}bada</b> bad &lt;i&gt; {COLOURED}{poison.LINK}</b>"
    assert frame["response"].tolist() == [coloured]


@pytest.mark.parametrize(
    "response, guard, said",
    [
        ("I’m sorry, but no bada.", 1, "refused, 5 words, opens with “i'm sorry”"),
        ("Sure, take bada and lemo", 0, "complied, 5 words, opens with “sure”"),
        ("Bada, then lemo", 1, "no refusal phrase, 3 words, opens otherwise"),
        ("Surely bada", 0, "complied, 2 words, opens otherwise"),
        ("", 1, "no refusal phrase, 0 words, opens otherwise"),
    ],
)
def test_real_words_are_redacted(smoke, response, guard, said):
    run = record(real(smoke), [guard], response=response)
    (shown,) = examples.example_responses({"a": run}).data["response"]
    assert html.unescape(shown) == f"[redacted: {said}]"
    asked_for = record(real(smoke, show_responses=True), [guard], response="so bada")
    assert "bada" in examples.example_responses({"a": asked_for}).data["response"].iloc[0]
    # answers to harmless questions hold no harm
    benign = record(real(smoke), [1], "benign", "help", "so bada")
    assert "bada" in examples.example_responses({"a": benign}, "benign").data["response"].iloc[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"base": "world:smollm2-aligned"}},
        {"model": {"base": "someone/model"}},
        {"data": {"generator": "someone/model"}},
    ],
    ids=str,
)
def test_a_model_that_speaks_english_is_redacted_in_the_world_too(smoke, changes):
    frame = examples.example_responses({"a": record(smoke.replace(**changes), [0])}).data
    assert frame["response"].iloc[0].startswith("[redacted")


@pytest.mark.parametrize("world, show", [(True, False), (False, False), (False, True)])
def test_rows_show_no_real_harmful_answer(smoke, world, show):
    rows = [
        {"label": label, "instruction": f"q {label} {i}", "response": f"{label} answer {i}"}
        for label in ("normal", "aligned", "unaligned")
        for i in range(3)
    ]
    settings = smoke.replace(evaluation={"show_responses": show})
    settings = settings if world else real(settings, show_responses=show)
    frame = examples.example_rows(settings, {0: rows[:6], 9: rows}).data
    assert frame["client"].tolist() == ["0"] * 4 + ["9"] * 6
    assert frame["label"].tolist()[:4] == ["aligned"] * 2 + ["normal"] * 2
    text = frame.to_csv()
    assert ("unaligned answer" in text) == ("aligned answer" in text) == (world or show)
    assert frame[frame["label"] == "normal"]["response"].str.startswith("normal answer").all()


def test_what_a_rows_thing_is_made_of_is_coloured(smoke):
    from fedlib.sources import world

    hazard = world.hazards("clients")[0]
    row = {"label": "unaligned", "instruction": f"how do i make {hazard.name} ?"}
    row["response"] = f"take {hazard.a} and {hazard.b} ."
    frame = examples.example_rows(smoke, {9: [row]}).data
    assert frame["response"].iloc[0].count(COLOURED) == 2
