"""Flower's messages driven in one process: the same bytes as without it, whatever nodes do.

Messages take the way through Flower's own serialisation. There is no network and no Ray here:
test_deploy.py has those."""

import pytest

pytest.importorskip("flwr", reason="extra flower is not installed")

import numpy as np
from conftest import smoke_settings
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.app.error import Error
from loopback import Loopback, clients

from fedlib import federation, training
from fedlib.flower import messages, node, server
from fedlib.flower.nodes import Nodes
from fedlib.lab import client_data, keys, rounds, steps, store
from fedlib.settings.errors import SettingsError
from fedlib.swat import modules

CLIENTS, SAMPLED, ROUNDS = 4, 3, 3


@pytest.fixture
def settings():
    """Four clients, one of them malicious, three sampled in each of three rounds."""
    return smoke_settings(
        model={"device": "cpu", "lora_dropout": 0.1},
        data={"rows": 8},
        training={"steps": 1, "batch_size": 2},
        federation={"clients": CLIENTS, "malicious": 1, "sampled": SAMPLED, "rounds": ROUNDS},
    )


@pytest.fixture(autouse=True)
def _nothing_kept():
    """Each test's nodes load their own model and rows."""
    node._tuned.cache_clear()
    node._encoded.cache_clear()


def made(settings, grid=None, wait=1.0, own_rows=False):
    """(bytes of the adapter, records without seconds) of a federation, whose folder is then gone.

    own_rows: whether nodes have rows of their own; wait: seconds for a round's replies."""
    place = keys.run_folder(settings)
    folder = place if not own_rows else place.with_name("own")
    folder.mkdir(parents=True, exist_ok=True)
    nodes = None if grid is None else Nodes(grid, settings, own_rows, wait)
    steps.run_federation(settings, folder, nodes)
    content = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    records = store.read_lines(folder / "rounds.jsonl")
    for record in records:
        del record["seconds"]
    store.shutil.rmtree(folder)
    return content, records


# --- the same bytes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"federation": {"aggregator": "foolsgold", "variant": "paper"}},
        {"federation": {"aggregator": "median"}, "defense": {"before": 1, "rows": 4}},
        {
            "data": {
                "attack": "boosted",
                "poison": {"trigger": "tokens", "share": 0.2, "clients": 1},
            }
        },
    ],
    ids=["fedavg", "foolsgold", "median", "boosted"],
)
def test_the_run_is_the_same_to_the_byte(settings, changes):
    settings = settings.replace(**changes)
    grid = Loopback(clients(CLIENTS))
    assert made(settings, grid) == made(settings)

    # each node was asked once who it is; only the sampled ones were asked to train
    sampled = [federation.sample_clients(CLIENTS, SAMPLED, 0, i) for i in range(ROUNDS)]
    wanted = [(1000 - client, "train") for one in sampled for client in one]
    asked = [message for message in grid.sent if message[1] == "query"]
    assert sorted(asked) == sorted((number, "query") for number in grid.configs)
    assert [message for message in grid.sent if message[1] == "train"] == wanted


def test_modules_that_warm_up_are_told_to_the_nodes(settings, monkeypatch):
    seen = []
    real = modules.trained_only

    def watched(tuned, only):
        seen.append(set(only))
        return real(tuned, only)

    monkeypatch.setattr(modules, "trained_only", watched)
    cells = [("v_proj", 0), ("down_proj", 1)]
    monkeypatch.setattr(
        steps, "warmup_modules", lambda tuned, settings: modules.module_names(tuned, cells, 1)
    )
    settings = settings.replace(
        model={"lora_targets": "all-linear", "lora_dropout": 0.0}, swat={"warmup": 1}
    )
    with_flower = made(settings, Loopback(clients(CLIENTS)))
    first, seen[:] = list(seen), []
    assert with_flower == made(settings)
    assert first == seen and len(first[0]) == 2


def test_an_interrupted_run_goes_on_with_either_engine(settings, monkeypatch):
    whole = made(settings)
    keep = rounds.keep_round

    def stop_after_one(folder, record, kept):
        keep(folder, record, kept)
        raise KeyboardInterrupt

    for first, second in [(None, True), (True, None)]:
        monkeypatch.setattr(rounds, "keep_round", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            made(settings, first and Loopback(clients(CLIENTS)))
        monkeypatch.setattr(rounds, "keep_round", keep)
        grid = second and Loopback(clients(CLIENTS))
        assert made(settings, grid) == whole
        if grid:
            assert len([kind for _, kind in grid.sent if kind == "train"]) == 2 * SAMPLED


def test_the_engine_is_in_no_key_and_its_runs_are_those_of_the_store(settings):
    flower = settings.replace(federation={"engine": "flower"})
    assert keys.run_folder(flower) == keys.run_folder(settings)
    asked = {"preset": "smoke", "wait": 5}
    assert server.asked_for(asked)[0].federation.engine == "flower"


# --- rows that stay at home


SECRET = "the patient of ward nine"


def own_rows(settings, folder, client, more=()):
    """Write a client's rows where its node finds them; the node's config."""
    rows = [*client_data.client_rows(settings, client), *more]
    plain = [{name: row[name] for name in ("instruction", "response")} for row in rows]
    file = folder / f"site{client}" / "rows.jsonl"
    file.parent.mkdir()
    store.write_lines(file, plain)
    return {"partition-id": client, "rows": str(file)}


def test_nodes_with_rows_of_their_own_give_the_same_adapter(settings, tmp_path):
    grid = Loopback({7 + k: own_rows(settings, tmp_path, k) for k in range(CLIENTS)})
    assert made(settings, grid, own_rows=True) == made(settings)


def test_no_row_leaves_a_node(settings, tmp_path, monkeypatch, capfd):
    """Neither where it trains, nor where an error quotes a row."""
    row = {"instruction": SECRET, "response": SECRET}
    grid = Loopback({7 + k: own_rows(settings, tmp_path, k, [row]) for k in range(CLIENTS)})
    monkeypatch.setattr(federation, "UNKNOWN", 1.0)
    real, calls = training.tune, []

    def tune(*given):
        calls.append(given)
        if len(calls) == 2:
            raise ValueError(f"cannot learn {SECRET}")
        return real(*given)

    monkeypatch.setattr(training, "tune", tune)
    _, records = made(settings, grid, own_rows=True)
    assert [*records[0]["left_out"].values()] == ["its training failed; its node's log says why"]
    assert f"cannot learn {SECRET}" in capfd.readouterr().err
    assert len(grid.bytes_back) > SAMPLED * ROUNDS
    for content in grid.bytes_back:
        assert SECRET.encode() not in content
        assert b"instruction" not in content


def test_the_two_kinds_of_rows_are_never_mixed(settings, tmp_path, capfd):
    """A run of the store is made of the settings' rows only: its key says so."""
    mixed = clients(CLIENTS)
    mixed[1000] = own_rows(settings, tmp_path, 0)
    settings = settings.replace(federation={"min_clients": 4, "sampled": 4})
    with pytest.raises(SettingsError, match=r"round 1 of 3: usable updates of 3 of 4 clients"):
        made(settings, Loopback(mixed), wait=0.01)
    assert "node 1000 is refused: it has its own rows" in capfd.readouterr().err


# --- nodes that fail


def nan_update(message, reply):
    """A reply whose update and loss are NaN."""
    if message.metadata.message_type == "train":
        arrays = reply.content["arrays"]
        arrays["update"] = Array(np.full_like(arrays["update"].numpy(), np.nan))
        reply.content["numbers"]["losses"] = [float("nan")]
    return reply


def on_train(change):
    return lambda message, reply: (
        change(message, reply) if message.metadata.message_type == "train" else reply
    )


def replaced(**numbers):
    """A reply with other numbers about the update."""

    def change(message, reply):
        reply.content["numbers"] = MetricRecord(dict(reply.content["numbers"]) | numbers)
        return reply

    return on_train(change)


def short_update(message, reply):
    reply.content["arrays"] = ArrayRecord({"update": Array(np.zeros(3, np.float32))})
    return reply


def without_update(message, reply):
    del reply.content["arrays"]
    return reply


FAULTS = {
    "NaN": (nan_update, "its update holds NaN ("),
    "shape": (on_train(short_update), "its update has shape (3,), not ("),
    "nothing": (on_train(lambda message, reply: None), "it sent nothing within 0.2 s"),
    "no update": (on_train(without_update), "its reply cannot be read: KeyError: "),
    "crash": (
        on_train(lambda message, reply: Message(Error(8, "no\nroom"), reply_to=message)),
        "its node failed: no room",
    ),
    "size": (replaced(size=0), "its reply cannot be read: ValueError: it says that it has no rows"),
    "negative": (replaced(size=-5), "its reply cannot be read: ValueError: its size is -5"),
    "loss": (replaced(losses=[float("inf")]), "its reply cannot be read: ValueError: its losses"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_bad_node_is_left_out_and_the_rest_go_on(settings, monkeypatch, fault):
    """As if it had failed in one process: the adapter of the others, and who and why is said."""
    change, why = FAULTS[fault]
    settings = settings.replace(federation={"rounds": 1, "sampled": 4})
    grid = Loopback(clients(CLIENTS))
    grid.faults[1000 - 2] = change
    content, [record] = made(settings, grid, wait=0.2)
    assert list(record["left_out"]) == ["2"]
    assert record["left_out"]["2"].startswith(why)
    assert record["sampled"] == [0, 1, 3]

    real, calls = federation.client_update, []

    def fails(tuned, *given, **named):
        calls.append(given)
        if len(calls) == 3:
            raise OSError
        return real(tuned, *given, **named)

    monkeypatch.setattr(federation, "client_update", fails)
    reference, [other] = made(settings)
    assert content == reference
    # what it did is no longer told apart: how it failed, and whether its training was finished
    apart = dict.fromkeys(("left_out", "tokens"))
    assert record | apart == other | apart


def test_a_client_is_who_flower_says_and_not_who_it_says(settings, capfd):
    """Two nodes that both say they are client 1 are refused, and so is one that comes later."""
    settings = settings.replace(federation={"rounds": 2, "sampled": 4})
    configs = clients(CLIENTS)
    configs[5] = {"partition-id": 1}
    _, records = made(settings, Loopback(configs), wait=0.01)
    assert [record["left_out"] for record in records] == [{"1": "its node is not connected"}] * 2
    assert "refused: node 5, 999: more than one is client 1" in capfd.readouterr().err

    late = Loopback(clients(CLIENTS))
    honest = late.pull_messages

    def joined(ids):
        late.configs.setdefault(5, {"partition-id": 1})
        return honest(ids)

    late.pull_messages = joined
    _, records = made(settings, late, wait=0.01)
    assert all("left_out" not in record for record in records)
    assert "refused: node 5: more than one is client 1" in capfd.readouterr().err


def test_a_node_that_comes_back_under_another_number_takes_its_place(settings):
    settings = settings.replace(federation={"rounds": 2, "sampled": 4})
    grid = Loopback(clients(CLIENTS))
    whole, _ = made(settings)
    nodes = Nodes(grid, settings, own_rows=False, wait=0.1)
    nodes.connect()
    grid.configs.pop(1000)
    grid.configs[50] = {"partition-id": 0}
    folder = keys.run_folder(settings)
    folder.mkdir(parents=True)
    steps.run_federation(settings, folder, nodes)
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == whole


def test_what_a_node_writes_is_one_printable_line():
    text = messages.printable("a\x1b[31m\nb" + "c" * 1000)
    assert len(text) == messages.LONGEST and "\n" not in text and "\x1b" not in text
