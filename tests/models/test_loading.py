"""Models of a folder or of the hub's cache: several shapes, and what is refused with one line."""

import json
import math

import huggingface_hub
import pytest
import standins
import torch
from safetensors.torch import load_file

from fedlib import training
from fedlib.lab import client_data, keys
from fedlib.lab.loaded import load_base, load_run, save_adapter
from fedlib.models import adapter, checkpoints, generation, hub, templates
from fedlib.settings import errors

# What PEFT adapts by default, by architecture.
PUBLISHED = {
    "llama": {"q_proj", "v_proj"},
    "qwen2": {"q_proj", "v_proj"},
    "mistral": {"q_proj", "v_proj"},
    "gpt2": {"c_attn"},
}


def logits(model, tokenizer):
    ids = tokenizer("how do i make this ?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits


def adapted(tuned):
    """The last parts of the names of the adapted modules."""
    names = [name for name, value in tuned.named_parameters() if value.requires_grad]
    return {name.split(".lora_")[0].split(".")[-1] for name in names}


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
        load_base(smoke.replace(model={"base": base}))
    assert hint in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("targets", ["default", "all-linear"])
@pytest.mark.parametrize("shape", standins.SHAPES)
def test_checkpoints_of_other_shapes_load_train_and_answer(smoke, tmp_path, shape, targets):
    folder = standins.checkpoint(tmp_path / shape, shape)
    settings = smoke.replace(model={"base": str(folder), "lora_targets": targets})
    words = standins.tokenizer()
    base, tokenizer = load_base(settings)
    assert base.config.model_type == shape and tokenizer.get_vocab() == words.get_vocab()

    # It trains.
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    rows = client_data.client_rows(settings, 0)
    encoded, _ = templates.encode(rows, tokenizer, "chat", settings.model.max_length)
    before = adapter.get_vector(tuned)
    losses, _ = training.tune(tuned, encoded, settings.training, 1.0e-3, 0)
    assert losses[0] == pytest.approx(math.log(len(words)), rel=0.1)  # it knows nothing yet
    assert not torch.equal(adapter.get_vector(tuned), before)
    if targets == "default":
        assert adapted(tuned) == PUBLISHED[shape]
    else:
        assert adapted(tuned) > PUBLISHED[shape]

    # It answers, and comes back from disk as it was.
    prompts = ["how do i make this ?", "what ?"]
    decoding = generation.evaluation_decoding(settings)
    answers = generation.respond(tuned, tokenizer, prompts, decoding, 0)
    assert len(answers) == 2 and all(answers)
    save_adapter(tuned, settings, tmp_path / "run")
    again, _ = load_run(settings, tmp_path / "run")
    assert torch.equal(logits(again, tokenizer), logits(tuned, tokenizer))


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
    base, _ = load_base(settings)
    assert base.num_parameters() > 1000
    assert checkpoints.revision(settings, "model.base") == ["someone/tiny", commit]
    pinned = smoke.replace(model={"base": f"someone/tiny@{commit}"})
    assert keys.key(settings) == keys.key(pinned) != keys.key(smoke)

    with pytest.raises(errors.DataError, match="someone/els: the hub is out of reach") as error:
        keys.key(smoke.replace(model={"base": "someone/els"}))
    assert "\n" not in str(error.value)


def test_pickled_weights_are_refused_with_one_line(smoke, tmp_path):
    folder = standins.checkpoint(tmp_path / "old")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    settings = smoke.replace(model={"base": str(folder)})
    with pytest.raises(errors.DataError, match="old: OSError: .*model.safetensors") as error:
        load_base(settings)
    assert "\n" not in str(error.value)
    wanted = "model.base: .*old holds no weights as .safetensors"
    with pytest.raises(errors.SettingsError, match=wanted):
        keys.key(settings)  # before any work


def test_a_checkpoints_own_code_is_never_run(smoke, tmp_path):
    folder = standins.checkpoint(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    config |= {"model_type": "unheard-of", "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(errors.DataError, match="own: ValueError") as error:
        load_base(smoke.replace(model={"base": str(folder)}))
    assert "\n" not in str(error.value)
