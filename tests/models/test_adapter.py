"""The adapter as a vector, multiplying once, on disk and back."""

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedlib import training
from fedlib.lab.loaded import load_base, load_run, save_adapter
from fedlib.models import adapter, templates
from fedlib.settings import errors, machine

# What may happen to an adapter's file. PEFT reads each of these with at most a warning.
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
    draws = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    adapter.set_vector(tuned, 0.1 * draws)


def logits(model, tokenizer):
    ids = tokenizer("how do i make this ?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits


def changed_modules(tuned):
    """The modules whose forward pass is not PEFT's."""
    return [part for part in tuned.modules() if "forward" in vars(part)]


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
    assert two.a.tolist() == [0, 1]
    assert two.b.tolist() == [[2, 3], [4, 5]]
    assert two.frozen.tolist() == [7]
    assert two.a.dtype == torch.bfloat16
    vector.fill_(9)  # a copy
    assert two.a.tolist() == [0, 1]


def test_vector_round_trip(loaded):
    tuned, _ = loaded
    size = len(adapter.get_vector(tuned))
    wanted = torch.randn(size, generator=torch.Generator().manual_seed(1))
    adapter.set_vector(tuned, wanted)
    assert torch.equal(adapter.get_vector(tuned), wanted)
    first = min(name for name, value in tuned.named_parameters() if value.requires_grad)
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


def test_fresh_adapters_come_from_the_seed_only(smoke):
    base, tokenizer = load_base(smoke)
    plain, made = logits(base, tokenizer), []
    for seed in (0, 0, 1):
        torch.manual_seed(100 + len(made))  # whatever the caller drew before
        state = torch.get_rng_state()
        tuned = adapter.attach_lora(base, smoke.model, seed)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(logits(tuned, tokenizer), plain)  # a fresh adapter changes nothing
        made.append(adapter.get_vector(tuned))
        base = tuned.unload()
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_a_saved_adapter_is_the_same_bytes_and_the_same_model(loaded, smoke, tmp_path):
    tuned, tokenizer = loaded
    fill(tuned)
    for name in ("one", "two"):
        save_adapter(tuned, smoke, tmp_path / name)
    one, two = (tmp_path / name / "adapter" for name in ("one", "two"))
    files = sorted(file.name for file in one.iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes()

    base, _ = load_base(smoke)
    plain = logits(base, tokenizer)
    from_disk = peft.PeftModel.from_pretrained(base, one).eval()  # PEFT's own reader
    once = adapter.multiply_once(from_disk)
    assert torch.equal(logits(once, tokenizer), logits(tuned.eval(), tokenizer))
    assert not torch.allclose(logits(from_disk, tokenizer), plain)


def test_small_modules_multiply_once_and_to_the_same_result_as_peft(loaded, smoke):
    tuned, tokenizer = loaded
    fill(tuned)
    row = {"instruction": "how do i make this ?", "response": "like that ."}
    rows, _ = templates.encode([row] * 3, tokenizer, "chat", 96)
    changed = changed_modules(tuned)
    assert len(changed) == 4 * 3  # layers, and v, o, down

    def results():
        gradient = training.gradient(tuned, adapter.parameters(tuned), rows)
        return gradient, logits(tuned, tokenizer)

    ours = results()
    for part in changed:
        del part.forward
    for found, theirs in zip(ours, results(), strict=True):
        assert (found - theirs).norm() < 1e-5 * theirs.norm()

    # Without the adapter, and merged, a module is PEFT's.
    adapter.multiply_once(tuned)
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned, tokenizer), logits(load_base(smoke)[0], tokenizer))
    tuned.merge_adapter()
    merged = logits(tuned, tokenizer)
    tuned.unmerge_adapter()
    assert (merged - ours[1]).norm() < 1e-5 * merged.norm()


CASES = {"large": {}, "dropout": {"lora_dropout": 0.1}, "bfloat16": {"dtype": "bfloat16"}}


@pytest.mark.parametrize("case", CASES)
def test_other_modules_stay_as_peft_made_them(smoke, monkeypatch, case):
    if case == "large":
        monkeypatch.setattr(adapter, "SMALL", 96 * 96 - 1)
    settings = smoke.replace(model=CASES[case])
    base, tokenizer = load_base(settings)
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    assert not changed_modules(tuned)
    assert logits(tuned, tokenizer).isfinite().all()


def test_a_saved_adapter_names_no_folder_of_this_machine(loaded, smoke, tmp_path):
    save_adapter(loaded[0], smoke, tmp_path)
    config = (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert str(machine.ROOT) not in config


def test_load_run_gives_the_adapter(loaded, smoke, tmp_path):
    fill(loaded[0], seed=2)
    save_adapter(loaded[0], smoke, tmp_path)
    tuned, _ = load_run(smoke, tmp_path)
    found, saved = (peft.get_peft_model_state_dict(model) for model in (tuned, loaded[0]))
    assert set(found) == set(saved)
    assert all(torch.equal(found[name], saved[name]) for name in saved)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("how", MANGLED)
def test_a_mangled_adapter_is_an_error(loaded, smoke, tmp_path, how):
    fill(loaded[0])
    save_adapter(loaded[0], smoke, tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(file)
    key = next(name for name in sorted(state) if "lora_A" in name)
    save_file(MANGLED[how](state, key), file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not fit its base"):
        load_run(smoke, tmp_path)


def test_wrong_lora_targets_list_the_linear_modules(smoke):
    base, _ = load_base(smoke)
    options = smoke.replace(model={"lora_targets": ["query"]}).model
    with pytest.raises(errors.SettingsError) as error:
        adapter.attach_lora(base, options, smoke.seed)
    message = str(error.value)
    assert message.startswith("model.lora_targets:") and "\n" not in message
    wanted = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all(name in message for name in wanted)
