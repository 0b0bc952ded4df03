"""A wire in a poll: what does not fit is sent as soon as the peer reads, and nothing spins."""

from __future__ import annotations

import socket

from clusterd.shell.poll import READ, WRITE, Poll
from clusterd.shell.watched import Watched
from clusterd.worker.wire import Wire


def test_what_waits_is_sent_when_the_peer_reads() -> None:
    """Written to a peer that does not read, then it reads: every message arrives, by events of the poll alone."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    poll: Poll[str] = Poll()
    left, right = Watched(ours, poll), Wire(theirs)
    poll.register(left.fileno(), READ, "left")
    for number in range(1000):
        left.send({"number": number}, [ours.fileno()])
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
    poll.unregister(left.fileno())
    for end in (left, right):
        end.close()
    poll.close()
