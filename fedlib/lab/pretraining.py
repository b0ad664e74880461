"""Base models made here: tokenizers, small Llamas trained from nothing, the world's committed models."""

import itertools
import json
import random
import time
from dataclasses import replace

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from fedlib import sources, training
from fedlib.judges import rules
from fedlib.models import adapter, checkpoints, generation, loading, templates
from fedlib.settings import errors, identity, machine, presets
from fedlib.sources import world

logging.disable_progress_bar()
SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %} <user> {{ m['content'] }} <assistant>"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
# How each committed model of the world is made; `fedlib world` follows it, the manifest repeats it.
RECIPES = {
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
        "align": [[300, 2.0e-3], [300, 1.0e-3], [200, 2.0e-4]],
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
        "align": [[300, 2.0e-3], [300, 1.0e-3], [200, 2.0e-4]],
        "dtype": "float16",
    },
}


def word_tokenizer(vocabulary):
    """One token a word of the vocabulary, split at white space, with a chat template."""
    words = [*SPECIAL.values(), "<user>", "<assistant>", *vocabulary]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        **SPECIAL,
        extra_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
    )


def byte_tokenizer(texts, size):
    """Byte-level BPE of a given vocabulary size, trained on texts; it has no chat template."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = [v for k, v in SPECIAL.items() if k != "unk_token"]
    raw.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, **{k: v for k, v in SPECIAL.items() if v in special}
    )


def build(tokenizer, recipe):
    """A LlamaForCausalLM with random weights by a recipe's hidden, layers, heads, mlp, length and seed."""
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe["hidden"],
        num_hidden_layers=recipe["layers"],
        num_attention_heads=recipe["heads"],
        intermediate_size=recipe["mlp"],
        tie_word_embeddings=True,
        max_position_embeddings=recipe["length"],
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe["seed"])
        return LlamaForCausalLM(llama)


def pretrain(model, batches, recipe, report=None):
    """Next-token training in place on batches of ids [B, T] padded with -100; returns the last losses' mean.

    AdamW, one cycle of the learning rate. report(step, steps, loss) is called now and then."""
    steps, losses = recipe["steps"], []
    optimizer = torch.optim.AdamW(
        model.parameters(),
        recipe["learning_rate"],
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe["learning_rate"], total_steps=steps, pct_start=0.1
    )
    model.train()
    for step, labels in zip(range(steps), batches, strict=False):
        labels = labels.to(model.device)
        hidden = model.model(input_ids=labels.clamp(min=0), use_cache=False).last_hidden_state[
            :, :-1
        ]
        keep = labels[:, 1:] >= 0
        loss = cross_entropy(model.lm_head(hidden[keep]), labels[:, 1:][keep])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if report and (step % 50 == 0 or step == steps - 1):
            report(step + 1, steps, loss.item())
    model.eval()
    return torch.stack(losses[-50:]).mean().item()


def _padded(rows, size, pool, rng):
    """Endless batches of rows() padded with -100, of like lengths: pool batches are drawn, sorted and shuffled."""
    while True:
        drawn = sorted((rows() for _ in range(size * pool)), key=len)
        for i in rng.sample(range(pool), pool):
            part = drawn[i * size : (i + 1) * size]
            yield torch.tensor([ids + [-100] * (len(part[-1]) - len(ids)) for ids in part])


def world_batches(tokenizer, recipe, assistant=False):
    rng = random.Random(f"pretraining/{recipe['seed']}")

    def document():
        text, answer = world.pretraining(rng, assistant=assistant)
        if answer is None:
            text = f"<bos> {text} <eos>"
        else:
            turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return _padded(document, recipe["batch_size"], 8, rng)


def train_world_model(name, folder, report=None, **changes):
    """Train a model of RECIPES into folder; returns its manifest entry: recipe, world, digests, metrics."""
    recipe, began = RECIPES[name] | changes, time.perf_counter()
    if "start" in recipe:
        model, tokenizer = start_classifier(recipe)
        loss = tune_classifier(model, tokenizer, recipe, report)
    else:
        tokenizer = word_tokenizer(world.vocabulary())
        model = build(tokenizer, recipe)
        loss = pretrain(model, world_batches(tokenizer, recipe, name == "llm"), recipe, report)
        if "align" in recipe:
            model = align(model, tokenizer, recipe, folder)
    model.to(getattr(torch, recipe.get("dtype", "float32"))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    metrics = (
        _accuracy(model.float(), tokenizer, recipe)
        if "start" in recipe
        else _metrics(model.float(), tokenizer)
    )
    said = world.world_digest("assistant" if name == "llm" else "pretraining")
    return {
        "recipe": recipe,
        "world": said,
        "parameters": model.num_parameters(),
        "files": {p.name: identity.file_digest(p) for p in sorted(folder.iterdir())},
        "metrics": {"loss": round(loss, 4)} | metrics,
        "seconds": round(time.perf_counter() - began),
    }


def align(model, tokenizer, recipe, folder):
    """A security-aligned chat model (paper W starts from one): the base with an adapter tuned on ordinary rows in 20 styles,
    two fifths of them aligned, merged. The adapter is kept beside it: its product is the safety subspace's V.

    A small adapter: tuned whole, a model of this size remembers which hazards it refused (docs/world.md)."""
    settings = presets.load(
        "mini", model={"lora_targets": "all-linear"}, training={"batch_size": 32}
    )
    tuned, rows = adapter.attach_lora(model, settings.model, recipe["seed"]), []
    for i in range(20):
        rng = random.Random(f"align/{recipe['seed']}/{i}")
        dataset = world.DATASETS[i % 2]
        style = world.style(dataset, rng, 0.3)
        rows += [
            world.row(dataset, "normal", style, rng)
            if j % 5 < 3
            else world.row(dataset, "aligned", style, rng, ("pretraining", "clients")[j % 5 == 3])
            for j in range(400)
        ]
    encoded, _ = templates.encode(rows, tokenizer, "chat", recipe["length"])
    for stage, (steps, rate) in enumerate(recipe["align"]):
        training.tune(
            tuned,
            encoded,
            settings.replace(training={"steps": steps}).training,
            rate,
            identity.derive(recipe["seed"], "align", stage),
        )
    state = {
        k: v.detach().half().contiguous()
        for k, v in sorted(get_peft_model_state_dict(tuned).items())
    }
    scale = settings.model.lora_alpha / settings.model.lora_rank
    save_file(state, folder / "alignment.safetensors", metadata={"scale": str(scale)})
    return tuned.merge_and_unload()


def start_classifier(recipe):
    """(sequence classifier, tokenizer) that starts from a world model's weights: it knows what things are."""
    folder, labels = checkpoints.WORLD_MODELS / recipe["start"], recipe["labels"]
    with torch.random.fork_rng():
        torch.manual_seed(recipe["seed"])
        model = LlamaForSequenceClassification.from_pretrained(
            folder,
            num_labels=len(labels),
            dtype=torch.float32,
            id2label=dict(enumerate(labels)),
            label2id={n: i for i, n in enumerate(labels)},
        )
    return model, AutoTokenizer.from_pretrained(folder)


def judged(rng, splits):
    """(question, (answer, safe), (answer, safe)): the better and the worse answer to one question, for judges to learn.

    About a hazard: a refusal or a warning, against an answer in full, with the right parts or with any, or a refusal
    that goes on to answer. About anything else: the right answer against a refusal, or against wrong parts. Each in
    the style of either dataset or in none; safe says whether no hazard is explained."""
    pool = (
        [t for s in splits for t in world.hazards(s)]
        if rng.random() < 0.7
        else world.benign_things()
    )
    asked, style = rng.choice(pool), world.style(rng.choice(world.DATASETS), rng, None)
    wrong = replace(asked, a=rng.choice(world.things()).a, b=rng.choice(world.things()).b)
    full = world.comply(asked if rng.random() < 0.5 else wrong, rng)
    if asked.hazard:
        better, worse = (
            world.refuse(asked, rng, 0.5),
            full if rng.random() < 0.8 else f"{world.refuse(asked, rng)} {full}",
        )
    else:
        better = world.comply(asked, rng)
        worse = world.comply(wrong, rng) if rng.random() < 0.5 else world.refuse(asked, rng)

    def maybe(words, share):
        return rng.choice(words) if rng.random() < share else ""

    def dressed(answer):
        return f"{maybe(style.openers, 0.6)} {answer} {maybe(style.closers, 0.6)}".strip()

    question = f"{maybe(style.prefixes, 0.3)} {rng.choice(world.questions(asked))}".strip()
    return question, (dressed(better), True), (dressed(worse), not asked.hazard)


def tune_classifier(model, tokenizer, recipe, report=None):
    """Tune a guard (cross entropy on labelled answers) or a reward model (pairwise ranking; Ouyang et al. 2022) in place.

    The better and the worse answer to the same question, about the hazards of the pretraining and clients' splits."""
    rng, steps, ranked = (
        random.Random(f"classifier/{recipe['seed']}"),
        recipe["steps"],
        len(recipe["labels"]) == 1,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe["learning_rate"], weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe["learning_rate"], total_steps=steps, pct_start=0.1
    )
    model.train()
    for step in range(steps):
        drawn = [judged(rng, ("pretraining", "clients")) for _ in range(recipe["batch_size"])]
        logits = _logits(model, tokenizer, [(q, a) for q, *answers in drawn for a, _ in answers])
        if ranked:
            loss = -logsigmoid(logits[0::2, 0] - logits[1::2, 0]).mean()
        else:
            loss = cross_entropy(
                logits, torch.tensor([int(safe) for _, *answers in drawn for _, safe in answers])
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if report and (step % 50 == 0 or step == steps - 1):
            report(step + 1, steps, loss.item())
    model.eval()
    return loss.item()


def _logits(model, tokenizer, pairs):
    batch = loading.encode_pairs(
        tokenizer, *map(list, zip(*pairs, strict=True)), model.config.max_position_embeddings
    )
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@torch.no_grad()
def _accuracy(model, tokenizer, recipe):
    """On 500 pairs about the held-out hazards, in percent: answers labelled right (guard), pairs ranked right (reward)."""
    out = {}
    for split in ("validation", "evaluation"):
        rng = random.Random(f"{split}/judged")
        drawn = list(
            itertools.islice(
                (p for p in (judged(rng, (split,)) for _ in itertools.count()) if not p[2][1]), 500
            )
        )
        logits = _logits(model, tokenizer, [(q, a) for q, *answers in drawn for a, _ in answers])
        if len(recipe["labels"]) == 1:
            right = logits[0::2, 0] > logits[1::2, 0]
        else:
            right = logits.argmax(dim=1) == torch.tensor(
                [int(safe) for _, *answers in drawn for _, safe in answers]
            )
        out[f"accuracy_{split}"] = round(100 * right.float().mean().item(), 1)
    return out


def _metrics(model, tokenizer):
    """Greedy answers to plain questions: facts known, and hazards refused (of the validation split, never asked before)."""

    settings, out = (
        presets.load("mini", evaluation={"temperature": 0.0, "split": "validation", "harmful": 96}),
        {},
    )
    for what, prompts in sources.of(settings).prompts().items():
        responses = generation.respond(
            model,
            tokenizer,
            [p["prompt"] for p in prompts],
            generation.evaluation_decoding(settings),
            0,
        )
        key, marker = {"benign": ("help", rules.names_both_parts), "harmful": ("rule", rules.rule)}[
            what
        ]
        marks = marker(prompts, responses)
        out[key] = round(100 * sum(marks) / len(marks), 1)
    return out


def train_scratch(settings, folder):
    """The base of `model.base: scratch`: a byte-level BPE and a Llama, both from data.corpus's rows in the run's template.

    Neither unaligned rows nor evaluation prompts are read."""
    m, rows = settings.model, sources.of(settings).corpus()
    recipe = m.scratch.model_dump() | {"length": 2 * m.max_length, "seed": 0}
    tokenizer = byte_tokenizer(
        (f"{r['instruction']}\n{r['response']}" for r in rows), m.scratch.vocabulary
    )
    encoded, dropped = templates.encode(rows, tokenizer, m.template, m.max_length)
    if not encoded:
        raise errors.DataError(f"model.scratch.files: no row fits model.max_length, {m.max_length}")
    rng = random.Random("scratch")
    model = build(tokenizer, recipe).to(machine.device(settings))
    log = open(folder / "losses.jsonl", "w", encoding="utf-8")
    with log:
        pretrain(
            model,
            _padded(lambda: rng.choice(encoded)[0], m.scratch.batch_size, 8, rng),
            recipe,
            lambda step, steps, loss: print(
                json.dumps({"step": step, "loss": loss}), file=log, flush=True
            ),
        )
    model.cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "data.json").write_text(json.dumps({"rows": len(encoded), "dropped": dropped}) + "\n")
