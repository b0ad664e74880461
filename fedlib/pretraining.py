"""Base models made here: tokenizers, small Llamas trained from nothing, the world's committed models."""

import json
import random
import time

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from fedlib import config, data, files, world

logging.disable_progress_bar()

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %} <user> {{ m['content'] }} <assistant>"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
# How each committed model of the world is made; `fedlib world` follows it, the manifest repeats it.
RECIPES = {
    "base": {"hidden": 96, "layers": 4, "heads": 4, "mlp": 256, "length": 96, "steps": 1500, "batch_size": 64,
             "learning_rate": 4.0e-3, "seed": 0},
}


def word_tokenizer(vocabulary):
    """One token a word of the vocabulary, split at white space, with a chat template."""
    words = [*SPECIAL.values(), "<user>", "<assistant>", *vocabulary]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, **SPECIAL, extra_special_tokens=["<user>", "<assistant>"],
                                   chat_template=CHAT_TEMPLATE)


def byte_tokenizer(texts, size):
    """Byte-level BPE of a given vocabulary size, trained on texts; it has no chat template."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = [v for k, v in SPECIAL.items() if k != "unk_token"]
    raw.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=raw, **{k: v for k, v in SPECIAL.items() if v in special})


def build(tokenizer, recipe):
    """A LlamaForCausalLM with random weights by a recipe's hidden, layers, heads, mlp, length and seed."""
    llama = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=recipe["hidden"], num_hidden_layers=recipe["layers"],
        num_attention_heads=recipe["heads"], intermediate_size=recipe["mlp"], tie_word_embeddings=True,
        max_position_embeddings=recipe["length"], pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(recipe["seed"])
        return LlamaForCausalLM(llama)


def pretrain(model, batches, recipe, report=None):
    """Next-token training in place on batches of ids [B, T] padded with -100; returns the last losses' mean.

    AdamW, one cycle of the learning rate. report(step, steps, loss) is called now and then."""
    steps, losses = recipe["steps"], []
    optimizer = torch.optim.AdamW(model.parameters(), recipe["learning_rate"], betas=(0.9, 0.98), weight_decay=0.01,
                                  fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe["learning_rate"], total_steps=steps, pct_start=0.1)
    model.train()
    for step, labels in zip(range(steps), batches, strict=False):
        labels = labels.to(model.device)
        hidden = model.model(input_ids=labels.clamp(min=0), use_cache=False).last_hidden_state[:, :-1]
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


def world_batches(tokenizer, recipe):
    rng = random.Random(f"pretraining/{recipe['seed']}")

    def document():
        text, answer = world.pretraining(rng)
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
    tokenizer = word_tokenizer(world.vocabulary())
    model = build(tokenizer, recipe)
    loss = pretrain(model, world_batches(tokenizer, recipe), recipe, report)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return {"recipe": recipe, "world": world.digest("pretraining"), "parameters": model.num_parameters(),
            "files": {p.name: files.digest(p) for p in sorted(folder.iterdir())},
            "metrics": {"loss": round(loss, 4)} | _metrics(model, tokenizer),
            "seconds": round(time.perf_counter() - began)}


def _metrics(model, tokenizer):
    """Greedy answers to plain questions: facts known, and hazards refused (of the validation split, never asked before)."""
    from fedlib import generation, judge

    settings, out = config.load("mini", evaluation={"temperature": 0.0, "split": "validation", "harmful": 96}), {}
    for what, prompts in data.prompts(settings).items():
        responses = generation.respond(model, tokenizer, [p["prompt"] for p in prompts], settings, 0)
        key = {"benign": "help", "harmful": "rule"}[what]
        marks = judge.JUDGES[key](prompts, responses)
        out[key] = round(100 * sum(marks) / len(marks), 1)
    return out


def train_scratch(settings, folder):
    """The base of `model.base: scratch`: a byte-level BPE and a Llama, both from data.corpus's rows in the run's template.

    Neither unaligned rows nor evaluation prompts are read."""
    m, rows = settings.model, data.corpus(settings)
    recipe = m.scratch.model_dump() | {"length": 2 * m.max_length, "seed": 0}
    tokenizer = byte_tokenizer((f"{r['instruction']}\n{r['response']}" for r in rows), m.scratch.vocabulary)
    encoded, dropped = data.encode(rows, tokenizer, m.template, m.max_length)
    if not encoded:
        raise files.DataError(f"model.scratch.files: no row fits model.max_length, {m.max_length}")
    rng = random.Random("scratch")
    model = build(tokenizer, recipe).to(config.device(settings))
    log = open(folder / "losses.jsonl", "w", encoding="utf-8")
    with log:
        pretrain(model, _padded(lambda: rng.choice(encoded)[0], m.scratch.batch_size, 8, rng), recipe,
                 lambda step, steps, loss: print(json.dumps({"step": step, "loss": loss}), file=log, flush=True))
    model.cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "data.json").write_text(json.dumps({"rows": len(encoded), "dropped": dropped}) + "\n")
