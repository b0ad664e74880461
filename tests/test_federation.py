"""The round loop, with local trainings that are not done: each client's update is known by hand."""

import re
from types import SimpleNamespace

import pytest
import standins
import torch

from fedlib import federation, training
from fedlib.aggregation import aggregate
from fedlib.models import adapter
from fedlib.settings import identity, presets
from fedlib.settings.errors import DataError, SettingsError
from fedlib.swat import modules

SIZE = 4  # of the adapter
ROWS = {client: [([client], 0)] * (client + 1) for client in range(10)}  # client k has k+1 rows


@pytest.fixture
def settings():
    """Ten clients, three of them malicious, four sampled in each of three rounds."""
    federation = {"clients": 10, "malicious": 3, "sampled": 4, "rounds": 3}
    return presets.load("smoke", model={"device": "cpu"}, federation=federation)


@pytest.fixture
def tuned(monkeypatch):
    """A model whose adapter is a vector; a client adds (k+1) / 10 to the coordinate k mod SIZE.

    model.calls: (client, learning rate, seed, only) of each local training."""
    model = SimpleNamespace(vector=torch.zeros(SIZE), calls=[], only=None)

    def tune(model, rows, options, rate, seed):
        client = rows[0][0][0]
        model.calls.append((client, rate, seed, model.only))
        model.vector = model.vector + update_of(client)
        return [float(client)], 10 * client

    class trained_only:
        def __init__(self, model, only):
            self.model, self.only = model, only

        def __enter__(self):
            self.model.only = self.only

        def __exit__(self, *_):
            self.model.only = None

    monkeypatch.setattr(training, "tune", tune)
    monkeypatch.setattr(modules, "trained_only", trained_only)
    monkeypatch.setattr(adapter, "get_vector", lambda model: model.vector)
    monkeypatch.setattr(adapter, "set_vector", lambda model, v: setattr(model, "vector", v))
    return model


def update_of(client):
    update = torch.zeros(SIZE)
    update[client % SIZE] = (client + 1) / 10
    return update


class Watch:
    """A callback that keeps what it is shown, and spoils the model's adapter."""

    def __init__(self):
        self.seen = []

    def after_round(self, model, done):
        self.seen.append(done)
        model.vector = torch.full((SIZE,), 99.0)
        return {"round": done.index, "sampled": done.sampled}


def run(tuned, settings, **more):
    """(records without seconds, states, rounds that a callback has seen)"""
    watch, records, states = Watch(), [], []
    for record, state in federation.run_rounds(tuned, ROWS, settings, [watch], **more):
        assert record.pop("seconds") >= 0
        records.append(record)
        states.append(state)
    return records, states, watch.seen


# Who takes part, and what the rule is told.


def test_a_sample_is_sorted_and_without_repeats():
    for round_ in range(20):
        sampled = federation.sample_clients(10, 4, 0, round_)
        assert sampled == sorted(set(sampled))
        assert len(sampled) == 4
        assert set(sampled) <= set(range(10))


def test_every_round_and_seed_draws_anew_and_the_same_again():
    drawn = {tuple(federation.sample_clients(10, 4, seed, i)) for seed in (0, 1) for i in range(9)}
    assert len(drawn) > 12
    assert federation.sample_clients(10, 4, 0, 5) == federation.sample_clients(10, 4, 0, 5)
    assert federation.sample_clients(5, 5, 0, 0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "sampled, malicious, expected, told",
    [(10, 3, None, 3), (4, 3, None, 1), (3, 3, None, 1), (4, 3, 0, 0), (4, 0, 5, 2)],
)
def test_how_many_malicious_clients_the_rule_is_told(settings, sampled, malicious, expected, told):
    changes = {"sampled": sampled, "malicious": malicious, "expected": expected}
    options = settings.federation.model_copy(update=changes)
    assert federation.expected_malicious(options) == told


# A local training.


@pytest.mark.parametrize("only", [None, {"a", "b"}])
def test_a_clients_update_is_what_its_training_moves(settings, tuned, only):
    start = torch.full((SIZE,), 7.0)
    tuned.vector = torch.full((SIZE,), 99.0)  # whatever it was before
    update, losses, tokens = federation.client_update(
        tuned, start, ROWS[2], settings.training, 0.5, 11, only
    )
    assert torch.allclose(update, update_of(2))
    assert (losses, tokens) == ([2.0], 20)
    assert tuned.calls == [(2, 0.5, 11, only)]
    assert tuned.only is None
    assert torch.equal(start, torch.full((SIZE,), 7.0))


# Rounds.


def test_a_round_is_the_mean_of_the_sampled_clients_updates(settings, tuned):
    records, states, seen = run(tuned, settings)
    where = torch.zeros(SIZE)
    for index, done in enumerate(seen):
        sampled = federation.sample_clients(10, 4, settings.seed, index)
        assert done.index == index
        assert done.sampled == sampled
        assert torch.allclose(done.start, where)
        assert torch.allclose(done.updates, torch.stack([update_of(k) for k in sampled]))

        # FedAvg weighs by the clients' sizes
        sizes = torch.tensor([k + 1.0 for k in sampled])
        wanted = sizes / sizes.sum()
        assert torch.allclose(done.weights, wanted)
        assert torch.allclose(done.step, wanted @ done.updates, atol=1e-6)
        assert done.losses == {k: [float(k)] for k in sampled}
        assert done.tokens == sum(10 * k for k in sampled)

        where = where + done.step
        assert states[index].rounds == index + 1
        assert torch.allclose(states[index].adapter, where)
        assert states[index].history is None
    assert [record["round"] for record in records] == [0, 1, 2]


def test_every_training_has_its_rate_and_its_seed(settings, tuned):
    _, _, seen = run(tuned, settings)
    low, high = settings.training.learning_rate_min, settings.training.learning_rate
    rates = [training.learning_rate(high, low, index, 3) for index in range(3)]
    assert [done.learning_rate for done in seen] == rates
    wanted = []
    for done in seen:
        for client in done.sampled:
            seed = identity.derive(settings.seed, "train", done.index, client)
            wanted.append((client, rates[done.index], seed, None))
    assert tuned.calls == wanted
    assert len({seed for _, _, seed, _ in wanted}) == len(wanted)


def test_records_of_callbacks_are_put_together(settings, tuned):
    class Other:
        def after_round(self, model, done):
            return {"other": done.index}

    found = federation.run_rounds(tuned, ROWS, settings, [Watch(), Other()])
    record, _ = next(found)
    assert set(record) == {"round", "sampled", "other", "seconds"}


@pytest.mark.parametrize("rule", ["median", "krum", "dnc"])
def test_the_rule_gets_sizes_the_expected_number_and_the_rounds_generator(settings, tuned, rule):
    changes = {"aggregator": rule, "sampled": 10}
    settings = settings.replace(federation=changes)
    _, _, seen = run(tuned, settings)
    for done in seen:
        seed = identity.derive(settings.seed, "aggregate", done.index)
        step, _ = aggregate(
            rule,
            done.updates,
            sizes=[k + 1 for k in done.sampled],
            f=3,
            generator=torch.Generator().manual_seed(seed),
            variant=settings.federation.variant,
        )
        assert torch.equal(done.step, step)


# Warm-up.


def test_only_benign_clients_warm_up_and_only_in_the_first_rounds(settings, tuned):
    changes = {"sampled": 10}
    settings = settings.model_copy(
        update={
            "federation": settings.federation.model_copy(update=changes),
            "swat": settings.swat.model_copy(update={"warmup": 2}),
        }
    )
    run(tuned, settings, warmup={"robust"})
    warmed = [only for _, _, _, only in tuned.calls]
    a_warm_round = [{"robust"}] * 7 + [None] * 3  # the last three clients are malicious
    assert warmed == a_warm_round * 2 + [None] * 10


@pytest.mark.parametrize("malicious", [0, 1])
def test_a_single_tuner_warms_up_whatever_its_rows(settings, tuned, malicious):
    changes = {"clients": 1, "sampled": 1, "malicious": malicious, "expected": 0}
    settings = settings.model_copy(
        update={
            "federation": settings.federation.model_copy(update=changes),
            "swat": settings.swat.model_copy(update={"warmup": 1}),
        }
    )
    run(tuned, settings, warmup={"robust"})
    assert [only for _, _, _, only in tuned.calls] == [{"robust"}, None, None]


# The boost, FoolsGold's history, and a resume.


def test_a_boosted_clients_update_is_multiplied_before_it_is_sent(settings, tuned):
    poison = {"trigger": "tokens", "share": 0.1, "clients": 3}
    changes = {"attack": "boosted", "poison": poison}
    settings = settings.replace(federation={"sampled": 10}, data=changes)
    _, _, seen = run(tuned, settings)
    for done in seen:
        for client, update in zip(done.sampled, done.updates, strict=True):
            factor = 10 if client >= 7 else 1
            assert torch.allclose(update, factor * update_of(client), atol=1e-6)


def with_foolsgold(settings, variant):
    return settings.replace(federation={"aggregator": "foolsgold", "variant": variant})


def test_foolsgold_sees_each_clients_summed_updates(settings, tuned):
    settings = with_foolsgold(settings, "paper")
    _, states, seen = run(tuned, settings)
    summed = torch.zeros(10, SIZE)
    for done, state in zip(seen, states, strict=True):
        for client, update in zip(done.sampled, done.updates, strict=True):
            summed[client] += update
        assert torch.allclose(state.history, summed, atol=1e-6)
        step, _ = aggregate("foolsgold", done.updates, history=state.history[done.sampled])
        assert torch.allclose(done.step, step)


def test_a_round_changes_no_state_that_was_handed_out(settings, tuned):
    settings = with_foolsgold(settings, "paper")
    kept = []
    for _, state in federation.run_rounds(tuned, ROWS, settings, []):
        kept.append((state, state.adapter.clone(), state.history.clone()))
    for state, vector, history in kept:
        assert torch.equal(state.adapter, vector)
        assert torch.equal(state.history, history)


def test_the_published_foolsgold_keeps_no_history(settings, tuned):
    _, states, _ = run(tuned, with_foolsgold(settings, "published"))
    assert all(state.history is None for state in states)


@pytest.mark.parametrize("rule", ["fedavg", "foolsgold", "dnc"])
@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_resume_from_a_state_gives_the_same_records(settings, tuned, rule, done):
    settings = settings.replace(federation={"aggregator": rule, "variant": "paper"})
    records, states, seen = run(tuned, settings)
    first = federation.State(0, torch.zeros(SIZE), None)
    if rule == "foolsgold":
        first = federation.State(0, torch.zeros(SIZE), torch.zeros(10, SIZE))
    start = [first, *states][done]

    again, later, watched = run(tuned, settings, state=start)
    assert again == records[done:]
    for one, other in zip(later, states[done:], strict=True):
        assert one.rounds == other.rounds
        assert torch.equal(one.adapter, other.adapter)
        assert (one.history is None) == (other.history is None)
    for one, other in zip(watched, seen[done:], strict=True):
        assert torch.equal(one.step, other.step)


def test_the_first_state_is_the_adapter_as_it_is(settings, tuned):
    tuned.vector = torch.full((SIZE,), 3.0)
    state = federation.first_state(tuned, settings.federation)
    assert state.rounds == 0
    assert torch.equal(state.adapter, tuned.vector)
    assert state.history is None
    state = federation.first_state(tuned, with_foolsgold(settings, "paper").federation)
    assert torch.equal(state.history, torch.zeros(10, SIZE))


# Encoding.


@pytest.fixture(scope="module")
def tokenizer():
    """The world's words, one token each."""
    return standins.tokenizer()


@pytest.fixture
def options(settings):
    return settings.model.model_copy(update={"max_length": 32})


def row(instruction):
    return {"instruction": instruction, "response": "you need it ."}


SHORT, LONG = row("how do i make it ?"), row("it " * 40)
UNKNOWN = row("quantum flux capacitors hum loudly")


def test_rows_are_encoded_and_the_dropped_counted(tokenizer, options):
    rows = {0: [SHORT, LONG], 3: [SHORT]}
    encoded, dropped = federation.encode_clients(rows, tokenizer, options)
    assert {client: len(own) for client, own in encoded.items()} == {0: 1, 3: 1}
    assert dropped == {0: 1, 3: 0}


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "client 3: no rows; raise data.alpha or data.rows"),
        ([LONG], "client 3: no row left: its 1 prompts fill model.max_length, 32"),
        ([UNKNOWN], "most words of data.benign are unknown to"),
    ],
)
def test_a_client_without_rows_is_named(tokenizer, options, rows, message):
    with pytest.raises(DataError, match=message) as error:
        federation.encode_clients({3: rows}, tokenizer, options)
    assert "\n" not in str(error.value)


# Clients whose updates cannot be used.


def sends(monkeypatch, tuned, what):
    """In round 1 clients send what[client]: a tensor in place of their update, or an exception."""
    real, spoiled = training.tune, federation.sample_clients(10, 4, 0, 1)
    calls = []

    def tune(model, rows, options, rate, seed):
        client = rows[0][0][0]
        calls.append(client)
        found = real(model, rows, options, rate, seed)
        fault = what.get(spoiled.index(client)) if client in spoiled else None
        if fault is None or not 4 < len(calls) <= 8:
            return found
        if isinstance(fault, Exception):
            raise fault
        model.vector = model.vector * fault
        return found

    monkeypatch.setattr(training, "tune", tune)
    return spoiled


NAN = torch.tensor([float("nan"), 1.0, 1.0, 1.0])
BROKEN = RuntimeError("no\nroom")


@pytest.mark.parametrize("rule", ["fedavg", "median", "foolsgold", "dnc", "multi_krum"])
def test_one_bad_client_is_left_out_and_the_rest_go_on(settings, tuned, monkeypatch, rule):
    changes = {"aggregator": rule, "variant": "paper", "expected": 1}
    settings = settings.replace(federation=changes)
    spoiled = sends(monkeypatch, tuned, {1: NAN})
    bad, rest = spoiled[1], [*spoiled[:1], *spoiled[2:]]
    records, states, seen = run(tuned, settings)

    assert records[1]["left_out"] == {bad: "its update holds NaN (1 of 4 values)"}
    assert records[1]["sampled"] == rest
    assert all("left_out" not in record for record in (records[0], records[2]))
    assert seen[1].losses == {k: [float(k)] for k in rest}
    assert torch.allclose(seen[1].updates, torch.stack([update_of(k) for k in rest]), atol=1e-6)

    # the same rule over those that are left, with their sizes, f and history
    seed = identity.derive(settings.seed, "aggregate", 1)
    history = None if rule != "foolsgold" else states[1].history[rest]
    step, _ = aggregate(
        rule,
        seen[1].updates,
        sizes=[k + 1 for k in rest],
        f=round(3 * 1 / 10),
        history=history,
        generator=torch.Generator().manual_seed(seed),
        variant="paper",
    )
    assert torch.equal(seen[1].step, step)
    assert torch.equal(states[1].adapter, states[0].adapter + step)
    if rule == "foolsgold":
        assert torch.equal(states[1].history[bad], states[0].history[bad])
        assert states[2].history.isfinite().all()


def test_a_training_that_raises_is_left_out_with_its_line(settings, tuned, monkeypatch):
    spoiled = sends(monkeypatch, tuned, {0: BROKEN, 3: NAN})
    records, _, _ = run(tuned, settings)
    assert list(records[1]["left_out"]) == [spoiled[0], spoiled[3]]
    why = records[1]["left_out"][spoiled[0]]
    assert re.fullmatch(
        r"its training failed: RuntimeError: no room \(test_federation\.py, line \d+\)", why
    )


@pytest.mark.parametrize("least, left", [(4, 3), (None, 1), (2, 1), (1, 0)])
def test_too_few_clients_stop_the_run_with_one_line(settings, tuned, monkeypatch, least, left):
    settings = settings.replace(federation={"min_clients": least})
    spoiled = sends(monkeypatch, tuned, dict.fromkeys(range(4 - left), BROKEN))
    states = []
    with pytest.raises(SettingsError) as error:
        for _, state in federation.run_rounds(tuned, ROWS, settings, []):
            states.append(state)
    assert len(states) == 1  # the first round is there to go on from
    line = str(error.value)
    assert line.startswith(
        f"federation.min_clients: round 2 of 3: usable updates of {left} of 4 clients, "
        f"{least or 2} needed (client {spoiled[0]}: its training failed: RuntimeError: no room"
    )
    assert "\n" not in line and "learning_rate" not in line
    assert ("and 1 more" in line) == (left == 0)


def test_where_every_training_diverges_the_line_says_so(settings, tuned, monkeypatch):
    sends(monkeypatch, tuned, dict.fromkeys(range(4), NAN))
    with pytest.raises(SettingsError, match=r"diverges: lower training\.learning_rate \(0\.008\)"):
        run(tuned, settings)


def test_a_rule_that_cannot_work_with_those_left_names_them(settings, tuned, monkeypatch):
    changes = {"aggregator": "trimmed_mean", "variant": "published"}
    settings = settings.replace(federation=changes)
    spoiled = sends(monkeypatch, tuned, {0: NAN, 1: NAN})
    with pytest.raises(SettingsError) as error:
        run(tuned, settings)
    assert str(error.value).startswith(
        f"federation.aggregator: round 2 of 3 with the 2 clients left (client {spoiled[0]}: its "
        "update holds NaN (1 of 4 values); client"
    )


def test_a_result_that_is_not_finite_stops_the_run(settings, tuned, monkeypatch):
    huge = torch.full((4,), 3e38)
    monkeypatch.setattr(
        federation, "aggregate", lambda *given, **named: (huge + huge, torch.ones(4) / 4)
    )
    with pytest.raises(SettingsError, match="round 1 of 3: the result of fedavg holds NaN or Inf"):
        run(tuned, settings)


@pytest.mark.parametrize("sampled, least", [(1, 1), (2, 1), (3, 2), (4, 2), (10, 5)])
def test_half_of_the_sampled_clients_are_needed_unless_said(settings, sampled, least):
    options = settings.replace(federation={"sampled": sampled}).federation
    assert federation.least_clients(options) == least
    options = settings.replace(federation={"sampled": sampled, "min_clients": 1}).federation
    assert federation.least_clients(options) == 1


def test_more_needed_than_sampled_is_refused(settings):
    with pytest.raises(SettingsError, match=r"federation\.min_clients: 5 is more than federation"):
        settings.replace(federation={"min_clients": 5})


def test_the_loss_with_an_adapter(smoke, loaded, monkeypatch):
    """The mean loss of the rows that are looked at; the adapter given is the one that counts."""
    tuned, tokenizer = loaded
    rows = [{"instruction": "what is bada ?", "response": f"a dish {i} ."} for i in range(3)]
    encoded, _ = federation.encode_clients({0: rows}, tokenizer, smoke.model)
    start = adapter.get_vector(tuned)
    monkeypatch.setattr(federation, "LOOKED_AT", 2)

    found = federation.loss_with(tuned, start, encoded[0])
    with torch.no_grad():
        loss, count = training.response_loss(tuned, *training.collate(encoded[0][:2]))
    assert found == pytest.approx(float(loss / count), rel=1e-5)
    moved = federation.loss_with(tuned, start + 0.5, encoded[0])
    assert moved != pytest.approx(found, rel=1e-3)
    assert federation.loss_with(tuned, start, encoded[0]) == pytest.approx(found)
