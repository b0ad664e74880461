"""Models: load any causal LM, attach LoRA, adapter to and from one flat vector, save and load adapters."""

import functools
import gc
import json
import warnings

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners import lora
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

from fedlib import checkpoints, config, hub, store

warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)  # peft's own call, harmless
warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)  # it is then set right
warnings.filterwarnings("ignore", "Unable to fetch remote file", UserWarning)  # peft asks the hub for what is in the cache
warnings.filterwarnings("ignore", "Could not find a config file", UserWarning)  # peft looks for the base at a relative path
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()  # its reminders would stand in the notebooks

SMALL = 32768  # numbers in a weight; above it the whole product costs more than it saves


def load(settings):
    """(base model, tokenizer) by model.base, on its device and in its precision; the weights come from safetensors."""
    store.make_base(settings)
    scratch = settings.model.base == "scratch"
    source = (str(store.base_folder(settings)), None) if scratch else checkpoints.source(settings, "model.base")
    return _load(config.device(settings), config.dtype(settings), *source)


def load_judge(settings, field):
    """(causal LM, tokenizer) that a field such as evaluation.guard names; kept for the process's next call."""
    revision = str(checkpoints.revision(settings, field))
    return _judge(config.device(settings), config.dtype(settings), *checkpoints.source(settings, field), revision)


@functools.lru_cache(maxsize=1)
def _judge(device, dtype, source, commit, _revision):
    return _load(device, dtype, source, commit)


def _load(device, dtype, source, commit):
    # never a checkpoint's own code; pickled weights could hold some too
    with hub.explained(source, "model"):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=commit or "main", trust_remote_code=False)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        base = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False,
            device_map={"": device}, revision=commit or "main")  # whole: the loss runs its parts by hand
    # a checkpoint's own sampling habits would override ours; where a turn ends it knows better than its tokenizer
    ends = base.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    base.generation_config = GenerationConfig(eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id)
    return base.eval(), tokenizer


def release():
    """Forget the judges that are kept for the next call, and give the GPU's memory back."""
    for kept in (_judge, _classifier):
        kept.cache_clear()
    gc.collect()
    torch.cuda.empty_cache()


def attach_lora(base, settings):
    """A PeftModel with a fresh LoRA adapter (Hu et al. 2022), the same for every method of a seed."""
    m = settings.model
    wanted = LoraConfig(r=m.lora_rank, lora_alpha=m.lora_alpha, lora_dropout=m.lora_dropout, bias="none",
                        target_modules=None if m.lora_targets == "default" else m.lora_targets, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(config.derive(settings.seed, "adapter"))
        try:
            return multiply_once(get_peft_model(base, wanted))
        except ValueError as error:
            linear = sorted({n.split(".")[-1] for n, x in base.named_modules() if isinstance(x, torch.nn.Linear)})
            raise config.SettingsError(f"model.lora_targets: {m.lora_targets} does not fit this model; its linear modules: "
                                       f"{', '.join(linear)} ({str(error).splitlines()[0]})") from None


def multiply_once(tuned):
    """The PeftModel with its SMALL adapted modules multiplying once, by W + scale B A: PEFT's three products and what comes
    with them take longer there than the arithmetic (benchmarks/round.py). The same function but for rounding; with dropout,
    or an adapter in another precision than the weight, a module stays PEFT's own."""
    for part in tuned.modules():
        if type(part) is lora.Linear and type(part.base_layer) is torch.nn.Linear and part.weight.numel() <= SMALL \
                and part.lora_A["default"].weight.dtype == part.weight.dtype \
                and isinstance(part.lora_dropout["default"], torch.nn.Identity):
            part.forward = functools.partial(_once, part)
    return tuned


def _once(part, x):
    if part.merged or part.disable_adapters:
        return lora.Linear.forward(part, x)
    a, b = part.lora_A["default"].weight, part.lora_B["default"].weight
    return linear(x, torch.addmm(part.weight, b, a, alpha=part.scaling["default"]), part.bias)


def parameters(tuned):
    """The adapter's parameters in the vector's fixed order: by name."""
    return [p for _, p in sorted(tuned.named_parameters()) if p.requires_grad]


def get_vector(tuned):
    """The adapter as one float32 vector [D], a copy."""
    parts = parameters(tuned)
    return torch.cat([p.detach().flatten().float().to(parts[0].device) for p in parts])


@torch.no_grad()
def set_vector(tuned, vector):
    """Write a vector [D] into the adapter; ValueError if its length is not the adapter's."""
    parts = parameters(tuned)
    size = sum(p.numel() for p in parts)
    if vector.shape != (size,):
        raise ValueError(f"the adapter has {size} parameters, the vector's shape is {tuple(vector.shape)}")
    for p, piece in zip(parts, vector.split([p.numel() for p in parts]), strict=True):
        p.copy_(piece.view_as(p))


def save_adapter(tuned, settings, folder):
    """Write the adapter in PEFT's format, byte for byte reproducible (PEFT's own writer is not)."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().float().cpu().contiguous() for k, v in sorted(get_peft_model_state_dict(tuned).items())}
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    fields = tuned.peft_config["default"].to_dict() | {"inference_mode": True}
    fields["base_model_name_or_path"], fields["revision"] = _base_name(settings)
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in fields.items()}
    (folder / "adapter_config.json").write_text(json.dumps(plain, indent=1, sort_keys=True, default=str) + "\n")


def _base_name(settings):
    folder = store.base_folder(settings)
    if folder is None:
        return checkpoints.source(settings, "model.base")
    return str(folder.relative_to(config.ROOT)) if folder.is_relative_to(config.ROOT) else str(folder), None


def load_run(settings, folder, trainable=False):
    """(tuned model, tokenizer) of a finished run; its adapter must fit the base to the last tensor."""
    base, tokenizer = load(settings)
    tuned = multiply_once(PeftModel.from_pretrained(base, folder / "adapter", is_trainable=trainable))
    on_disk, now = load_file(folder / "adapter" / "adapter_model.safetensors"), get_peft_model_state_dict(tuned)
    if set(on_disk) != set(now) or any(not torch.equal(on_disk[k], now[k].float().cpu()) for k in on_disk):
        raise ValueError(f"{folder}/adapter does not fit the base {settings.model.base}: tensors missing or different")
    return tuned.eval(), tokenizer


def alignment(settings):
    """{module: V [out, in]}: what alignment added to each weight of model.base, as kept beside a world's chat model."""
    with safe_open(store.alignment_file(settings), "pt") as f:
        scale, state = float(f.metadata()["scale"]), {k: f.get_tensor(k).float() for k in f.keys()}  # noqa: SIM118
    names = [k.removesuffix(".lora_A.weight") for k in state if k.endswith(".lora_A.weight")]
    return {n.removeprefix("base_model.model."): scale * state[f"{n}.lora_B.weight"] @ state[f"{n}.lora_A.weight"]
            for n in names}


def load_classifier(settings, field):
    """(sequence classifier, tokenizer) that a field such as evaluation.guard names; kept for the process's next call."""
    revision = checkpoints.judge_revision(settings, field)
    return _classifier(*checkpoints.source(settings, field), config.device(settings), config.dtype(settings), str(revision))


@functools.lru_cache(maxsize=2)
def _classifier(source, commit, device, dtype, _revision):
    with hub.explained(source, "model"):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=commit or "main", trust_remote_code=False)
        classifier = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=getattr(torch, dtype), use_safetensors=True, revision=commit or "main", trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    classifier.config.pad_token_id = tokenizer.pad_token_id  # by it the last real token of a row is found
    return classifier.to(device).eval(), tokenizer


def encode_pairs(tokenizer, prompts, responses, max_length):
    """{input_ids, attention_mask[, token_type_ids]} [N, T] of prompts with their responses: as turns of the classifier's own
    chat format, or, where it has none, as pairs of texts in its tokenizer's way."""
    fit = {"padding": True, "padding_side": "right", "truncation": True, "max_length": max_length, "return_tensors": "pt"}
    if not tokenizer.chat_template:
        return tokenizer(prompts, responses, **fit)
    pairs = [[{"role": "user", "content": p}, {"role": "assistant", "content": r}]
             for p, r in zip(prompts, responses, strict=True)]
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in pairs]
    return tokenizer(texts, add_special_tokens=False, **fit)
