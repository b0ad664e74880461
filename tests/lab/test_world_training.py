"""The committed models are as their manifest says; training a world model gives the same bytes."""

import json

import pytest

from fedlib.lab import real_alignment, world_training
from fedlib.models import checkpoints
from fedlib.settings import identity
from fedlib.sources import world, world_documents

MB = 10**6
MANIFEST = json.loads((checkpoints.WORLD_MODELS / "manifest.json").read_text())
RECIPES = world_training.RECIPES | {real_alignment.NAME: real_alignment.RECIPE}
CHANGED = (
    "the world's words changed: every committed model and run was made with the old ones. If that "
    "is meant, raise identity.CODE_VERSION, retrain with `make world`, and pin the new digest."
)


def test_every_recipe_has_its_committed_model():
    folders = {place.name for place in checkpoints.WORLD_MODELS.iterdir() if place.is_dir()}
    assert set(MANIFEST) == set(RECIPES) == folders


def test_the_committed_models_are_small():
    sizes = dict.fromkeys(RECIPES, 0)
    for name in RECIPES:
        files = [file.stat().st_size for file in (checkpoints.WORLD_MODELS / name).iterdir()]
        assert max(files) <= (5 if name == real_alignment.NAME else 4) * MB
        sizes[name] = sum(files)
    assert sum(sizes.values()) - sizes[real_alignment.NAME] <= 12 * MB


@pytest.mark.parametrize("name", RECIPES)
def test_a_committed_model_is_what_its_manifest_says(name):
    entry, folder = MANIFEST[name], checkpoints.WORLD_MODELS / name
    assert {file.name: identity.file_digest(file) for file in folder.iterdir()} == entry["files"]
    assert entry["recipe"] == RECIPES[name]


@pytest.mark.parametrize("name", world_training.RECIPES)
def test_a_world_model_knows_the_worlds_words(name):
    entry, folder = MANIFEST[name], checkpoints.WORLD_MODELS / name
    read = "assistant" if name == "llm" else "pretraining"
    assert entry["world"] == world_documents.world_digest(read), CHANGED
    assert any(file.endswith(".safetensors") for file in entry["files"])
    tokens = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert set(world.vocabulary()) <= set(tokens), CHANGED


def trained(folder, name, **changes):
    """The manifest's entry of a model that was trained into a new folder."""
    folder.mkdir()
    return world_training.train_world_model(name, folder, **changes)


def test_training_a_world_model_twice_gives_the_same_bytes(tmp_path):
    tiny = {"steps": 3, "hidden": 16, "layers": 1, "heads": 2, "mlp": 16, "batch_size": 4}
    first = trained(tmp_path / "a", "base", **tiny)
    again = trained(tmp_path / "b", "base", **tiny)
    other = trained(tmp_path / "c", "base", **tiny, seed=1)
    assert first["files"] == again["files"]
    assert first["metrics"] == again["metrics"]
    assert first["files"]["model.safetensors"] != other["files"]["model.safetensors"]
    assert first["recipe"] == world_training.RECIPES["base"] | tiny
    assert first["world"] == world_documents.world_digest("pretraining")
    assert set(first["files"]) == set(MANIFEST["base"]["files"])


@pytest.mark.parametrize("name", ["guard", "reward"])
def test_training_a_judge_twice_gives_the_same_bytes(tmp_path, name):
    first, again = (
        trained(tmp_path / folder, name, steps=2, batch_size=2)["files"] for folder in ("a", "b")
    )
    assert first == again
    assert set(first) == set(MANIFEST[name]["files"])
