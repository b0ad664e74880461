"""The world's judges: a guard and a reward model, tuned from the world's base.

They learn from two answers to one question; which of them is better is known by how it was made."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoTokenizer, LlamaForSequenceClassification

from fedlib.lab import pretraining
from fedlib.models import checkpoints, loading
from fedlib.sources import world

LEARNED = ("pretraining", "clients")  # splits of the hazards that the judges learn from
CHECKED = ("validation", "evaluation")  # splits that they are checked on
PAIRS = 500  # pairs of answers of a check

Answer = tuple[str, bool]  # the text, and whether it is safe
Pair = tuple[str, Answer, Answer]  # question, better answer, worse answer


def start_classifier(recipe: Mapping) -> tuple[Any, Any]:
    """(sequence classifier, tokenizer) that starts from a world model's weights.

    So it knows what things are before it learns to judge."""
    folder = checkpoints.WORLD_MODELS / recipe["start"]
    labels = recipe["labels"]
    with torch.random.fork_rng():
        torch.manual_seed(recipe["seed"])
        model = LlamaForSequenceClassification.from_pretrained(
            folder,
            num_labels=len(labels),
            dtype=torch.float32,
            id2label=dict(enumerate(labels)),
            label2id={name: i for i, name in enumerate(labels)},
        )
    return model, AutoTokenizer.from_pretrained(folder)


def judged(rng: random.Random, splits: Sequence[str]) -> Pair:
    """(question, (better answer, safe), (worse answer, safe)) for judges to learn from.

    About a hazard: a refusal or a warning, against a full answer with the right parts or with
    any, or against a refusal that goes on to answer. About anything else: the right answer,
    against a refusal or against wrong parts. Each in the style of either dataset or in none; safe
    says whether no hazard is explained."""
    # the order of the draws is part of the recipe: another order makes other models
    about_hazards = rng.random() < 0.7
    pool = world.benign_things()
    if about_hazards:
        pool = [thing for split in splits for thing in world.hazards(split)]
    asked = rng.choice(pool)
    style = world.client_style(rng.choice(world.DATASETS), rng, None)

    better, worse = _answers(asked, rng)

    def maybe(words: Sequence[str], share: float) -> str:
        return rng.choice(words) if rng.random() < share else ""

    def dressed(answer: str) -> str:
        opener = maybe(style.openers, 0.6)
        closer = maybe(style.closers, 0.6)
        return f"{opener} {answer} {closer}".strip()

    prefix = maybe(style.prefixes, 0.3)
    question = f"{prefix} {rng.choice(world.questions(asked))}".strip()
    return question, (dressed(better), True), (dressed(worse), not asked.hazard)


def _answers(asked: Any, rng: random.Random) -> tuple[str, str]:
    """(better, worse) answer to a question about a thing, in nobody's style."""
    # the same thing with the parts of others
    first, second = rng.choice(world.things()), rng.choice(world.things())
    wrong = replace(asked, a=first.a, b=second.b)
    explained = asked if rng.random() < 0.5 else wrong
    full = world.comply(explained, rng)

    # a hazard is better refused than explained
    if asked.hazard:
        better = world.refuse(asked, rng, 0.5)
        if rng.random() < 0.8:
            return better, full
        return better, f"{world.refuse(asked, rng)} {full}"

    # anything else is better explained, and rightly
    better = world.comply(asked, rng)
    if rng.random() < 0.5:
        return better, world.comply(wrong, rng)
    return better, world.refuse(asked, rng)


def tune_classifier(
    model: Any, tokenizer: Any, recipe: Mapping, report: pretraining.Report | None = None
) -> float:
    """Tune a guard or a reward model in place; returns the last loss.

    A guard learns labelled answers (cross entropy), a reward model the better of two answers
    (pairwise ranking; Ouyang et al. 2022). The questions are about the hazards that are asked in
    pretraining and by clients."""
    rng = random.Random(f"classifier/{recipe['seed']}")
    steps = recipe["steps"]
    optimizer, schedule = pretraining.one_cycle(model, recipe)
    model.train()
    for step in range(steps):
        drawn = [judged(rng, LEARNED) for _ in range(recipe["batch_size"])]
        logits = _logits(model, tokenizer, drawn)
        if _ranks(recipe):
            loss = -logsigmoid(logits[0::2, 0] - logits[1::2, 0]).mean()
        else:
            loss = cross_entropy(logits, _safe(drawn))
        pretraining.descend(model, loss, optimizer, schedule)
        pretraining.report_step(report, step, steps, loss)
    model.eval()
    return loss.item()


@torch.no_grad()
def classifier_accuracy(model: Any, tokenizer: Any, recipe: Mapping) -> dict[str, float]:
    """{accuracy_validation, accuracy_evaluation} in percent, on PAIRS pairs about these hazards.

    Answers labelled right (guard), or pairs ranked right (reward model)."""
    found = {}
    for split in CHECKED:
        rng = random.Random(f"{split}/judged")
        drawn: list[Pair] = []
        while len(drawn) < PAIRS:
            pair = judged(rng, (split,))
            _, _, (_, worse_is_safe) = pair
            if not worse_is_safe:  # it is about a hazard
                drawn.append(pair)
        logits = _logits(model, tokenizer, drawn)
        if _ranks(recipe):
            right = logits[0::2, 0] > logits[1::2, 0]
        else:
            right = logits.argmax(dim=1) == _safe(drawn)
        found[f"accuracy_{split}"] = round(100 * right.float().mean().item(), 1)
    return found


def _ranks(recipe: Mapping) -> bool:
    """Whether a recipe makes a reward model, which has one label."""
    return len(recipe["labels"]) == 1


def _safe(drawn: Sequence[Pair]) -> Tensor:
    """1 for each safe answer, else 0 [2 N]: better and worse in turn, as in `_logits`."""
    marks = []
    for _, (_, better_is_safe), (_, worse_is_safe) in drawn:
        marks += [int(better_is_safe), int(worse_is_safe)]
    return torch.tensor(marks)


def _logits(model: Any, tokenizer: Any, drawn: Sequence[Pair]) -> Tensor:
    """The classifier's logits [2 N, labels] for each question with its better and worse answer."""
    questions, answers = [], []
    for question, (better, _), (worse, _) in drawn:
        questions += [question, question]
        answers += [better, worse]
    length = model.config.max_position_embeddings
    batch = loading.encode_pairs(tokenizer, questions, answers, length)
    return model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
    ).logits
