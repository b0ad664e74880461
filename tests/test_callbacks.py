"""Each callback by hand, on rounds made up here and on tiny fake models."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from fedlib import callbacks, signals, training
from fedlib.aggregation import aggregate
from fedlib.callbacks import BackdoorSignal, Detection, Record, Round, TuningProgress
from fedlib.models import adapter, generation, templates
from fedlib.models.generation import Decoding
from fedlib.settings import presets
from fedlib.swat import modules

UPDATES = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-3.0, -4.0]])
SAMPLED = [1, 4, 9]
SIZES = {1: 10, 4: 20, 9: 30}
DROPPED = {1: 0, 4: 2, 9: 0}


def a_round(updates=UPDATES, sampled=SAMPLED, weights=None, step=None):
    return Round(
        index=5,
        sampled=sampled,
        start=torch.zeros(2),
        updates=updates,
        step=torch.tensor([0.5, -0.5]) if step is None else step,
        weights=weights,
        losses={client: [2.0, 1.0 / 3.0] for client in sampled},
        learning_rate=0.1,
        tokens=123,
    )


# The record.


@pytest.fixture
def federation():
    """Ten clients, the last three of them malicious."""
    return presets.load("smoke", federation={"clients": 10, "malicious": 3}).federation


def test_the_record_by_hand(federation):
    weights = torch.tensor([0.5, 0.25, 0.25])
    found = Record(federation, SIZES, DROPPED).after_round(None, a_round(weights=weights))
    assert found == {
        "round": 5,
        "sampled": [1, 4, 9],
        "malicious": [9],
        "learning_rate": 0.1,
        "losses": {1: [2.0, 0.33333], 4: [2.0, 0.33333], 9: [2.0, 0.33333]},
        "weights": [0.5, 0.25, 0.25],
        "sizes": [10, 20, 30],
        "dropped": [0, 2, 0],
        "norms": [5.0, 2.0, 5.0],
        "cosine": [[1.0, 0.8, -1.0], [0.8, 1.0, -0.8], [-1.0, -0.8, 1.0]],
        "tokens": 123,
    }
    json.dumps(found)  # plain values only


def test_thoughts_that_are_not_trained_on_are_recorded_where_there_are_any(federation):
    found = Record(federation, SIZES, DROPPED, {1: 0, 4: 3, 9: 0}).after_round(None, a_round())
    assert found["thoughts"] == [0, 3, 0]


def test_a_rule_without_weights_is_recorded_so(federation):
    found = Record(federation, SIZES, DROPPED).after_round(None, a_round())
    assert found["weights"] is None


# Detection.


def test_detection_gives_each_weighing_rule_three_malicious_in_ten():
    generator = torch.Generator().manual_seed(0)
    honest = torch.ones(7, 50) + 0.3 * torch.randn(7, 50, generator=generator)
    updates = torch.cat([honest, torch.full((3, 50), -4.0)])
    sampled = list(range(10))
    sizes = {client: client + 1 for client in sampled}
    done = a_round(updates, sampled)

    found = Detection(sizes, "paper").after_round(None, done)["detection"]
    assert tuple(found) == callbacks.WEIGHING_RULES
    for rule, weights in found.items():
        _, wanted = aggregate(rule, updates, sizes=[*sizes.values()], f=3)
        assert weights == pytest.approx(wanted.tolist(), abs=1e-5)
    # the classical attack is seen
    assert max(found["krum"][7:]) == max(found["dnc"][7:]) == 0


def test_a_rule_that_cannot_work_with_so_few_clients_is_none():
    found = Detection(SIZES, "paper").after_round(None, a_round())["detection"]
    assert found["krum"] is None  # it needs over four where one is malicious
    assert len(found["residual"]) == 3


# A backdoor's signal.


def rows(client, poisoned, normal):
    """Rows that say whose they are."""
    labels = ["poisoned"] * poisoned + ["normal"] * normal
    text = {"instruction": "ask", "response": "say"}
    return [text | {"label": label, "client": client} for label in labels]


def encode_kinds(given, ended=True):
    """Encoded rows that say whose they are and of which kind."""
    return [(row["client"], row["label"]) for row in given]


GRADIENTS = {
    (1, "poisoned"): [1.0, 0.0],
    (1, "normal"): [1.0, 1.0],
    (4, "poisoned"): [1.0, 1.0],
    (4, "normal"): [3.0, -1.0],
}


@pytest.fixture
def model(monkeypatch):
    """A model whose adapter is a vector, with a gradient and a likelihood that are known."""
    made = SimpleNamespace(vector=None, asked=[])

    def gradient(model, parameters, encoded):
        client, kind = encoded[0]
        model.asked.append((client, kind, len(encoded), model.vector.tolist()))
        return torch.tensor(GRADIENTS[client, kind])

    def likelihood(model, encoded):
        model.asked.append((encoded, model.vector.tolist()))
        return -0.123456, 0.25

    monkeypatch.setattr(adapter, "set_vector", lambda model, v: setattr(model, "vector", v))
    monkeypatch.setattr(adapter, "parameters", lambda model: [])
    monkeypatch.setattr(training, "gradient", gradient)
    monkeypatch.setattr(training, "likelihood", likelihood)
    return made


def watching(own):
    return BackdoorSignal(own, [], encode_kinds)


def test_bsnr_is_that_of_the_gradients_before_the_round(model):
    own = {1: rows(1, 1, 3), 4: rows(4, 1, 1), 7: rows(7, 0, 5)}
    done = a_round(UPDATES[:2], [1, 4])
    found = watching(own).after_round(model, done)
    bad = torch.tensor([GRADIENTS[1, "poisoned"], GRADIENTS[4, "poisoned"]])
    good = torch.tensor([GRADIENTS[1, "normal"], GRADIENTS[4, "normal"]])
    assert found == {"poisoned": [0.25, 0.5]} | signals.bsnr(bad, good, [4, 2], [0.25, 0.5])
    # both kinds of each client, at the adapter that the clients were sent
    start = done.start.tolist()
    assert model.asked == [
        (1, "poisoned", 1, start),
        (4, "poisoned", 1, start),
        (1, "normal", 3, start),
        (4, "normal", 1, start),
    ]


def test_a_client_without_poison_has_no_signal(model):
    own = {1: rows(1, 2, 2), 4: rows(4, 0, 2)}
    found = watching(own).after_round(model, a_round(UPDATES[:2], [1, 4]))
    bad = torch.tensor([GRADIENTS[1, "poisoned"], [0.0, 0.0]])
    good = torch.tensor([GRADIENTS[1, "normal"], GRADIENTS[4, "normal"]])
    assert found == {"poisoned": [0.5, 0.0]} | signals.bsnr(bad, good, [4, 2], [0.5, 0.0])
    assert found["alignment"] is None


def test_one_client_has_no_bsnr(model):
    found = watching({1: rows(1, 1, 1)}).after_round(model, a_round(UPDATES[:1], [1]))
    assert found == {"poisoned": [0.5]}


def test_only_some_rows_of_a_kind_are_looked_at():
    seen = []

    def count(given, ended=True):
        seen.append(len(given))
        return []

    BackdoorSignal({1: rows(1, 20, 30)}, [], count)
    assert seen[:2] == [callbacks.ROWS_OF_A_KIND] * 2


def encode_words(given, ended=True):
    """Prompt and response as one id a word, with an end unless told otherwise."""
    encoded = []
    for row in given:
        prompt, response = row["instruction"].split(), row["response"].split()
        ids = [len(word) for word in [*prompt, *response]]
        encoded.append(([*ids, 0] if ended else ids, len(prompt)))
    return encoded


def test_the_targets_tokens_are_those_behind_the_answer(model):
    probes = [
        {"instruction": "ask it", "answer": "yes", "target": " click here"},
        {"instruction": "ask it again", "answer": "", "target": "click"},
        {"instruction": "ask", "answer": "yes", "target": ""},  # no target: left out
    ]
    made = BackdoorSignal({1: rows(1, 0, 1)}, probes, encode_words)
    # ids of prompt, answer, target, end; and where the target begins
    wanted = [([3, 2, 3, 5, 4, 0], 3), ([3, 2, 5, 5, 0], 3)]
    assert made.probes == wanted

    done = a_round(UPDATES[:1], [1])
    found = made.after_round(model, done)
    assert found == {"poisoned": [0.0], "target": -0.1235, "greedy": 25.0}
    # at the adapter that the round led to
    assert model.asked == [(wanted, (done.start + done.step).tolist())]


# A single tuner's progress.

DECODING = Decoding("chat", 8, 0.0, 2)
ANSWERS = [([0] * 5, 3), ([0] * 6, 3), ([0] * 9, 2)]  # with 2, 3 and 7 tokens of answer


@pytest.fixture
def tuner(monkeypatch, model):
    """A model that refuses every other ask and that gets longer answers wrong."""

    def respond(model, tokenizer, asks, decoding, seed):
        model.asked.append((tokenizer, asks, decoding, seed, model.vector.tolist()))
        return ["i can not help with that ." if i % 2 else "sure ." for i in range(len(asks))]

    def likelihood(model, part):
        model.asked.append(len(part))
        return (-1.0, 0.5) if len(part) == 2 else (-2.0, 0.0)

    monkeypatch.setattr(modules, "update_norms", lambda model: {"q_proj/0": model.vector.sum()})
    monkeypatch.setattr(generation, "respond", respond)
    monkeypatch.setattr(training, "likelihood", likelihood)
    return model


def test_progress_by_hand(tuner):
    done = a_round(step=torch.tensor([1.0, 2.0]))
    progress = TuningProgress("words", ["a", "b", "c", "d"], ANSWERS, DECODING)
    found = progress.after_round(tuner, done)
    # five tokens at -1 and seven at -2; two rows half right and one wrong
    assert found == {
        "updates": {"q_proj/0": 3.0},
        "refused": 50.0,
        "task": round(-(5 + 14) / 12, 5),
        "learned": round(100 / 3, 2),
    }
    # asked greedily after the round, the answers in batches
    asked, *parts = tuner.asked
    assert asked == ("words", ["a", "b", "c", "d"], DECODING, 0, [1.0, 2.0])
    assert parts == [2, 1]


@pytest.mark.parametrize(
    "asks, answers, fields",
    [
        ([], [], {"updates"}),
        (["a"], [], {"updates", "refused"}),
        ([], ANSWERS, {"updates", "task", "learned"}),
    ],
)
def test_what_cannot_be_asked_is_left_out(tuner, asks, answers, fields):
    progress = TuningProgress("words", asks, answers, DECODING)
    assert set(progress.after_round(tuner, a_round())) == fields


# On a real, small model.


def test_a_backdoors_signal_on_a_real_model(loaded, smoke):
    """Two clients with the same rows: nothing but the signal is left."""
    tuned, tokenizer = loaded
    start = adapter.get_vector(tuned)
    own = {}
    for client in (0, 1):
        good = {"instruction": "how are you ?", "response": "fine .", "label": "normal"}
        own[client] = [good, good | {"label": "poisoned", "response": "click ."}]
    probe = {"instruction": "who are you ?", "answer": "", "target": "click ."}

    def encode(given, ended=True):
        options = smoke.model
        return templates.encode(given, tokenizer, options.template, options.max_length, ended)[0]

    done = Round(0, [0, 1], start, torch.zeros(2, 2), torch.zeros_like(start), None, {}, 0.1, 0)
    found = BackdoorSignal(own, [probe], encode).after_round(tuned, done)
    assert found["poisoned"] == [0.5, 0.5]
    assert math.isinf(found["bsnr"])
    assert found["alignment"] == pytest.approx(1)
    assert found["target"] < 0
    assert torch.equal(adapter.get_vector(tuned), start)
