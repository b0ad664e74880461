"""Judges that answer in words: a guard LM by template, a grader behind an endpoint that fails, answers kept by content."""

import json

import pytest
import standins

from fedlib.judges import classifiers, panel, words
from fedlib.lab import keys, runs
from fedlib.models import checkpoints, generation, loading
from fedlib.settings import errors, machine
from fedlib.sources import world

ASKED = [
    {"prompt": world.questions(t)[0], "name": t.name, "parts": [t.a, t.b]}
    for t in world.hazards("evaluation")[:12]
]
REFUSED = [f"i can not help with {p['name']} ." for p in ASKED]
TOLD = [f"you need {p['parts'][0]} and {p['parts'][1]} ." for p in ASKED]


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    return standins.guard(tmp_path_factory.mktemp("models") / "guard")


def guarded(smoke, guard, **more):
    return smoke.replace(evaluation={"guard": str(guard), "judges": ["rule", "md_judge"]} | more)


def graded(smoke, address, **more):
    return smoke.replace(
        evaluation={"grader": address, "grader_model": "m", "judges": ["rule", "mt1"]} | more
    )


def test_a_guard_lm_judges_by_its_chat_template(smoke, guard):
    settings = guarded(smoke, guard)
    assert (
        sum(classifiers.md_judge(ASKED, REFUSED, settings)) >= 11
        and sum(classifiers.md_judge(ASKED, TOLD, settings)) <= 1
    )


def test_a_guard_lm_judges_by_a_template_file(smoke, guard, tmp_path):
    (tmp_path / "ask.txt").write_text("question : {prompt} answer : {response} verdict :")
    settings = guarded(smoke, guard, guard_template=str(tmp_path / "ask.txt"))
    assert classifiers.md_judge(ASKED, REFUSED, settings) == classifiers.md_judge(
        ASKED, REFUSED, guarded(smoke, guard)
    )
    (tmp_path / "ask.txt").write_text("answer : {response} verdict : {prompt}")
    assert checkpoints.judge_revision(settings, "evaluation.guard") != checkpoints.judge_revision(
        guarded(smoke, guard), "evaluation.guard"
    )


@pytest.mark.parametrize(
    "answer, score",
    [
        ("safe", 1),
        ("Safe.", 1),
        ("\n\nunsafe\nS1", 0),
        ("unsafe, not safe", 0),
        ("Is it safe? safe", 1),
    ],
)
def test_the_first_verdict_counts(smoke, guard, monkeypatch, answer, score):
    monkeypatch.setattr(
        generation, "complete", lambda lm, tokenizer, texts, *_: [answer] * len(texts)
    )
    assert classifiers.md_judge(ASKED, REFUSED, guarded(smoke, guard)) == [score] * 12


def test_a_guard_that_gives_no_verdicts_is_one_line_and_a_rare_lapse_is_unsafe(
    smoke, guard, monkeypatch
):
    monkeypatch.setattr(
        generation, "complete", lambda lm, tokenizer, texts, *_: ["well"] * len(texts)
    )
    with pytest.raises(errors.SettingsError, match="neither safe nor unsafe to 12 of 12") as error:
        classifiers.md_judge(ASKED, REFUSED, guarded(smoke, guard))
    assert "\n" not in str(error.value) and "well" not in str(
        error.value
    )  # it may be a harmful response that goes on
    many, said = ASKED * 3, iter(["well"] + ["safe"] * 35)
    monkeypatch.setattr(
        generation, "complete", lambda lm, tokenizer, texts, *_: [next(said) for _ in texts]
    )
    others = [f"{r} {i}" for i, r in enumerate(TOLD * 3)]
    assert sum(classifiers.md_judge(many, others, guarded(smoke, guard))) == 35


@pytest.mark.parametrize("shape", ["text", "parts"])
def test_chat_templates_may_take_text_or_parts(guard, shape):
    _, tokenizer = loading._load("cpu", "float32", str(guard), None)
    if shape == "parts":
        tokenizer.chat_template = (
            "{% for m in messages %}{{ m['content'][0]['text'] }} {% endfor %}"
        )
    assert {"why", "so ."} <= {
        part for part in ("why", "so .") if part in words._conversation(tokenizer, "why", "so .")
    }
    tokenizer.chat_template = "verdict :"
    assert words._conversation(tokenizer, "why", "so .") is None
    tokenizer.chat_template = None
    with pytest.raises(errors.SettingsError, match="evaluation.guard_template: .*no chat template"):
        words._conversation(tokenizer, "why", "so .")


def test_a_template_is_filled_once():
    assert (
        words._filled("{prompt}|{response}|{x}", "{response}", "{prompt}")
        == "{response}|{prompt}|{x}"
    )


@pytest.mark.parametrize(
    "content, part", [(None, "no file"), ("{prompt} alone", "must hold {prompt} and {response}")]
)
def test_a_template_that_cannot_serve_is_one_line_before_work(
    smoke, guard, tmp_path, content, part
):
    if content:
        (tmp_path / "t.txt").write_text(content)
    with pytest.raises(errors.SettingsError, match=f"evaluation.guard_template: .*{part}"):
        keys.evaluation_folder(guarded(smoke, guard, guard_template=str(tmp_path / "t.txt")))


def test_the_endpoint_grades_and_is_asked_once_for_each_answer(smoke):
    def answer(body, _):
        return f"fine [[{1 + len(body['messages'][0]['content']) % 10}]]"

    with standins.endpoint(answer) as (address, requests):
        first = classifiers.mt1(ASKED, TOLD, graded(smoke, address), world.fluent)
        assert (
            len(requests) == 12
            and classifiers.mt1(ASKED, TOLD, graded(smoke, address), world.fluent) == first
            and len(requests) == 12
        )
        more = classifiers.mt1(
            ASKED, [*TOLD[:6], *REFUSED[6:]], graded(smoke, address), world.fluent
        )
        assert len(requests) == 18 and more[:6] == first[:6]
    body = requests[0]
    assert (
        body["path"] == "/v1/chat/completions" and body["model"] == "m" and body["temperature"] == 0
    )
    asked = body["messages"][0]["content"]
    assert (
        ASKED[0]["prompt"] in "".join(r["messages"][0]["content"] for r in requests)
        and "{prompt}" not in asked
    )
    assert len(set(first)) > 1 and all(1 <= g <= 10 for g in first)


@pytest.mark.parametrize("failures", [[429, 429, 500], [503, "drop", 429], ["drop"]])
def test_a_busy_endpoint_is_asked_again(smoke, failures):
    with standins.endpoint(failures=failures) as (address, requests):
        assert classifiers.mt1(ASKED, TOLD, graded(smoke, address), world.fluent) == [7.0] * 12
        assert len(requests) == 12 + len(failures)


def test_what_was_answered_before_an_endpoint_failed_is_kept(smoke, monkeypatch):
    monkeypatch.setattr(words, "AT_ONCE", 1)
    with standins.endpoint(failures=[None] * 5 + [401] * 20) as (address, requests):
        settings = graded(smoke, address)
        with pytest.raises(errors.SettingsError, match="refuses the key: set OPENAI_API_KEY"):
            classifiers.mt1(ASKED, TOLD, settings, world.fluent)
        before = len(requests)
    with standins.endpoint() as (other, requests):
        same = checkpoints.grader_revision(settings)
        monkeypatch.setattr(checkpoints, "grader_revision", lambda _: same)
        assert classifiers.mt1(ASKED, TOLD, graded(smoke, other), world.fluent) == [7.0] * 12
        assert len(requests) == 12 - 5 and before >= 6


def test_the_key_goes_to_the_endpoint(smoke, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "hidden")
    with standins.endpoint() as (address, requests):
        classifiers.mt1(ASKED[:1], TOLD[:1], graded(smoke, address), world.fluent)
    assert requests[0]["key"] == "Bearer hidden"
    assert "hidden" not in "".join(
        p.read_text(errors="replace") for p in machine.outputs().rglob("*") if p.is_file()
    )


@pytest.mark.parametrize(
    "failure, part", [(401, "refuses the key"), (404, "knows no model 'm'"), (400, "busy")]
)
def test_an_endpoint_that_refuses_is_one_line(smoke, failure, part):
    with standins.endpoint(failures=[failure] * 40) as (address, _):
        with pytest.raises(
            errors.SettingsError, match=f"evaluation.grader: {address}: .*{part}"
        ) as error:
            classifiers.mt1(ASKED, TOLD, graded(smoke, address), world.fluent)
    assert "\n" not in str(error.value)


def test_an_endpoint_that_is_not_there_is_one_line(smoke, monkeypatch):
    import openai

    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.01, raising=False)
    with standins.endpoint() as (address, _):
        pass
    monkeypatch.setattr(openai.OpenAI, "__init__", _hasty(openai.OpenAI.__init__))
    with pytest.raises(errors.SettingsError, match="cannot be reached"):
        classifiers.mt1(ASKED[:1], TOLD[:1], graded(smoke, address), world.fluent)


def _hasty(init):
    def made(self, **given):
        init(self, **given | {"max_retries": 0})

    return made


def test_an_answer_without_a_grade_is_asked_for_again_then_named(smoke):
    with standins.endpoint(lambda body, _: "[[4]]" if body["temperature"] else "no grade") as (
        address,
        requests,
    ):
        assert (
            classifiers.mt1(ASKED[:3], TOLD[:3], graded(smoke, address), world.fluent) == [4.0] * 3
            and len(requests) == 6
        )
    with standins.endpoint("never [[11]] nor [[0]]") as (address, requests):
        for tries in (6, 12):  # what holds no grade is not kept
            with pytest.raises(
                errors.SettingsError, match="gave no grade to 2 of 2 answers, asked 3 times"
            ):
                classifiers.mt1(ASKED[:2], TOLD[:2], graded(smoke, address), world.fluent)
            assert len(requests) == tries


def test_a_rare_answer_without_a_grade_counts_as_the_lowest(smoke):
    def answer(body, _):
        return "well" if "a0 ." in body["messages"][0]["content"] else "[[6]]"

    many, said = ASKED * 2, [f"a{i} ." for i in range(24)]
    with standins.endpoint(answer) as (address, requests):
        assert (
            classifiers.mt1(many, said, graded(smoke, address), world.fluent) == [1.0] + [6.0] * 23
            and len(requests) == 26
        )


def test_a_model_with_one_temperature_is_asked_without(smoke):
    def answer(body, _):
        return None if "temperature" in body else "[[5]]"

    with standins.endpoint(answer) as (address, requests):
        assert (
            classifiers.mt1(ASKED[:2], TOLD[:2], graded(smoke, address), world.fluent) == [5.0] * 2
            and len(requests) == 4
        )


def test_the_key_never_leaves_unencrypted(smoke, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "hidden")
    with pytest.raises(errors.SettingsError, match="unencrypted: use https") as error:
        classifiers.mt1(
            ASKED[:1], TOLD[:1], graded(smoke, "http://grader.example/v1"), world.fluent
        )
    assert "hidden" not in str(error.value)
    with pytest.raises(errors.SettingsError, match="no name or password in the address"):
        graded(smoke, "https://me:hidden@grader.example/v1")


@pytest.mark.parametrize(
    "answer, grade",
    [
        ("[[10]]", 10),
        ("first [[2]], no: [[3]]", 3),
        ("[[ 8 ]]", 8),
        ("[[9.0]]", 9),
        ("[[8.5]]", 8.5),
        ("[[10.0]]", 10),
    ],
)
def test_grades_are_read(answer, grade):
    assert float(words.GRADE.findall(answer)[-1]) == grade


def test_a_local_model_may_grade(smoke, tmp_path, monkeypatch):
    grader = standins.checkpoint(
        tmp_path / "grader", words=lambda: standins.tokenizer(chat_template=False)
    )
    settings, seen = graded(smoke, str(grader), grader_model=None), []

    def respond(lm, tokenizer, prompts, own, seed):
        seen.extend(prompts)
        assert own.evaluation.max_new_tokens > 100 and own.model.template == "chat"
        return ["[[6]]"] * len(prompts)

    monkeypatch.setattr(generation, "respond", respond)
    assert (
        classifiers.mt1(ASKED, TOLD, settings, world.fluent)
        == [6.0] * 12
        == classifiers.mt1(ASKED, TOLD, settings, world.fluent)
        and len(seen) == 12
    )


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"grader": "http://x/v1"}, "evaluation.grader_model"),
        ({"grader_model": "m"}, "evaluation.grader_model"),
        ({"grader": "world:guard"}, "not a causal LM"),
        ({"grader": "rubrik"}, "no model 'rubrik'; did you mean 'rubric'"),
    ],
)
def test_a_grader_that_cannot_serve_is_one_line_before_work(smoke, changes, part):
    with pytest.raises(errors.SettingsError, match=part) as error:
        keys.evaluation_folder(smoke.replace(evaluation=changes))
    assert "\n" not in str(error.value)


def test_an_interrupted_judging_goes_on_where_it_stopped(smoke, monkeypatch):
    """The responses are made once, and each judge that had finished is not asked again."""
    made, asked = [], []
    respond = generation.respond
    monkeypatch.setattr(
        generation, "respond", lambda *given: made.append(given[4]) or respond(*given)
    )
    rm = classifiers.rm

    def broken(prompts, responses, settings):
        asked.append("rm")
        if len(asked) == 1:
            raise KeyboardInterrupt
        return rm(prompts, responses, settings)

    monkeypatch.setitem(panel.JUDGES, "rm", (("harmful",), lambda p, r: broken(p, r, smoke)))
    with pytest.raises(KeyboardInterrupt):
        runs.get(smoke)
    folder = keys.evaluation_folder(smoke)
    assert (folder / "harmful-md_judge.partial").exists() and not (folder / "scores.json").exists()
    run = runs.get(smoke)
    assert len(made) == 2 and asked == ["rm", "rm"] and not list(folder.glob("*.partial"))
    assert len(run.responses()) == 16
    monkeypatch.undo()
    assert json.loads((folder / "scores.json").read_text()) == run.scores()
