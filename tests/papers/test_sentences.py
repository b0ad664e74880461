"""Sentences say the numbers of the tables that they stand under, and what does not hold."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fedlib.papers import backdoor_sentences, safety_sentences, tuning_sentences
from fedlib.papers.methods import LABEL


def one(said):
    """The sentences as one text."""
    return "\n".join(said)


# --- paper S


def table1(**scores):
    """A frame as of tables.score_table: one dataset, one seed, a row a method."""
    rows = [
        {"dataset": "d", "sampled": 3, "clients": 10, "method": LABEL[name], "md_judge": value}
        | {"aggregator": LABEL[name if name in ("krum", "median") else "fedavg"]}
        for name, value in scores.items()
    ]
    return pd.DataFrame(rows)


ASKED = {"no attack": 89.0, "fedavg": 64.0, "median": 66.0, "krum": 70.0, "level2": 93.0}


def test_table_1_names_the_best_rule_and_the_repair():
    said = one(safety_sentences.table1_said(table1(**ASKED), "md_judge"))
    assert "d, 3 of 10 clients a round: 89 without attack, 64 under attack" in said
    assert "70 with the best rule (Krum), 93 after repair: level 2" in said


def test_table_1_without_rules_or_repair():
    few = {name: ASKED[name] for name in ("no attack", "fedavg")}
    said = one(safety_sentences.table1_said(table1(**few), "md_judge"))
    assert said.endswith("89 without attack, 64 under attack.")


@pytest.mark.parametrize(
    "values, end",
    [
        ([[10.0, 12.0], [11.0, 13.0]], ""),
        ([[-10.0, 12.0], [11.0, -13.0]], " The interval holds 0, so this may be chance."),
        ([[5.0]], " One number has no interval."),
    ],
)
def test_a_difference_that_may_be_chance_is_said_to_be_one(values, end):
    assert safety_sentences.certainty(np.array(values)) == end


def test_effects():
    lost = np.array([[20.0, 30.0], [25.0, 25.0]])
    effect = {"dataset": "d", "sampling": "full", "attack": lost, "control": lost / 10}
    effect |= {"best": "Krum", "best regains": lost / 5, "level 2 regains": lost}
    said = one(safety_sentences.effects_said([effect]))
    assert said.startswith("- d, all clients in every round: the attack costs 25.0 [")
    assert "only good examples missing, 2.5 [" in said
    assert said.endswith("Points won back: Krum 5.0, level 2 25.0.")


def rounds(cosine_bad, cosine_mixed, krum):
    """One round of four clients, the last two malicious."""
    cosine = np.full((4, 4), cosine_mixed)
    cosine[:2, :2] = 0.3
    cosine[2:, 2:] = cosine_bad
    np.fill_diagonal(cosine, 1)
    record = {"sampled": [0, 1, 2, 3], "malicious": [2, 3], "cosine": cosine.tolist()}
    return [record | {"detection": {"krum": krum}}]


def test_likeness_and_weights():
    kinds = {
        "attack": rounds(0.31, 0.29, [0.25, 0.25, 0.25, 0.25]),
        "conflicting labels": rounds(0.6, -0.2, [0.5, 0.5, 0.0, 0.0]),
    }
    said = one(safety_sentences.likeness_said(kinds))
    assert "- attack: two malicious clients 0.31, two benign ones 0.30, one of each 0.29" in said
    assert said.endswith("most in *conflicting labels*.")
    said = one(safety_sentences.weights_said(kinds, ["krum"]))
    assert "- attack: Krum 50% (an equal share is 50%)" in said
    assert "- conflicting labels: Krum 0%" in said


def test_detection_is_set_beside_the_same_clients_without_attack():
    found = {
        ("attack", "krum"): (np.array([0.9, 1.0]), 0.01),
        ("attack", "dnc"): (np.array([0.5, 0.5]), 1.0),
        ("no attack", "krum"): (np.array([0.9, 0.8]), 0.1),
        ("conflicting labels", "foolsgold"): (np.array([1.0]), 0.1),
    }
    (said,) = safety_sentences.detection_said(found)
    assert "best score is Krum: AUC 0.95." in said and "0.85 there when they are benign" in said
    assert (
        "so 0.10 of it is the attack's" in said and "In the control the best is FoolsGold" in said
    )
    found["no attack", "krum"] = (np.array([1.0]), 0.1)
    assert "benign: no less." in one(safety_sentences.detection_said(found))


def test_the_rest_of_paper_s():
    gains = {("sampled", "Krum"): np.array([[10.0]]), ("sampled", "DnC"): np.array([[30.0]])}
    said = one(safety_sentences.gains_said(gains))
    assert "adds least to Krum, 10.0 points, and most to DnC, 30.0." in said
    said = one(safety_sentences.larger_said({50: np.array([[5.0]])}, {50: np.array([[1.0]])}))
    assert said.startswith("- 50 clients: the attack costs 5.0 points; after level 2 1.0 are still")
    reports = [
        {"kind": "aligned", "asked": 9, "kept": 7},
        {"kind": "aligned", "asked": 1, "kept": 1},
    ]
    assert safety_sentences.written_said(reports) == ["Kept are 8 of 10 aligned rows."]
    assert safety_sentences.written_said([]) == []
    assert safety_sentences.agreement_said(pd.DataFrame({"judges": ["RM, rule"]})) == []
    helped = pd.DataFrame({"aggregator": [LABEL["fedavg"], "Krum", "DnC"], "help": [40, 90, 30]})
    (said,) = safety_sentences.control_said(helped, "help")
    assert "FedAvg has 40% here; 1 of 2 rules are above that. The highest is Krum with 90%" in said
    assert safety_sentences.control_said(helped[:1], "help") == []


# --- paper B


def poisoned(**columns):
    """A frame as of backdoor_scores."""
    return pd.DataFrame(columns)


def test_concentration_is_beside_what_is_there_without_poison():
    scores = poisoned(kind=["injected"] * 2, share=[0.0, 0.08], asr=[1.0, 98.0], accuracy=[95, 94])
    said = one(backdoor_sentences.concentration_said(scores))
    assert said.startswith(
        "With 8% poisoned rows:\n- injected trigger: ASR 98% (without poison 1%)"
    )
    assert said.endswith("clean accuracy 94% (without poison 95%)")


@pytest.mark.parametrize(
    "bsnr, end",
    [([0.1, 0.2, 0.5], "no value is shared."), ([0.1, 0.6, 0.5], "does not tell them apart.")],
)
def test_the_grid_says_whether_bsnr_tells_success(bsnr, end):
    (said,) = backdoor_sentences.grid_said(poisoned(asr=[0.0, 10.0, 90.0], bsnr=bsnr))
    assert said.startswith("1 of 3 runs reach an ASR of 50%.") and said.endswith(end)
    (said,) = backdoor_sentences.grid_said(poisoned(asr=[0.0, 10.0], bsnr=bsnr[:2]))
    assert said == "0 of 2 runs reach an ASR of 50%."


def test_defences_and_their_control():
    frame = poisoned(
        aggregator=[LABEL["fedavg"], "Krum", "DnC"], asr=[99, 80, 98], accuracy=[95] * 3
    )
    said = one(backdoor_sentences.defences_said({"natural": frame}))
    assert said.endswith("- natural: FedAvg 99%, Krum 80% (clean accuracy 95 and 95%)")
    below = {"Krum": np.array([[10.0]]), "DnC": np.array([[-40.0]])}
    assert backdoor_sentences.stopped_said(below) == [
        "1 of 2 rules halve the ASR of one boosted client: Krum."
    ]


def test_the_rest_of_paper_b():
    spread = pd.DataFrame({"held by": ["1", "all"], "asr": [1.0, 74.0]})
    assert "1 1%, all 74%. The highest is *all*" in one(backdoor_sentences.spread_said(spread))
    spread["asr"] = 5.0
    assert one(backdoor_sentences.spread_said(spread)).endswith("All are the same.")
    every = pd.DataFrame({"trigger": ["a", "b"], "asr": [90.0, 0.0]})
    assert "*a* succeeds most (90%)" in one(backdoor_sentences.triggers_said(every))
    assert "Of 2 triggers 1 reach 50%" in one(backdoor_sentences.triggers_said(every))
    first, second = (
        SimpleNamespace(rounds=lambda ends=ends: [{"bsnr": value} for value in ends])
        for ends in ((0.4, 0.2), (0.6, 0.0))
    )
    said = one(backdoor_sentences.rounds_said({"8% poison": [first, second]}))
    assert said.endswith("8% poison from 0.50 to 0.10.")
    assert backdoor_sentences.rounds_said({}) == []
    row = {"BSNR with": "asr", "Spearman": "0.4", "given the share": ""}
    assert "given" not in one(backdoor_sentences.correlations_said([row]))
    factors = pd.DataFrame(
        {
            "spread": ["equal", "uniform", "equal"],
            "holders": [1, 5, 5],
            "share": [0.04, 0.04, 0.08],  # another total, which must not count
            "bsnr": [0.6, 0.4, 9.0],
            "asr": [2.0, 70.0, 99.0],
        }
    )
    (said,) = backdoor_sentences.factors_said(factors)
    assert "*equal* with 1 holders (0.60), ASR for *uniform* with 5 holders (70%): another." in said
    filtered = pd.DataFrame(
        {"kind": ["natural"] * 2, "spread": ["equal"] * 2, "filter": ["none", "gradient"]}
        | {"asr": [99.0, 1.0], "accuracy": [95.0, 94.0], "recall": [np.nan, 97.0]}
    )
    said = one(backdoor_sentences.filter_said(filtered))
    assert "ASR from 99 to 1%, clean accuracy from 95 to 94%; 97% of the poisoned rows" in said


# --- paper W


def tuned(column="unsafe"):
    """A frame as of tuning_scores: before tuning, plain and SWAT."""
    where = {"model": "chat", "task": "t"}
    rows = [
        where
        | {"scenario": "untuned", "method": LABEL["untuned"], column: 7.0, "probe_loss_rise": 0.0},
        where
        | {"scenario": "benign", "method": LABEL["plain"], column: 86.0, "probe_loss_rise": 1.8},
        where
        | {"scenario": "benign", "method": LABEL["swat"], column: 50.0, "probe_loss_rise": 0.1},
    ]
    return pd.DataFrame(rows).assign(task_accuracy=90.0)


@pytest.mark.parametrize("column", ["unsafe", "unrefused"])
def test_tuning_with_a_guard_and_without(column):
    scores = tuned(column)
    said = one(tuning_sentences.drift_said(scores[:2]))
    assert (
        "- chat, task t: 7% before; 86% after (benign), where the probes' loss rose by 1.80" in said
    )
    said = one(tuning_sentences.swat_said(scores[1:]))
    assert "plain tuning 86% (task 90%), SWAT 50% (task 90%)." in said
    assert said.endswith("SWAT lowers ASR by 36 points, a third or more.")
    scores.loc[2, column] = 80.0
    assert one(tuning_sentences.swat_said(scores[1:])).endswith("6 points, less than a third.")
    scores.loc[2, column] = 86.0
    assert one(tuning_sentences.swat_said(scores[1:])).endswith("SWAT does not lower ASR.")


def test_the_rest_of_paper_w():
    cells = [{"type": "q", "layer": layer, "loss": loss} for layer, loss in enumerate((0.0, 0.4))]
    (said,) = tuning_sentences.noise_said({"chat": {"cells": cells, "robust": [["q", 0]]}})
    assert "noise in q of layer 1 raises the probes' loss most, by 0.40. In 1 of 2 modules" in said
    panels = {"chat, task t": {"before": [([0.1, 0.1], [1, 1])], "after": [([0.1, 0.9], [1, 1])]}}
    said = one(tuning_sentences.layers_said(panels))
    assert said.endswith("- chat, task t: after: layer 1, by 0.80")
    rows = [{"task": "t", "than": "plain tuning", "smaller by (%)": "50.0"}]
    assert tuning_sentences.differences_said(rows, "smaller by (%)", "Less") == [
        "Less: t, plain tuning: 50.0."
    ]
    row = {"scenario": "benign", "defence": "none", "on top": "SWAT", "ASR lower by": "9.0"}
    other = row | {"on top": "warm-up: random", "ASR lower by": "1.0"}
    (said,) = tuning_sentences.composition_said([row, other])
    assert said.endswith("\n- benign: none 9.0")
    frame = pd.DataFrame({"method": ["SWAT"], "md_judge": [80.0]})
    assert tuning_sentences.federated_said(frame) == ["SWAT: md_judge 80%."]
    row = {"model": "chat", "in Mods_Rob": 3, "cells": 28, "parameters (%)": 10.0}
    row |= {"rise, all of Mods_Rob perturbed": 0.01, "loss, untouched": 0.1}
    assert "holds 3 of 28 modules, 10%" in one(tuning_sentences.robust_said([row]))
    row = {"model": "chat", "task": "t", "Spearman": 0.5}
    assert "chat, task t: 0.50" in one(tuning_sentences.agreement_of_noise_said([row]))


def test_which_update_moves_the_probes():
    cells = pd.DataFrame({"type": ["q", "v"], "layer": [0, 1], "loss": [0.5, 0.001]})
    (said,) = tuning_sentences.updates_said({("chat", "t"): cells})
    assert said.endswith(
        "\n- chat, task t: q of layer 0, by 0.50; in 1 of 2 modules by less than 0.01"
    )


def test_signs_of_differences():
    measured = {"W1": [[5, 6], [6, 5]], "W2": [[-5, -6], [-6, -5]], "W3": [[-9, 9], [9, -9]]}
    said = one(tuning_sentences.signs_said(measured))
    assert said.startswith("Of 3 differences 1 are above zero with their whole interval, 1 below")
    assert "(W2)" in said
