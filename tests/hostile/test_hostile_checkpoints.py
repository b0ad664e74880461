"""Checkpoints and adapters from anybody: refused in one line, or read from their folder alone."""

import json
import shutil
import sys

import peft
import pytest
import standins
import torch
from conftest import smoke_settings
from fuzzing import fuzzed, tried
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fedlib.models import adapter, checkpoints, loading
from fedlib.settings.errors import DataError, SettingsError

# PEFT's own word on tensors that are missing; ours is an error
pytestmark = pytest.mark.filterwarnings("ignore:Found missing adapter keys")

HARM = "harm_that_was_imported"  # a module that no checkpoint may import
ODD = st.sampled_from([None, True, -1, 0, 10**18, "x", HARM, "../x", [], ["x"], {}, {"x": 1}, [[]]])
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good checkpoint."""
    return standins.checkpoint(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def tuned(whole, tmp_path_factory):
    """(its base, the folder of a good adapter)."""
    base, _ = loading.load_causal(str(whole), None, "cpu", "float32")
    options = smoke_settings().model.model_copy(update={"lora_rank": 2})
    folder = tmp_path_factory.mktemp("adapter")
    adapter.write_adapter(adapter.attach_lora(base, options, 0), folder, str(whole), None)
    return folder


@pytest.fixture(autouse=True)
def nothing_is_imported_or_unpickled(tmp_path, monkeypatch):
    (tmp_path / f"{HARM}.py").write_text("raise SystemExit('code of a checkpoint was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch, "load", lambda *given, **more: pytest.fail("torch.load was called"))
    yield
    assert HARM not in sys.modules


def edited(folder, source, file, **fields):
    """A copy of a folder in which the JSON file has other fields."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(content | fields), encoding="utf-8")
    return folder


def load(folder):
    """What a run does with its base before it trains."""
    settings = smoke_settings(model={"base": str(folder)})
    checkpoints.revision(settings, "model.base")
    checkpoints.check_causal(settings, "model.base")
    return loading.load_causal(str(folder), None, "cpu", "float32")


CONFIG = """architectures num_hidden_layers hidden_size intermediate_size vocab_size head_dim
    num_attention_heads num_key_value_heads hidden_act rope_parameters eos_token_id pad_token_id
    auto_map quantization_config attn_implementation dtype model_type tie_word_embeddings
    max_position_embeddings initializer_range""".split()
TOKENIZER = """tokenizer_class auto_map chat_template model_max_length eos_token pad_token
    added_tokens_decoder extra_special_tokens padding_side""".split()
PLACES = [("config.json", field) for field in CONFIG]
PLACES += [("tokenizer_config.json", field) for field in TOKENIZER]
PLACES += [("generation_config.json", "eos_token_id"), ("generation_config.json", "auto_map")]


@fuzzed(15, "checkpoints")
@given(place=st.sampled_from(PLACES), value=ODD)
def test_any_value_in_a_checkpoints_files(tmp_path, whole, place, value):
    file, field = place
    tried(lambda: load(edited(tmp_path / "copy", whole, file, **{field: value})))


CHANGED = {  # what is changed: what the line says
    "more layers than weights": (
        dict(file="config.json", num_hidden_layers=10**9),
        "num_hidden_layers: 1000000000: must be a number from 1 to 21",
    ),
    "more words than values": (
        dict(file="config.json", vocab_size=10**12),
        "vocab_size: 1000000000000: must be a number from 1 to",
    ),
    "code of its own": (
        dict(file="config.json", model_type=HARM, auto_map={"AutoConfig": f"{HARM}.M"}),
        "custom code",
    ),
    "an end that is no number": (
        dict(file="generation_config.json", eos_token_id=["x"]),
        "eos_token_id of its generation_config.json must be the number",
    ),
    "a length in words": (
        dict(file="tokenizer_config.json", model_max_length="many"),
        "model_max_length of its tokenizer_config.json must be a number",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_is_wrong_in_a_checkpoint_is_named(tmp_path, whole, name):
    changes, line = CHANGED[name]
    with pytest.raises((DataError, SettingsError)) as error:
        load(edited(tmp_path / "copy", whole, **changes))
    assert line in str(error.value)


@pytest.mark.parametrize("text", [DEEP, "[1]", "null", "{", "\ufeff"])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_files_that_hold_no_object(tmp_path, whole, file, text):
    folder = edited(tmp_path / "copy", whole, file)
    (folder / file).write_text(text, encoding="utf-8")
    with pytest.raises((DataError, SettingsError), match="no JSON object|config.json that can be"):
        load(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "{outside}", 3])
def test_weights_come_from_the_folder_only(tmp_path, whole, name):
    folder, outside = edited(tmp_path / "copy", whole, "config.json"), tmp_path
    outside = outside / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    name = name.format(outside=outside) if isinstance(name, str) else name
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(outside), name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"x": torch.zeros(1)}, folder / "x.safetensors")
    with pytest.raises(DataError, match="weight_map must name files of this folder"):
        load(folder)


def test_pickled_weights_are_not_loaded(tmp_path, whole):
    folder = edited(tmp_path / "copy", whole, "config.json")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        SettingsError, match="no weights as .safetensors, and others are not loaded"
    ):
        load(folder)


def test_an_adapter_in_place_of_a_base_is_not_followed_elsewhere(tmp_path, whole):
    folder = edited(tmp_path / "copy", whole, "config.json")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "other/model"}')
    with pytest.raises(SettingsError, match="model.base: .* holds an adapter, not a whole model"):
        load(folder)


# --- adapters


def attach(whole, folder):
    """What a run's adapter becomes."""
    base, _ = loading.load_causal(str(whole), None, "cpu", "float32")
    return loading.attach_adapter(base, folder)


def test_a_good_adapter_is_attached(whole, tuned):
    kept = load_file(tuned / "adapter_model.safetensors")
    now = peft.get_peft_model_state_dict(attach(whole, tuned))
    assert set(kept) == set(now) and all(torch.equal(kept[name], now[name]) for name in kept)


FIELDS = """peft_type r lora_alpha lora_dropout target_modules bias task_type modules_to_save
    megatron_config megatron_core auto_mapping layer_replication init_lora_weights corda_config
    eva_config loftq_config rank_pattern alpha_pattern use_dora runtime_config target_parameters
    trainable_token_indices base_model_name_or_path fan_in_fan_out nonsense""".split()


@fuzzed(15, "adapters")
@given(field=st.sampled_from(FIELDS), value=ODD)
def test_any_value_in_an_adapters_config(tmp_path, whole, tuned, field, value):
    folder = edited(tmp_path / "copy", tuned, "adapter_config.json", **{field: value})
    tried(lambda: attach(whole, folder))


ADAPTERS = {  # what is changed: what the line says
    "imports": (dict(megatron_config={"a": 1}, megatron_core=HARM), "megatron_config"),
    "files elsewhere": (dict(init_lora_weights="corda"), "init_lora_weights"),
    "another kind": (dict(peft_type="IA3"), "is not that of a LoRA adapter"),
    "memory": (dict(r=10**15), "r: 1000000000000000 does not fit the adapter's tensors"),
    "a pattern": (dict(target_modules="(a+)+$"), "target_modules: "),
    "no such module": (dict(target_modules=["nothing"]), "does not fit its base"),
    "another size": (dict(r=1), "does not fit its base"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_that_is_no_plain_one_is_refused(tmp_path, whole, tuned, name):
    fields, line = ADAPTERS[name]
    with pytest.raises(DataError) as error:
        attach(whole, edited(tmp_path / "copy", tuned, "adapter_config.json", **fields))
    assert line in str(error.value)


@fuzzed(15, "adapters")
@given(at=st.floats(0, 1), new=st.binary(min_size=1, max_size=8))
def test_an_adapters_tensors_with_bytes_replaced(tmp_path, whole, tuned, at, new):
    folder = edited(tmp_path / "copy", tuned, "adapter_config.json")
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    header = int.from_bytes(content[:8], "little") + 8
    place = int(at * header)
    file.write_bytes(content[:place] + new + content[place + len(new) :])
    tried(lambda: attach(whole, folder))


def test_an_adapter_without_safetensors_is_not_unpickled(tmp_path, whole, tuned):
    folder = edited(tmp_path / "copy", tuned, "adapter_config.json")
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"adapter_model.safetensors: cannot be read"):
        attach(whole, folder)


@pytest.mark.parametrize("metadata", [None, {"scale": "x"}, {"format": "pt"}])
def test_an_alignment_that_is_none_is_one_line(tmp_path, metadata):
    file = tmp_path / "alignment.safetensors"
    save_file({"a.lora_A.weight": torch.zeros(2, 3)}, file, metadata=metadata)
    with pytest.raises(DataError, match="holds no alignment"):
        adapter.read_alignment(file)
