"""A client as a Flower node: it trains on its own rows with the code of `federation`.

Its rows are those of a file on its host (--node-config 'rows="FILE"'), or else what the run's
settings make of the client. It sends updates, sizes and losses, and never a row."""

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedlib.flower import messages
from fedlib.settings import errors, machine
from fedlib.settings.errors import SettingsError
from fedlib.settings.schema import Settings
from fedlib.sources import files

if TYPE_CHECKING:
    from fedlib.training import Encoded

ROWS_KEPT = 64  # clients whose encoded rows a process keeps for the next round

app = ClientApp()


@app.query()
def say_who(message: Message, context: Context) -> Message:
    """Tell the server which client this node is."""
    own_rows = "rows" in context.node_config
    content = messages.pack_presence(_client(context), own_rows)
    return Message(content, reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this node's rows from the adapter that the server sent; reply with the update."""
    try:
        found = _trained(message, context)
    except Exception as error:
        found = f"its training failed: {errors.one_line(error)}"
    if not isinstance(found, str):
        return Message(messages.pack_trained(found), reply_to=message)

    # an error may quote a row: what a node's own rows are like stays in the node's own log
    if "rows" in context.node_config:
        print(f"fedlib: client {_client(context)}: {found}", file=sys.stderr, flush=True)
        found = "its training failed; its node's log says why"
    return Message(messages.pack_problem(found), reply_to=message)


def _client(context: Context) -> int:
    """Which client this node is: partition-id of its --node-config, as Flower's simulation says."""
    return int(context.node_config["partition-id"])


def _trained(message: Message, context: Context) -> messages.Trained | str:
    """The training of a round, or why it failed; raises where what comes before it fails."""
    import torch

    from fedlib import federation

    task, start = messages.unpack_task(message.content)
    client, file = _client(context), context.node_config.get("rows")
    if task.client != client:
        raise SettingsError(f"this node is client {client}, not client {task.client}")
    settings = Settings.model_validate_json(task.settings)
    tuned, _ = _tuned(task.settings)
    rows, dropped, thoughts = _encoded(task.settings, client, file)

    # the same code as in one process
    here = torch.from_numpy(start.copy()).to(next(tuned.parameters()).device)
    sent, losses, tokens = federation.local_updates(
        tuned, {client: rows}, [client], here, settings, task.round_, task.warmup
    )
    update = sent[client]
    if isinstance(update, str):
        return update
    return messages.Trained(
        update.cpu().numpy(), losses[client], len(rows), dropped, thoughts, tokens
    )


@functools.lru_cache(maxsize=1)
def _tuned(settings_json: str) -> tuple[Any, Any]:
    """(the run's base with an adapter, its tokenizer), kept for the next round."""
    from fedlib.lab import loaded
    from fedlib.models import adapter

    settings = Settings.model_validate_json(settings_json)
    base, tokenizer = loaded.load_base(settings)
    return adapter.attach_lora(base, settings.model, settings.seed), tokenizer


@functools.lru_cache(maxsize=ROWS_KEPT)
def _encoded(settings_json: str, client: int, file: str | None) -> tuple[list["Encoded"], int, int]:
    """(a client's rows, encoded; how many others were too long; how many held thoughts).

    Kept for the next round."""
    from fedlib import federation
    from fedlib.lab import client_data, room
    from fedlib.models import templates

    tuned, tokenizer = _tuned(settings_json)
    settings = Settings.model_validate_json(settings_json)
    if file is None:
        rows = client_data.client_rows(settings, client)
    else:
        rows = files.read(machine.path(file), settings.data.fields.get(Path(file).name))
    encoded, dropped = federation.encode_clients({client: rows}, tokenizer, settings.model)
    room.check_rows(settings, tuned, encoded.values())
    return encoded[client], dropped[client], templates.thoughts(rows)
