"""Whether texts fit a model: its positions, and the rows of its embedding.

Asked before any training, of rows and of evaluation prompts with their answers."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedlib.models import loading, templates
from fedlib.settings.errors import DataError, SettingsError
from fedlib.settings.schema import Settings
from fedlib.training import Encoded

TOPIC = 8  # tokens that a topic may take in a prompt
LEAST = 8  # tokens of a question, below which asking for one makes no sense


def check_rows(settings: Settings, model: Any, rows: Iterable[Sequence[Encoded]]) -> None:
    """Ask whether every encoded row fits; rows: those of each client, or of a defence.

    SettingsError or DataError where one does not."""
    encoded = [ids for part in rows for ids, _ in part]
    _check_tokens(model, settings.model.base, encoded)
    longest = max(map(len, encoded), default=0)
    _check_length(
        settings,
        model,
        longest,
        f"model.max_length: {settings.model.max_length}: a row takes {longest} tokens",
        "lower it to {positions}",
    )


def check_prompts(
    settings: Settings, model: Any, tokenizer: Any, prompts: Mapping[str, list[dict]]
) -> None:
    """Ask whether every evaluation prompt fits together with an answer of the greatest length.

    SettingsError or DataError where one does not."""
    template, answer = settings.model.template, settings.evaluation.max_new_tokens
    texts = [
        templates.prompt_text(prompt["prompt"], tokenizer, template)
        for asked in prompts.values()
        for prompt in asked
    ]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    _check_tokens(model, settings.model.base, encoded)
    longest = max(map(len, encoded), default=0)
    _check_length(
        settings,
        model,
        longest + answer,
        f"evaluation.max_new_tokens: {answer}: with the longest prompt, of {longest} tokens, it "
        f"takes {longest + answer}",
        "lower it, or leave out long prompts",
    )


def tokens_to_write(
    settings: Settings, model: Any, tokenizer: Any, pair: dict[str, str], template: str
) -> int:
    """How many tokens of a question, and of an answer to it, a model may write: max_length.

    Fewer where its positions do not hold a prompt, the question and the answer, and stderr says so.
    pair: the two prompts of a kind, as `templates.prompts_file` has them."""
    wanted, limit = settings.model.max_length, loading.position_limit(model)
    if limit is None:
        return wanted
    texts = [pair["instruction"].format(topic=""), pair["response"].format(instruction="")]
    asked = [templates.prompt_text(text, tokenizer, template) for text in texts]
    longest = max(map(len, tokenizer(asked, add_special_tokens=False)["input_ids"]))
    # a few more for the topic
    left = (limit - longest - TOPIC) // 2
    if left < LEAST:
        raise SettingsError(
            f"data.prompts: {settings.data.prompts}: a prompt takes {longest} tokens, and the "
            f"model that writes rows has {limit} positions: too few for a question and its answer"
        )
    if left < wanted:
        print(
            f"rows are written in {left} tokens a question and answer, not model.max_length, "
            f"{wanted}: the model that writes them has {limit} positions",
            file=sys.stderr,
        )
    return min(left, wanted)


def _check_length(settings: Settings, model: Any, length: int, what: str, advice: str) -> None:
    """SettingsError where a text is longer than a model can read.

    Where the model goes on without having been trained so far, that is said on stderr."""
    trained = getattr(model.config, "max_position_embeddings", None)
    if trained is None or length <= trained:
        return
    line = f"{what}, and {settings.model.base} has {trained} positions"
    if loading.position_limit(model) is None:
        print(f"{line}: it was not trained beyond them", file=sys.stderr)
        return
    raise SettingsError(f"{line}: {advice.format(positions=trained)}")


def _check_tokens(model: Any, base: str, encoded: Sequence[Sequence[int]]) -> None:
    """DataError where a text holds a token without a row in the embedding."""
    rows = model.get_input_embeddings().weight.shape[0]
    unfit = sum(max(ids, default=0) >= rows for ids in encoded)
    if unfit:
        raise DataError(
            f"model.base: {base}: {unfit} of {len(encoded)} texts hold a token of its tokenizer "
            f"that has none of the {rows} rows of its embedding"
        )
