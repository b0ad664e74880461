"""Loading models: causal LMs, classifiers, adapters. Weights come from safetensors only."""

import contextlib
import functools
import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from fedlib.models import adapter, chat, checkpoints, frozen, hub, on_gpu
from fedlib.settings import errors, machine
from fedlib.settings.errors import DataError
from fedlib.settings.schema import Settings

Loaded = tuple[Any, Any]  # model and tokenizer
FEW = 3  # tokens that a line names


def load_causal(source: str, commit: str | None, device: str, dtype: str) -> Loaded:
    """(causal LM, tokenizer) of a folder, or of a name on the hub at a commit.

    device: as torch names it; dtype: float32, bfloat16, .... Code in a checkpoint is never run.
    DataError, in one line, if it cannot be loaded."""
    revision = commit or "main"
    on_gpu.attend_without_plans()
    with hub.explained(source, "model"):
        tokenizer = _tokenizer(source, revision)
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            device_map={"": device},  # whole: the loss runs its parts by hand
            revision=revision,
            output_loading_info=True,
        )
    hub.check_weights(source, type(model).__name__, report)
    _set_end(source, model, tokenizer)
    _check_vocabulary(source, model, tokenizer)

    # A checkpoint's settings for sampling would override ours, so they go. Where a turn ends stays:
    # its generation config knows that better than its tokenizer.
    ends = {tokenizer.eos_token_id, *_ends(source, model)}
    model.generation_config = GenerationConfig(
        eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id
    )
    return model.eval(), tokenizer


def _tokenizer(source: str, revision: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    longest = tokenizer.model_max_length
    if type(longest) not in (int, float):
        raise DataError(
            f"{source}: model_max_length of its tokenizer_config.json must be a number, "
            f"got {str(longest)[:60]!r}"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _ends(source: str, model: Any) -> list[int]:
    """The tokens that end an answer by a model's generation config; DataError where one is no
    number."""
    named = model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    if not all(end is None or type(end) is int for end in ends):
        raise DataError(
            f"{source}: eos_token_id of its generation_config.json must be the number of a token, "
            f"or a list of numbers, got {str(named)[:60]!r}"
        )
    return [end for end in ends if end is not None]


def _set_end(source: str, model: Any, tokenizer: Any) -> None:
    """Gives a tokenizer without an end token the one that its model's config names.

    DataError where it names none that the tokenizer knows as a special token."""
    if tokenizer.eos_token_id is not None:
        return
    for end in _ends(source, model):
        if end in tokenizer.all_special_ids:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
            break
    else:
        raise DataError(
            f"{source}: its tokenizer has no end token, so no answer would ever end: set eos_token "
            "in its tokenizer_config.json to the special token that ends a text"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def _check_vocabulary(source: str, model: Any, tokenizer: Any) -> None:
    """Asks whether the embedding has a row for each token that is needed.

    A padding token without one is replaced, since padding is never read; other tokens that no
    text needs are named on stderr. DataError where texts need such a token."""
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if not beyond:
        return
    few = ", ".join(sorted(beyond)[:FEW]) + (", ..." if len(beyond) > FEW else "")
    what = (
        f"{source}: its embedding has {rows} rows, none for {len(beyond)} tokens of its tokenizer"
    )

    if tokenizer.pad_token in beyond and tokenizer.eos_token not in beyond:
        tokenizer.pad_token = tokenizer.eos_token
    needed = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "a"}]
        # what is wrong with a template is said where it is used
        with contextlib.suppress(Exception):
            text = chat.rendered(tokenizer, turns, to_be_answered=True)
            needed += tokenizer(text, add_special_tokens=False)["input_ids"]
    if any(i is not None and i >= rows for i in needed):
        raise DataError(
            f"{what} ({few}), which texts need: take the tokenizer that belongs to it, or resize "
            "the embedding and train it"
        )
    print(f"{what} ({few}): no text may hold them", file=sys.stderr)


def position_limit(model: Any) -> int | None:
    """How many tokens a model can read at all; None where positions are not learned one by one.

    Rotary positions go on past max_position_embeddings, though nobody trained them there."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for name, part in base.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(part, torch.nn.Embedding) and ("wpe" in last or "position" in last):
            return getattr(base.config, "max_position_embeddings", None)
    return None


def attach_adapter(base: Any, folder: Path, trainable: bool = False) -> Any:
    """The base with the adapter of a folder, in PEFT's format.

    DataError if a tensor is missing, left over or different afterwards; PEFT only warns."""
    config, on_disk = adapter.read_adapter(folder)
    try:
        tuned = PeftModel.from_pretrained(base, folder, config=config, is_trainable=trainable)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        said = errors.one_line(error)[:300]
        raise DataError(f"{folder} does not fit its base: {said}") from None
    tuned = adapter.multiply_once(tuned)
    now = get_peft_model_state_dict(tuned)
    same = set(on_disk) == set(now) and all(
        torch.equal(value, now[name].float().cpu()) for name, value in on_disk.items()
    )
    if not same:
        raise DataError(f"{folder} does not fit its base: tensors missing or different")
    return tuned.eval()


def load_judge(settings: Settings, field: str) -> Loaded:
    """(causal LM, tokenizer) that a field such as evaluation.guard names.

    Kept for the next call."""
    source, commit = checkpoints.source(settings, field)
    revision = str(checkpoints.revision(settings, field))
    return _judge(
        source, commit, machine.device(settings.model), machine.dtype(settings.model), revision
    )


@functools.lru_cache(maxsize=1)
def _judge(source, commit, device, dtype, _revision):
    return load_causal(source, commit, device, dtype)


def load_classifier(settings: Settings, field: str) -> Loaded:
    """(sequence classifier, tokenizer) that a field such as evaluation.guard names.

    Kept for the next call. SettingsError if the model cannot be that judge."""
    source, commit = checkpoints.source(settings, field)
    revision = str(checkpoints.judge_revision(settings, field))
    return _classifier(
        source, commit, machine.device(settings.model), machine.dtype(settings.model), revision
    )


@functools.lru_cache(maxsize=2)
def _classifier(source, commit, device, dtype, _revision):
    revision = commit or "main"
    on_gpu.attend_without_plans()
    with hub.explained(source, "model"):
        tokenizer = _tokenizer(source, revision)
        classifier, report = AutoModelForSequenceClassification.from_pretrained(
            source,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            revision=revision,
            trust_remote_code=False,
            output_loading_info=True,
        )
    hub.check_weights(source, type(classifier).__name__, report)
    _check_vocabulary(source, classifier, tokenizer)
    if tokenizer.pad_token is None:
        raise DataError(f"{source}: its tokenizer has neither a padding nor an end token")
    # By the padding token the classifier finds the last real token of a row.
    classifier.config.pad_token_id = tokenizer.pad_token_id
    return classifier.to(device).eval(), tokenizer


def release() -> None:
    """Forget the judges and rows that are kept for the next call, and free the GPU's memory."""
    frozen.KEPT.forget()
    for kept in (_judge, _classifier):
        kept.cache_clear()
    gc.collect()
    torch.cuda.empty_cache()


def encode_pairs(
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    max_length: int | None = None,
) -> Any:
    """{input_ids, attention_mask[, token_type_ids]} [N, T] of prompts with their responses.

    They are two turns in the classifier's chat format, or, where its tokenizer has none, a pair of
    texts as the tokenizer joins them. Cut at max_length tokens, or whole; padded on the right."""
    fit = {
        "padding": True,
        "padding_side": "right",
        "truncation": max_length is not None,
        "max_length": max_length,
        "return_tensors": "pt",
    }
    if not tokenizer.chat_template:
        return tokenizer(list(prompts), list(responses), **fit)
    texts = []
    for prompt, response in zip(prompts, responses, strict=True):
        turns = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": response},
        ]
        with chat.said_in_a_line(tokenizer):
            texts.append(chat.rendered(tokenizer, turns, to_be_answered=False))
    return tokenizer(texts, add_special_tokens=False, **fit)
