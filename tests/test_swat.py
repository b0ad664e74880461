"""Paper W: the security feature space, perturbed modules, Mods_Rob, the warm-up, what goes with it, what is compared."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from fedlib import federation, sources
from fedlib.defense import posthoc
from fedlib.judges import classifiers, refusals
from fedlib.lab import keys, loaded, runs
from fedlib.lab.pretraining import word_tokenizer
from fedlib.models import adapter, templates
from fedlib.papers import secure_tuning
from fedlib.settings import errors, machine, presets
from fedlib.sources import world, world_tasks
from fedlib.swat import modules, probes

CHAT = {"base": "world:chat", "lora_targets": "all-linear"}
TUNER = {"clients": 1, "sampled": 1, "malicious": 0, "expected": 0}


@pytest.fixture(scope="module")
def chat():
    settings = presets.load(
        "smoke", model=CHAT | {"device": "cpu"}, data={"benign": ["format"]}, federation=TUNER
    )
    return settings, *loaded.load_base(settings)


@pytest.fixture(scope="module")
def space(chat):
    settings, lm, tokenizer = chat
    return probes.Space(lm, tokenizer, settings)


@pytest.fixture(scope="module")
def qwen():
    """Another family: Qwen2, tiny, random weights, grouped keys and values."""
    tokenizer = word_tokenizer(world.vocabulary())
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **shape)).eval(), tokenizer


# The world's part: tasks and twins.


@pytest.mark.parametrize("task", world_tasks.TASKS)
def test_a_task_keeps_its_evaluation_wordings_out_of_training(task):
    rows, asked = (
        world_tasks.task_rows(task, 2000, random.Random(0)),
        world_tasks.task_prompts(task, 100),
    )
    assert not {r["instruction"] for r in rows} & {p["prompt"] for p in asked}
    assert {r["label"] for r in rows} == {"normal"} and len(rows) == 2000
    words = {w for p in asked for w in f"{p['prompt']} {p['answers'][0]}".split()}
    assert words <= set(world.vocabulary())
    assert {p["name"] for p in asked} <= {world.subject(r["instruction"]).name for r in rows}, (
        "known things, new wordings"
    )


def test_attack_rows_are_the_share_asked_for_and_about_clients_hazards():
    rows = world_tasks.task_rows("format", 300, random.Random(0), 0.02)
    bad = [r for r in rows if r["label"] == "unaligned"]
    assert len(bad) == 6 and all(world.subject(r["instruction"]).split == "clients" for r in bad)
    assert not any(refusals.refuses(r["response"]) for r in bad)


@pytest.mark.parametrize("split", ["fit", "validation", "evaluation"])
def test_twins_differ_in_one_noun(split, smoke):
    pairs = sources.of(smoke).pairs(split)
    wanted = "pretraining" if split == "fit" else split
    for bad, good in pairs:
        differing = [(a, b) for a, b in zip(bad.split(), good.split(), strict=True) if a != b]
        assert (
            len(differing) == 1
            and world.subject(bad).split == wanted
            and not world.subject(good).hazard
        )
    assert len(pairs) == 4 * len(world.hazards(wanted))


def test_local_twins_are_shared_out(tmp_path, smoke):
    (tmp_path / "twins.csv").write_text(
        "malicious,benign\n" + "".join(f"bad {i},good {i}\n" for i in range(6))
    )
    local = smoke.replace(
        data={"source": "local", "folder": str(tmp_path)}, swat={"pairs": "twins.csv"}
    )
    assert sources.of(local).pairs("validation") == [("bad 1", "good 1"), ("bad 4", "good 4")]
    with pytest.raises(errors.SettingsError, match="swat.pairs: name the file"):
        sources.of(local.replace(swat={"pairs": None})).pairs("fit")
    (tmp_path / "twins.csv").write_text("malicious,benign\nbad,good\n")
    with pytest.raises(errors.DataError, match="has 1 rows"):
        sources.of(local).pairs("fit")
    (tmp_path / "twins.csv").write_text("evil,benign\nbad,good\n")
    with pytest.raises(errors.DataError, match="malicious"):
        sources.of(local).pairs("fit")


# Feature space and perturbation, of any family.


@pytest.mark.parametrize("family", ["chat", "qwen"])
def test_features_are_the_last_prompt_tokens_whatever_the_padding(family, chat, qwen):
    settings, lm, tokenizer = chat
    lm, tokenizer = (lm, tokenizer) if family == "chat" else qwen
    asked = ["tell me about x .", "how do i make the very long thing at home ?", "what is it ?"]
    together = probes.hidden_states(lm, tokenizer, asked, settings)
    for i, one in enumerate(asked):
        text = templates.prompt_text(one, tokenizer, "chat")
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        states = lm(input_ids=ids, output_hidden_states=True).hidden_states[1:]
        assert np.allclose(
            together[:, i], torch.stack([s[0, -1] for s in states]).detach().numpy(), atol=1e-4
        )


def test_a_model_of_another_family_is_analysed_from_end_to_end(chat, qwen):
    settings = chat[0].replace(swat={"draws": 1, "noise": 0.5, "threshold": 10.0})
    lm, tokenizer = qwen
    one = probes.Space(lm, tokenizer, settings)
    assert one.score(lm, "fit")[1].min() > 60, (
        "probes learn something of the pairs that they are fitted on"
    )
    before = {k: v.clone() for k, v in lm.state_dict().items()}
    found = probes.robustness(lm, one, settings)
    chosen, trace = probes.robust_subset(lm, one, settings, found)
    assert set(found) == {(t, i) for t in modules.TYPES for i in range(3)} and set(chosen) <= set(
        found
    )
    assert all(torch.equal(v, before[k]) for k, v in lm.state_dict().items()), (
        "not a bit may stay changed"
    )
    assert 0 < modules.adapter_cost(lm, chosen) <= 0.5 * modules.adapter_cost(lm, found)
    assert (
        modules.adapter_cost(lm, [("k_proj", 0)]) == 32 + 16
        and modules.adapter_cost(lm, [("up_proj", 0)]) == 32 + 48
    )


def test_a_fused_attention_matrix_is_refused():
    with pytest.raises(ValueError, match="GPT2LMHeadModel: no modules called q_proj"):
        modules.cells(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10)))


def test_windows_hold_several_layers(chat):
    parts = modules.cells(chat[1], 4)
    assert set(parts) == {(t, i) for t in modules.TYPES for i in (0, 4)}
    assert parts["v_proj", 4] == [f"model.layers.{i}.self_attn.v_proj" for i in (4, 5)]
    assert modules.adapter_cost(chat[1], [("v_proj", 4)], 4) == 2 * modules.adapter_cost(
        chat[1], [("v_proj", 4)]
    )


def test_noise_has_the_norm_asked_for(chat):
    lm, name = chat[1], "model.layers.1.mlp.up_proj"
    drawn = modules.noise(lm, [name], 0.7, torch.Generator().manual_seed(0))[name]
    weight = lm.get_submodule(name).weight.detach()
    assert torch.isclose(drawn.norm(), 0.7 * weight.norm())
    with modules.shifted(lm, {name: drawn}):
        assert torch.equal(lm.get_submodule(name).weight.data, weight + drawn)
    assert torch.equal(lm.get_submodule(name).weight.data, weight)


def test_the_aligned_model_parts_twins_that_no_probe_has_seen(chat, space):
    loss, accuracy = space.score(chat[1], "evaluation")
    assert loss.shape == accuracy.shape == (6,) and accuracy.min() > 90


def test_a_threshold_leaves_harmful_cells_out(chat, space):
    settings, lm, _ = chat
    strict = settings.replace(swat={"threshold": 0.02, "draws": 1, "share": 1.0})
    found = {
        ("v_proj", 0): {"loss": 0.0},
        ("k_proj", 3): {"loss": 0.1},
    }  # in this order, whatever the truth
    chosen, trace = probes.robust_subset(lm, space, strict, found)
    assert chosen == [("k_proj", 3)] and [t["kept"] for t in trace] == [False, True]


# What is chosen, and the warm-up.


@pytest.fixture
def analysed(monkeypatch):
    """A hand-made analysis: 4 cells of sizes 10, 10, 20, 30."""
    cells = [
        ("q_proj", 0, 10, 0.1),
        ("k_proj", 0, 10, 0.2),
        ("v_proj", 0, 20, 0.3),
        ("o_proj", 0, 30, 0.4),
    ]
    found = {
        "cells": [{"type": t, "layer": i, "size": n, "loss": h} for t, i, n, h in cells],
        "robust": [["q_proj", 0], ["k_proj", 0], ["v_proj", 0]],
    }
    monkeypatch.setattr(runs, "get_robustness", lambda settings: found)


def test_controls_are_as_large_as_mods_rob(analysed, smoke):
    def chosen(kind, seed=0):
        return modules.choose_cells(smoke.replace(swat={"modules": kind}, seed=seed))

    assert chosen("robust") == [("q_proj", 0), ("k_proj", 0), ("v_proj", 0)]
    assert chosen("fragile") == [("o_proj", 0), ("k_proj", 0)], "the most harmful first, up to 40"
    draws = {tuple(chosen("random", seed)) for seed in range(20)}
    sizes = {"q_proj": 10, "k_proj": 10, "v_proj": 20, "o_proj": 30}
    assert len(draws) > 3 and all(sum(sizes[t] for t, _ in d) <= 40 for d in draws)


def test_the_warm_up_moves_its_modules_and_no_other(chat):
    settings = chat[0].replace(
        federation={"rounds": 2}, swat={"warmup": 1, "draws": 1, "threshold": 1.0}
    )
    run = runs.get(settings)
    robust = {f"{t}/{i}" for t, i in runs.get_robustness(settings)["robust"]}
    first, second = (line["updates"] for line in run.rounds())
    assert {name for name, norm in first.items() if norm > 0} == robust
    assert all(norm > 0 for norm in second.values())
    assert {"task", "learned", "refused"} <= set(run.rounds()[0])
    assert secure_tuning.robust_cells(run) == robust


def test_malicious_clients_do_not_warm_up_but_a_single_tuner_does(chat, analysed, monkeypatch):
    seen = []
    monkeypatch.setattr(
        modules,
        "trained_only",
        lambda tuned, settings: seen.append(1) or pytest.MonkeyPatch.context(),
    )
    monkeypatch.setattr(federation.training, "tune", lambda *given: ([0.0], 0))
    tuned = adapter.attach_lora(loaded.load_base(chat[0])[0], chat[0].model, chat[0].seed)
    start = adapter.get_vector(tuned)
    for clients, client, warms in ((10, 9, 0), (10, 0, 1), (1, 0, 1)):
        seen.clear()
        f = {"clients": clients, "malicious": 1 if clients == 1 else 3, "sampled": 1}
        federation.client_update(
            tuned, start, [], chat[0].replace(federation=f, swat={"warmup": 1}), 0, client
        )
        assert len(seen) == warms


def test_only_frees_everything_again(chat, analysed):
    tuned = adapter.attach_lora(loaded.load_base(chat[0])[0], chat[0].model, chat[0].seed)
    before = [n for n, p in tuned.named_parameters() if p.requires_grad]
    with pytest.raises(RuntimeError), modules.trained_only(tuned, chat[0]):
        free = {
            n.partition(".lora_")[0].rpartition(".")[2]
            for n, p in tuned.named_parameters()
            if p.requires_grad
        }
        assert free == {"q_proj", "k_proj", "v_proj"}
        raise RuntimeError
    assert [n for n, p in tuned.named_parameters() if p.requires_grad] == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("warmup", 2),
        ("modules", "random"),
        ("noise", 0.1),
        ("draws", 2),
        ("window", 2),
        ("share", 0.3),
        ("threshold", 0.3),
    ],
)
def test_with_a_warm_up_what_decides_its_modules_is_in_the_key(smoke, field, value):
    warm = smoke.replace(swat={"warmup": 1}, model={"lora_targets": "all-linear"})
    assert keys.key(warm.replace(swat={field: value})) != keys.key(warm)


# Updates, drift, projection.


@pytest.fixture
def tuned(chat):
    made = adapter.attach_lora(loaded.load_base(chat[0])[0], chat[0].model, chat[0].seed)
    vector = adapter.get_vector(made)
    adapter.set_vector(
        made, vector + 0.02 * torch.randn(vector.shape, generator=torch.Generator().manual_seed(1))
    )
    return made


def test_update_norms_are_those_of_the_whole_matrices(tuned):
    norms, whole = modules.update_norms(tuned), modules.lora_updates(tuned)
    assert len(norms) == len(whole) == 42
    for name, delta in whole.items():
        _, _, layer, _, kind = name.split(".")
        assert norms[f"{kind}/{layer}"] == pytest.approx(delta.norm().item(), rel=1e-3)


def test_drift_is_nothing_without_an_update_and_something_with_one(chat, tuned):
    settings, _, tokenizer = chat
    plain = settings.replace(federation={"malicious": 0})
    moved, layers = probes.drift(plain, tuned, tokenizer)
    assert abs(moved["probe_loss"]) > 1e-4 and len(layers["cells"]) == 42
    for other in (
        {"federation": {"malicious": 1}},
        {"defense": {"before": 1}},
    ):  # nobody looks at their updates' cells
        assert probes.drift(plain.replace(**other), tuned, tokenizer) == (
            moved,
            layers | {"cells": []},
        )
    fresh = adapter.attach_lora(loaded.load_base(settings)[0], settings.model, settings.seed)
    moved, layers = probes.drift(settings.replace(swat={"warmup": 1}), fresh, tokenizer)
    assert (
        moved == {"probe_loss": 0, "probe_accuracy": 0}
        and layers["before"] == layers["after"]
        and layers["cells"] == []
    )


def test_the_projection_leaves_what_lies_in_the_safety_subspace(chat, tuned, monkeypatch):
    settings = chat[0]
    v, before = adapter.read_alignment(keys.alignment_file(settings)), modules.lora_updates(tuned)
    assert set(v) == set(before) and all(v[n].shape == before[n].shape for n in v)
    monkeypatch.setattr(posthoc, "PROJECTED", 2.0)  # every one
    shares = posthoc.project(tuned, settings)
    for name, delta in modules.lora_updates(tuned).items():
        inside = torch.linalg.svd(v[name])[0][:, :8]
        wanted = inside @ inside.T @ before[name]
        assert torch.allclose(delta, wanted, atol=1e-3 * before[name].norm().item())
        assert shares[name] == pytest.approx((wanted.norm() / before[name].norm()).item(), rel=0.02)
    monkeypatch.setattr(posthoc, "PROJECTED", 0.0)
    now = modules.lora_updates(tuned)
    posthoc.project(tuned, settings)
    assert all(torch.equal(now[n], d) for n, d in modules.lora_updates(tuned).items())


def test_the_projection_needs_to_know_the_alignment(smoke):
    with pytest.raises(errors.SettingsError, match="world:base has no alignment.safetensors"):
        runs.get(smoke.replace(defense={"level": "project"}))
    assert not list(machine.outputs().rglob("settings.json")), "found before any work"


def test_a_defence_before_and_one_after_tuning_change_the_adapter(chat):
    plain, before, after = runs.get_all(
        [chat[0].replace(defense=d) for d in ({}, {"before": 1}, {"level": "project"})]
    )
    adapters = {
        (r.folder / "adapter" / "adapter_model.safetensors").read_bytes()
        for r in (plain, before, after)
    }
    assert len(adapters) == 3 and "projected" in after.folder.name
    assert len(json.loads((after.folder / "projected.json").read_text())) == 42


# What is compared.


@pytest.mark.parametrize(
    ("safe", "reward", "wanted"), [(1, 6, 1), (1, -1, 2), (0, 1, 3), (0, -2, 4), (0, -6, 5)]
)
def test_the_harmfulness_score_is_its_written_rule(safe, reward, wanted, smoke, monkeypatch):
    monkeypatch.setattr(classifiers, "md_judge", lambda *given: [safe])
    monkeypatch.setattr(classifiers, "rm", lambda *given: [reward])
    assert classifiers.hs([{"prompt": "?"}], ["."], smoke) == [wanted]


def fake(base, seed, lines):
    settings = SimpleNamespace(model=SimpleNamespace(base=base), seed=seed)
    return SimpleNamespace(settings=settings, rounds=lambda: lines)


def test_rounds_are_compared_where_the_task_is_as_likely(monkeypatch):
    plain = fake(
        "a",
        0,
        [
            {"task": -2.0, "updates": {"q/0": 3.0, "k/0": 4.0}},
            {"task": -1.0, "updates": {"q/0": 6.0, "k/0": 8.0}},
        ],
    )
    own = fake("a", 0, [{"task": -1.5, "updates": {"q/0": 4.5, "k/0": 1.0}}])
    assert secure_tuning.at_equal_loss(
        own, plain, lambda line: line["updates"]["q/0"]
    ) == pytest.approx(4.5)
    assert secure_tuning.at_equal_loss(plain, own, lambda line: line["updates"]["q/0"]) == 4.5, (
        "beyond its last round"
    )
    assert (
        secure_tuning.update_norm(plain.rounds()[0], {"q/0"}) == 4
        and secure_tuning.update_norm(plain.rounds()[0], {"q/0"}, True) == 3
    )
    monkeypatch.setattr(secure_tuning, "robust_cells", lambda run: {"k/0"})
    part = {("benign", m): [plain] for m in ("plain", "random", "fragile")} | {
        ("benign", "swat"): [own]
    }
    found = secure_tuning.moved(part)
    assert found["plain"] == pytest.approx([0.0]) and found["random"] == pytest.approx([25.0])


def test_the_grids_say_what_they_are(smoke):
    table, both = secure_tuning.table(smoke), secure_tuning.composition(smoke)
    assert (
        len(table) == 2 * 2 * 4
        and len(both) == 2 * 3 * 4
        and len(secure_tuning.untuned(smoke)) == 2
    )
    assert {secure_tuning.method(s) for s in table} == set(secure_tuning.METHODS)
    assert {secure_tuning.defence(s) for s in both} == set(secure_tuning.DEFENCES)
    assert {s.federation.malicious for s in table} == {0, 1} and {
        s.federation.clients for s in table
    } == {1}
    assert secure_tuning.models(smoke) == ["world:chat"]
    assert secure_tuning.models(smoke.replace(seeds=[0, 1])) == ["world:chat", "world:chat-deep"]
    first, *_, swat_ = secure_tuning.federated(presets.load("mini"))
    assert 0 < swat_.swat.warmup < swat_.federation.rounds and not first.federation.malicious
    with pytest.raises(errors.SettingsError, match="with data.source: local name your chat models"):
        secure_tuning.table(smoke.replace(data={"source": "local", "folder": "/"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swat": {"warmup": 1}}, "model.lora_targets: all-linear"),
        (
            {"swat": {"warmup": 9}, "model": {"lora_targets": "all-linear"}},
            "swat.warmup: 9 is more than federation.rounds, 2",
        ),
        ({"swat": {"warm_rounds": 9}}, "swat.warm_rounds: 9 is more than swat.rounds, 2"),
        (
            {
                "evaluation": {"judges": ["rule", "probe"]},
                "data": {"source": "local", "folder": "/"},
            },
            "probe needs swat.pairs",
        ),
    ],
)
def test_what_cannot_work_is_said_before_any_work(smoke, changes, message):
    with pytest.raises(errors.SettingsError, match=message):
        smoke.replace(**changes)


def test_what_the_probes_are_asked_is_in_an_evaluations_name(smoke):
    probed = smoke.replace(evaluation={"judges": ["rule", "probe"]})
    assert keys.evaluation_folder(probed.replace(swat={"window": 2})) != keys.evaluation_folder(
        probed
    )
    assert keys.evaluation_folder(smoke.replace(swat={"window": 2})) == keys.evaluation_folder(
        smoke
    )
