"""The bridge by itself: a test has the master's end of its socket, and there is a real Redis."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from clusterd import bridge
from clusterd.worker.frames import PASSED, Frames, encode
from tests.patience import HANG
from tests.redises import Server, server

SERVICE = Path(__file__).parents[2] / "service"
CHANNEL = "clusterd:{x}:bus"
PATIENT = f"import sys; from clusterd import bridge; bridge.TIMEOUT = {HANG}; sys.exit(bridge.main(sys.argv[1:]))"
"""A bridge to which a Redis that stands still for seconds is not away."""


class Bridged:
    """The master's end of a bridge that has joined."""

    def __init__(self, url: str) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(HANG)
        self._frames = Frames(PASSED)
        self._told: list[dict[str, Any]] = []
        self.start(theirs)
        self.say({"event": "bridge", "place": url, "url": None, "application": "x", "id": "1"})
        self.say({"event": "current", "version": 0})
        self.until(lambda told: told["op"] == "state" and not told["problem"])

    def say(self, *messages: dict[str, Any]) -> None:
        self.sock.sendall(b"".join(map(encode, messages)))

    def next(self) -> dict[str, Any]:
        """What it says to the master."""
        while not self._told:
            data = self.sock.recv(1 << 20)
            assert data, "the bridge has left"
            self._told += [json.loads(frame) for frame in self._frames.feed(data)]
        return self._told.pop(0)

    def until(self, last: Any) -> list[dict[str, Any]]:
        """All that it says, until `last` is true of one."""
        found = [self.next()]
        while not last(found[-1]):
            found.append(self.next())
        return found

    def start(self, theirs: socket.socket) -> None:
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-B", "-c", PATIENT, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": str(SERVICE)},
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        """It leaves, also where it was stopped."""
        self.sock.close()
        self.process.kill()
        self.process.wait()


class Threaded(Bridged):
    """In a thread of the test's own process."""

    def start(self, theirs: socket.socket) -> None:
        self._thread = threading.Thread(target=bridge.Bridge(theirs).run)
        self._thread.start()

    def close(self) -> None:
        self.sock.close()
        self._thread.join()


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server() as made:
        yield made


@pytest.fixture
def bridged(redis: Server) -> Iterator[Bridged]:
    with contextlib.closing(Bridged(redis.urls["tcp"])) as made:
        yield made


def broadcast(data: str) -> str:
    return f'{{"by":"another","host":"b","topic":"t","data":{data}}}'


def is_last(told: dict[str, Any]) -> bool:
    return told.get("data") == "last"


@pytest.mark.parametrize("data", ["1e999", "NaN", "1" * 5000, "[" * 20_000, "[" * 600 + "]" * 600, '{"a":'])
def test_no_message_of_the_redis_ends_it(redis: Server, bridged: Bridged, data: str) -> None:
    """What cannot be said to a master is passed over, and what comes after it is heard."""
    redis.ask("publish", CHANNEL, broadcast(data))
    redis.ask("publish", CHANNEL, f'{{"by":"another","key":"k","value":{data}}}')
    redis.ask("publish", CHANNEL, broadcast('"last"'))
    assert bridged.until(is_last) == [{"op": "say", "host": "b", "topic": "t", "data": "last"}]


def flood(redis: Server, count: int) -> None:
    """All at once, in the order of `data`."""
    with Redis.from_url(redis.urls["tcp"]).pipeline(transaction=False) as pipe:
        for n in range(count):
            pipe.publish(CHANNEL, broadcast(str(n)))
        pipe.publish(CHANNEL, broadcast('"last"'))
        pipe.execute()


def test_a_flood_holds_up_nothing(redis: Server, bridged: Bridged) -> None:
    """However much other hosts say, the master is heard and written to, and the lease is asked for."""
    count = 20_000
    os.kill(bridged.process.pid, signal.SIGSTOP)
    flood(redis, count)
    bridged.say({"event": "lease", "wanted": True})
    os.kill(bridged.process.pid, signal.SIGCONT)
    *before, lease = bridged.until(lambda told: told["op"] == "lease" or is_last(told))
    assert (lease["op"], lease.get("held")) == ("lease", True), "nothing but the flood"
    after = bridged.until(is_last)
    assert [told["data"] for told in [*before, *after] if told["op"] == "say"] == [*range(count), "last"]


def test_what_has_been_read_is_not_left(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What redis-py has read with an earlier message is heard though the Redis says nothing more."""
    monkeypatch.setattr(bridge, "TURN", 0.0)
    with contextlib.closing(Threaded(redis.urls["tcp"])) as bridged:
        flood(redis, 50)
        assert [told["data"] for told in bridged.until(is_last)] == [*range(50), "last"]


@pytest.mark.proof
def test_what_grows_is_not_carried(redis: Server, bridged: Bridged) -> None:
    """1e15 is four times as long when it is written again: where a message so becomes too long for who is to have it,
    it is left out, on the way to the Redis and from it, and the bridge goes on."""
    numbers = "[" + "1e15," * 3_200_000 + "0]"
    with Redis.from_url(redis.urls["tcp"], decode_responses=True) as made, made.pubsub() as others:
        others.subscribe(CHANNEL)
        assert others.get_message(timeout=HANG)
        for data in (numbers, '"last"'):
            bridged.sock.sendall(f'{{"op":"broadcast","topic":"t","data":{data}}}\0'.encode())
        heard = others.get_message(timeout=HANG)
        assert heard is not None and json.loads(heard["data"])["data"] == "last"
        for data in (numbers, '"last"'):
            made.publish(CHANNEL, broadcast(data))
    assert bridged.until(is_last) == [{"op": "say", "host": "b", "topic": "t", "data": "last"}]
