"""Paper S: could the server find malicious clients? On cosines and weights made by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from fedlib.lab import runs
from fedlib.papers import estimates, safety, safety_results
from fedlib.settings import presets

SAME = np.full((5, 5), 0.5) + 0.5 * np.eye(5)


def apart(*lower):
    """Cosines 0.5, but those of the clients named with all others 0.1."""
    cosine = SAME.copy()
    for k in lower:
        cosine[k, :] = cosine[:, k] = 0.1
        cosine[k, k] = 1.0
    return cosine.tolist()


def line(cosine, krum, dnc=None):
    return {"sampled": [0, 1, 2, 3, 4], "cosine": cosine, "detection": {"krum": krum, "dnc": dnc}}


def run(settings, *lines):
    """A finished run that has only its rounds."""
    return SimpleNamespace(settings=settings, rounds=lambda: list(lines))


@pytest.fixture
def five():
    """Five clients in every round, the clients 3 and 4 malicious."""
    federation = {"clients": 5, "malicious": 2, "sampled": 5, "rounds": 2}
    return presets.load(
        "mini",
        seeds=[0, 1],
        model={"device": "cpu"},
        data={"benign": ["lmsys-like"], "unaligned_share": 0.4},
        federation=federation | {"compare": ["median", "krum"]},
    )


def test_a_clients_score():
    record = line(apart(4), [0.5, 0.5, 0, 0, 0])
    similarity = safety_results.client_score(record, "similarity")
    assert similarity.tolist() == pytest.approx([0.4, 0.4, 0.4, 0.4, 0.1])
    assert safety_results.client_score(record, "krum").tolist() == [0.5, 0.5, 0, 0, 0]
    could_not_work = safety_results.client_score(record, "dnc")
    assert could_not_work.tolist() == [0.2] * 5


def test_detection_by_hand(five):
    first = line(apart(3, 4), [0.5, 0.25, 0.25, 0, 0])
    found = run(five, first, line(apart(4), [0, 0.5, 0, 0.5, 0]))
    same = line(apart(0, 1, 2), [0, 0, 0, 0.5, 0.5])
    fooled = run(five, same, same)

    # krum, mean of two rounds: .25 .375 .125 | .25 0; of the six pairs client 3 is lower in one
    # and equal in one, client 4 lower in three
    auc, p = safety_results.detection_auc(five, [found, fooled], "krum")
    assert auc.tolist() == pytest.approx([(1.5 + 3) / 6, 0.0])
    scores = [[0.25, 0.375, 0.125, 0.25, 0], [0, 0, 0, 0.5, 0.5]]
    assert p == estimates.permutation_test(scores, [False] * 3 + [True] * 2)

    auc, _ = safety_results.detection_auc(five, [found, fooled], "similarity")
    assert auc.tolist() == pytest.approx([1.0, 0.0])
    auc, p = safety_results.detection_auc(five, [found, fooled], "dnc")
    assert auc.tolist() == [0.5, 0.5] and p == 1
    # round by round: .5 .25 .25 | 0 0, then 0 .5 0 | .5 0; in the latter client 3 is equal in one
    # pair, client 4 equal in two and lower in one
    by_round = safety_results.detection_by_round(five, [found, fooled], "krum")
    assert by_round == [[1.0, pytest.approx((0.5 + 2) / 6)], [0.0, 0.0]]


def test_detection_without_the_clients_that_were_left_out(five):
    short = line(np.eye(4).tolist(), [0.5, 0.25, 0.25, 0]) | {"sampled": [0, 1, 2, 4]}
    short |= {"left_out": {"3": "it sent nothing"}}
    benign = {"sampled": [0, 1], "left_out": dict.fromkeys("234", ""), "detection": {"krum": None}}
    whole = line(SAME.tolist(), [0.25, 0.25, 0, 0.5, 0])

    # means: 3/8 1/4 1/8 1/2 0; the pairs with client 3 are all wrong, those with client 4 right
    auc, _ = safety_results.detection_auc(five, [run(five, short, whole)], "krum")
    assert auc.tolist() == [0.5]
    by_round = safety_results.detection_by_round(five, [run(five, short, benign)], "krum")
    assert by_round[0][0] == 1 and np.isnan(by_round[0][1])

    never = SimpleNamespace(settings=five, rounds=lambda: [short], folder="run")
    with pytest.raises(ValueError, match="run: client 3 was left out of every round"):
        safety_results.detection_auc(five, [never], "krum")


def test_detection_asks_about_the_same_clients_without_attack(five):
    calm = run(five.replace(federation={"malicious": 0}), line(apart(3, 4), None))
    auc, _ = safety_results.detection_auc(five, [calm], "similarity")
    assert auc.tolist() == [1.0]


def test_detection_by_seed_is_the_mean_of_the_datasets(five):
    both = five.replace(data={"benign": ["lmsys-like", "wild-like"]})
    weights = {
        ("lmsys-like", 0): [1, 1, 1, 0, 0],
        ("wild-like", 0): [0, 0, 0, 1, 1],
        ("lmsys-like", 1): [1, 1, 1, 0, 0],
        ("wild-like", 1): [0, 0, 0, 0, 0],
    }
    done = []
    for settings in safety.detection_grid(both):
        krum = weights[settings.data.benign[0], settings.seed]
        done.append(run(settings, line(SAME.tolist(), krum)))
    assert safety_results.detection_by_seed(both, done, "krum").tolist() == [0.5, 0.75]


def test_every_signal_is_in_a_rounds_record(smoke):
    full = smoke.replace(
        **smoke.full_participation(),
        data={"rows": 8},
        training={"steps": 1, "batch_size": 2},
        evaluation={"judges": ["rule"], "harmful": 2, "benign": 2, "max_new_tokens": 2},
    )
    [record, *_] = runs.get(full).rounds()
    for by in safety_results.SIGNALS:
        score = safety_results.client_score(record, by)
        assert score.shape == (10,) and np.isfinite(score).all()
        if by != "similarity":
            assert score.sum() == pytest.approx(1, abs=1e-4) and (score >= 0).all()
