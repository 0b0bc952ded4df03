"""A wire in a poll: what does not fit is sent as soon as the peer reads, and nothing spins."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from clusterd.shell.poll import READ, WRITE, Poll
from clusterd.shell.watched import Watched
from clusterd.worker.wire import Closed, Wire

Ends = tuple[Watched, Wire, Poll[str]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Ours, which is polled; the peer's; and the poll. Neither blocks."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    poll: Poll[str] = Poll()
    left, right = Watched(ours, poll), Wire(theirs)
    poll.register(left.fileno(), READ, "left")
    yield left, right, poll
    poll.unregister(left.fileno())
    for end in (left, right):
        end.close()
    poll.close()


def test_what_waits_is_sent_when_the_peer_reads(ends: Ends) -> None:
    """Written to a peer that does not read, then it reads: every message arrives, by events of the poll alone."""
    left, right, poll = ends
    for number in range(1000):
        left.send({"number": number}, [left.fileno()])
    assert left.wants_write and poll.wait(0) == [], "a full socket is no event"
    seen: list[int] = []
    while len(seen) < 1000:
        for message, (fd,) in right.receive():
            seen.append(message["number"])
            socket.close(fd)
        for _, events in poll.wait(0):
            assert events & (READ | WRITE) == WRITE
            left.flush()
    assert seen == list(range(1000)) and poll.wait(0) == []


def test_last_words(ends: Ends) -> None:
    """What a peer said before it went is heard, although it never heard what was said to it; then its end is."""
    left, right, _ = ends
    right.send({"last": "words"})
    while not left.wants_write:
        left.send({"much": "x" * 10000})
    right.close()
    with pytest.raises(Closed):
        left.send({"too": "late"}, [left.fileno()])
    assert not left.wants_write, "what waits has nobody to wait for, and the number of its descriptor may be another's"
    assert left.exchange() == [({"last": "words"}, [])]
    with pytest.raises(Closed):
        left.exchange()


def test_who_does_not_listen_does_not_spin(ends: Ends) -> None:
    """A peer that closes its ear and lives: nothing waits for it, and what it says is heard."""
    left, right, poll = ends
    while not left.wants_write:
        left.send({"much": "x" * 10000})
    right.sock.shutdown(socket.SHUT_RD)
    assert left.exchange() == []
    assert poll.wait(0) == []
    right.send({"still": "here"})
    assert left.exchange() == [({"still": "here"}, [])]
