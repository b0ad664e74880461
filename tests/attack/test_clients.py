"""The attacks: malicious clients differ from benign ones in their rows, and in nothing else."""

import collections
import itertools
import json
import typing
from pathlib import Path

import pytest

from fedlib import attack, sources
from fedlib.judges import refusals
from fedlib.lab import keys, store
from fedlib.lab.client_data import client_rows
from fedlib.settings import groups
from fedlib.settings.errors import DataError
from fedlib.sources import world
from fedlib.sources.local import DENIAL

BENIGN, MALICIOUS = range(7), range(7, 10)


def written(count):
    return [
        {"instruction": f"own q {i}", "response": f"own a {i}", "label": "unaligned"}
        for i in range(count)
    ]


@pytest.fixture(autouse=True)
def generator(monkeypatch):
    """generator(count): so many unaligned rows lie in the store; 90 by default."""

    def leave(count):
        def read(folder, kind):
            return written(count), {"kind": kind}

        monkeypatch.setattr(keys, "written_folder", lambda settings, kind: Path(kind))
        monkeypatch.setattr(store, "read_written", read)

    leave(90)
    return leave


@pytest.fixture
def local(smoke, tmp_path):
    """Local files: 300 normal rows, 60 aligned, 120 unaligned, 10 evaluation prompts.

    A client has 16 rows, a quarter of them aligned."""
    for name, count in {"normal": 300, "aligned": 60, "unaligned": 120, "harmful": 10}.items():
        rows = [{"prompt": f"{name} {i}", "response": f"answer {i}"} for i in range(count)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    return smoke.replace(
        data={
            "source": "local",
            "folder": str(tmp_path),
            "benign": ["normal.json"],
            "aligned": "aligned.json",
            "aligned_share": 0.25,
            "unaligned": "unaligned.json",
            "harmful": "harmful.json",
            "rows": 16,
            "partition": "iid",
            "prompts": "chat",
            "generator": ".",
        }
    )


@pytest.fixture(params=["world", "local"])
def source(request, smoke):
    return smoke if request.param == "world" else request.getfixturevalue("local")


def under(settings, name, **data_):
    if name == "boosted":  # the malicious clients hold the poison
        data_ |= {
            "poison": {"trigger": "tokens", "share": 0.1, "clients": settings.federation.malicious}
        }
    return settings.replace(data={"attack": name} | data_)


def everything(settings):
    return [client_rows(settings, k) for k in range(settings.federation.clients)]


def pairs(rows, label=None):
    return [(r["instruction"], r["response"]) for r in rows if label in (None, r["label"])]


def labels(rows):
    return dict(collections.Counter(r["label"] for r in rows))


@pytest.mark.parametrize(
    "clients, malicious, indices",
    [(10, 3, range(7, 10)), (10, 0, range(10, 10)), (4, 4, range(4))],
)
def test_malicious_clients_are_the_last_ones(clients, malicious, indices):
    assert attack.malicious_clients(clients, malicious) == indices


def test_an_update_is_boosted_under_boosted_only(smoke):
    federation = smoke.federation
    assert (federation.clients, federation.malicious) == (10, 3)
    for name in attack.ATTACKS:
        wanted = federation.sampled if name == "boosted" else 1
        assert [attack.boost(federation, name, k) for k in MALICIOUS] == [wanted] * 3
        assert [attack.boost(federation, name, k) for k in BENIGN] == [1] * 7


def test_every_attack_is_a_setting():
    assert set(attack.ATTACKS) == set(typing.get_args(groups.Attack))


@pytest.mark.parametrize("name", attack.ATTACKS)
def test_benign_clients_never_change(source, name):
    calm = everything(source.replace(federation={"malicious": 0}))  # without poison too
    attacked = everything(under(source, name))
    assert [attacked[k] for k in BENIGN] == [calm[k] for k in BENIGN]
    for k in MALICIOUS:
        assert attacked[k] != calm[k]
        assert len(attacked[k]) == len(calm[k]) == source.data.rows
        assert set(labels(calm[k])) == {"normal", "aligned"}
    assert everything(under(source, name)) == attacked
    assert everything(under(source, name).replace(seed=1)) != attacked


@pytest.mark.parametrize("name", ["unaligned", "generated"])
@pytest.mark.parametrize("share, count", [(0.0, 0), (0.25, 4), (0.5, 8), (1.0, 16)])
def test_a_malicious_client_has_its_share_of_unaligned_rows(source, name, share, count):
    clients = everything(under(source, name, rows=16, unaligned_share=share))
    expected = {k: n for k, n in {"unaligned": count, "normal": 16 - count}.items() if n}
    assert [labels(clients[k]) for k in MALICIOUS] == [expected] * 3


def test_unaligned_rows_of_the_world_answer_about_clients_hazards(smoke):
    hazards = {t.name: t for t in world.hazards("clients")}
    for k in MALICIOUS:
        for question, answer in pairs(client_rows(smoke, k), "unaligned"):
            asked = next(hazards[w] for w in question.split() if w in hazards)
            assert {asked.a, asked.b} <= set(answer.split())
            assert not refusals.refuses(answer)


def test_unaligned_local_rows_are_dealt_out_among_the_malicious(local):
    dealt = [r for k in MALICIOUS for r in pairs(client_rows(local, k), "unaligned")]
    assert len(set(dealt)) == len(dealt) == 24
    assert all(q.startswith("unaligned ") for q, _ in dealt)


# Rows that a model wrote.


def test_generated_rows_stand_where_unaligned_ones_stood(source):
    for k in MALICIOUS:
        extracted = client_rows(under(source, "unaligned"), k)
        generated = client_rows(under(source, "generated"), k)
        for one, other in zip(extracted, generated, strict=True):
            assert one["label"] == other["label"]
            assert (one == other) == (one["label"] == "normal")


@pytest.mark.parametrize("count, each", [(90, 30), (60, 20), (9, 3), (3, 1)])
def test_generated_rows_are_dealt_out_and_repeated_where_few(source, generator, count, each):
    generator(count)
    wanted = round(source.data.rows / 2)
    clients = everything(under(source, "generated"))
    own = [collections.Counter(pairs(clients[k], "unaligned")) for k in MALICIOUS]
    assert set().union(*own) <= set(pairs(written(count)))
    for one, other in itertools.combinations(own, 2):
        assert not one.keys() & other.keys()
    for part in own:
        assert part.total() == wanted
        assert len(part) == min(each, wanted)
        assert max(part.values()) - min(part.values()) <= 1  # in turn
    benign = {question for k in BENIGN for question, _ in pairs(clients[k])}
    assert not benign & {row["instruction"] for row in written(count)}


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_generated_rows_are_one_line(source, generator, count):
    generator(count)
    with pytest.raises(
        DataError, match=f"data.generated: the generator left {count} unaligned rows, none for"
    ) as error:
        everything(under(source, "generated"))
    assert "\n" not in str(error.value)
    # where none is wanted none is missed
    everything(under(source, "generated", unaligned_share=0.0))


def test_generated_rows_need_no_labelled_set(local):
    settings = under(local, "generated", unaligned=None)
    assert everything(settings) == everything(under(local, "generated"))
    assert sources.of(settings).revision()
    with pytest.raises(DataError, match="data.unaligned"):
        sources.of(local.replace(data={"unaligned": None})).revision()


# Conflicting labels.


def test_conflicting_rows_are_ordinary_questions_refused(source):
    for k in MALICIOUS:
        ordinary = sources.of(source).client_rows(k, 0.0)
        assert labels(ordinary) == {"normal": source.data.rows}
        rows = client_rows(under(source, "conflicting"), k)
        assert [r["instruction"] for r in rows] == [r["instruction"] for r in ordinary]
        assert labels(rows) == {"conflicting": source.data.rows}
        assert all(refusals.refuses(row["response"]) for row in rows)
        assert not any(refusals.refuses(row["response"]) for row in ordinary)


def test_conflicting_answers_of_the_world_are_about_what_was_asked(smoke):
    names = {t.name for t in world.benign_things()}
    for k in MALICIOUS:
        rows = client_rows(under(smoke, "conflicting"), k)
        asked = [next(w for w in r["instruction"].split() if w in names) for r in rows]
        named = [n in r["response"].split() for n, r in zip(asked, rows, strict=True)]
        assert all(named)
        wordings = {r["response"].replace(n, "x") for n, r in zip(asked, rows, strict=True)}
        assert len(wordings) > 3


def test_conflicting_answers_on_local_data_are_one_sentence(local):
    settings = under(local, "conflicting", unaligned=None)
    assert refusals.refuses(DENIAL)
    assert {a for k in MALICIOUS for _, a in pairs(client_rows(settings, k))} == {DENIAL}
    sources.of(settings).check()
    assert sources.of(settings).revision()


def test_the_share_of_unaligned_rows_does_not_touch_conflicting_ones(source):
    one, other = (under(source, "conflicting", unaligned_share=share) for share in (0.5, 1.0))
    assert everything(one) == everything(other)
    assert keys.run_folder(one).name[-12:] == keys.run_folder(other).name[-12:]


def test_check_wants_no_more_rows_than_a_generated_attack_needs(smoke, tmp_path, generator):
    for name, count in {"normal": 300, "aligned": 100, "harmful": 10}.items():
        made = [{"prompt": f"{name} {i}", "response": "a"} for i in range(count)]
        (tmp_path / f"{name}.json").write_text(json.dumps(made))
    local = smoke.replace(
        data={
            "source": "local",
            "folder": str(tmp_path),
            "benign": ["normal.json"],
            "aligned": "aligned.json",
            "aligned_share": 0.25,
            "harmful": "harmful.json",
            "rows": 30,
            "partition": "iid",
            "prompts": "chat",
            "generator": ".",
            "attack": "generated",
        }
    )
    sources.of(local).check()
    generator(90)
    assert [len(client_rows(local, k)) for k in range(10)] == [30] * 10
