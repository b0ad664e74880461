"""Small Llamas made here: their tokenizers, random weights, and next-token training.

`train_scratch` makes the base of `model.base: scratch`; `world_training` the world's models."""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from fedlib import sources
from fedlib.models import templates
from fedlib.settings import machine
from fedlib.settings.errors import DataError
from fedlib.settings.schema import Settings

logging.disable_progress_bar()

Report = Callable[[int, int, float], None]  # step, steps, loss

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %} <user> {{ m['content'] }} <assistant>"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
AT_A_TIME = 8  # batches that are cut together from texts sorted by length
REPORTED = 50  # steps between two reports; so many last losses are averaged


# --- tokenizers and random weights


def word_tokenizer(vocabulary: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token a word of the vocabulary, split at white space, with a chat template."""
    words = [*SPECIAL.values(), "<user>", "<assistant>", *vocabulary]
    ids = {word: i for i, word in enumerate(words)}
    raw: Any = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        **SPECIAL,
        extra_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
    )


def byte_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of a given vocabulary size, trained on texts; it has no chat template."""
    # every byte has a token, so no word is unknown
    special = {name: token for name, token in SPECIAL.items() if name != "unk_token"}
    raw: Any = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*special.values()],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    raw.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def build(tokenizer: Any, recipe: Mapping) -> LlamaForCausalLM:
    """A Llama with random weights by a recipe's hidden, layers, heads, mlp, length and seed."""
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


# --- training


def one_cycle(model: torch.nn.Module, recipe: Mapping, **options: Any) -> tuple[Any, Any]:
    """(AdamW, schedule): one cycle of the learning rate over the recipe's steps, a tenth rising."""
    rate, steps = recipe["learning_rate"], recipe["steps"]
    optimizer = torch.optim.AdamW(
        model.parameters(), rate, weight_decay=0.01, fused=True, **options
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1
    )
    return optimizer, schedule


def descend(model: torch.nn.Module, loss: Tensor, optimizer: Any, schedule: Any) -> None:
    """One step down the gradient of a loss, clipped to norm 1."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)


def report_step(report: Report | None, step: int, steps: int, loss: Tensor) -> None:
    """Call report(step, steps, loss) every REPORTED steps and at the end, if there is one."""
    if report and (step % REPORTED == 0 or step == steps - 1):
        report(step + 1, steps, loss.item())


def pretrain(
    model: Any, batches: Iterable[Tensor], recipe: Mapping, report: Report | None = None
) -> float:
    """Next-token training in place on batches of ids [B, T] padded with -100.

    Returns the mean of the last losses. report(step, steps, loss) is called now and then."""
    steps, losses = recipe["steps"], []
    optimizer, schedule = one_cycle(model, recipe, betas=(0.9, 0.98))
    model.train()
    for step, padded in zip(range(steps), batches, strict=False):
        labels = padded.to(model.device)
        states = model.model(input_ids=labels.clamp(min=0), use_cache=False).last_hidden_state
        # logits only where there is a next token
        wanted = labels[:, 1:]
        keep = wanted >= 0
        loss = cross_entropy(model.lm_head(states[:, :-1][keep]), wanted[keep])
        descend(model, loss, optimizer, schedule)
        losses.append(loss.detach())
        report_step(report, step, steps, loss)
    model.eval()
    return torch.stack(losses[-REPORTED:]).mean().item()


def padded_batches(
    draw: Callable[[], Sequence[int]], size: int, rng: random.Random
) -> Iterator[Tensor]:
    """Endless batches of ids [size, T] from draw(), padded with -100.

    AT_A_TIME batches are cut from texts sorted by length, so that little is padded, and then
    shuffled."""
    while True:
        drawn = sorted((draw() for _ in range(size * AT_A_TIME)), key=len)
        for i in rng.sample(range(AT_A_TIME), AT_A_TIME):
            part = drawn[i * size : (i + 1) * size]
            longest = len(part[-1])
            yield torch.tensor([[*ids] + [-100] * (longest - len(ids)) for ids in part])


# --- the base of model.base: scratch


def train_scratch(settings: Settings, folder: Path) -> None:
    """Train the base of `model.base: scratch` into folder: a byte-level BPE and a Llama.

    Both learn from the rows of the source's corpus in the run's template. Neither unaligned rows
    nor evaluation prompts are read. DataError where no row fits model.max_length."""
    options, scratch = settings.model, settings.model.scratch
    rows = sources.of(settings).corpus()
    texts = (f"{row['instruction']}\n{row['response']}" for row in rows)
    tokenizer = byte_tokenizer(texts, scratch.vocabulary)
    encoded, dropped = templates.encode(rows, tokenizer, options.template, options.max_length)
    if not encoded:
        raise DataError(f"model.scratch.files: no row fits model.max_length, {options.max_length}")

    recipe = scratch.model_dump() | {"length": 2 * options.max_length, "seed": 0}
    model: Any = build(tokenizer, recipe).to(machine.device(settings.model))
    rng = random.Random("scratch")
    batches = padded_batches(lambda: rng.choice(encoded)[0], scratch.batch_size, rng)
    with open(folder / "losses.jsonl", "w", encoding="utf-8") as log:

        def report(step: int, steps: int, loss: float) -> None:
            print(json.dumps({"step": step, "loss": loss}), file=log, flush=True)

        pretrain(model, batches, recipe, report)

    model.cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    counts = {"rows": len(encoded), "dropped": dropped}
    (folder / "data.json").write_text(json.dumps(counts) + "\n", encoding="utf-8")
