"""Tiny local stand-ins of what a person has from the hub: models of several shapes, a guard that answers in words, an
OpenAI-compatible endpoint that fails now and then. All text is of the embedded world."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
GUARD_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] == 'user' and 'question' or 'answer' }} : "
    "{{ m['content'] }} {% endfor %}verdict :"
)


def tokenizer(words=(), chat_template=True):
    """The world's words and some more, one token each; with a chat template of its own, or none, or the one given."""
    made = pretraining.word_tokenizer([*dict.fromkeys([*world.vocabulary(), *words])])
    if chat_template is not True:
        made.chat_template = chat_template or None
    return made


def checkpoint(
    folder, shape="llama", words=tokenizer, head=transformers.AutoModelForCausalLM, seed=0, **more
):
    """A folder as save_pretrained makes it: random weights, safetensors, a tokenizer."""
    kind, size = SHAPES[shape]
    own = words()
    ids = {
        "pad_token_id": own.pad_token_id,
        "bos_token_id": own.bos_token_id,
        "eos_token_id": own.eos_token_id,
    }
    torch.manual_seed(seed)
    made = head.from_config(kind(vocab_size=len(own), **size | ids | more))
    made.save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


def reward(folder, **more):
    """A reward model: a sequence classifier with one logit, random."""
    return checkpoint(
        folder, "qwen2", head=transformers.AutoModelForSequenceClassification, num_labels=1, **more
    )


def taught(folder, own, rows, steps, **more):
    """A folder with a small Llama that was trained for some steps on encoded rows (ids, prompt length)."""
    torch.manual_seed(0)
    lm = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(own),
            pad_token_id=own.pad_token_id,
            bos_token_id=own.bos_token_id,
            eos_token_id=own.eos_token_id,
            **SIZE | {"hidden_size": 32, "num_hidden_layers": 1} | more,
        )
    )
    optimizer = torch.optim.AdamW(lm.parameters(), 1e-2)
    for step in range(steps):
        batch = [rows[j % len(rows)] for j in range(16 * step, 16 * step + 16)]
        loss, count = training.response_loss(lm, *training.collate(batch))
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    lm.save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


def guard(folder, **more):
    """A causal LM that was taught to answer safe where a response refuses, else unsafe."""
    own, rows = tokenizer(("question", "verdict", "safe", "unsafe", "answer"), GUARD_TEMPLATE), []
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
            text = own.apply_chat_template(turns, tokenize=False)
            ids = own(f"{text} {verdict}", add_special_tokens=False)["input_ids"] + [
                own.eos_token_id
            ]
            rows.append((ids, len(ids) - 2))
    return taught(folder, own, rows, 120, **more)


def base(folder, rows, **more):
    """A base without a chat template that has read rows in the alpaca format: it ends what it writes."""
    own = pretraining.byte_tokenizer(
        [f"{templates.ALPACA} {r['instruction']} {r['response']}" for r in rows], 900
    )
    return taught(folder, own, templates.encode(rows, own, "alpaca", 256)[0], 25, **more)


@contextlib.contextmanager
def endpoint(answer="a fair answer [[7]]", failures=()):
    """An endpoint on loopback: yields (address, requests). failures: statuses of its first answers, or "drop"; an
    answer of None is a 400."""
    requests, waiting, lock = [], list(failures), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                requests.append(
                    body | {"path": self.path, "key": self.headers.get("Authorization")}
                )
                failing = waiting.pop(0) if waiting else None
                count = len(requests)
            if failing == "drop":
                self.close_connection = True
                self.connection.close()
                return
            text = answer(body, count) if callable(answer) else answer
            failing = failing or (400 if text is None else None)
            out = json.dumps(
                {"error": {"message": "busy, or no such temperature"}}
                if failing
                else {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": body["model"],
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": "stop",
                            "message": {"role": "assistant", "content": text},
                        }
                    ],
                }
            ).encode()
            self.send_response(failing or 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(out)))
            self.send_header("retry-after-ms", "5")
            self.end_headers()
            self.wfile.write(out)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
