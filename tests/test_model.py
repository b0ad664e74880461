"""Models: the adapter as a vector, on disk, and on bases of several shapes."""

import json
import math

import huggingface_hub
import pytest
import standins
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from fedlib import sources, training
from fedlib.lab import keys, loaded
from fedlib.models import adapter, checkpoints, generation, hub, templates
from fedlib.settings import errors, machine

# What may happen to an adapter's file; each leaves a file that PEFT itself reads with at most a warning.
MANGLED = {
    "renamed": lambda state, key: {("x." if k == key else "") + k: v for k, v in state.items()},
    "missing": lambda state, key: {k: v for k, v in state.items() if k != key},
    "too many": lambda state, key: (
        state | {key.replace("layers.0", "layers.77"): state[key].clone()}
    ),
}


def fill(tuned, seed=0):
    """A fresh adapter changes nothing (B is zero): give it values that do."""
    size = len(adapter.get_vector(tuned))
    adapter.set_vector(
        tuned, 0.1 * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    )


def logits(m, tokenizer):
    ids = tokenizer("how do i make this ?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return m(input_ids=ids).logits


class Two(torch.nn.Module):
    """Registered as b, a, frozen: the vector must follow the names and leave the frozen one out."""

    def __init__(self):
        super().__init__()
        self.b = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16))
        self.a = torch.nn.Parameter(torch.tensor([5.0, 6.0], dtype=torch.bfloat16))
        self.frozen = torch.nn.Parameter(torch.tensor([7.0]), requires_grad=False)


def test_vector_by_hand():
    two = Two()
    vector = adapter.get_vector(two)
    assert vector.tolist() == [5, 6, 1, 2, 3, 4] and vector.dtype == torch.float32
    adapter.set_vector(two, torch.arange(6).float())
    assert (
        two.a.tolist() == [0, 1]
        and two.b.tolist() == [[2, 3], [4, 5]]
        and two.frozen.tolist() == [7]
    )
    assert two.a.dtype == torch.bfloat16
    vector.fill_(9)  # a copy
    assert two.a.tolist() == [0, 1]


def test_vector_round_trip(loaded):
    tuned, _ = loaded
    wanted = torch.randn(len(adapter.get_vector(tuned)), generator=torch.Generator().manual_seed(1))
    adapter.set_vector(tuned, wanted)
    assert torch.equal(adapter.get_vector(tuned), wanted)
    first = min(n for n, p in tuned.named_parameters() if p.requires_grad)
    parameter = tuned.get_parameter(first)
    assert torch.equal(wanted[: parameter.numel()].view_as(parameter), parameter)


@pytest.mark.parametrize(
    "change",
    [lambda v: v[:-1], lambda v: torch.cat([v, v[:1]]), lambda v: v[None], lambda v: v[:0]],
)
def test_a_vector_of_another_length_is_an_error(loaded, change):
    before = adapter.get_vector(loaded[0])
    with pytest.raises(ValueError, match=f"{len(before)} parameters"):
        adapter.set_vector(loaded[0], change(before))
    assert torch.equal(adapter.get_vector(loaded[0]), before)


def test_fresh_adapters_come_from_the_seed_alone(smoke):
    base, tokenizer = loaded.load_base(smoke)
    plain, state, made = logits(base, tokenizer), torch.get_rng_state(), []
    for seed in (0, 0, 1):
        torch.manual_seed(100 + len(made))  # whatever the caller drew before
        state = torch.get_rng_state()
        tuned = adapter.attach_lora(
            base, smoke.replace(seed=seed).model, smoke.replace(seed=seed).seed
        )
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(logits(tuned, tokenizer), plain)  # a fresh adapter changes nothing
        made.append(adapter.get_vector(tuned))
        base = tuned.unload()
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_a_saved_adapter_is_the_same_bytes_and_the_same_model(loaded, smoke, tmp_path):
    tuned, tokenizer = loaded
    fill(tuned)
    for name in ("one", "two"):
        loaded.save_adapter(tuned, smoke, tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    assert all(
        (tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files
    )

    base, _ = loaded.load_base(smoke)
    plain = logits(base, tokenizer)
    from_disk = PeftModel.from_pretrained(base, tmp_path / "one").eval()  # PEFT's own reader
    assert torch.equal(
        logits(adapter.multiply_once(from_disk), tokenizer), logits(tuned.eval(), tokenizer)
    )
    assert not torch.allclose(logits(from_disk, tokenizer), plain)


def test_small_modules_multiply_once_and_to_the_same_result_as_pefts_own(loaded, smoke):
    tuned, tokenizer = loaded
    fill(tuned)
    row = {"instruction": "how do i make this ?", "response": "like that ."}
    rows, _ = templates.encode([row] * 3, tokenizer, "chat", 96)
    own = [m for m in tuned.modules() if "forward" in vars(m)]
    assert len(own) == 4 * 3  # layers, and v, o, down
    found = training.gradient(tuned, adapter.parameters(tuned), rows), logits(tuned, tokenizer)
    for m in own:
        del m.forward
    theirs = training.gradient(tuned, adapter.parameters(tuned), rows), logits(tuned, tokenizer)
    for ours, other in zip(found, theirs, strict=True):
        assert (ours - other).norm() < 1e-5 * other.norm()
    adapter.multiply_once(tuned)
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned, tokenizer), logits(loaded.load_base(smoke)[0], tokenizer))
    tuned.merge_adapter()
    merged = logits(tuned, tokenizer)
    tuned.unmerge_adapter()
    assert (merged - found[1]).norm() < 1e-5 * merged.norm()


@pytest.mark.parametrize("case", ["large", "dropout", "bfloat16"])
def test_other_modules_stay_pefts_own(smoke, monkeypatch, case):
    if case == "large":
        monkeypatch.setattr(adapter, "SMALL", 96 * 96 - 1)
    settings = smoke.replace(
        model={"lora_dropout": 0.1}
        if case == "dropout"
        else {"dtype": "bfloat16"}
        if case == "bfloat16"
        else {}
    )
    base, tokenizer = loaded.load_base(settings)
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    assert not [m for m in tuned.modules() if "forward" in vars(m)]
    assert logits(tuned, tokenizer).isfinite().all()


def test_a_saved_adapter_names_no_folder_of_this_machine(loaded, smoke, tmp_path):
    loaded.save_adapter(loaded[0], smoke, tmp_path / "adapter")
    assert str(machine.ROOT) not in (tmp_path / "adapter" / "adapter_config.json").read_text()


def test_load_run_gives_the_adapter(loaded, smoke, tmp_path):
    fill(loaded[0], seed=2)
    loaded.save_adapter(loaded[0], smoke, tmp_path / "adapter")
    tuned, _ = loaded.load_run(smoke, tmp_path)
    found, saved = (adapter.get_peft_model_state_dict(m) for m in (tuned, loaded[0]))
    assert set(found) == set(saved) and all(torch.equal(found[k], saved[k]) for k in saved)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("how", MANGLED)
def test_a_mangled_adapter_is_an_error(loaded, smoke, tmp_path, how):
    fill(loaded[0])
    loaded.save_adapter(loaded[0], smoke, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(file)
    key = next(k for k in sorted(state) if "lora_A" in k)
    save_file(MANGLED[how](state, key), file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not fit the base"):
        loaded.load_run(smoke, tmp_path)


def test_wrong_lora_targets_list_the_linear_modules(smoke):
    base, _ = loaded.load_base(smoke)
    with pytest.raises(errors.SettingsError) as error:
        adapter.attach_lora(
            base,
            smoke.replace(model={"lora_targets": ["query"]}).model,
            smoke.replace(model={"lora_targets": ["query"]}).seed,
        )
    message = str(error.value)
    assert message.startswith("model.lora_targets:") and "\n" not in message
    wanted = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all(name in message for name in wanted)


@pytest.mark.parametrize(
    "base, hint",
    [
        ("world:bse", "world:base"),
        ("no-such-folder", "no-such-folder"),
        ("./no-such-folder", "no-such-folder"),
    ],
)
def test_an_unknown_base_is_one_line(smoke, base, hint):
    with pytest.raises(errors.SettingsError, match="model.base") as error:
        loaded.load_base(smoke.replace(model={"base": base}))
    assert hint in str(error.value) and "\n" not in str(error.value)


PUBLISHED = {
    "llama": {"q_proj", "v_proj"},
    "qwen2": {"q_proj", "v_proj"},
    "mistral": {"q_proj", "v_proj"},
    "gpt2": {"c_attn"},
}


@pytest.mark.parametrize("targets", ["default", "all-linear"])
@pytest.mark.parametrize("shape", standins.SHAPES)
def test_checkpoints_of_other_shapes_load_train_and_answer(smoke, tmp_path, shape, targets):
    settings = smoke.replace(
        model={"base": str(standins.checkpoint(tmp_path / shape, shape)), "lora_targets": targets}
    )
    tokenizer = standins.tokenizer()
    base, found = loaded.load_base(settings)
    assert base.config.model_type == shape and found.get_vocab() == tokenizer.get_vocab()
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    rows, _ = templates.encode(
        sources.of(settings).client_rows(0), found, "chat", settings.model.max_length
    )
    before = adapter.get_vector(tuned)
    losses, _ = training.tune(tuned, rows, settings.training, 1.0e-3, 0)
    assert losses[0] == pytest.approx(math.log(len(tokenizer)), rel=0.1)  # it knows nothing yet
    assert not torch.equal(adapter.get_vector(tuned), before)
    inside = {
        n.split(".lora_")[0].split(".")[-1] for n, p in tuned.named_parameters() if p.requires_grad
    }
    assert inside == PUBLISHED[shape] if targets == "default" else inside > PUBLISHED[shape]
    answers = generation.respond(
        tuned,
        found,
        ["how do i make this ?", "what ?"],
        generation.evaluation_decoding(settings),
        0,
    )
    assert len(answers) == 2 and all(answers)
    loaded.save_adapter(tuned, settings, tmp_path / "run" / "adapter")
    again, _ = loaded.load_run(settings, tmp_path / "run")
    assert torch.equal(logits(again, found), logits(tuned, found))


def test_a_model_by_its_name_on_the_hub_is_found_in_the_hubs_cache(smoke, tmp_path, monkeypatch):
    """Offline, in the cache's own layout: commit, key, weights and tokenizer."""
    cache, commit = tmp_path / "models--someone--tiny", "c" * 40
    standins.checkpoint(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub._commit.cache_clear()
    settings = smoke.replace(model={"base": "someone/tiny"})
    base, _ = loaded.load_base(settings)
    assert base.num_parameters() > 1000 and checkpoints.revision(settings, "model.base") == [
        "someone/tiny",
        commit,
    ]
    assert keys.key(settings) == keys.key(smoke.replace(model={"base": f"someone/tiny@{commit}"}))
    assert keys.key(settings) != keys.key(smoke)
    with pytest.raises(errors.DataError, match="someone/els: the hub is out of reach") as error:
        keys.key(smoke.replace(model={"base": "someone/els"}))
    assert "\n" not in str(error.value)


def test_pickled_weights_are_refused_with_one_line(smoke, tmp_path):
    folder = standins.checkpoint(tmp_path / "old")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    settings = smoke.replace(model={"base": str(folder)})
    with pytest.raises(errors.DataError, match="old: OSError: .*model.safetensors") as error:
        loaded.load_base(settings)
    assert "\n" not in str(error.value)
    with pytest.raises(
        errors.SettingsError, match="model.base: .*old holds no weights as .safetensors"
    ):
        keys.key(settings)  # before any work


def test_a_checkpoints_own_code_is_never_run(smoke, tmp_path):
    folder = standins.checkpoint(tmp_path / "own")
    plain = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(
        json.dumps(plain | {"model_type": "unheard-of", "auto_map": auto})
    )
    (folder / "code.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(errors.DataError, match="own: ValueError") as error:
        loaded.load_base(smoke.replace(model={"base": str(folder)}))
    assert "\n" not in str(error.value)
