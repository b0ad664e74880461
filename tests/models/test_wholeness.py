"""Checkpoints that lack something, or whose parts do not fit: right, or one line."""

import json

import pytest
import standins
import torch
import transformers
from conftest import smoke_settings
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken

from fedlib import federation
from fedlib.lab import runs, steps
from fedlib.lab.loaded import load_base
from fedlib.models import adapter, loading
from fedlib.settings.errors import DataError, SettingsError

HEADS = {
    "a classifier": (transformers.AutoModelForSequenceClassification, "llama"),
    "token labels": (transformers.AutoModelForTokenClassification, "llama"),
    "questions": (transformers.AutoModelForQuestionAnswering, "llama"),
}


def settings_of(folder, **model):
    return smoke_settings(
        model={"device": "cpu", "base": str(folder)} | model, evaluation={"judges": ["rule"]}
    )


def reworded(change):
    """A tokenizer of the world's words, changed before it is saved."""

    def make():
        tokens = standins.tokenizer()
        change(tokens)
        return tokens

    return make


def one_line(error, *parts):
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


@pytest.fixture
def no_training(monkeypatch):
    def train(*_):
        pytest.fail("nothing may be trained")

    monkeypatch.setattr(federation, "client_update", train)


@pytest.mark.parametrize("head", HEADS)
def test_another_head_is_one_line_before_any_work(tmp_path, monkeypatch, head):
    monkeypatch.setattr(steps, "make", lambda *_: pytest.fail("no work may begin"))
    auto, shape = HEADS[head]
    folder = standins.checkpoint(tmp_path / "other", shape, head=auto)
    with pytest.raises(SettingsError) as error:
        runs.get(settings_of(folder))
    one_line(error, "model.base: ", "other is a Llama", "not a causal LM")


def test_more_adapted_layers_than_there_are_is_one_line_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "make", lambda *_: pytest.fail("no work may begin"))
    folder = standins.checkpoint(tmp_path / "small", "llama")
    settings = settings_of(folder).replace(model={"lora_layers": 99})
    with pytest.raises(SettingsError) as error:
        runs.get(settings)
    one_line(error, "model.lora_layers: 99 is more than the", "layers of", "small")


def test_a_masked_lm_is_one_line_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "make", lambda *_: pytest.fail("no work may begin"))
    folder = standins.checkpoint(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError) as error:
        runs.get(settings_of(folder))
    one_line(error, "is a BertForMaskedLM, not a causal LM")


def test_an_adapter_is_no_base(tmp_path):
    folder = standins.checkpoint(tmp_path / "adapter")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(SettingsError) as error:
        runs.get(settings_of(folder))
    one_line(error, "model.base: ", "holds an adapter, not a whole model", "--merged")


@pytest.mark.parametrize("shape, lost", [("llama", "lm_head.weight"), ("qwen2", "norm.weight")])
def test_no_weight_is_made_up(tmp_path, no_training, shape, lost):
    folder = standins.checkpoint(tmp_path / "cut", shape)
    file = folder / "model.safetensors"
    state = load_file(file)
    gone = next(name for name in sorted(state) if name.endswith(lost))
    del state[gone]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(DataError) as error:
        runs.get(settings_of(folder))
    one_line(error, "cut: as a ", f"lacks the weight {gone}")


def test_a_classifier_without_its_head_is_no_judge(tmp_path):
    folder = standins.reward(tmp_path / "reward")
    file = folder / "model.safetensors"
    state = load_file(file)
    del state["score.weight"]
    save_file(state, file, metadata={"format": "pt"})
    settings = smoke_settings(evaluation={"reward": str(folder)}, model={"device": "cpu"})
    with pytest.raises(DataError) as error:
        loading.load_classifier(settings, "evaluation.reward")
    one_line(error, "lacks the weight score.weight")


def test_a_tied_head_is_not_missing_and_a_spare_weight_is_said(tmp_path, capsys):
    folder = standins.checkpoint(tmp_path / "tied", "qwen2", tie_word_embeddings=True)
    file = folder / "model.safetensors"
    state = load_file(file)
    assert "lm_head.weight" not in state
    save_file(state | {"v_head.weight": torch.ones(2)}, file, metadata={"format": "pt"})
    base, _ = load_base(settings_of(folder))
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    said = capsys.readouterr().err
    assert "no place for the weight v_head.weight: left out" in said and said.count("\n") == 1


# The tokenizer.


def test_without_an_end_token_the_one_of_the_models_config_counts(tmp_path):
    def no_end(tokens):
        tokens.eos_token = None
        tokens.add_special_tokens({"additional_special_tokens": ["<eos>"]})

    folder = standins.checkpoint(tmp_path / "t", words=reworded(no_end), eos_token_id=2)
    end = standins.tokenizer().eos_token_id
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": end}))
    _, tokenizer = load_base(settings_of(folder))
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<eos>", end)


def test_without_any_end_token_it_is_one_line(tmp_path, no_training):
    def no_end(tokens):
        tokens.eos_token = None

    folder = standins.checkpoint(tmp_path / "t", words=reworded(no_end))
    with pytest.raises(DataError) as error:
        runs.get(settings_of(folder))
    one_line(error, "t: its tokenizer has no end token", "set eos_token")


def larger(*tokens, special=False, **roles):
    """A checkpoint's tokenizer that gets tokens after the embedding was made."""

    def change(folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens([AddedToken(token, special=special) for token in tokens])
        for role, token in roles.items():
            setattr(tokenizer, role, token)
        tokenizer.save_pretrained(folder)

    return change


def test_tokens_beyond_the_embedding_that_no_text_needs_are_said(tmp_path, capsys):
    folder = standins.checkpoint(tmp_path / "t")
    larger("<pad2>", "<image>", special=True, pad_token="<pad2>")(folder)
    _, tokenizer = load_base(settings_of(folder))
    assert tokenizer.pad_token == tokenizer.eos_token
    said = capsys.readouterr().err
    assert "none for 2 tokens of its tokenizer (<image>, <pad2>): no text may hold them" in said


@pytest.mark.parametrize("role", ["eos_token", "bos_token", "the template"])
def test_tokens_beyond_the_embedding_that_texts_need_are_one_line(tmp_path, no_training, role):
    folder = standins.checkpoint(tmp_path / "t")
    larger("<new>", special=True, **({} if " " in role else {role: "<new>"}))(folder)
    if " " in role:
        (folder / "chat_template.jinja").write_text("<new>{{ messages[0]['content'] }}")
    with pytest.raises(DataError) as error:
        runs.get(settings_of(folder))
    one_line(error, "none for 1 tokens of its tokenizer (<new>), which texts need")


# LoRA's targets.


@pytest.mark.parametrize("targets", [["q_proj", "v_prj"], ["v_prj", "q_proj"]])
def test_a_target_that_fits_nothing_is_named(tmp_path, targets):
    settings = settings_of(standins.checkpoint(tmp_path / "b"), lora_targets=targets)
    base, _ = load_base(settings)
    with pytest.raises(SettingsError) as error:
        adapter.attach_lora(base, settings.model, 0)
    one_line(error, "model.lora_targets: 'v_prj' fits no module; did you mean 'v_proj'?")


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["layers.1.mlp.up_proj"], ["lm_head"]])
def test_targets_that_fit_are_taken(tmp_path, targets):
    settings = settings_of(standins.checkpoint(tmp_path / "b"), lora_targets=targets)
    base, _ = load_base(settings)
    adapted = adapter.attach_lora(base, settings.model, 0).base_model.targeted_module_names
    assert {name for name in adapted if name.endswith(tuple(targets))} == set(adapted) != set()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapters_on_tied_embeddings_are_one_line(tmp_path, target):
    folder = standins.checkpoint(tmp_path / "tied", "qwen2", tie_word_embeddings=True)
    settings = settings_of(folder, lora_targets=["q_proj", target])
    base, _ = load_base(settings)
    with pytest.raises(SettingsError) as error:
        adapter.attach_lora(base, settings.model, 0)
    one_line(error, "model.lora_targets: ", target, "tied embeddings")
