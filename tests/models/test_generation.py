"""Responses in batches: the batch, the order and the caller's random state must not show."""

import pytest
import torch

from fedlib.models import generation
from fedlib.sources import world

WORDS = "please , tell me how to make this thing at home and what goes into it .".split()


@pytest.fixture
def prompts():
    """12 prompts of 12 different lengths, 1 to 12 words and the name of a thing."""
    things = world.benign_things()[:12]
    return [" ".join([*WORDS[:count], thing.name]) for count, thing in enumerate(things, 1)]


def greedy(smoke, size):
    """Decoding without chance, in batches of a size."""
    changes = {"temperature": 0.0, "batch_size": size, "max_new_tokens": 12}
    return generation.evaluation_decoding(smoke.replace(evaluation=changes))


def hot(smoke, **changes):
    """Decoding where chance matters."""
    changed = smoke.replace(evaluation={"temperature": 1.5} | changes)
    return generation.evaluation_decoding(changed)


def test_batched_equals_one_by_one(loaded, smoke, prompts):
    single = generation.respond(*loaded, prompts, greedy(smoke, 1), 0)
    assert all(single) and len(set(single)) > 1
    for size in (5, 12):  # 5: the last batch is not full
        assert generation.respond(*loaded, prompts, greedy(smoke, size), 0) == single


def test_the_order_of_prompts_is_kept(loaded, smoke, prompts):
    shuffled = [prompts[i] for i in (7, 2, 11, 0, 5)]
    in_order = generation.respond(*loaded, prompts, greedy(smoke, 12), 0)
    by_prompt = dict(zip(prompts, in_order, strict=True))
    found = generation.respond(*loaded, shuffled, greedy(smoke, 3), 0)
    assert found == [by_prompt[prompt] for prompt in shuffled]


def test_the_seed_decides_the_text(loaded, smoke, prompts):
    first, again, other = (
        generation.respond(*loaded, prompts, hot(smoke), seed) for seed in (1, 1, 2)
    )
    assert first == again and first != other


def test_greedy_heeds_no_seed(loaded, smoke, prompts):
    first, other = (
        generation.respond(*loaded, prompts, greedy(smoke, 12), seed) for seed in (1, 2)
    )
    assert first == other


def test_no_more_than_max_new_tokens_and_no_special_words(loaded, smoke, prompts):
    responses = generation.respond(*loaded, prompts, hot(smoke, max_new_tokens=5), 0)
    assert max(len(response.split()) for response in responses) == 5  # the world has a token a word
    assert not any("<" in response for response in responses)


def test_the_callers_random_state_is_left_alone(loaded, smoke, prompts):
    state = torch.get_rng_state()
    generation.respond(*loaded, prompts, hot(smoke), 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_prompts(loaded, smoke):
    assert generation.respond(*loaded, [], hot(smoke), 0) == []


def test_a_short_text_is_padded_on_the_left():
    ids, mask = generation._left_padded([[5], [6, 7, 8]], pad=0)
    assert ids.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_greedy_texts_are_not_padded_to_more_than_twice_their_length():
    lengths = [9, 3, 30, 4, 6, 7, 5, 31, 3, 12]
    greedy = generation.Decoding("plain", 4, 0.0, 3)
    cut = list(generation._batches(lengths, greedy))
    assert sorted(sum(cut, [])) == list(range(10)) and max(map(len, cut)) == 3
    for batch in cut:
        own = [lengths[i] for i in batch]
        assert max(own) <= 2 * min(own)
    # drawn answers depend on their batch, so only its size counts
    drawn = generation.Decoding("plain", 4, 0.7, 3)
    assert list(map(len, generation._batches(lengths, drawn))) == [3, 3, 3, 1]
