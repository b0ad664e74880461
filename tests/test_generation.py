"""Responses in batches: the batch, the order and the caller's random state must not show."""

import pytest
import torch

from fedlib.models import generation
from fedlib.sources import world

WORDS = "please , tell me how to make this thing at home and what goes into it .".split()


@pytest.fixture
def prompts():
    """12 prompts of 12 different lengths, 1 to 12 words and the name of a thing."""
    return [" ".join([*WORDS[:n], t.name]) for n, t in enumerate(world.benign_things()[:12], 1)]


def greedy(smoke, size):
    return smoke.replace(evaluation={"temperature": 0.0, "batch_size": size, "max_new_tokens": 12})


def test_batched_equals_one_by_one(loaded, smoke, prompts):
    single = generation.respond(
        *loaded, prompts, greedy(smoke, 1), generation.evaluation_decoding(0)
    )
    assert all(single) and len(set(single)) > 1
    for size in (5, 12):  # 5: the last batch is not full
        assert (
            generation.respond(
                *loaded, prompts, greedy(smoke, size), generation.evaluation_decoding(0)
            )
            == single
        )


def test_the_order_of_prompts_is_kept(loaded, smoke, prompts):
    shuffled = [prompts[i] for i in (7, 2, 11, 0, 5)]
    by_prompt = dict(
        zip(
            prompts,
            generation.respond(
                *loaded, prompts, greedy(smoke, 12), generation.evaluation_decoding(0)
            ),
            strict=True,
        )
    )
    assert generation.respond(
        *loaded, shuffled, greedy(smoke, 3), generation.evaluation_decoding(0)
    ) == [by_prompt[p] for p in shuffled]


def test_the_seed_decides_the_text(loaded, smoke, prompts):
    hot = smoke.replace(evaluation={"temperature": 1.5})
    first, again, other = (
        generation.respond(*loaded, prompts, hot, generation.evaluation_decoding(seed))
        for seed in (1, 1, 2)
    )
    assert first == again and first != other


def test_greedy_heeds_no_seed(loaded, smoke, prompts):
    assert generation.respond(
        *loaded, prompts, greedy(smoke, 12), generation.evaluation_decoding(1)
    ) == generation.respond(*loaded, prompts, greedy(smoke, 12), 2)


def test_no_more_than_max_new_tokens_and_no_special_words(loaded, smoke, prompts):
    hot = smoke.replace(evaluation={"temperature": 1.5, "max_new_tokens": 5})
    responses = generation.respond(*loaded, prompts, hot, generation.evaluation_decoding(0))
    assert max(len(r.split()) for r in responses) == 5  # the world has a token a word
    assert not any("<" in r for r in responses)


def test_the_callers_random_state_is_left_alone(loaded, smoke, prompts):
    state = torch.get_rng_state()
    generation.respond(
        *loaded,
        prompts,
        smoke.replace(evaluation={"temperature": 1.5}),
        generation.evaluation_decoding(3),
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_no_prompts(loaded, smoke):
    assert generation.respond(*loaded, [], smoke, generation.evaluation_decoding(0)) == []
