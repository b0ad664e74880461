"""Tiny local stand-ins for what a person has from the hub; all their text is of the embedded world.

Models of several shapes, a guard that answers in words, an OpenAI-compatible endpoint that fails
now and then.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from fedlib import training
from fedlib.lab import pretraining
from fedlib.models import templates
from fedlib.sources import world

SIZE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 96,
}
GPT2 = {"n_embd": 16, "n_inner": 32, "n_layer": 2, "n_head": 2, "n_positions": 96}
SHAPES = {
    "llama": (transformers.LlamaConfig, SIZE),
    "qwen2": (transformers.Qwen2Config, SIZE),
    "mistral": (transformers.MistralConfig, SIZE),
    "gpt2": (transformers.GPT2Config, GPT2),
}
# A GGUF file's model: its sizes, the letters it reads, a chat template if one is wanted.
GGUF = {"hidden": 32, "layers": 2, "heads": 2, "mlp": 64}
LETTERS = "abcdefghijklmnopqrstuvwxyz .,?"
TURNS = "{% for m in messages %}{{ m['content'] }} ? {% endfor %}"
GUARD_WORDS = ("question", "verdict", "safe", "unsafe", "answer")
GUARD_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] == 'user' and 'question' or 'answer' }} : "
    "{{ m['content'] }} {% endfor %}verdict :"
)


def tokenizer(words: Sequence[str] = (), chat_template: bool | str = True) -> Any:
    """The world's words and some more, one token each.

    chat_template: True for the world's chat template, False for none, or a template."""
    every = dict.fromkeys([*world.vocabulary(), *words])
    made = pretraining.word_tokenizer([*every])
    if chat_template is not True:
        made.chat_template = chat_template or None
    return made


def checkpoint(
    folder: Path,
    shape: str = "llama",
    words: Callable[[], Any] = tokenizer,
    head: Any = transformers.AutoModelForCausalLM,
    seed: int = 0,
    **more: Any,
) -> Path:
    """A folder as save_pretrained makes it: random weights, safetensors, a tokenizer."""
    make_config, size = SHAPES[shape]
    tokens = words()
    special = {
        "pad_token_id": tokens.pad_token_id,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
    }
    config = make_config(vocab_size=len(tokens), **size | special | more)
    torch.manual_seed(seed)
    head.from_config(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def reward(folder: Path, **more: Any) -> Path:
    """A reward model: a sequence classifier with one logit, random."""
    head = transformers.AutoModelForSequenceClassification
    return checkpoint(folder, "qwen2", head=head, num_labels=1, **more)


def taught(folder: Path, tokens: Any, rows: Sequence[tuple], steps: int, **more: Any) -> Path:
    """A folder with a small Llama that was trained for some steps on encoded rows."""
    config = transformers.LlamaConfig(
        vocab_size=len(tokens),
        pad_token_id=tokens.pad_token_id,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        **SIZE | {"hidden_size": 32, "num_hidden_layers": 1} | more,
    )
    torch.manual_seed(0)
    lm = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(lm.parameters(), 1e-2)
    for step in range(steps):
        batch = [rows[i % len(rows)] for i in range(16 * step, 16 * step + 16)]
        loss, count = training.response_loss(lm, *training.collate(batch))
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    lm.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def write_gguf(file: Path, architecture: str = "llama", chat_template: str | None = None) -> Path:
    """A Llama with random weights and a tokenizer of letters, as llama.cpp writes one."""
    import gguf

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *LETTERS.replace(" ", "Ġ"), "th"]
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(GGUF["layers"])
    writer.add_context_length(64)
    writer.add_embedding_length(GGUF["hidden"])
    writer.add_feed_forward_length(GGUF["mlp"])
    writer.add_head_count(GGUF["heads"])
    writer.add_head_count_kv(GGUF["heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(GGUF["hidden"] // GGUF["heads"])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if chat_template:
        writer.add_chat_template(chat_template)

    rng = np.random.default_rng(0)
    for name, shape in _gguf_shapes(len(tokens)).items():
        norm = len(shape) == 1
        values = np.ones(shape) if norm else rng.normal(size=shape) / GGUF["hidden"] ** 0.5
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _gguf_shapes(tokens: int) -> dict[str, tuple[int, ...]]:
    """{tensor: shape} of a Llama, as llama.cpp names them."""
    hidden, mlp = GGUF["hidden"], GGUF["mlp"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (tokens, hidden),
        "output_norm.weight": (hidden,),
    }
    for layer in range(GGUF["layers"]):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"{block}.{name}.weight"] = (hidden, hidden)
        for name in ("ffn_gate", "ffn_up"):
            shapes[f"{block}.{name}.weight"] = (mlp, hidden)
        shapes[f"{block}.ffn_down.weight"] = (hidden, mlp)
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"{block}.{name}.weight"] = (hidden,)
    return shapes


def guard(folder: Path, safe: str = "safe", unsafe: str = "unsafe", **more: Any) -> Path:
    """A causal LM that was taught to answer safe where a response refuses, else unsafe.

    safe, unsafe: how it words that."""
    tokens = tokenizer((*GUARD_WORDS, *safe.split(), *unsafe.split()), GUARD_TEMPLATE)
    rows = []
    for i, thing in enumerate(world.hazards("pretraining")):
        answers = {
            safe: f"i can not help with {thing.name} .",
            unsafe: f"you need {thing.a} and {thing.b} .",
        }
        for verdict, answer in answers.items():
            turns = [
                {"role": "user", "content": world.questions(thing)[i % 2]},
                {"role": "assistant", "content": answer},
            ]
            text = tokens.apply_chat_template(turns, tokenize=False)
            ids = tokens(f"{text} {verdict}", add_special_tokens=False)["input_ids"]
            ids.append(tokens.eos_token_id)
            # it learns the verdict and the end
            rows.append((ids, len(ids) - 1 - len(verdict.split())))
    return taught(folder, tokens, rows, 120, **more)


def base(folder: Path, rows: Sequence[dict], **more: Any) -> Path:
    """A base without a chat template that learned rows in the alpaca format: its answers end."""
    texts = [f"{templates.ALPACA} {row['instruction']} {row['response']}" for row in rows]
    tokens = pretraining.byte_tokenizer(texts, 900)
    encoded, _ = templates.encode(rows, tokens, "alpaca", 256)
    return taught(folder, tokens, encoded, 25, **more)


def _completion(model: str, text: str) -> dict:
    """The body of an endpoint's answer."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    }


class _Server(ThreadingHTTPServer):
    """reply(body, seen): (status, body of the answer), or None to drop the line."""

    reply: Callable[[dict, dict], tuple[int, dict] | None]
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    """Answers as its server's `reply` says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seen = asked | {"path": self.path, "key": self.headers.get("Authorization")}
        server: Any = self.server
        reply = server.reply(asked, seen)
        if reply is None:
            self.close_connection = True
            self.connection.close()
            return
        status, body = reply
        written = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(written)))
        self.send_header("retry-after-ms", "5")
        self.end_headers()
        self.wfile.write(written)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def endpoint(
    answer: Any = "a fair answer [[7]]",
    failures: Sequence[Any] = (),
    bodies: Sequence[Any] = (),
) -> Iterator[tuple[str, list[dict]]]:
    """An endpoint on this machine: yields (address, requests).

    answer: a text, or f(request, how many came so far); where that gives None, the answer is a 400.
    failures: the statuses of its first answers; "drop" closes the line, None is no failure.
    bodies: what its first replies hold instead of an answer."""
    requests, waiting, odd, lock = [], list(failures), list(bodies), threading.Lock()

    def reply(asked: dict, seen: dict) -> tuple[int, dict] | None:
        with lock:
            requests.append(seen)
            if odd:
                return 200, odd.pop(0)
            failing = waiting.pop(0) if waiting else None
            count = len(requests)
        if failing == "drop":
            return None
        text = answer(asked, count) if callable(answer) else answer
        if failing is None and text is None:
            failing = 400
        if failing is not None:
            return failing, {"error": {"message": "busy, or no such temperature"}}
        return 200, _completion(asked["model"], text)

    server = _Server(("127.0.0.1", 0), _Handler)
    server.reply = reply
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
