"""A SuperLink without a network: messages become bytes and back, and go to this process's node app.

What nodes do wrong is told by node: a function that is given the reply and returns another one, a
list of them, or None."""

import itertools
from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedlib.flower import node


class Loopback(Grid):
    """Nodes by number, each with its --node-config; sent: (node, kind) of every message."""

    def __init__(self, configs: dict[int, dict[str, Any]]):
        self.configs = configs
        self.faults: dict[int, Callable] = {}
        self.sent: list[tuple[int, str]] = []
        self.bytes_back: list[bytes] = []
        self._ids = map(str, itertools.count())
        self._waiting: dict[str, Message] = {}
        # who writes the messages, as Flower sets it where it starts a ServerApp
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1

    def set_run(self, run) -> None:
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *given, **named):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError

    def get_node_ids(self):
        return list(self.configs)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            number = next(self._ids)
            message.metadata.__dict__["_message_id"] = number
            message.__dict__["_content"] = over_the_wire(message.content)
            self.sent.append((message.metadata.dst_node_id, message.metadata.message_type))
            self._waiting[number] = message
            ids.append(number)
        return ids

    def pull_messages(self, message_ids):
        """The replies, those of later nodes first."""
        found = []
        for number in sorted(message_ids, key=int, reverse=True):
            message = self._waiting.pop(number, None)
            if message is not None:
                found += self._reply(message)
        return found

    def _reply(self, message: Message) -> list[Message]:
        number = message.metadata.dst_node_id
        context = Context(0, number, self.configs[number], RecordDict(), {})
        reply = node.app(message, context)
        if number in self.faults:
            reply = self.faults[number](message, reply)
        if reply is None:
            return []
        if reply.has_content():
            reply.__dict__["_content"] = over_the_wire(reply.content)
            self.bytes_back.append(recorddict_to_proto(reply.content).SerializeToString())
        return [reply]


def over_the_wire(content: RecordDict) -> RecordDict:
    """The content as it arrives."""
    return recorddict_from_proto(recorddict_to_proto(content))


def clients(count: int) -> dict[int, dict[str, Any]]:
    """{node: its config} for so many clients; nodes have other numbers than clients."""
    return {1000 - client: {"partition-id": client} for client in range(count)}
