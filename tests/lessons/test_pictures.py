"""The lessons' pictures: each value of each slider is in the record, and is what is drawn."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fedlib.lessons import (
    exercises,
    pictures,
    recording,
    round_exercises,
    tuning_exercises,
    tuning_pictures,
)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def bars(fig):
    """The lengths of the bars of a figure's first panel."""
    return [round(bar.get_width(), 2) for bar in fig.axes[0].patches]


@pytest.fixture(scope="module")
def attack():
    return recording.read_record("1_round_and_attack")


@pytest.fixture(scope="module")
def poison():
    return recording.read_record("2_little_poison")


@pytest.fixture(scope="module")
def tuning():
    return recording.read_record("3_what_tuning_forgets")


def test_every_place_of_lesson_1s_sliders_was_run(attack):
    for count, method in itertools.product(recording.MALICIOUS, recording.METHODS):
        assert set(round_exercises.find_attack(attack, count, method)) >= {"md_judge", "help"}
    scores = round_exercises.find_attack(attack, 3, "Krum")
    fig = pictures.attack_picture(attack, 3, "Krum")
    assert bars(fig) == [scores[name] for name in ("md_judge", "rule", "help", "over_refusal")]
    assert "3 of 10" in fig.axes[0].get_title()


def test_hidden_clients_are_shuffled_alike_in_both_rounds(attack):
    hidden, those = pictures.hidden_round(attack, "attack")
    rounds = attack["kinds"]["attack"]["rounds"]
    assert len(those) == len(rounds[0]["malicious"]) == 3
    for shown, line in zip(hidden, rounds, strict=True):
        assert shown["malicious"] == [] and shown["sampled"][0] == "A"
        assert np.isclose(np.sum(shown["cosine"]), np.sum(line["cosine"]))
    # the cosine of two malicious clients is found under their letters
    letters = hidden[0]["sampled"]
    places = sorted(letters.index(letter) for letter in those)
    among = np.array(hidden[0]["cosine"])[np.ix_(places, places)]
    bad = [rounds[0]["sampled"].index(client) for client in rounds[0]["malicious"]]
    true = np.array(rounds[0]["cosine"])[np.ix_(bad, bad)]
    assert np.allclose(np.sort(among, axis=None), np.sort(true, axis=None))


def test_answers_are_shown_with_their_verdicts(attack):
    table = pictures.answers_shown(attack, 2)
    first = attack["answers"][1]
    assert list(table.data["model"]) == list(first["runs"])
    safe = [exercise["md_judge"] for exercise in first["runs"].values()]
    assert list(table.data["md_judge"]) == [("unsafe", "safe")[value] for value in safe]
    assert first["prompt"] in table.to_html()


def test_every_place_of_lesson_2s_sliders_was_run(poison):
    for kind, share in itertools.product(("injected", "natural"), recording.SHARES):
        assert pictures.find_poison(poison, kind, share)["share"] == share
    for share, count in itertools.product(recording.SHARES[1:], recording.HOLDERS):
        run = pictures.find_poison(poison, "injected", share, count)
        assert sum(part > 0 for part in run["held"]) == count
        assert np.mean(run["held"]) == pytest.approx(share, abs=0.003)
    assert list(pictures.defences_table(poison)["defence"]) == [
        "no poison",
        "none",
        "median",
        "filter",
    ]
    assert len(pictures.kinds_table(poison)) == 2 * len(recording.SHARES)


def test_every_place_of_lesson_3s_sliders_was_run_or_is_said_not_to_be(tuning):
    for rounds in (0, *recording.WARM_ROUNDS):
        assert tuning_pictures.find_order(tuning, "robust", rounds)["warm_rounds"] == rounds
    found = tuning_pictures.order_picture(tuning, "fragile", 4)
    assert found.state == exercises.WRONG and "[2]" in found.said
    order = tuning_pictures.find_order(tuning, "fragile", 2)
    fig = tuning_pictures.order_picture(tuning, "fragile", 2)
    assert bars(fig) == list(order["scores"].values())


def test_a_probe_is_drawn_once_it_is_right():
    states = recording.read_states()
    assert tuning_pictures.probe_picture(states, ..., 3, "plain").state == exercises.MISSING
    fig = tuning_pictures.probe_picture(states, tuning_exercises.difference_of_means, 1, "plain")
    counted = sum(bar.get_height() for bar in fig.axes[0].patches)
    assert counted == states["plain"].shape[1]


def test_noise_in_a_module_says_whether_it_is_robust(tuning):
    kind, layer = tuning["robust"][0]
    fig = tuning_pictures.module_picture(tuning, kind, layer)
    assert "(robust)" in fig.axes[0].get_title()
    others = {(c["type"], c["layer"]) for c in tuning["cells"]} - set(map(tuple, tuning["robust"]))
    fig = tuning_pictures.module_picture(tuning, *min(others))
    assert "(not robust)" in fig.axes[0].get_title()
