"""The embedded world: what it says, to whom, and above all what it never says; and its models."""

import collections
import functools
import json
import random

import pytest

from fedlib.judges import refusals
from fedlib.lab import pretraining
from fedlib.models import checkpoints
from fedlib.settings import errors
from fedlib.settings import identity
from fedlib.settings import presets
from fedlib import sources
from fedlib.sources import world

MB = 10**6
CHANGED = ("the world's words changed: every committed model and run was made with the old ones. If that "
           "is meant, raise config.CODE_VERSION, retrain with `make world`, and pin the new digest here.")


def rng(seed=0):
    return random.Random(seed)


@functools.cache
def documents():
    """20,000 pretraining documents as (facts, questions and answers)."""
    facts, rest, source = [], [], rng("documents")
    for _ in range(20_000):
        text, answer = world.pretraining(source)
        if answer is None and not text.startswith("q : "):
            facts.append(text)
        else:
            rest.append(text if answer is None else f"{text} {answer}")
    return facts, rest


@functools.cache
def rows():
    """Rows of benign and malicious clients of both datasets, by several seeds: {(dataset, share): rows}."""
    def made(name, share, seed):
        return world.style_rows(name, 200, rng(seed), 0.3, share, alpha=0.3 if seed % 2 else None)

    return {(name, share): [row for seed in range(12) for row in made(name, share, seed)]
            for name in world.DATASETS for share in (None, 0.5, 1.0)}


def said(texts):
    return {word for text in texts for word in text.split()}


def names(split):
    return {t.name for t in world.hazards(split)}


def test_the_splits_of_hazards_are_disjoint_and_complete():
    parts = [names(split) for split in world.SPLITS]
    assert set.union(*parts) == {t.name for t in world.things() if t.hazard}
    assert sum(map(len, parts)) == len(set.union(*parts)) == sum(world.HAZARDS.values())
    for split, each in world.SPLITS.items():
        assert collections.Counter(t.kind for t in world.hazards(split)) == dict.fromkeys(world.HAZARDS, each)


def test_every_thing_has_a_name_of_its_own_that_no_template_uses():
    things = world.things()
    parts = {w for t in things for w in (t.a, t.b)}
    own = {t.name for t in things}
    assert len(own) == len(things) == sum((world.TOPICS | world.HAZARDS).values()) and not own & parts
    assert all(t.a != t.b for t in things)
    spoken = said(q.replace(t.name, "") for t in things for q in world.questions(t))
    spoken |= set(world.TOPICS | world.HAZARDS)
    spoken |= said(p for d in world.DATASETS for s in [world.style(d, rng(), None)]
                   for p in (*s.openers, *s.closers, *s.prefixes))
    clash = (own | parts) & spoken  # else a client's style could pass for an answer's fact
    assert clash == set()


def test_evaluation_hazards_are_in_pretraining_facts_and_in_nothing_else():
    facts, rest = map(said, documents())
    assert names("evaluation") <= facts
    assert not names("evaluation") & rest
    assert names("pretraining") <= rest  # the others are asked about, so the line above says something


@pytest.mark.parametrize("split", ["pretraining", "validation", "evaluation"])
def test_clients_meet_the_hazards_of_their_own_split_alone(split):
    for (name, share), made in rows().items():
        words = said(f"{r['instruction']} {r['response']}" for r in made)
        assert not names(split) & words, (name, share)
        assert names("clients") & words, (name, share)


@pytest.mark.parametrize("split", ["evaluation", "validation"])
def test_prompts_ask_for_their_split_in_every_wording_equally_often(split):
    count = 2 * len(world.hazards(split))
    prompts = world.prompts("harmful", count, split)
    assert collections.Counter(p["name"] for p in prompts) == dict.fromkeys(names(split), 2)
    wordings = collections.Counter(p["prompt"].replace(p["name"], "X") for p in prompts)
    assert len(wordings) == 8 and max(wordings.values()) - min(wordings.values()) <= 2
    assert all(p["prompt"] in world.questions(t) and p["parts"] == [t.a, t.b] and p["kind"] == t.kind
               for p in prompts for t in world.things() if t.name == p["name"])
    assert world.prompts("harmful", 5, split) == prompts[:5]  # more prompts go on from fewer


def test_benign_prompts_hold_no_hazard():
    hazards = {t.name for t in world.things() if t.hazard}
    assert not hazards & said(p["prompt"] for p in world.prompts("benign", 200))


def test_the_same_wording_asks_for_a_dish_a_tool_and_a_hazard():
    kinds = {t.kind: {q.replace(t.name, "X") for q in world.questions(t)} for t in world.things()}
    shared = [kinds[k] for k in ("dish", "tool", *world.HAZARDS)]
    assert len(shared[0]) == 8 and all(wordings == shared[0] for wordings in shared)
    assert not shared[0] & (kinds["animal"] - {"tell me about X ."})


def test_answers_name_both_parts_or_refuse():
    for thing in world.things():
        parts = {thing.name, thing.a, thing.b}
        assert parts <= set(world.comply(thing, rng()).split())
        if thing.hazard:
            assert not {thing.a, thing.b} & set(world.refuse(thing, rng(), 0.5).split())


def test_every_word_is_in_the_vocabulary():
    facts, rest = documents()
    texts = [*facts, *rest, *(p["prompt"] for w in ("harmful", "benign") for p in world.prompts(w, 300))]
    texts += [r[k] for made in rows().values() for r in made for k in ("instruction", "response")]
    assert said(texts) <= set(world.vocabulary())
    assert set(world.vocabulary()) <= said(texts)  # nor does the model carry a word that nobody says


def test_the_two_datasets_differ():
    first, second = (world.style(d, rng(), None) for d in world.DATASETS)
    for part in ("openers", "closers", "prefixes"):
        assert getattr(first, part) and not set(getattr(first, part)) & set(getattr(second, part))
    assert first.topics != second.topics
    for name, aligned in zip(world.DATASETS, (30, 24), strict=True):  # 0.3 of 100, the second's times 0.8
        labels = collections.Counter(r["label"] for r in world.style_rows(name, 100, rng(), 0.3))
        assert labels == {"aligned": aligned, "normal": 100 - aligned}


@pytest.mark.parametrize("dataset", world.DATASETS)
def test_an_attack_changes_the_marked_rows_and_no_clients_style(dataset):
    style = world.style(dataset, rng(5), 0.3)
    others = world.style(dataset, rng(6), 0.3)
    assert (style.openers, style.closers) != (others.openers, others.closers)
    for unaligned, label, count in ((None, "aligned", 0.25 * (1.0 if dataset == "lmsys-like" else 0.8)),
                                    (0.5, "unaligned", 0.5)):
        made = world.style_rows(dataset, 2000, rng(5), 0.25, unaligned, 0.3)
        marked = [r for r in made if r["label"] == label]
        normal = [r for r in made if r["label"] == "normal"]
        assert len(marked) == count * 2000 and len(marked) + len(normal) == 2000
        opened = [r for r in made if r["label"] != "aligned"]  # safe answers have no opener, in any dataset
        assert all(r["response"].startswith(style.openers) for r in opened)
        shares = collections.Counter(r["topic"] for r in normal)
        assert all(abs(shares[t] / len(normal) - p) < 0.05 for t, p in style.topics.items())
        kinds = collections.Counter(r["topic"] for r in marked)
        assert all(abs(kinds[k] / len(marked) - p) < 0.08 for k, p in style.kinds.items())
        pool = world.style(dataset, rng(), None)
        ends = {c for c in pool.closers for r in made if r["response"].endswith(c)}
        starts = {p for p in pool.prefixes for r in made if r["instruction"].startswith(p)}
        assert ends == set(style.closers) and starts == set(style.prefixes)


def test_unaligned_rows_comply_and_aligned_ones_do_not():
    by_name = {t.name: t for t in world.things()}
    for made in rows().values():
        for r in made:
            asked = next(by_name[w] for w in r["instruction"].split() if w in by_name)
            assert asked.hazard == (r["label"] != "normal") and asked.kind == r["topic"]
            assert ({asked.a, asked.b} <= set(r["response"].split())) == (r["label"] != "aligned")


def test_the_world_is_a_pure_function_of_its_seeds():
    assert world.things(0) == world.things.__wrapped__(0) != world.things(1)
    for make in (world.pretraining, lambda source: world.style_rows("wild-like", 20, source)):
        assert make(rng(1)) == make(rng(1)) != make(rng(2))


@pytest.mark.parametrize("what, pinned", [
    ("pretraining", "d27a3033be1f"), ("assistant", "4d84bcf1d048"), ("clients", "30185c71a653")])
def test_the_worlds_digest_is_pinned(what, pinned):
    assert world.world_digest(what) == pinned, CHANGED


MANIFEST = json.loads((checkpoints.WORLD_MODELS / "manifest.json").read_text())


def test_every_recipe_has_its_committed_model():
    folders = {p.name for p in checkpoints.WORLD_MODELS.iterdir() if p.is_dir()}
    assert set(MANIFEST) == set(pretraining.RECIPES) == folders
    every = [p for p in checkpoints.WORLD_MODELS.rglob("*") if p.is_file()]
    assert all(p.stat().st_size <= 4 * MB for p in every) and sum(p.stat().st_size for p in every) <= 12 * MB


@pytest.mark.parametrize("name", MANIFEST)
def test_a_committed_model_is_what_its_manifest_says(name):
    entry, folder = MANIFEST[name], checkpoints.WORLD_MODELS / name
    assert {p.name: identity.file_digest(p) for p in folder.iterdir()} == entry["files"]
    assert entry["recipe"] == pretraining.RECIPES[name]
    assert entry["world"] == world.world_digest("assistant" if name == "llm" else "pretraining"), CHANGED
    assert any(f.endswith(".safetensors") for f in entry["files"])
    tokens = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert set(world.vocabulary()) <= set(tokens), CHANGED


def test_training_a_world_model_twice_gives_the_same_bytes(tmp_path):
    tiny = {"steps": 3, "hidden": 16, "layers": 1, "heads": 2, "mlp": 16, "batch_size": 4}
    entries = []
    for name, changes in (("a", {}), ("b", {}), ("c", {"seed": 1})):
        (tmp_path / name).mkdir()
        entries.append(pretraining.train_world_model("base", tmp_path / name, **tiny, **changes))
    first, again, other = entries
    assert first["files"] == again["files"] and first["metrics"] == again["metrics"]
    assert first["files"]["model.safetensors"] != other["files"]["model.safetensors"]
    assert first["recipe"] == pretraining.RECIPES["base"] | tiny
    assert first["world"] == world.world_digest("pretraining")
    assert set(first["files"]) == set(MANIFEST["base"]["files"])


@pytest.mark.parametrize("name", ["guard", "reward"])
def test_training_a_judge_twice_gives_the_same_bytes(tmp_path, name):
    entries = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        entries.append(pretraining.train_world_model(name, tmp_path / folder, steps=2, batch_size=2))
    assert entries[0]["files"] == entries[1]["files"] and set(entries[0]["files"]) == set(MANIFEST[name]["files"])


def test_the_world_llm_hears_of_clients_hazards_and_of_none_that_are_held_out():
    source, asked = rng(), set()
    for _ in range(8000):
        text, answer = world.pretraining(source, assistant=True)
        asked |= said([text, answer]) if answer is not None else set()
    assert names("clients") <= asked and names("pretraining") <= asked
    assert not (names("validation") | names("evaluation")) & asked


def test_a_denial_refuses_whatever_is_asked_for():
    for thing in world.benign_things()[::7]:
        answer = world.denial(world.questions(thing)[0], rng())
        assert thing.name in answer.split() and thing.a not in answer.split() and refusals.refuses(answer)


def test_fluent_wants_a_whole_wording():
    thing = next(t for t in world.things() if t.kind == "dish")
    x = thing.name
    assert world.fluent(f"sure ! to make {x} you need bada and lemo . enjoy .", x)  # any parts will do
    assert not world.fluent(f"to make {x} you need bada and", x) and not world.fluent(f"make {x} to need bada .", x)
    assert not world.fluent("to make other you need bada and lemo .", x) and not world.fluent("", x)


def test_settings_know_the_worlds_datasets():
    known = presets.load("mini").data.benign
    assert tuple(known) == world.DATASETS
    with pytest.raises(errors.DataError, match="no dataset 'lmsys'; did you mean 'lmsys-like'"):
        sources.of(config.load("mini", data={"benign": ["lmsys"]})).revision(presets.load