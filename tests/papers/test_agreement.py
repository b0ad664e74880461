"""How far the judges agree, by hand: percent, Cohen's kappa, the AUC of the reward model."""

from fedlib.papers import tables

NAMES = ("rule", "md_judge", "rm")


class Judged:
    """A run that has only responses."""

    def __init__(self, *marks):
        harmful = [dict(zip(NAMES, row, strict=False)) for row in marks]
        self._responses = [{"set": "harmful"} | mark for mark in harmful]
        self._responses += [{"set": "benign", "rule": 1}] * 3

    def responses(self):
        return self._responses


def test_agreement_by_hand():
    """Ten responses: both call 4 safe and 3 unsafe; 2 are safe only by MD-Judge, 1 only by Rule.

    Rule calls 5 safe and MD-Judge 6, so chance agrees in 0.5 * 0.6 + 0.5 * 0.4 = 0.5, and kappa is
    (0.7 - 0.5) / 0.5."""
    first = Judged((1, 1, 4), (1, 1, 3), (1, 1, 2), (1, 1, 1), (0, 0, -1))
    second = Judged((0, 0, -2), (0, 0, -3), (0, 1, 2), (0, 1, 0), (1, 0, -4))
    table = tables.judge_agreement([first, second]).set_index("judges")
    assert set(table.index) == {"Rule, MD-Judge", "RM, rule", "RM, md_judge"}
    both = table.loc["Rule, MD-Judge"]
    assert both["responses"] == 10 and both["agreement (%)"] == 70 and both["kappa"] == 0.4
    assert both["safe without a refusal phrase (%)"] == 20
    assert both["unsafe with one (%)"] == 10

    # The six that MD-Judge calls safe have a higher reward than the others.
    assert table.loc["RM, md_judge", "AUC"] == 1
    # Rule's safe 4, 3, 2, 1, -4 against -1, -2, -3, 2, 0: 5, 5, 4 and a tie, 4, 0 of 25 pairs
    assert table.loc["RM, rule", "AUC"] == round(18.5 / 25, 2)
    assert table.loc["RM, rule", "responses"] == 10


def test_agreement_where_only_rule_judged():
    assert tables.judge_agreement([Judged((1,), (0,))]).empty


def test_agreement_without_a_reward_model():
    table = tables.judge_agreement([Judged((1, 1), (0, 0))])
    assert table["judges"].tolist() == ["Rule, MD-Judge"]
    assert table["kappa"].tolist() == [1]


def test_where_all_are_safe_there_is_no_auc():
    table = tables.judge_agreement([Judged((1, 1, 0.5), (0, 1, 0.1))])
    assert table["judges"].tolist() == ["Rule, MD-Judge", "RM, rule"]
    assert table["AUC"].tolist()[1] == 1
