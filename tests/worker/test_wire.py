"""The one wire: whole messages with their descriptors, whatever the stream does to them; and every bound."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.worker.wire import MAX_FDS, Closed, Wire, WireError

Pair = tuple[Wire, Wire]

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
messages = st.dictionaries(st.text().filter(lambda key: key != "fds"), values, max_size=4)


def pair(**options: Any) -> Pair:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return Wire(ours, **options), Wire(theirs, **options)


@pytest.fixture
def ends() -> Iterator[Pair]:
    made = pair()
    yield made
    for end in made:
        end.close()


def raw(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\0"


@given(sent=st.lists(messages, max_size=5), cuts=st.lists(st.integers(0, 400), max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_chunking(sent: list[dict[str, Any]], cuts: list[int]) -> None:
    """However the bytes are cut, the same messages come out, in order, NULs and newlines in strings included."""
    left, right = pair()
    data = b"".join(raw(message) for message in sent)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    begin, received = 0, []
    for end in ends:
        if end > begin:
            left.sock.sendall(data[begin:end])
            received += right.receive()
        begin = end
    assert [message for message, _ in received] == sent
    left.close()
    right.close()


@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=8), size=st.integers(0, 200_000))
@settings(max_examples=40, deadline=None)
def test_descriptors_stay_with_their_message(counts: list[int], size: int) -> None:
    """Each message has its own descriptors, whether it came in one piece or in many."""
    left, right = pair()
    expected, received = [], []
    for number, count in enumerate(counts):
        pipes = [os.pipe() for _ in range(count)]
        readers = [reader for reader, _ in pipes]
        expected.append([os.fstat(fd).st_ino for fd in readers])
        left.send({"number": number, "text": "x" * size}, readers)
        while left.wants_write:
            received += right.receive()
            left.flush()
        for fds in pipes:
            for fd in fds:
                os.close(fd)
    while len(received) < len(counts):
        received += right.receive()
    assert [message["number"] for message, _ in received] == list(range(len(counts)))
    assert [[os.fstat(fd).st_ino for fd in fds] for _, fds in received] == expected
    for _, fds in received:
        for fd in fds:
            assert not os.get_inheritable(fd)
            os.close(fd)
    left.close()
    right.close()


def test_many_messages_with_descriptors_in_the_socket_at_once(ends: Pair) -> None:
    """Written before the peer reads anything: still each its own."""
    left, right = ends
    for number in range(20):
        reader, writer = os.pipe()
        left.send({"inode": os.fstat(reader).st_ino, "number": number}, [reader] * (number % 3))
        os.close(reader)
        os.close(writer)
    received: list[Any] = []
    while len(received) < 20:
        received += right.receive()
    for number, (message, fds) in enumerate(received):
        assert (message["number"], len(fds)) == (number, number % 3)
        for fd in fds:
            assert os.fstat(fd).st_ino == message["inode"]
            os.close(fd)


def test_the_most_descriptors(ends: Pair) -> None:
    """MAX_FDS in one message work, one more is refused before anything is sent."""
    left, right = ends
    left.send({}, [0] * MAX_FDS)
    ((message, fds),) = right.receive()
    assert message == {} and len(fds) == MAX_FDS
    for fd in fds:
        os.close(fd)
    with pytest.raises(WireError, match="254 descriptors"):
        left.send({}, [0] * (MAX_FDS + 1))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"nonsense\0", "not JSON"),
        (b"\xff\0", "not JSON"),
        (b"\0", "not JSON"),
        (b"[1]\0", "not a JSON object"),
        (b'{"fds": 1}\0', "1 descriptors, 0 arrived"),
        (b'{"fds": -1}\0', "-1 descriptors"),
        (b'{"fds": true}\0', "True descriptors"),
        (b'{"fds": "x"}\0', "'x' descriptors"),
        (b"[" * 100_000 + b"\0", "not JSON"),
    ],
)
def test_what_is_not_the_protocol(ends: Pair, data: bytes, words: str) -> None:
    """Raises WireError that quotes what came; never anything else."""
    left, right = ends
    left.sock.sendall(data)
    with pytest.raises(WireError, match=words):
        while True:
            right.receive()


def test_own_key(ends: Pair) -> None:
    """The wire's own key cannot be sent by accident."""
    with pytest.raises(WireError, match="'fds'"):
        ends[0].send({"fds": 1})


def test_limit_on_both_sides() -> None:
    """A message larger than the limit is refused by the sender, and by a receiver before it is complete."""
    left, right = pair(limit=1000)
    with pytest.raises(WireError, match="at most 1000"):
        left.send({"x": "y" * 1000})
    left.sock.sendall(b"x" * 1001)
    with pytest.raises(WireError, match="more than 1000"):
        right.receive()
    left.close()
    right.close()


def test_a_slow_reader_does_not_grow_the_sender() -> None:
    """Beyond max_backlog bytes unread, sending is an error."""
    left, right = pair(max_backlog=1 << 20)
    with pytest.raises(WireError, match="unread"):
        for _ in range(100):
            left.send({"x": "y" * 100_000})
    left.close()
    right.close()


def test_descriptors_nobody_names_are_bounded(ends: Pair) -> None:
    """A peer that sends descriptors without a message cannot fill the table of open files."""
    left, right = ends
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(WireError, match="no message names"):
        for _ in range(10):
            socket.send_fds(left.sock, [b" "], [0] * 200)
            right.receive()
    right.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_message_before_a_broken_one_leaks_nothing(ends: Pair) -> None:
    """When one read brings both, the first one's descriptors are closed with the connection."""
    left, right = ends
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(left.sock, [b'{"fds": 2}\0nonsense\0'], [0, 1])
    with pytest.raises(WireError):
        right.receive()
    right.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_too_many_open_files(ends: Pair) -> None:
    """Descriptors the kernel had to drop are an error, not a message with fewer."""
    left, right = ends
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    left.send({}, [0] * 50)
    used = {int(fd) for fd in os.listdir("/proc/self/fd")}
    free = [number for number in range(max(used) + 20) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[10], hard))
    try:
        with pytest.raises(WireError, match="cut off"):
            right.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_closed(ends: Pair) -> None:
    """Both directions tell that the peer is gone."""
    left, right = ends
    left.send({"last": "words"})
    left.close()
    assert right.receive() == [({"last": "words"}, [])]
    with pytest.raises(Closed):
        right.receive()
    with pytest.raises(Closed):
        right.send({})


def test_what_cannot_be_written(ends: Pair) -> None:
    """For another reason than that the peer is gone: nobody is told that it is, and nothing of it is sent later."""
    left, right = ends
    closed = os.dup(0)
    os.close(closed)
    with pytest.raises(WireError, match="Bad file descriptor") as found:
        left.send({"what": "it"}, [closed])
    assert not isinstance(found.value, Closed) and not left.wants_write
    left.send({"what": "next"})
    assert right.receive() == [({"what": "next"}, [])]


def test_nothing_to_read(ends: Pair) -> None:
    """A non-blocking wire without input has no messages."""
    assert ends[1].receive() == []


def test_descriptors_of_a_message_that_waits(ends: Pair) -> None:
    """A sender may close its descriptors at once, even when the peer reads much later; no copy is left."""
    left, right = ends
    before = len(os.listdir("/proc/self/fd"))
    for number in range(2000):
        fd = os.memfd_create(str(number))
        os.write(fd, b"%d" % number)
        left.send({"number": number}, [fd])
        os.close(fd)
    assert left.wants_write
    seen = 0
    while seen < 2000:
        left.flush()
        for message, (fd,) in right.receive():
            assert message == {"number": seen} and os.pread(fd, 9, 0) == b"%d" % seen
            os.close(fd)
            seen += 1
    assert not left.wants_write and len(os.listdir("/proc/self/fd")) == before


def test_detached(ends: Pair) -> None:
    """What is given up is the connection alone: the copies of what waited are closed."""
    left, _ = ends
    before = len(os.listdir("/proc/self/fd"))
    while not left.wants_write:
        left.send({"what": "it"}, [0])
    left.send({"what": "it"}, [0])
    assert len(os.listdir("/proc/self/fd")) == before + 2
    number = left.detach()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(number)
