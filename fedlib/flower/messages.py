"""What goes over the wire: a round's task to a node, and what the node sends back. No torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

COUNTS = ("size", "dropped", "thoughts", "tokens")
LONGEST = 500  # characters of a text that a node may send


@dataclass(frozen=True)
class Task:
    """What a node is asked to do in a round.

    settings: the run's, as JSON; warmup: the modules that benign clients train, or None."""

    settings: str
    round_: int
    client: int
    warmup: list[str] | None = None


@dataclass(frozen=True)
class Trained:
    """What a node sends back: its update [D] as numpy has it, and numbers about its training.

    size: how many rows it has; dropped: how many others were too long; thoughts: how many of its
    responses held a part that is not trained on."""

    update: Any
    losses: list[float]
    size: int
    dropped: int
    thoughts: int
    tokens: int


def pack_task(task: Task, adapter: Any) -> RecordDict:
    """A task with the global adapter, a numpy vector [D] of float32."""
    fields: dict[str, Any] = {
        "settings": task.settings,
        "round": task.round_,
        "client": task.client,
        "warms_up": task.warmup is not None,
        "warmup": task.warmup or [],
    }
    arrays = ArrayRecord({"adapter": Array(adapter)})
    return RecordDict({"task": ConfigRecord(fields), "arrays": arrays})


def unpack_task(content: RecordDict) -> tuple[Task, Any]:
    """(task, adapter [D]) as `pack_task` packed them."""
    fields = content.config_records["task"]
    warmup = list(fields["warmup"]) if fields["warms_up"] else None
    task = Task(fields["settings"], fields["round"], fields["client"], warmup)
    return task, content.array_records["arrays"]["adapter"].numpy()


def pack_trained(trained: Trained) -> RecordDict:
    """What a node sends where its training was finished."""
    numbers: dict[str, Any] = {
        "losses": trained.losses,
        "size": trained.size,
        "dropped": trained.dropped,
        "thoughts": trained.thoughts,
        "tokens": trained.tokens,
    }
    arrays = ArrayRecord({"update": Array(trained.update)})
    return RecordDict({"numbers": MetricRecord(numbers), "arrays": arrays})


def pack_problem(why: str) -> RecordDict:
    """What a node sends where it has no update."""
    return RecordDict({"problem": ConfigRecord({"why": why})})


def unpack_trained(content: RecordDict) -> Trained | str:
    """What a node sent, or a text that says why there is no update.

    A node may send anything: an error of some kind where it is not of this form."""
    if "problem" in content.config_records:
        return printable(content.config_records["problem"]["why"])
    numbers = content.metric_records["numbers"]
    counts = {name: _count(name, numbers[name]) for name in COUNTS}
    if not counts["size"]:
        raise ValueError("it says that it has no rows")
    update = content.array_records["arrays"]["update"].numpy()

    # a record is JSON, which has no NaN; where the update holds one, that is what is said of it
    losses = [float(loss) for loss in numbers["losses"]]
    if np.isfinite(update).all() and not np.isfinite(losses).all():
        raise ValueError("its losses hold NaN or Inf")
    return Trained(update, losses, **counts)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"its {name} is {str(value)[:20]}")
    return value


def printable(text: Any) -> str:
    """What somebody else wrote, as one line of LONGEST characters at most that can be shown."""
    line = " ".join(str(text).split())[:LONGEST]
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def pack_presence(client: int, own_rows: bool) -> RecordDict:
    """A node's answer to the question which client it is, and whether it has its own rows."""
    return RecordDict({"presence": ConfigRecord({"client": client, "own_rows": own_rows})})


def unpack_presence(content: RecordDict) -> tuple[int, bool]:
    """(client, whether it has its own rows); errors as in `unpack_trained`."""
    fields = content.config_records["presence"]
    return _count("client", fields["client"]), bool(fields["own_rows"])
