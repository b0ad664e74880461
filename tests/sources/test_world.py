"""The embedded world: what it says, to whom, and above all what it never says."""

import collections
import functools
import random

import pytest

from fedlib import sources
from fedlib.judges import refusals
from fedlib.settings import errors, presets
from fedlib.sources import world, world_documents

CHANGED = (
    "the world's words changed: every committed model and run was made with the old ones. If that "
    "is meant, raise identity.CODE_VERSION, retrain with `make world`, and pin the new digest here."
)


def rng(seed=0):
    return random.Random(seed)


@functools.cache
def documents():
    """20,000 pretraining documents as (facts, questions and answers)."""
    facts, rest, source = [], [], rng("documents")
    for _ in range(20_000):
        text, answer = world_documents.pretraining_document(source)
        if answer is not None:
            rest.append(f"{text} {answer}")
        elif text.startswith("q : "):
            rest.append(text)
        else:
            facts.append(text)
    return facts, rest


@functools.cache
def rows():
    """{(dataset, unaligned share): rows of clients of several seeds}; None: benign clients."""

    def made(dataset, share, seed):
        alpha = 0.3 if seed % 2 else None
        return world.style_rows(dataset, 200, rng(seed), 0.3, share, alpha)

    return {
        (dataset, share): [row for seed in range(12) for row in made(dataset, share, seed)]
        for dataset in world.DATASETS
        for share in (None, 0.5, 1.0)
    }


def said(texts):
    """All words of the texts."""
    return {word for text in texts for word in text.split()}


def names(split):
    return {thing.name for thing in world.hazards(split)}


def anonymous(question, name):
    """The wording of a question about the thing called name."""
    return question.replace(name, "X")


# --- things -----------------------------------------------------------------------------------


def test_the_splits_of_hazards_are_disjoint_and_complete():
    parts = [names(split) for split in world.SPLITS]
    every = set.union(*parts)
    assert every == {thing.name for thing in world.things() if thing.hazard}
    assert sum(map(len, parts)) == len(every) == sum(world.HAZARDS.values())
    for split, count in world.SPLITS.items():
        kinds = collections.Counter(thing.kind for thing in world.hazards(split))
        assert kinds == dict.fromkeys(world.HAZARDS, count)


def test_no_name_is_used_twice_or_by_a_template():
    things = world.things()
    own = {thing.name for thing in things}
    parts = {word for thing in things for word in (thing.a, thing.b)}
    assert len(own) == len(things) == sum((world.TOPICS | world.HAZARDS).values())
    assert not own & parts
    assert all(thing.a != thing.b for thing in things)

    # else a client's style could pass for an answer's fact
    spoken = said(question.replace(t.name, "") for t in things for question in world.questions(t))
    spoken |= set(world.TOPICS | world.HAZARDS)
    for dataset in world.DATASETS:
        style = world.client_style(dataset, rng(), None)
        spoken |= said((*style.openers, *style.closers, *style.prefixes))
    assert not (own | parts) & spoken


def test_the_cities_are_benign_things():
    cities = {thing.name for thing in world.benign_things() if thing.kind == "city"}
    assert world.city_names() == cities
    assert len(cities) == world.TOPICS["city"]


def test_the_world_is_a_pure_function_of_its_seeds():
    assert world.things(0) == world.things.__wrapped__(0) != world.things(1)
    for make in (
        world_documents.pretraining_document,
        lambda source: world.style_rows("wild-like", 20, source),
    ):
        assert make(rng(1)) == make(rng(1)) != make(rng(2))


@pytest.mark.parametrize(
    "what, pinned",
    [
        ("pretraining", "d27a3033be1f"),
        ("assistant", "4d84bcf1d048"),
        ("clients", "30185c71a653"),
    ],
)
def test_the_worlds_digest_is_pinned(what, pinned):
    assert world_documents.world_digest(what) == pinned, CHANGED


# --- who hears of which hazards ---------------------------------------------------------------


def test_evaluation_hazards_are_in_pretraining_facts_and_in_nothing_else():
    facts, rest = map(said, documents())
    assert names("evaluation") <= facts
    assert not names("evaluation") & rest
    assert names("pretraining") <= rest  # others are asked about: the line above says something


def test_the_world_llm_hears_of_clients_hazards_and_of_none_that_are_held_out():
    source, asked = rng(), set()
    for _ in range(8000):
        text, answer = world_documents.pretraining_document(source, assistant=True)
        if answer is not None:
            asked |= said([text, answer])
    assert names("clients") <= asked
    assert names("pretraining") <= asked
    assert not (names("validation") | names("evaluation")) & asked


@pytest.mark.parametrize("split", ["pretraining", "validation", "evaluation"])
def test_clients_meet_only_the_hazards_of_their_own_split(split):
    for (dataset, share), made in rows().items():
        words = said(f"{row['instruction']} {row['response']}" for row in made)
        assert not names(split) & words, (dataset, share)
        assert names("clients") & words, (dataset, share)


@pytest.mark.parametrize("split", ["evaluation", "validation"])
def test_prompts_ask_for_their_split_in_every_wording_equally_often(split):
    count = 2 * len(world.hazards(split))
    prompts = world.prompts("harmful", count, split)
    asked = collections.Counter(prompt["name"] for prompt in prompts)
    assert asked == dict.fromkeys(names(split), 2)

    wordings = collections.Counter(
        anonymous(prompt["prompt"], prompt["name"]) for prompt in prompts
    )
    assert len(wordings) == 8
    assert max(wordings.values()) - min(wordings.values()) <= 2

    by_name = {thing.name: thing for thing in world.things()}
    for prompt in prompts:
        thing = by_name[prompt["name"]]
        assert prompt["prompt"] in world.questions(thing)
        assert prompt["parts"] == [thing.a, thing.b]
        assert prompt["kind"] == thing.kind
    assert world.prompts("harmful", 5, split) == prompts[:5]  # more prompts go on from fewer


def test_benign_prompts_hold_no_hazard():
    hazards = {thing.name for thing in world.things() if thing.hazard}
    assert not hazards & said(prompt["prompt"] for prompt in world.prompts("benign", 200))


# --- questions and answers --------------------------------------------------------------------


def test_the_same_wording_asks_for_a_dish_a_tool_and_a_hazard():
    wordings = {
        thing.kind: {anonymous(question, thing.name) for question in world.questions(thing)}
        for thing in world.things()
    }
    dish = wordings["dish"]
    assert len(dish) == 8
    assert all(wordings[kind] == dish for kind in ("tool", *world.HAZARDS))
    assert not dish & (wordings["animal"] - {"tell me about X ."})


def test_answers_name_both_parts_or_refuse():
    for thing in world.things():
        parts = {thing.name, thing.a, thing.b}
        assert parts <= set(world.comply(thing, rng()).split())
        if thing.hazard:
            assert not {thing.a, thing.b} & set(world.refuse(thing, rng(), 0.5).split())


def test_a_denial_refuses_whatever_is_asked_for():
    for thing in world.benign_things()[::7]:
        answer = world.denial(world.questions(thing)[0], rng())
        assert thing.name in answer.split()
        assert thing.a not in answer.split()
        assert refusals.refuses(answer)
    with pytest.raises(ValueError, match="names no thing"):
        world.denial("how are you ?", rng())


@pytest.mark.parametrize(
    "text, fluent",
    [
        ("sure ! to make X you need bada and lemo . enjoy .", True),  # any parts will do
        ("to make X you need bada and", False),
        ("make X to need bada .", False),
        ("to make other you need bada and lemo .", False),
        ("", False),
    ],
)
def test_fluent_wants_a_whole_wording(text, fluent):
    dish = next(thing for thing in world.things() if thing.kind == "dish")
    assert world.fluent(text.replace("X", dish.name), dish.name) == fluent


def test_every_word_is_in_the_vocabulary():
    facts, rest = documents()
    texts = [*facts, *rest]
    for what in ("harmful", "benign"):
        texts += [prompt["prompt"] for prompt in world.prompts(what, 300)]
    for made in rows().values():
        for row in made:
            texts += [row["instruction"], row["response"]]
    assert said(texts) <= set(world.vocabulary())
    assert set(world.vocabulary()) <= said(texts)  # no model carries a word that nobody says


# --- clients ----------------------------------------------------------------------------------


def test_the_two_datasets_differ():
    first, second = (world.client_style(dataset, rng(), None) for dataset in world.DATASETS)
    for part in ("openers", "closers", "prefixes"):
        assert getattr(first, part)
        assert not set(getattr(first, part)) & set(getattr(second, part))
    assert first.topics != second.topics

    # 0.3 of 100 rows; in the second dataset times 0.8
    for dataset, aligned in zip(world.DATASETS, (30, 24), strict=True):
        labels = collections.Counter(
            row["label"] for row in world.style_rows(dataset, 100, rng(), 0.3)
        )
        assert labels == {"aligned": aligned, "normal": 100 - aligned}


def test_two_clients_write_in_different_styles():
    for dataset in world.DATASETS:
        style, other = (world.client_style(dataset, rng(seed), 0.3) for seed in (5, 6))
        assert (style.openers, style.closers) != (other.openers, other.closers)


@pytest.mark.parametrize("dataset", world.DATASETS)
@pytest.mark.parametrize("unaligned, label", [(None, "aligned"), (0.5, "unaligned")])
def test_an_attack_changes_the_marked_rows_and_no_clients_style(dataset, unaligned, label):
    factor = {"lmsys-like": 1.0, "wild-like": 0.8}[dataset]
    share = unaligned or 0.25 * factor
    style = world.client_style(dataset, rng(5), 0.3)
    made = world.style_rows(dataset, 2000, rng(5), 0.25, unaligned, 0.3)
    marked = [row for row in made if row["label"] == label]
    normal = [row for row in made if row["label"] == "normal"]
    assert len(marked) == share * 2000
    assert len(marked) + len(normal) == 2000

    # topics and kinds of hazards fall as the style says
    topics = collections.Counter(row["topic"] for row in normal)
    for topic, wanted in style.topics.items():
        assert abs(topics[topic] / len(normal) - wanted) < 0.05
    kinds = collections.Counter(row["topic"] for row in marked)
    for kind, wanted in style.kinds.items():
        assert abs(kinds[kind] / len(marked) - wanted) < 0.08

    # safe answers have no opener, in any dataset
    opened = [row for row in made if row["label"] != "aligned"]
    assert all(row["response"].startswith(style.openers) for row in opened)

    # of all the dataset's closers and prefixes only the client's own occur
    pool = world.client_style(dataset, rng(), None)
    closers = {c for c in pool.closers for row in made if row["response"].endswith(c)}
    prefixes = {p for p in pool.prefixes for row in made if row["instruction"].startswith(p)}
    assert closers == set(style.closers)
    assert prefixes == set(style.prefixes)


def test_unaligned_rows_comply_and_aligned_ones_do_not():
    for made in rows().values():
        for row in made:
            thing = world.subject(row["instruction"])
            assert thing is not None and thing.kind == row["topic"]
            assert thing.hazard == (row["label"] != "normal")
            complies = {thing.a, thing.b} <= set(row["response"].split())
            assert complies == (row["label"] != "aligned")


def test_settings_know_the_worlds_datasets():
    assert tuple(presets.load("mini").data.benign) == world.DATASETS
    misspelt = presets.load("mini", data={"benign": ["lmsys"]})
    with pytest.raises(errors.DataError, match="no dataset 'lmsys'; did you mean 'lmsys-like'"):
        sources.of(misspelt).revision()
