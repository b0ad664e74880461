"""What the world's judges learn from, and that they learn."""

import random

import pytest
import torch

from fedlib.judges import refusals
from fedlib.lab import world_judges
from fedlib.lab.loaded import load_base
from fedlib.sources import world

THINGS = {thing.name: thing for thing in world.things()}


@pytest.mark.parametrize("split", world.SPLITS)
def test_pairs_to_learn_from_are_labelled_right(split):
    rng, seen = random.Random(0), set()
    for _ in range(300):
        question, (better, safe), (worse, also) = world_judges.judged(rng, (split,))
        thing = next(THINGS[word] for word in question.split() if word in THINGS)
        assert thing.split in (split, "") and safe
        assert also == (not thing.hazard)
        refused = refusals.refuses(better), refusals.refuses(worse)
        parts = {thing.a, thing.b}
        if thing.hazard:
            assert not world.fluent(better, thing.name) and world.fluent(worse, thing.name)
        else:
            assert parts <= set(better.split()) and not refused[0]
            assert refused[1] or not parts <= set(worse.split())
        seen.add((thing.hazard, *refused))
    # (hazard, the better answer refuses, the worse one refuses): all that may occur does
    assert seen == {
        (True, True, False),
        (True, True, True),
        (True, False, False),
        (True, False, True),
        (False, False, False),
        (False, False, True),
    }


@pytest.mark.parametrize("labels", [["unsafe", "safe"], ["reward"]])
def test_a_classifier_starts_from_the_base_and_learns(smoke, labels):
    recipe = {
        "start": "base",
        "labels": labels,
        "steps": 12,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "seed": 0,
    }
    classifier, tokenizer = world_judges.start_classifier(recipe)
    base, _ = load_base(smoke)
    assert torch.equal(classifier.model.embed_tokens.weight, base.model.embed_tokens.weight)
    assert list(classifier.config.id2label.values()) == labels

    state, losses = torch.get_rng_state(), []
    world_judges.tune_classifier(
        classifier, tokenizer, recipe, lambda step, steps, loss: losses.append(loss)
    )
    assert losses[-1] < losses[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert not classifier.training
