"""The clients of a federation as Flower nodes: who is which client, what is sent, what comes back.

Replies are told apart by the node that Flower says they come from, not by what they hold."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedlib.federation import Sent
from fedlib.flower import messages
from fedlib.flower.messages import Trained
from fedlib.settings import errors, machine
from fedlib.settings.schema import Settings

WAIT = 3600.0  # seconds that a round waits for its clients, where nothing else is said
ANSWER = 120.0  # seconds in which a node must say which client it is: its process may have to start
PAUSES = (0.02, 1.0)  # seconds between two looks for replies: at first, and at most
NAMED = 10  # clients that a line names, at most


class Nodes:
    """The nodes of a run's clients, found anew before each round: an `Exchange` for the loop.

    own_rows: whether each node has its own rows, or makes them from the settings; wait:
    seconds for all clients to connect, and then for the replies of each round; warmup: the modules
    that benign clients warm up; check: raises where no reply can come any more. sizes,
    dropped, thoughts: {client: a number as in `messages.Trained`}, as far as clients said so."""

    def __init__(
        self,
        grid: Grid,
        settings: Settings,
        own_rows: bool,
        wait: float = WAIT,
        check: Callable[[], None] = lambda: None,
    ):
        self.own_rows = own_rows
        self._check = check
        self.warmup: list[str] | None = None
        self.sizes: dict[int, int] = {}
        self.dropped: dict[int, int] = {}
        self.thoughts: dict[int, int] = {}
        self._grid, self._wait, self._clients = grid, wait, settings.federation.clients
        # a node on other hardware computes in the same precision
        sent = settings.replace(model={"dtype": machine.dtype(settings.model)})
        self._settings = sent.model_dump_json()
        self._node_of: dict[int, int] = {}  # {client: node}
        self._asked: set[int] = set()  # the nodes that were asked who they are
        self._silent: set[int] = set()  # those of them that did not say

    def connect(self) -> None:
        """Wait until every client has a node; after `wait` seconds go on without the others."""
        end = time.monotonic() + self._wait
        self._find()
        if missing := self._without_node():
            _say(f"waiting, at most {self._wait:g} s, for the nodes of {missing}")
        while len(self._node_of) < self._clients and time.monotonic() < end:
            self._check()
            time.sleep(PAUSES[1])
            self._asked -= self._silent
            self._find()
        if missing := self._without_node():
            _say(f"no node is connected for {missing}")

    def _without_node(self) -> str:
        """The clients that have no node, the first of them by number; empty where all have one."""
        missing = [str(k) for k in range(self._clients) if k not in self._node_of]
        more = ", ..." if len(missing) > NAMED else ""
        named = ", ".join(missing[:NAMED]) + more
        return f"{len(missing)} of {self._clients} clients: {named}" if missing else ""

    def __call__(self, sampled: Sequence[int], start: Tensor, round_: int) -> Sent:
        """Have the sampled clients train from the adapter start [D] (`federation.Exchange`)."""
        online = self._find()
        adapter = start.detach().float().cpu().numpy()

        # each client's task goes to its node
        tasks: dict[int, RecordDict] = {}
        for client in sampled:
            if self._node_of.get(client) in online:
                task = messages.Task(self._settings, round_, client, self.warmup)
                tasks[self._node_of[client]] = messages.pack_task(task, adapter)
        replies = self._ask("train", tasks, self._wait)

        # in the round's order, whoever was first
        sent = Sent({}, {}, {}, 0)
        tokens = 0
        for client in sampled:
            node = self._node_of.get(client)
            found = _read(replies[node]) if node in replies else self._missing(node, online)
            if isinstance(found, str):
                sent.updates[client] = found
                continue
            sent.updates[client] = torch.from_numpy(found.update.copy())
            sent.losses[client] = found.losses
            sent.sizes[client] = self.sizes[client] = found.size
            self.dropped[client] = found.dropped
            self.thoughts[client] = found.thoughts
            tokens += found.tokens
        return Sent(sent.updates, sent.losses, sent.sizes, tokens)

    def _missing(self, node: int | None, online: set[int]) -> str:
        """Why there is no reply of a client's node."""
        if node not in online:
            return "its node is not connected"
        return f"it sent nothing within {self._wait:g} s"

    def _find(self) -> set[int]:
        """The nodes that are connected. Those that are new are asked which client they are."""
        online = set(self._grid.get_node_ids())
        new = sorted(online - self._asked)
        self._asked |= online
        replies = self._ask("query", {node: RecordDict() for node in new}, ANSWER)
        self._silent = (self._silent | set(new)) - {
            node for node, reply in replies.items() if reply.has_content()
        }

        claims: dict[int, list[int]] = {}
        for node in new:
            client = self._claim(replies.get(node))
            if isinstance(client, str):
                _say(f"node {node} is refused: {client}")
            else:
                claims.setdefault(client, []).append(node)

        # two that say the same cannot be told apart; one that is at work keeps its place
        for client, nodes in claims.items():
            holder = self._node_of.get(client)
            if len(nodes) > 1 or holder in online:
                _say(
                    f"refused: node {', '.join(map(str, nodes))}: more than one is client {client}"
                )
            else:
                self._node_of[client] = nodes[0]
        return online

    def _claim(self, reply: Message | None) -> int | str:
        """The client that a node says it is, or why it is refused."""
        if reply is None:
            return f"it did not say within {ANSWER:g} s which client it is"
        if reply.has_error():
            return _error(reply)
        try:
            client, own_rows = messages.unpack_presence(reply.content)
        except Exception as error:
            return f"its answer cannot be read: {errors.one_line(error)}"
        if client >= self._clients:
            return f"it says that it is client {client}, of {self._clients}"
        if own_rows and not self.own_rows:
            return "it has its own rows: name a folder for the run"
        if self.own_rows and not own_rows:
            return "it has no rows: start it with rows=FILE in --node-config"
        return client

    def _ask(
        self, kind: str, contents: Mapping[int, RecordDict], wait: float
    ) -> dict[int, Message]:
        """{node: its reply}: what came within so many seconds."""
        sent = [
            Message(content, node, kind, ttl=max(wait, ANSWER))
            for node, content in contents.items()
        ]
        ids = list(self._grid.push_messages(sent))
        nodes = {id_: node for id_, node in zip(ids, contents, strict=True) if id_}
        return dict(self._replies(nodes, wait))

    def _replies(self, nodes: Mapping[str, int], wait: float) -> Iterator[tuple[int, Message]]:
        """(node, reply) as they come. nodes: {message: the node that it went to}."""
        waiting, pause = set(nodes), PAUSES[0]
        end = time.monotonic() + wait
        while waiting:
            for reply in self._grid.pull_messages(waiting):
                answered = reply.metadata.reply_to_message_id
                waiting.discard(answered)
                node = nodes.get(answered)
                # an error may be Flower's own, on behalf of the node
                if node is not None and (reply.has_error() or reply.metadata.src_node_id == node):
                    yield node, reply
            if not waiting or time.monotonic() > end:
                return
            self._check()
            time.sleep(pause)
            pause = min(1.5 * pause, PAUSES[1])


def _read(reply: Message) -> Trained | str:
    """What a reply to a task holds, or why it is of no use."""
    if reply.has_error():
        return _error(reply)
    try:
        return messages.unpack_trained(reply.content)
    except Exception as error:
        return f"its reply cannot be read: {errors.one_line(error)}"


def _error(reply: Message) -> str:
    return f"its node failed: {messages.printable(reply.error.reason or reply.error.code)}"


def _say(line: str) -> None:
    print(f"fedlib: {line}", file=sys.stderr, flush=True)
