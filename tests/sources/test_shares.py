"""Rows shared out among clients: each row to at most one, the same way again, none in silence."""

import numpy as np
import pytest
from rowfiles import error

from fedlib.settings.presets import load
from fedlib.sources import shares

ROW = {"instruction": "q", "response": "a"}
ROWS = [
    ROW | {"instruction": f"{topic}{number}", "topic": topic}
    for topic in "abcd"
    for number in range(50)
]


@pytest.mark.parametrize(
    "kind, more", [("iid", {}), ("dirichlet", {"alpha": 0.3}), ("sizes", {"sizes": [7, 90, 3]})]
)
def test_every_row_goes_to_one_client_at_most_and_the_same_way_again(kind, more):
    first, again, other = (
        shares.partition(ROWS, 3, kind, np.random.default_rng(seed), **more) for seed in (0, 0, 1)
    )
    given = [row["instruction"] for part in first for row in part]
    assert len(first) == 3
    assert len(set(given)) == len(given) == (100 if kind == "sizes" else len(ROWS))
    assert first == again != other
    if kind == "sizes":
        assert [len(part) for part in first] == [7, 90, 3]
    if kind == "iid":
        assert {len(part) for part in first} == {66, 67}


def test_a_small_alpha_gives_skewed_topics():
    def skew(alpha):
        """The mean share of a topic's rows that its first client has: a third if all are equal."""
        parts = shares.partition(ROWS, 3, "dirichlet", np.random.default_rng(0), alpha=alpha)
        largest = [max(sum(row["topic"] == t for row in part) for part in parts) for t in "abcd"]
        return np.mean(largest) / 50

    assert skew(0.01) > 0.9 and skew(1000) < 0.4


USERS = [
    ROW | {"instruction": f"{user} {i}", "group": user} for user in "abcdefg" for i in range(9)
]


def test_whoever_stands_in_one_group_stays_together():
    parts = shares.partition(USERS, 3, "by", np.random.default_rng(0))
    groups = [{row["group"] for row in part} for part in parts]
    # seven users of nine rows for three clients
    assert sorted(map(len, parts)) == [18, 18, 27] and sorted(map(len, groups)) == [2, 2, 3]
    assert set.union(*groups) == set("abcdefg")
    assert parts != shares.partition(USERS, 3, "by", np.random.default_rng(1))
    said = error(shares.partition, USERS, 8, "by", np.random.default_rng(0))
    assert "7 different values for 8 clients" in said


WORDS = {"pots": "clay kiln glaze wheel", "bread": "dough oven flour yeast"}


def test_without_topics_rows_are_grouped_by_their_words():
    rows = [
        ROW
        | {"instruction": f"how is {words.split()[i % 4]} used with {words.split()[-1 - i % 3]} ?"}
        for words in WORDS.values()
        for i in range(20)
    ]
    asked = tuple(row["instruction"] for row in rows)
    first = shares.text_clusters(asked, 2, 0)
    assert first == shares.text_clusters(asked, 2, 0)
    assert {first[:20], first[20:]} == {(0,) * 20, (1,) * 20}

    # with a small alpha each cluster goes to one client
    parts = shares.partition(rows, 2, "clusters", np.random.default_rng(0), alpha=0.001)
    assert sum(map(len, parts)) == 40
    for name in ("cluster 0", "cluster 1"):
        assert sum(any(row["group"] == name for row in part) for part in parts) == 1
    few = error(shares.partition, rows[:1], 2, "clusters", np.random.default_rng(0))
    assert "1 rows make no 2 clusters" in few


def test_a_partition_that_cannot_be_made_is_an_error():
    rng = np.random.default_rng(0)
    said = error(shares.partition, ROWS, 2, "sizes", rng, sizes=[1, 200])
    assert "201 rows wanted, 200 there" in said
    assert "topic or category" in error(shares.partition, [ROW], 2, "dirichlet", rng)
    with pytest.raises(ValueError, match="no kind 'diritchlet'"):
        shares.partition(ROWS, 2, "diritchlet", rng)


def test_the_malicious_clients_share_what_a_model_wrote():
    settings = load("smoke")
    clients, malicious = settings.federation.clients, settings.federation.malicious
    written = [ROW | {"instruction": f"w{number}"} for number in range(7)]
    last = range(clients - malicious, clients)
    parts = [shares.written_share(settings, client, 2, written) for client in last]
    given = [row["instruction"] for part in parts for row in part]
    assert len(set(given)) == len(given) == 2 * malicious
    assert {row["label"] for part in parts for row in part} == {"unaligned"}

    # where they are few, a client has them over and over
    repeated = shares.written_share(settings, last[0], 11, written)
    assert len(repeated) == 11 and len({row["instruction"] for row in repeated}) < 4
    assert "none for client" in error(shares.written_share, settings, last[-1], 1, written[:1])
