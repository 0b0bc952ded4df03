"""The master's ends of what its workers print into: there until journald has had its time, and not for ever."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from clusterd.master import streams
from clusterd.master.streams import Streams
from clusterd.shell.journal import Journal


class Pipes(Journal):
    """Its streams are pipes, so that a test sees when nobody has one any more."""

    unread = False

    def __init__(self) -> None:
        super().__init__("hello", native=True)
        self.made: list[tuple[int, int]] = []

    def stream(self, identifier: str, *_: object) -> int:
        self.made.append(os.pipe())
        return self.made[-1][1]

    def closed(self) -> list[bool]:
        """Of each in turn, whether its writing end is gone."""
        poll = select.poll()
        for reader, _ in self.made:
            poll.register(reader, 0)
        ended = dict(poll.poll(0))
        return [reader in ended for reader, _ in self.made]


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    for closed, (reader, writer) in zip(made.closed(), made.made, strict=True):
        os.close(reader)
        if not closed:
            os.close(writer)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_stream_outlives_its_process(pipes: Pipes, clock: list[float]) -> None:
    """journald is given some seconds; a key's next stream is another, and what nobody has begun ends nothing."""
    held = Streams(pipes)
    assert held.open("worker-1", "hello/0") == pipes.made[0][1]
    held.open("worker-2", "hello/1")
    held.end("worker-1")
    held.end("worker-1")
    held.end("worker-3")
    clock[0] += streams.LATE - 0.1
    held.open("worker-2", "hello/1")
    held.sweep()
    assert pipes.closed() == [False, False, False]
    clock[0] += 0.1
    held.sweep()
    assert pipes.closed() == [True, False, False]
    clock[0] += streams.LATE
    held.sweep()
    assert pipes.closed() == [True, True, False]


def test_no_more_than_so_many(pipes: Pipes, clock: list[float]) -> None:
    """Where more end than are kept, those that ended first go at once; none goes whose process lives."""
    held = Streams(pipes)
    held.open("zygote-1", "hello/zygote")
    for number in range(streams.MOST + 3):
        held.open(f"worker-{number}", "hello/0")
        held.end(f"worker-{number}")
    assert pipes.closed() == [False, *[True] * 3, *[False] * streams.MOST]


def test_what_is_unread_is_waited_for(pipes: Pipes, clock: list[float]) -> None:
    """However long journald takes."""
    held = Streams(pipes)
    held.open("worker-1", "hello/0")
    held.end("worker-1")
    clock[0] += 1000.0
    pipes.unread = True
    held.sweep()
    assert pipes.closed() == [False]
    pipes.unread = False
    held.sweep()
    assert pipes.closed() == [True]


def test_without_a_journal() -> None:
    """It is our own stderr that everybody has, and no descriptor more."""
    before = len(os.listdir("/proc/self/fd"))
    held = Streams(Journal("hello", native=False))
    assert [held.open(key, "hello/0") for key in ("worker-1", "worker-2")] == [2, 2]
    held.end("worker-1")
    held.sweep()
    assert len(os.listdir("/proc/self/fd")) == before and os.fstat(2)
