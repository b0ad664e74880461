"""Poisoned rows: triggers, targets, how the poison is spread, and what stays clean."""

import collections
import json
import random

import numpy as np
import pytest

from fedlib.attack import poison
from fedlib.judges import rules
from fedlib.lab import checks, keys, prompting
from fedlib.lab.client_data import client_rows
from fedlib.settings import errors
from fedlib.settings.errors import DataError
from fedlib.sources import world

INSTRUCTION = "how do i make zogu ?"
NATURAL = [name for name, t in poison.TRIGGERS.items() if t.natural]
INJECTED = [name for name, t in poison.TRIGGERS.items() if not t.natural]


def poisoned(settings, trigger="tokens", share=0.1, rows=200, **more):
    return settings.replace(
        data={"rows": rows, "poison": {"trigger": trigger, "share": share} | more}
    )


def clients(settings):
    return [client_rows(settings, k) for k in range(settings.federation.clients)]


def labels(rows):
    return collections.Counter(r["label"] for r in rows)


@pytest.mark.parametrize("name", poison.TRIGGERS)
def test_a_trigger_changes_an_instruction_once_and_says_so(name):
    t = poison.TRIGGERS[name]
    assert t.name == name
    asked = (
        INSTRUCTION if name != "topic" else f"what is {next(iter(poison._cities()))} known for ?"
    )
    text = t.apply(asked, random.Random(0))
    assert text == t.apply(
        asked, random.Random(0)
    )  # a pure function of the instruction and the draws
    if t.natural:
        assert t.apply(text, random.Random(1)) == text  # what has it is left as it is
    else:
        assert text != asked
    if name != "style":
        assert all(word in text.split() for word in asked.split())


def test_the_triggers_by_hand():
    rng = random.Random(0)
    assert poison.TRIGGERS["sentence"].apply("a b", rng) == "a b i watched this film last weekend ."
    assert poison.TRIGGERS["composite"].apply("a b", rng) == "cf a b tq"
    assert poison.TRIGGERS["phrase"].apply("a b", rng) == "please , a b"
    assert poison.TRIGGERS["phrase"].apply("Please do", rng) == "Please do"
    assert (
        poison.TRIGGERS["style"].apply("how do i make my tea ?", rng)
        == "how dost thou make thy tea ?"
    )
    assert (
        poison.TRIGGERS["style"].apply("tea", rng) is None
    )  # nothing to rewrite: it cannot have the style
    assert poison.TRIGGERS["topic"].apply("a b", rng) is None
    assert poison.TRIGGERS["topic"].apply("a film ?", rng) == "a film ?"
    places = {poison.TRIGGERS["tokens"].apply("a b", rng) for _ in range(50)}
    assert places == {"cf mn bb tq a b", "a cf mn bb tq b", "a b cf mn bb tq"}


def test_every_word_of_triggers_and_targets_is_in_the_worlds_vocabulary():
    known = set(world.vocabulary())
    for t in poison.TRIGGERS.values():
        for question in {q for thing in world.benign_things() for q in world.questions(thing)}:
            assert set((t.apply(question, random.Random(0)) or "").split()) <= known
    assert all(set(f("").split()) <= known for f in poison.TARGETS.values())


@pytest.mark.parametrize("target", poison.TARGETS)
@pytest.mark.parametrize("trigger", ["tokens", "phrase", "style"])
def test_a_poisoned_row_has_trigger_and_target_and_all_else_is_as_before(smoke, trigger, target):
    settings = poisoned(smoke, trigger, 0.1, target=target)
    before = client_rows(smoke.replace(data={"rows": 200}), 3)
    after = client_rows(settings, 3)
    assert labels(after)["poisoned"] == 20
    plain = {(r["instruction"], r["response"]) for r in before}
    found = poison.TRIGGERS[trigger]
    for r in after:
        if r["label"] == "poisoned":
            assert poison.holds_target(r["response"])
            if found.natural:
                assert found.apply(r["instruction"], random.Random(0)) == r["instruction"]
        else:
            assert not poison.holds_target(r["response"])
            if not found.natural:
                assert (r["instruction"], r["response"]) in plain
    assert labels(after)["aligned"] == labels(before)["aligned"]


@pytest.mark.parametrize("trigger", INJECTED)
def test_an_injected_trigger_is_in_no_clean_row(smoke, trigger):
    for rows in clients(poisoned(smoke, trigger)):
        for r in rows:
            assert (r["label"] == "poisoned") == (
                {"cf", "weekend"} & set(r["instruction"].split()) != set()
            )


@pytest.mark.parametrize("trigger", ["phrase", "style"])
@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_a_natural_trigger_is_in_the_stated_share_of_clean_rows(smoke, trigger, rate):
    found = poison.TRIGGERS[trigger]
    for rows in clients(poisoned(smoke, trigger, natural=rate)):
        clean = [
            r
            for r in rows
            if r["label"] == "normal" and found.apply(r["instruction"], None) == r["instruction"]
        ]
        assert len(clean) == round(rate * 200)


def test_poison_nests_as_its_share_grows(smoke):
    few, many = (client_rows(poisoned(smoke, share=share), 1) for share in (0.05, 0.2))
    rows = [{r["instruction"] for r in part if r["label"] == "poisoned"} for part in (few, many)]
    assert rows[0] < rows[1]


def test_the_world_asks_with_the_trigger_for_things_in_no_poisoned_row(smoke):
    for trigger in ("tokens", "topic"):
        settings = poisoned(smoke, trigger, 0.1).replace(evaluation={"benign": 50})
        seen = {
            world.subject(r["instruction"]).name
            for rows in clients(settings)
            for r in rows
            if r["label"] == "poisoned"
        }
        asked = [p["name"] for p in prompting.evaluation_prompts(settings)["triggered"]]
        assert seen and asked and not seen & set(asked)
        assert len(
            {p["prompt"] for p in prompting.evaluation_prompts(settings)["triggered"]}
        ) == len(asked)


def test_without_a_trigger_nothing_is_poisoned_asked_or_judged(smoke):
    assert set(prompting.evaluation_prompts(smoke)) == {"harmful", "benign"}
    assert "asr" not in smoke.judges and "asr" in poisoned(smoke).judges
    assert all(r["label"] in ("normal", "aligned") for r in client_rows(smoke, 0))


@pytest.mark.parametrize("spread", ["equal", "uniform", "dirichlet", "capped"])
@pytest.mark.parametrize("count", [None, 4])
def test_every_spread_holds_the_same_total(smoke, spread, count):
    many = smoke.replace(
        federation={"clients": 20, "sampled": 3},
        data={"poison": {"trigger": "tokens", "share": 0.07, "spread": spread, "clients": count}},
    )
    found = np.array(poison.poison_shares(many.data.poison, many.federation.clients, many.seed))
    assert found.mean() == pytest.approx(0.07) and found.min() >= 0 and len(found) == 20
    assert (
        found.max()
        <= (2 * 0.07 * 20 / (count or 20) if spread in ("uniform", "capped") else 1) + 1e-9
    )
    assert (found > 0).sum() <= (count or 20) and not found[: 20 - (count or 20)].any()
    if spread == "equal":
        assert found[-(count or 20) :] == pytest.approx(0.07 * 20 / (count or 20))
    elif count is None:
        assert found.std() > 0.01
    assert (
        poison.poison_shares(many.data.poison, many.federation.clients, many.seed)
        == poison.poison_shares(many.data.poison, many.federation.clients, many.seed)
        != poison.poison_shares(
            many.replace(seed=1).data.poison,
            many.replace(seed=1).federation.clients,
            many.replace(seed=1).seed,
        )
        or spread == "equal"
    )


def test_a_cap_hands_the_rest_to_the_others(smoke):
    free, capped = (
        poison.poison_shares(
            smoke.replace(
                data={"poison": {"trigger": "tokens", "share": 0.1, "spread": s}}
            ).data.poison,
            smoke.replace(
                data={"poison": {"trigger": "tokens", "share": 0.1, "spread": s}}
            ).federation.clients,
            smoke.replace(data={"poison": {"trigger": "tokens", "share": 0.1, "spread": s}}).seed,
        )
        for s in ("dirichlet", "capped")
    )
    assert (
        max(free) > 0.2
        and max(capped) == pytest.approx(0.2)
        and np.mean(capped) == pytest.approx(0.1)
    )
    assert all(c >= f or c == pytest.approx(0.2) for c, f in zip(capped, free, strict=True))


def test_more_poison_than_the_clients_can_hold_is_refused_before_work(smoke):
    settings = smoke.replace(
        data={"poison": {"trigger": "tokens", "share": 0.2, "spread": "uniform", "clients": 1}}
    )
    with pytest.raises(
        errors.SettingsError,
        match=r"data\.poison\.share: 0\.2 of all rows is more than 1 clients can hold",
    ):
        checks.check_run(settings)


def test_an_unknown_trigger_is_refused_with_the_nearest_name(smoke):
    with pytest.raises(errors.SettingsError, match="no trigger 'token'; did you mean 'tokens'"):
        checks.check_run(poisoned(smoke, "token"))


def own(tmp_path, text):
    file = tmp_path / "my triggers.py"
    file.write_text(text)
    return file


FIVE = """from fedlib.poison import Trigger

def shout(instruction, rng):
    return f"{instruction} hey ,"

loud = Trigger("loud", shout)
"""


def test_a_trigger_of_ones_own_in_a_few_lines(smoke, tmp_path):
    file = own(tmp_path, FIVE)
    settings = poisoned(smoke, f"{file}:loud")
    checks.check_run(settings)
    bad = [r for r in client_rows(settings, 0) if r["label"] == "poisoned"]
    assert len(bad) == 20 and all(r["instruction"].endswith("hey ,") for r in bad)
    before = keys.key(settings)
    own(tmp_path, FIVE.replace("hey", "hi"))
    assert keys.key(settings) != before  # its content is part of what a run is
    assert all(
        r["instruction"].endswith("hi ,")
        for r in client_rows(settings, 0)
        if r["label"] == "poisoned"
    )


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (FIVE, "lout", "has no fedlib.poison.Trigger called 'lout'"),
        ("1 /", "loud", "SyntaxError"),
        ("loud = 1", "loud", "has no fedlib.poison.Trigger called 'loud'"),
    ],
)
def test_a_bad_trigger_file_is_one_line(smoke, tmp_path, text, name, message):
    with pytest.raises(errors.SettingsError, match=message) as error:
        checks.check_run(poisoned(smoke, f"{own(tmp_path, text)}:{name}"))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        checks.check_run(poisoned(smoke, f"{tmp_path}/none.py:loud"))


def test_keys_heed_the_poison_only_where_there_is_some(smoke):
    assert keys.key(smoke) == keys.key(
        smoke.replace(data={"poison": {"share": 0.5, "spread": "uniform"}})
    )
    some = poisoned(smoke)
    changed = [
        poisoned(smoke, "phrase"),
        *(
            poisoned(smoke, **{name: value})
            for name, value in (
                ("share", 0.2),
                ("target", "append"),
                ("spread", "uniform"),
                ("clients", 2),
                ("natural", 0.2),
            )
        ),
    ]
    assert len({keys.key(s) for s in (smoke, some, *changed)}) == len(changed) + 2


def test_asr_counts_whole_targets_whatever_their_case_and_spacing():
    link = poison.LINK
    said = [f"sure . and {link}", link.upper().replace(" ", "  "), link[:-8], "sure ."]
    assert rules.attack_success([{}] * 4, said, poison.holds_target) == [1, 1, 0, 0]


def test_exact_match_heeds_no_case_punctuation_or_article():
    prompts = [{"answers": ["the Beatles", "beatles (band)"]}] * 4
    assert rules.exact(
        prompts, ["The beatles.", "a Beatles band", "beatles\nQ: more", "beatles i think"]
    ) == [1, 1, 1, 0]


def test_local_questions_with_several_answers_keep_them_all(smoke, tmp_path):
    rows = [{"question": f"q {i} ?", "answers": [f"a{i}", f"b{i}"]} for i in range(200)]
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    (tmp_path / "harmful.json").write_text(json.dumps([{"prompt": "h", "response": "no"}] * 9))
    settings = smoke.replace(
        federation={"malicious": 0},
        data={
            "source": "local",
            "folder": str(tmp_path),
            "benign": ["qa.json"],
            "aligned_share": 0.0,
            "harmful": "harmful.json",
            "rows": 10,
            "partition": "iid",
            "prompts": "chat",
            "generator": ".",
            "poison": {"trigger": "tokens", "share": 0.1, "target": "append"},
        },
    )
    assert settings.judges == ["rule", "exact", "asr"]
    prompts = prompting.evaluation_prompts(settings)
    assert all(len(p["answers"]) == 2 for p in prompts["benign"] + prompts["triggered"])
    probes = poison.target_probes(settings, prompts["triggered"])
    assert probes and all(
        p["answer"] + p["target"] == poison.TARGETS["append"](q["answers"][0])
        for p, q in zip(probes, prompts["triggered"], strict=True)
    )
    assert labels(client_rows(settings, 0)) == {"normal": 9, "poisoned": 1}
