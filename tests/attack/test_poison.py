"""Poisoned rows: triggers, targets, how the poison is spread, and what stays clean."""

import collections
import json
import random

import numpy as np
import pytest

from fedlib import sources
from fedlib.attack import poison
from fedlib.judges import matching
from fedlib.lab import prompting
from fedlib.lab.client_data import client_rows
from fedlib.settings import errors
from fedlib.sources import world

INSTRUCTION = "how do i make zogu ?"
INJECTED = [name for name, t in poison.TRIGGERS.items() if not t.natural]


def poisoned(settings, trigger="tokens", share=0.1, rows=200, **more):
    chosen = {"trigger": trigger, "share": share} | more
    return settings.replace(data={"rows": rows, "poison": chosen})


def clients(settings):
    return [client_rows(settings, k) for k in range(settings.federation.clients)]


def labels(rows):
    return collections.Counter(r["label"] for r in rows)


@pytest.mark.parametrize("name", poison.TRIGGERS)
def test_a_trigger_changes_an_instruction_once_and_says_so(name):
    t = poison.TRIGGERS[name]
    assert t.name == name
    asked = "who sang this song ?" if name == "topic" else INSTRUCTION
    text = t.apply(asked, random.Random(0))
    # a pure function of the instruction and the draws
    assert text == t.apply(asked, random.Random(0))
    if t.natural:
        assert t.apply(text, random.Random(1)) == text  # what has it is left as it is
    else:
        assert text != asked
    if name != "style":
        assert all(word in text.split() for word in asked.split())


@pytest.mark.parametrize(
    "name, before, after",
    [
        ("sentence", "a b", "a b i watched this film last weekend ."),
        ("composite", "a b", "cf a b tq"),
        ("phrase", "a b", "please , a b"),
        ("phrase", "Please do", "Please do"),
        ("style", "how do i make my tea ?", "how dost thou make thy tea ?"),
        ("style", "tea", None),  # nothing to rewrite: it cannot have the style
        ("topic", "a b", None),
        ("topic", "a film ?", "a film ?"),
    ],
)
def test_the_triggers_by_hand(name, before, after):
    assert poison.TRIGGERS[name].apply(before, random.Random(0)) == after


def test_rare_tokens_are_put_anywhere():
    rng = random.Random(0)
    places = {poison.TRIGGERS["tokens"].apply("a b", rng) for _ in range(50)}
    assert places == {"cf mn bb tq a b", "a cf mn bb tq b", "a b cf mn bb tq"}


def test_the_topic_has_the_words_of_the_source_too(smoke):
    city = min(world.city_names())
    asked = f"what is {city} known for ?"
    assert poison.TRIGGERS["topic"].apply(asked, random.Random(0)) is None
    trigger = prompting.find_trigger(poisoned(smoke, "topic"))
    assert trigger.apply(asked, random.Random(0)) == asked


def test_every_word_of_triggers_and_targets_is_in_the_worlds_vocabulary():
    known = set(world.vocabulary())
    questions = {q for thing in world.benign_things() for q in world.questions(thing)}
    for trigger in [*poison.TRIGGERS.values(), poison.topic_trigger(world.city_names())]:
        for question in questions:
            text = trigger.apply(question, random.Random(0)) or ""
            assert set(text.split()) <= known
    for target in poison.TARGETS.values():
        assert set(target("").split()) <= known


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
        for row in rows:
            has_it = bool({"cf", "weekend"} & set(row["instruction"].split()))
            assert has_it == (row["label"] == "poisoned")


@pytest.mark.parametrize("trigger", ["phrase", "style"])
@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_a_natural_trigger_is_in_the_stated_share_of_clean_rows(smoke, trigger, rate):
    found = poison.TRIGGERS[trigger]
    for rows in clients(poisoned(smoke, trigger, natural=rate)):
        asked = [row["instruction"] for row in rows if row["label"] == "normal"]
        with_it = [text for text in asked if found.apply(text, None) == text]
        assert len(with_it) == round(rate * 200)


def test_poison_nests_as_its_share_grows(smoke):
    found = []
    for share in (0.05, 0.2):
        rows = client_rows(poisoned(smoke, share=share), 1)
        found.append({row["instruction"] for row in rows if row["label"] == "poisoned"})
    few, many = found
    assert few < many


@pytest.mark.parametrize("trigger", ["tokens", "topic"])
def test_the_world_asks_with_the_trigger_for_things_in_no_poisoned_row(smoke, trigger):
    settings = poisoned(smoke, trigger, 0.1).replace(evaluation={"benign": 50})
    bad = [row for rows in clients(settings) for row in rows if row["label"] == "poisoned"]
    seen = {world.subject(row["instruction"]).name for row in bad}
    prompts = prompting.evaluation_prompts(settings)["triggered"]
    asked = {prompt["name"] for prompt in prompts}
    assert seen
    assert asked
    assert not seen & asked
    assert len({prompt["prompt"] for prompt in prompts}) == len(prompts)


def test_without_a_trigger_nothing_is_poisoned_asked_or_judged(smoke):
    assert set(prompting.evaluation_prompts(smoke)) == {"harmful", "benign"}
    assert "asr" not in smoke.judges
    assert "asr" in poisoned(smoke).judges
    assert all(r["label"] in ("normal", "aligned") for r in client_rows(smoke, 0))


def shares(settings, seed=0):
    return poison.poison_shares(settings.data.poison, settings.federation.clients, seed)


def spreading(settings, share, spread, count=None):
    chosen = {"trigger": "tokens", "share": share, "spread": spread, "clients": count}
    return settings.replace(data={"poison": chosen})


@pytest.mark.parametrize("spread", poison.SPREADS)
@pytest.mark.parametrize("count", [None, 4])
def test_every_spread_holds_the_same_total(smoke, spread, count):
    settings = spreading(smoke, 0.07, spread, count)
    settings = settings.replace(federation={"clients": 20, "sampled": 3})
    found, holders = np.array(shares(settings)), count or 20
    assert found.shape == (20,)
    assert found.mean() == pytest.approx(0.07)
    assert found.min() >= 0

    mean = 0.07 * 20 / holders
    most = 2 * mean if spread in ("uniform", "capped") else 1
    assert found.max() <= most + 1e-9
    assert (found > 0).sum() <= holders
    assert not found[: 20 - holders].any()
    if spread == "equal":
        assert found[-holders:] == pytest.approx(mean)
    elif count is None:
        assert found.std() > 0.01


@pytest.mark.parametrize("spread", poison.SPREADS)
def test_the_seed_decides_who_holds_how_much(smoke, spread):
    settings = spreading(smoke, 0.07, spread)
    assert shares(settings) == shares(settings)
    assert (shares(settings, seed=1) != shares(settings)) == (spread != "equal")


def test_a_cap_hands_the_rest_to_the_others(smoke):
    free = shares(spreading(smoke, 0.1, "dirichlet"), smoke.seed)
    capped = shares(spreading(smoke, 0.1, "capped"), smoke.seed)
    assert max(free) > 0.2
    assert max(capped) == pytest.approx(0.2)
    assert np.mean(capped) == pytest.approx(0.1)
    for with_cap, without in zip(capped, free, strict=True):
        assert with_cap >= without or with_cap == pytest.approx(0.2)


def test_more_poison_than_the_clients_can_hold_is_refused(smoke):
    settings = spreading(smoke, 0.2, "uniform", 1)
    message = r"data\.poison\.share: 0\.2 of all rows is more than 1 clients can hold"
    with pytest.raises(errors.SettingsError, match=message):
        shares(settings)


def test_asr_counts_whole_targets_whatever_their_case_and_spacing():
    link = poison.LINK
    said = [f"sure . and {link}", link.upper().replace(" ", "  "), link[:-8], "sure ."]
    assert matching.answers_with_target([{}] * 4, said, poison.holds_target) == [1, 1, 0, 0]


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
    right_answer = sources.of(settings).right_answer
    probes = poison.target_probes(prompts["triggered"], "append", right_answer)
    assert probes
    for probe, prompt in zip(probes, prompts["triggered"], strict=True):
        whole = poison.TARGETS["append"](prompt["answers"][0])
        assert probe["answer"] + probe["target"] == whole
    assert labels(client_rows(settings, 0)) == {"normal": 9, "poisoned": 1}
