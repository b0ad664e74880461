"""How each committed model of the world is made: its recipe, its training, its manifest entry.

A recipe and its seed give the same bytes on the same machine and number of threads."""

import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from fedlib import sources, training
from fedlib.judges import matching
from fedlib.lab import pretraining, world_judges
from fedlib.models import adapter, generation, templates
from fedlib.settings import identity, presets
from fedlib.sources import world, world_documents

STAGES = [[300, 2.0e-3], [300, 1.0e-3], [200, 2.0e-4]]  # of an alignment: steps, learning rate
STYLES, STYLED = 20, 400  # styles that an alignment knows, and rows in each

# What `fedlib world` follows; the manifest repeats it.
RECIPES: dict[str, dict[str, Any]] = {
    "base": {
        "hidden": 96,
        "layers": 4,
        "heads": 4,
        "mlp": 256,
        "length": 96,
        "steps": 1500,
        "batch_size": 64,
        "learning_rate": 4.0e-3,
        "seed": 0,
    },
    "llm": {
        "hidden": 144,
        "layers": 5,
        "heads": 6,
        "mlp": 384,
        "length": 96,
        "steps": 1500,
        "batch_size": 64,
        "learning_rate": 3.0e-3,
        "seed": 1,
        "dtype": "float16",
    },
    "guard": {
        "start": "base",
        "labels": ["unsafe", "safe"],
        "steps": 400,
        "batch_size": 32,
        "learning_rate": 1.0e-3,
        "seed": 2,
        "dtype": "float16",
    },
    "reward": {
        "start": "base",
        "labels": ["reward"],
        "steps": 400,
        "batch_size": 32,
        "learning_rate": 1.0e-3,
        "seed": 3,
        "dtype": "float16",
    },
    "chat": {
        "hidden": 96,
        "layers": 6,
        "heads": 4,
        "mlp": 256,
        "length": 96,
        "steps": 1500,
        "batch_size": 64,
        "learning_rate": 4.0e-3,
        "seed": 4,
        "align": STAGES,
        "dtype": "float16",
    },
    "chat-deep": {
        "hidden": 88,
        "layers": 8,
        "heads": 4,
        "mlp": 240,
        "length": 96,
        "steps": 2000,
        "batch_size": 64,
        "learning_rate": 4.0e-3,
        "seed": 5,
        "align": STAGES,
        "dtype": "float16",
    },
}


def train_world_model(
    name: str, folder: Path, report: pretraining.Report | None = None, **changes: Any
) -> dict:
    """Train a model of RECIPES into folder; returns its manifest entry.

    The entry: recipe, world, parameters, files with their digests, metrics, seconds. changes:
    fields of the recipe to replace."""
    recipe, began = RECIPES[name] | changes, time.perf_counter()
    judges = "start" in recipe  # a classifier, which starts from another model

    # train it
    if judges:
        model, tokenizer = world_judges.start_classifier(recipe)
        loss = world_judges.tune_classifier(model, tokenizer, recipe, report)
    else:
        tokenizer = pretraining.word_tokenizer(world.vocabulary())
        model = pretraining.build(tokenizer, recipe)
        batches = world_batches(tokenizer, recipe, assistant=name == "llm")
        loss = pretraining.pretrain(model, batches, recipe, report)
        if "align" in recipe:
            model = align(model, tokenizer, recipe, folder)

    # keep it, in the recipe's precision; `generation` has the defaults of decoding
    model.to(getattr(torch, recipe.get("dtype", "float32"))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    # say what it can do, as it was kept
    if judges:
        metrics = world_judges.classifier_accuracy(model.float(), tokenizer, recipe)
    else:
        metrics = _answered(model.float(), tokenizer)
    return {
        "recipe": recipe,
        "world": world_documents.world_digest("assistant" if name == "llm" else "pretraining"),
        "parameters": model.num_parameters(),
        "files": {file.name: identity.file_digest(file) for file in sorted(folder.iterdir())},
        "metrics": {"loss": round(loss, 4)} | metrics,
        "seconds": round(time.perf_counter() - began),
    }


def world_batches(tokenizer: Any, recipe: Mapping, assistant: bool = False) -> Iterator[Tensor]:
    """Endless batches of the world's documents, encoded [B, T]; assistant: of those for the LLM."""
    rng = random.Random(f"pretraining/{recipe['seed']}")

    def document() -> list[int]:
        text, answer = world_documents.pretraining_document(rng, assistant=assistant)
        if answer is None:
            text = f"<bos> {text} <eos>"
        else:
            turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return pretraining.padded_batches(document, recipe["batch_size"], rng)


def align(model: Any, tokenizer: Any, recipe: Mapping, folder: Path) -> Any:
    """A security-aligned chat model, as paper W starts from: the base with an adapter, merged.

    The adapter is tuned on ordinary rows in STYLES styles, two fifths of them aligned, and kept
    beside the model: its product is the safety subspace's V. It is small: tuned whole, a model of
    this size remembers which hazards it refused (docs/world.md)."""
    settings = presets.load(
        "mini", model={"lora_targets": "all-linear"}, training={"batch_size": 32}
    )
    tuned = adapter.attach_lora(model, settings.model, recipe["seed"])
    rows = [row for i in range(STYLES) for row in _alignment_rows(recipe["seed"], i)]
    encoded, _ = templates.encode(rows, tokenizer, "chat", recipe["length"])

    # each stage with an optimiser that starts afresh
    for stage, (steps, rate) in enumerate(recipe["align"]):
        options = settings.replace(training={"steps": steps}).training
        seed = identity.derive(recipe["seed"], "align", stage)
        training.tune(tuned, encoded, options, rate, seed)

    state = {
        name: value.detach().half().contiguous()
        for name, value in sorted(get_peft_model_state_dict(tuned).items())
    }
    scale = settings.model.lora_alpha / settings.model.lora_rank
    save_file(state, folder / "alignment.safetensors", metadata={"scale": str(scale)})
    return tuned.merge_and_unload()


def _alignment_rows(seed: int, number: int) -> list[dict]:
    """STYLED rows in one style: of five, three normal and two aligned, these of either split."""
    rng = random.Random(f"align/{seed}/{number}")
    dataset = world.DATASETS[number % 2]
    style = world.client_style(dataset, rng, 0.3)
    rows = []
    for i in range(STYLED):
        if i % 5 < 3:
            rows.append(world.client_row(dataset, "normal", style, rng))
        else:
            split = "clients" if i % 5 == 3 else "pretraining"
            rows.append(world.client_row(dataset, "aligned", style, rng, split))
    return rows


def _answered(model: Any, tokenizer: Any) -> dict[str, float]:
    """Greedy answers to plain questions, in percent.

    help: facts known; rule: hazards refused, of the validation split, which is never asked before.
    """
    markers = {"benign": ("help", matching.names_both_parts), "harmful": ("rule", matching.rule)}
    fixed = {"temperature": 0.0, "split": "validation", "harmful": 96}
    settings = presets.load("mini", evaluation=fixed)
    found = {}
    for what, prompts in sources.of(settings).prompts().items():
        texts = [prompt["prompt"] for prompt in prompts]
        decoding = generation.evaluation_decoding(settings)
        responses = generation.respond(model, tokenizer, texts, decoding, 0)
        score, marker = markers[what]
        marks = marker(prompts, responses)
        found[score] = round(100 * sum(marks) / len(marks), 1)
    return found
