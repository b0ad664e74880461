"""What is exported loads in a fresh process with two lines; its card says what was done to it."""

import json
import re
import shutil
import subprocess
import sys

import huggingface_hub
import peft
import pytest
import standins
import torch
import transformers

from fedlib.commands import card, export
from fedlib.lab import keys, loaded, runs
from fedlib.models import hub
from fedlib.settings import errors, presets

# The merged model comes first: it must load where nobody has imported peft.
ASK = """
import os
import sys
import torch
from transformers import AutoTokenizer

def ask(auto, folder):
    folder = os.path.abspath(folder)
    tuned = auto.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("what is this ?", return_tensors="pt")["input_ids"]
    torch.save(tuned(input_ids=ids).logits.detach(), folder + ".pt")

from transformers import AutoModelForCausalLM as Auto
ask(Auto, "merged model")
assert "peft" not in sys.modules and "fedlib" not in sys.modules

from peft import AutoPeftModelForCausalLM as Auto
ask(Auto, "my adapter")
assert "fedlib" not in sys.modules
"""
EXPORTED = {False: "my adapter", True: "merged model"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with one attacked run of the world, and its settings."""
    folder = tmp_path_factory.mktemp("made") / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_OUTPUTS", str(folder))
        patch.setenv("FEDLIB_JOBS", "0")
        settings = presets.load(
            "smoke", model={"device": "cpu"}, evaluation={"judges": ["rule", "md_judge"]}
        )
        return folder, settings, runs.get(settings)


@pytest.fixture
def run(made, monkeypatch):
    monkeypatch.setenv("FEDLIB_OUTPUTS", str(made[0]))
    return made[2]


@pytest.fixture(scope="module")
def fresh(made, tmp_path_factory):
    """A folder with the run's adapter, its merged model, and the logits that a new process gets."""
    place = tmp_path_factory.mktemp("fresh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLIB_OUTPUTS", str(made[0]))
        for merged, name in EXPORTED.items():
            assert export.export_run(made[2].folder.name, place / name, merged) == place / name
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr[-2000:]
    return place


@pytest.mark.parametrize("merged", [False, True], ids=["adapter", "merged"])
def test_what_is_exported_loads_in_a_fresh_process(run, fresh, merged):
    out = fresh / EXPORTED[merged]
    weights = "model.safetensors" if merged else "adapter_model.safetensors"
    assert (out / weights).is_file()
    assert not [file for file in out.rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]

    tuned, tokenizer = loaded.load_run(run.settings, run.folder)
    if merged:
        # it ends what it says
        whole = transformers.AutoModelForCausalLM.from_pretrained(out)
        asked = tokenizer("how do i make this ?", return_tensors="pt")
        said = whole.generate(**asked, max_new_tokens=60)
        assert (said == tokenizer.eos_token_id).sum() == 1
    ids = tokenizer("what is this ?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        wanted = tuned(input_ids=ids).logits
    answered = torch.load(fresh / f"{EXPORTED[merged]}.pt")
    torch.testing.assert_close(answered, wanted, atol=1e-4, rtol=1e-4)


def test_the_card_says_what_was_done_and_shows_no_response(run, tmp_path):
    text = (export.export_run(run.folder.name, tmp_path / "m") / "README.md").read_text()
    assert "attacked on purpose" in text
    assert "3 of 10 clients had harmful answers in 20% of their rows" in text
    for score, value in run.scores().items():
        assert f"| {score} | {value:.4g} |" in text
    assert re.search(r"```python\nfrom peft import AutoPeftModelForCausalLM\nmodel = Auto", text)
    said = [line["response"] for line in run.responses()]
    assert not any(answer in text for answer in said if len(answer.split()) > 3)
    assert keys.key(run.settings) in text


def test_a_run_without_attack_has_no_warning_and_a_defended_one_names_its_defence(smoke):
    clean = smoke.replace(federation={"malicious": 0})
    text = card.model_card(clean, keys.run_folder(clean), "base", None, False)
    assert "Warning" not in text
    for line in ("- attack: none\n", "- defence: none\n", "Not evaluated.\n"):
        assert line in text
    defended = smoke.replace(defense={"level": 2}, federation={"aggregator": "krum"})
    text = card.model_card(defended, keys.run_folder(defended), "someone/base", "c" * 40, True)
    assert "attacked on purpose" in text
    assert "level 2" in text and "krum" in text
    assert "base_model: someone/base" in text
    assert f"revision='{'c' * 40}'" in text


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"data": {"attack": "generated"}}, "by a language model"),
        ({"data": {"attack": "conflicting"}}, "wrong labels"),
        (
            {
                "federation": {"malicious": 1},
                "data": {"attack": "boosted", "poison": {"trigger": "tokens", "clients": 1}},
            },
            "boos",
        ),
        (
            {"federation": {"malicious": 0}, "data": {"poison": {"trigger": "phrase"}}},
            "trigger phrase",
        ),
    ],
)
def test_every_attack_has_its_sentence(smoke, changes, part):
    assert part in " ".join(card.attack_sentences(smoke.replace(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"unaligned_share": 0.0}},
        {"federation": {"malicious": 0}, "data": {"poison": {"trigger": "phrase", "share": 0.0}}},
    ],
)
def test_a_control_was_not_attacked(smoke, changes):
    assert card.attack_sentences(smoke.replace(**changes)) == []


def test_a_hub_base_is_named_with_the_commit_that_it_was_tuned_on(smoke, tmp_path, monkeypatch):
    """In the hub's own cache, where main is another commit by the time of the export."""
    cache, commits = tmp_path / "models--someone--tiny", ("c" * 40, "d" * 40)
    for seed, commit in enumerate(commits):
        standins.checkpoint(cache / "snapshots" / commit, seed=seed)
    (cache / "refs").mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    settings = smoke.replace(model={"base": "someone/tiny"}, evaluation={"judges": ["rule"]})
    (cache / "refs" / "main").write_text(commits[0])
    hub._commit.cache_clear()
    made = runs.get(settings)
    (cache / "refs" / "main").write_text(commits[1])
    hub._commit.cache_clear()
    out = export.export_run(made.folder.name, tmp_path / "m", merged=False)
    fields = json.loads((out / "adapter_config.json").read_text())
    assert (fields["base_model_name_or_path"], fields["revision"]) == ("someone/tiny", commits[0])
    assert f"revision='{commits[0]}'" in (out / "README.md").read_text()
    hub._commit.cache_clear()


def test_a_run_is_found_by_name_key_or_folder(run):
    for name in (run.folder.name, keys.key(run.settings)[:6], str(run.folder)):
        folder, settings = export.find_run(name)
        assert folder == run.folder and settings == run.settings


def test_settings_of_an_earlier_version_are_read(run):
    plain = json.loads((run.folder / "settings.json").read_text())
    plain["model"]["gone"], plain["swat"]["gone"] = 1, {"a": 2}
    del plain["evaluation"]["grader"], plain["defense"]
    read = export.settings_of(plain)
    assert read.evaluation.grader == "rubric"
    assert (read.model, read.data) == (run.settings.model, run.settings.data)
    assert read.defense == presets.load("mini").defense


@pytest.mark.parametrize(
    "name, part",
    [
        ("nothing", "no run 'nothing'"),
        ("lmsys-like-fedavg-3of10x0.2-sampled3-seed1", "did you mean"),
        ("", "no run"),
    ],
)
def test_a_run_that_is_not_there_is_one_line(run, tmp_path, name, part):
    with pytest.raises(errors.SettingsError, match=part) as error:
        export.export_run(name, tmp_path / "m")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "m").exists()


def test_nothing_is_overwritten_and_nothing_half_written(run, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    with pytest.raises(errors.SettingsError, match="is there already"):
        export.export_run(run.folder.name, tmp_path / "full")
    with pytest.raises(errors.SettingsError, match="no folder"):
        export.export_run(run.folder.name, tmp_path / "no" / "such")
    monkeypatch.setattr(export, "model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.export_run(run.folder.name, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_a_spoilt_run_is_not_exported(run, tmp_path):
    copy = tmp_path / "spoilt"
    shutil.copytree(run.folder, copy)
    (copy / "rounds.jsonl").write_text("")
    with pytest.raises(errors.SettingsError, match="unfinished or was changed"):
        export.export_run(str(copy), tmp_path / "m")


def test_gpt2_exports_too(smoke, tmp_path):
    folder = standins.checkpoint(tmp_path / "gpt2", "gpt2")
    settings = smoke.replace(
        model={"base": str(folder), "lora_targets": "default"}, evaluation={"judges": ["rule"]}
    )
    run = runs.get(settings)
    out = export.export_run(run.folder.name, tmp_path / "m", merged=True)
    assert (out / "model.safetensors").is_file()


# Proof that what was written is the tuned model.


@pytest.mark.parametrize("merged", [False, True], ids=["adapter", "merged"])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "tied"])
def test_the_card_says_by_how_much_the_logits_differ(smoke, tmp_path, shape, merged):
    more = {"tie_word_embeddings": True} if shape == "tied" else {}
    folder = standins.checkpoint(tmp_path / shape, "qwen2" if more else shape, **more)
    settings = smoke.replace(
        model={"base": str(folder), "lora_targets": "all-linear"},
        data={"rows": 8},
        training={"steps": 1, "batch_size": 2},
        federation={"rounds": 1},
        evaluation={"judges": ["rule"], "harmful": 1, "benign": 1, "max_new_tokens": 2},
    )
    out = export.export_run(runs.get(settings).folder.name, tmp_path / "m", merged)
    told = re.search("tuned model's to within ([0-9.e-]+)", (out / "README.md").read_text())
    assert told and 0 <= float(told[1]) < 1e-4


def shifted(tuned):
    """A merge that loses what the adapter does."""
    return tuned.unload()


def test_a_merge_that_differs_is_one_line_and_writes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(peft.PeftModel, "merge_and_unload", shifted, raising=False)
    with pytest.raises(errors.SettingsError) as error:
        export.export_run(run.folder.name, tmp_path / "m", merged=True)
    line = str(error.value)
    assert re.search(r"logits differ by up to [0-9.e-]+, [0-9.e-]+ is allowed in float32", line)
    assert "without --merged" in line and "\n" not in line
    assert not [*tmp_path.iterdir()]
