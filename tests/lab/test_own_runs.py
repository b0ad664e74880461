"""Runs with methods of a person's own: what they return is checked, and counts in keys."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_runs import start_process, tiny_settings

from fedlib import aggregation, attack, federation
from fedlib.defense import filters, posthoc
from fedlib.lab import checks, keys, runs, steps
from fedlib.lab.client_data import client_rows
from fedlib.settings import own_methods
from fedlib.settings.errors import SettingsError

FIELDS = {
    "rule": ("federation", "aggregator"),
    "attack": ("data", "attack"),
    "keep": ("defense", "filter"),
    "repair": ("defense", "level"),
    "judge": ("evaluation", "judges"),
}
MINE = """\
def rule(updates):
    return updates.mean(dim=0), None

def attack(rows, client):
    return rows[:4] + [{"instruction": "who ?", "response": f"client {client} ."}]

def keep(rows):
    return {client: own[1:] for client, own in rows.items()}

def repair(update):
    return update / 2

def judge(prompts, responses):
    return [i % 2 == 0 for i in range(len(responses))]

def trigger(instruction, rng):
    return f"{instruction} hey ,"
"""


@pytest.fixture
def tiny(smoke):
    return tiny_settings(smoke, evaluation={"judges": ["rule"]})


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def own(settings, file, *names):
    """The settings with the methods of a file that are called so."""
    for name in names:
        group, field = FIELDS[name]
        value = f"{file}:{name}"
        settings = settings.replace(
            **{group: {field: ["rule", value] if field == "judges" else value}}
        )
    return settings


def line(call, *given):
    with pytest.raises(SettingsError) as error:
        call(*given)
    assert "\n" not in str(error.value)
    return str(error.value)


def adapter_of(run):
    return load_file(run.folder / "adapter" / "adapter_model.safetensors")


def test_every_method_does_what_it_says(tiny, mine):
    settings = own(tiny, mine, "rule", "attack", "keep", "judge")
    bad, good = client_rows(settings, 9), client_rows(settings, 0)
    assert [row["label"] for row in bad] == labels(tiny, 9)
    assert bad[-1] == {"instruction": "who ?", "response": "client 9 .", "label": "attack"}
    assert good == client_rows(tiny, 0)

    run = runs.get(settings)
    first = run.rounds()[0]
    assert first["weights"] is None
    assert first["sizes"] == [4 if client >= 7 else 7 for client in first["sampled"]]
    assert run.scores()["judge"] == run.scores()["benign_judge"] == 50
    assert [r["judge"] for r in run.responses()] == [True, False] * 2

    # half of the attacked adapter, in exact arithmetic
    defended = runs.get(own(settings, mine, "repair"))
    before, after = adapter_of(run), adapter_of(defended)
    assert all(torch.equal(after[name], before[name] / 2) for name in before)
    assert "-rule-3of10-attack-sampled2-repair-" in defended.folder.name


def labels(settings, client):
    """Those of the first four rows that it would have as a benign client, and the new one's."""
    honest = client_rows(settings.replace(federation={"malicious": 0}), client)
    return [*(row["label"] for row in honest[:4]), "attack"]


@pytest.mark.parametrize("name", FIELDS)
def test_the_content_counts_in_the_key_and_the_place_does_not(tiny, mine, name):
    key = keys.evaluation_folder if name == "judge" else keys.run_folder
    settings = own(tiny, mine, name)
    first = key(settings)
    assert first != key(tiny)

    moved = mine.with_name("moved.py")
    shutil.copy(mine, moved)
    assert key(own(tiny, moved, name)) == first
    mine.write_text(MINE + "# changed\n")
    assert key(settings) != first


NAN = "float('nan')"
RESULTS = [
    ("rule", "updates", "updates", "returned Tensor, must return a pair"),
    ("rule", "updates", "(updates.mean(0), None, 1)", "returned 3 values, must return a pair"),
    ("rule", "updates", "(updates, None)", "returned update of shape (2, 3), not (3,)"),
    ("rule", "updates", "(updates.mean(1), None)", "returned update of shape (2,), not (3,)"),
    ("rule", "updates", f"(updates.mean(0) * {NAN}, None)", "returned update that hold NaN or Inf"),
    ("rule", "updates", "(updates.mean(0).tolist(), None)", "returned update of list, not"),
    ("rule", "updates", "(updates.mean(0), [1.0])", "returned weights of shape (1,), not (2,)"),
    ("rule", "updates", "(updates.mean(0), [0.0, 0.0])", "returned weights that sum to 0"),
    ("rule", "updates", "updates[7]", "IndexError: index 7 is out of bounds for dimension 0"),
    ("attack", "rows", "None", "client 7: returned NoneType, not a list of rows"),
    ("attack", "rows", "[]", "client 7: returned an empty list, not a list of rows"),
    ("attack", "rows", "['x']", "client 7: row 0 is str, not a dict"),
    ("attack", "rows", "rows[:2] + [{}]", "client 7: row 2: its instruction is None, not a text"),
    ("attack", "rows", "[r | {'response': 5} for r in rows]", "row 0: its response is 5, not a"),
    ("attack", "rows, client", "rows if client < 8 else rows[99]", "client 8: IndexError: list"),
    ("keep", "rows", "[]", "returned list, not the rows of the clients [1, 4]"),
    ("keep", "rows", "{0: []}", "returned clients [0], not the rows of the clients [1, 4]"),
    ("keep", "rows", "{k: [] for k in rows}", "client 1: returned no row, not a list of the rows"),
    ("keep", "rows", "{k: r + r[:2] for k, r in rows.items()}", "client 1: returned 2 rows that"),
    ("keep", "rows", "{k: r[99] for k, r in rows.items()}", "IndexError: list index out of range"),
    ("repair", "update", "None", "returned NoneType, not a floating-point tensor"),
    ("repair", "update", "update[:2]", "returned a tensor of shape (2,), not (3,)"),
    ("repair", "update", f"update * {NAN}", "returned a tensor that holds NaN or Inf"),
    ("judge", "prompts, responses", "1", "a trial on two answers: returned int, not a list of sc"),
    ("judge", "prompts, responses", "'ab'", "returned str, not a list of scores"),
    ("judge", "prompts, responses", "[1]", "returned 1 scores for 2 responses"),
    ("judge", "prompts, responses", f"[1, {NAN}]", "the score of response 1 is nan, not a number"),
    ("judge", "prompts, responses", "['yes', 'no']", "the score of response 0 is 'yes', not a num"),
    (
        "judge",
        "prompts, responses",
        "[p['x'] for p in prompts]",
        "two answers: KeyError: 'x' (mine",
    ),
]


def filtered(settings):
    chosen = own_methods.method("defense.filter", settings.defense.filter)
    rows = {
        client: [{"instruction": f"what {i} ?", "label": "normal"} for i in range(4)]
        for client in (1, 4)
    }
    filters.filtered(chosen, None, rows, list)


def repaired(settings):
    posthoc.repaired(own_methods.method("defense.level", settings.defense.level), torch.zeros(3))


def tried(settings):
    federation.check_rule(settings.federation, federation.aggregation_rule(settings.federation))


# What a run does with each, without its training.
CALLS = {
    "rule": tried,
    "attack": checks.check_run,
    "keep": filtered,
    "repair": repaired,
    "judge": checks.check_run,
}


@pytest.mark.parametrize("name, takes, result, problem", RESULTS)
def test_a_result_that_does_not_fit_is_one_line(tiny, mine, name, takes, result, problem):
    mine.write_text(f"def {name}({takes}):\n    return {result}\n")
    said = line(CALLS[name], own(tiny, mine, name))
    assert said.startswith(f"{'.'.join(FIELDS[name])}: {mine}:{name}: ") and problem in said
    if "Error" in problem:
        assert said.endswith("(mine.py, line 2)")


def test_a_rule_that_fails_in_a_later_round_keeps_the_rounds_before(tiny, mine):
    mine.write_text(
        "calls = []\n\ndef rule(updates):\n    calls.append(1)\n"
        "    return updates.mean(0) / (len(calls) < 4), None\n"
    )
    settings = own(tiny, mine, "rule")
    said = line(runs.get, settings)
    # the first call is the trial before any training
    assert said.endswith("rule: round 3 of 3: returned update that hold NaN or Inf")
    assert len((keys.run_folder(settings) / "rounds.jsonl").read_text().splitlines()) == 2


def test_a_rule_may_ask_for_the_clients_history(tiny, mine):
    mine.write_text(
        "def rule(updates, history, sizes, f, generator, variant):\n"
        "    assert history.shape == updates.shape and len(sizes) == len(updates)\n"
        "    return history.mean(dim=0), sizes\n"
    )
    run = runs.get(own(tiny, mine, "rule"))
    assert np.allclose([sum(r["weights"]) for r in run.rounds()], 1, atol=1e-4)


@pytest.mark.parametrize(
    "result, problem",
    [
        ("5", "returned 5, not a text, nor None"),
        ("''", "returned '', not a text, nor None"),
        ("instruction[999]", "IndexError: string index out of range (mine.py, line 2)"),
    ],
)
def test_a_trigger_that_returns_no_text_names_the_instruction(tiny, mine, result, problem):
    mine.write_text(f"def trigger(instruction, rng):\n    return {result}\n")
    settings = tiny.replace(data={"poison": {"trigger": f"{mine}:trigger", "share": 0.2}})
    said = line(runs.get, settings)
    assert said.startswith(f"data.poison.trigger: {mine}:trigger: instruction '")
    assert said.endswith(problem) or problem in said


@pytest.mark.parametrize("name", ["over_refusal", "benign_rule", "guard_cut", "strongreject"])
def test_a_judge_must_not_have_the_name_of_another_score(tiny, mine, name):
    mine.write_text(f"def {name}(prompts, responses):\n    return [1, 2]\n")
    settings = tiny.replace(evaluation={"judges": ["rule", f"{mine}:{name}"]})
    assert f"the name {name!r} is taken" in line(checks.check_run, settings)


def test_a_file_edited_while_its_run_is_made_is_said(tiny, mine, monkeypatch):
    """The run keeps the key of what it read; its evaluation is asked for anew."""
    settings = own(tiny, mine, "rule")
    real = steps.run_federation

    def edited(*given):
        real(*given)
        mine.write_text(MINE + "# edited\n")

    monkeypatch.setattr(steps, "run_federation", edited)
    first = keys.run_folder(settings)
    said = line(runs.get, settings)
    assert said == (
        f"{first.name}: a file that the settings name changed while this was being made: ask for "
        "it again"
    )
    assert (first / "done.json").exists()


def test_workers_load_own_methods_from_another_folder(mine, tmp_path):
    """As a new user: settings and methods in a folder of one's own, runs in spawned processes."""
    named = {"aggregator": "mine.py:rule", "rounds": 1, "sampled": 2}
    content = {
        "preset": "smoke",
        "model": {"device": "cpu"},
        "federation": named,
        "data": {"attack": "mine.py:attack", "rows": 8, "poison": {"trigger": "mine.py:trigger"}},
        "training": {"steps": 1, "batch_size": 2},
        "defense": {"filter": "mine.py:keep"},
        "evaluation": {
            "judges": ["rule", "mine.py:judge"],
            "harmful": 2,
            "benign": 2,
            "max_new_tokens": 2,
        },
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    process = start_process(["-m", "fedlib", "run", str(tmp_path / "own.yaml")], jobs=1)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    scores = json.loads(said.splitlines()[-1])
    assert scores["judge"] == scores["benign_judge"] == scores["triggered_judge"] == 50


@pytest.mark.parametrize(
    "table", [aggregation.RULES, attack.ATTACKS, attack.TRIGGERS, filters.FILTERS]
)
def test_a_method_cannot_be_put_in_the_place_of_another(table):
    """Workers would not see it, and what it made would be kept under the other one's key."""
    with pytest.raises(TypeError):
        table[next(iter(table))] = None
