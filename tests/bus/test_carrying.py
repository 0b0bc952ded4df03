"""The bus as a master carries it: real sockets, of which a test has the workers' ends."""

from __future__ import annotations

import json
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from clusterd.master.bus import Bus
from clusterd.shell.poll import Poll
from clusterd.worker.frames import DEEPEST, compact, decode, encode, text


class Carried:
    """A bus with the workers 1, 2, ..., all of which listen to "t"; `journal` is what it has told."""

    def __init__(self, count: int) -> None:
        self.journal: list[str] = []
        owned: dict[str, int] = {}
        keeping = SimpleNamespace(fds={}, keep=lambda name, fd: None, drop=lambda name: os.close(owned.pop(name)))
        journal = SimpleNamespace(record=lambda message, text, **fields: self.journal.append(text))
        context: Any = SimpleNamespace(keeping=keeping, poll=Poll(), journal=journal)
        self.bus = Bus(context)
        self.ends: dict[int, socket.socket] = {}
        for worker in range(1, count + 1):
            ours, self.ends[worker] = socket.socketpair()
            self.ends[worker].setblocking(False)
            name = f"worker-{worker}.bus"
            owned[name] = ours.detach()
            self.bus.join(worker, owned[name], name)
            self.hears(worker, {"op": "on", "topic": "t"})

    def writes(self, worker: int, *messages: dict[str, Any]) -> None:
        self.ends[worker].sendall(b"".join(map(encode, messages)))

    def hears(self, worker: int, *messages: dict[str, Any]) -> None:
        """The master does, what `worker` writes."""
        self.writes(worker, *messages)
        self.bus.on_ready(worker)

    def told(self, worker: int) -> list[dict[str, Any]]:
        """What the master has written to it."""
        found = b""
        try:
            while part := self.ends[worker].recv(1 << 20):
                found += part
        except BlockingIOError:
            pass
        return [json.loads(frame) for frame in found.split(b"\0") if frame]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


BAD = ["1e999", "-1e999", "[1.5e400]", "1" * 5000, nested(20_000)]
NO_JSON = [*BAD, *(nested(depth) for depth in range(520, 1000, 20)), *(nested(depth) for depth in range(970, 1000))]
"""JSON as far as its grammar goes, that cannot be written again: not at all, or not in every place of the program."""


@pytest.mark.parametrize(
    "before", ['"op":"broadcast","topic":"t","data":', '"op":"publish","key":"k","number":1,"value":']
)
def test_no_value_ends_the_master(before: str) -> None:
    """Who says a number without a float, or lists in lists without end, loses the bus, and nobody else anything."""
    for data in NO_JSON:
        carried = Carried(2)
        carried.ends[1].sendall(f"{{{before}{data}}}\0".encode())
        while 1 in carried.bus.links:
            carried.bus.on_ready(1)
        (said,) = carried.journal
        assert "worker 1 has lost its messages: not a JSON object" in said
        assert carried.told(2) == []


def test_what_is_read_can_be_said() -> None:
    """All that is read from one can be written to another; what `clusterd send` takes fits into a message."""
    for data in NO_JSON:
        assert decode(f'{{"data":{data}}}'.encode()) is None
        assert compact(data) is None
    deepest = nested(DEEPEST - 1)
    assert compact(f" {deepest}") == deepest
    assert text(decode(f'{{"data":{deepest}}}'.encode())) == f'{{"data":{deepest}}}'
    assert compact(nested(DEEPEST)) is None
    assert compact(text("[" * DEEPEST)) == text("[" * DEEPEST), "letters of a text nest nothing"


def test_last_words_to_one_that_is_written_to() -> None:
    """What a worker has said before it left is heard, though the master finds out by writing to it."""
    carried = Carried(3)
    carried.writes(1, *({"op": "broadcast", "topic": "t", "data": [n, "x" * 1000]} for n in range(100)))
    carried.ends[1].close()
    carried.hears(2, {"op": "broadcast", "topic": "t", "data": "to all"})
    carried.bus.last_words(1)
    assert [message["data"] for message in carried.told(3)] == ["to all", *([n, "x" * 1000] for n in range(100))]
    assert 1 not in carried.bus.links and carried.journal == []


def test_who_only_speaks() -> None:
    """One that has shut its reading end is heard still. Nothing is kept for it, whoever asks it is told that it is
    gone, and it goes at the end of what it says."""
    carried = Carried(2)
    carried.ends[1].shutdown(socket.SHUT_RD)
    carried.hears(2, *({"op": "send", "to": 1, "topic": "t", "data": n} for n in range(3)))
    carried.hears(1, {"op": "publish", "key": "k", "value": 1, "number": 1}, {"op": "on", "topic": "u"})
    carried.hears(1, {"op": "broadcast", "topic": "t", "data": "heard"})
    carried.hears(2, {"op": "broadcast", "topic": "u", "data": 1})
    assert carried.bus.router.members[1].queue.size == 0
    assert carried.bus.router.table.values["k"].raw == "1"
    carried.hears(2, {"op": "request", "to": 1, "topic": "t", "data": 1, "number": 5})
    heard, failed = carried.told(2)
    assert (heard["data"], failed["number"], failed["error"]) == ("heard", 5, "gone")
    carried.ends[1].close()
    carried.bus.on_ready(1)
    assert 1 not in carried.bus.links


class Counted(bytes):
    """Of which each measuring is counted."""

    measured = 0

    def __len__(self) -> int:
        type(self).measured += 1
        return super().__len__()


def test_many_small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """To write them together takes as long for each as for the one before."""
    carried, count = Carried(2), 2000
    router = carried.bus.router
    for n in range(count):
        router.take(2, encode({"op": "broadcast", "topic": "t", "data": n})[:-1])
    following = router.next
    monkeypatch.setattr(router, "next", lambda worker: (found := following(worker)) and Counted(found))
    carried.bus.on_ready(1)
    assert [message["data"] for message in carried.told(1)] == [*range(count)]
    assert 0 < Counted.measured <= 3 * count
