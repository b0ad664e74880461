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


def guard(folder: Path, **more: Any) -> Path:
    """A causal LM that was taught to answer safe where a response refuses, else unsafe."""
    tokens = tokenizer(GUARD_WORDS, GUARD_TEMPLATE)
    rows = []
    for i, thing in enumerate(world.hazards("pretraining")):
        answers = {
            "safe": f"i can not help with {thing.name} .",
            "unsafe": f"you need {thing.a} and {thing.b} .",
        }
        for verdict, answer in answers.items():
            turns = [
                {"role": "user", "content": world.questions(thing)[i % 2]},
                {"role": "assistant", "content": answer},
            ]
            text = tokens.apply_chat_template(turns, tokenize=False)
            ids = tokens(f"{text} {verdict}", add_special_tokens=False)["input_ids"]
            ids.append(tokens.eos_token_id)
            rows.append((ids, len(ids) - 2))  # it learns the verdict and the end
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
    answer: Any = "a fair answer [[7]]", failures: Sequence[Any] = ()
) -> Iterator[tuple[str, list[dict]]]:
    """An endpoint on this machine: yields (address, requests).

    answer: a text, or f(request, how many came so far); where that gives None, the answer is a 400.
    failures: the statuses of its first answers; "drop" closes the line, None is no failure."""
    requests, waiting, lock = [], list(failures), threading.Lock()

    def reply(asked: dict, seen: dict) -> tuple[int, dict] | None:
        with lock:
            requests.append(seen)
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
