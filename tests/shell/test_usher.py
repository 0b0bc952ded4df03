"""The usher as a process, on real slots: relaying, refusing, never going round in circles."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd.balance.program import program
from clusterd.shell import reuseport
from clusterd.shell.listeners import Slots, open_for_run
from clusterd.usher import answer, may_be_http, parse
from clusterd.worker.wire import Closed, Wire
from tests.shell.test_listeners import Address
from tests.shell.waiting import PATIENCE, Spawn, queue_length, readable

START = """
import sys
from clusterd import usher
usher.IDLE = float(sys.argv[2])
usher.HEAD = usher.LINGER = usher.CONNECT = float(sys.argv[3])
sys.exit(usher.main([sys.argv[1]]))
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Usher:
    """The process, and the master's end of its wire."""

    def __init__(self, python: Spawn, idle: float = 60.0) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        self.child = python(START, str(theirs.fileno()), str(idle), str(PATIENCE), pass_fds=[theirs.fileno()])
        theirs.close()
        self.wire = Wire(ours)

    def task(self, mode: str, fds: list[int], **more: object) -> None:
        self.wire.send({"op": "usher", "mode": mode, "slots": [], **more}, fds)

    def status(self) -> int:
        return self.child.wait(PATIENCE)


@pytest.fixture
def usher(python: Spawn) -> Iterator[Usher]:
    made = Usher(python)
    yield made
    made.wire.close()


@pytest.fixture
def slots() -> Iterator[Slots]:
    """Three slots; no program yet."""
    made = open_for_run([Address()], 3)
    yield made
    for fd in made.groups[0].fds:
        os.close(fd)


@pytest.fixture
def worker(slots: Slots) -> Iterator[Callable[[Callable[[socket.socket], None]], None]]:
    """Serve slot 0 by a function, a thread a connection."""
    threads: list[threading.Thread] = []
    listener = socket.socket(fileno=os.dup(slots.groups[0].fds[0]))
    waking, wake = socket.socketpair()

    def accepting(serve: Callable[[socket.socket], None]) -> None:
        import select

        while True:
            ready, _, _ = select.select([listener, waking], [], [])
            if waking in ready:
                return
            with contextlib.suppress(BlockingIOError):
                sock, _ = listener.accept()
                sock.settimeout(PATIENCE)
                threads.append(threading.Thread(target=served, args=(serve, sock)))
                threads[-1].start()

    def served(serve: Callable[[socket.socket], None], sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            serve(sock)

    def begin(serve: Callable[[socket.socket], None]) -> None:
        threads.append(threading.Thread(target=accepting, args=(serve,)))
        threads[-1].start()

    yield begin
    wake.close()
    for thread in threads:
        thread.join(PATIENCE)
    listener.close()
    waking.close()


def steer(slots: Slots, *live: int) -> None:
    reuseport.attach(slots.groups[0].fds[0], program("random", live))


def client(slots: Slots) -> socket.socket:
    sock = socket.create_connection((slots.groups[0].host, slots.groups[0].port), PATIENCE)
    sock.settimeout(PATIENCE)
    return sock


def rest(sock: socket.socket) -> bytes:
    """Everything up to the end of file."""
    got = b""
    while data := sock.recv(65536):
        got += data
    return got


def echo(sock: socket.socket) -> None:
    """Answer only when the client has said that it has sent everything."""
    sock.sendall(b"echo:" + rest(sock))


def test_relays_what_waited(slots: Slots, usher: Usher, worker: Callable[..., None]) -> None:
    """Connections queued on slots nobody serves reach a live slot, whole, half-closed and all, both ways."""
    steer(slots, 1, 2)
    clients = [client(slots) for _ in range(40)]
    data = os.urandom(300_000)
    steer(slots, 0)
    worker(echo)
    usher.task("relay", list(slots.groups[0].fds[1:]))

    def talk(sock: socket.socket) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    talking = [threading.Thread(target=talk, args=(sock,)) for sock in clients]
    for thread in talking:
        thread.start()
    for sock in clients:
        assert rest(sock) == b"echo:" + data
        sock.close()
    for thread in talking:
        thread.join()


def test_reset_stays_a_reset(slots: Slots, usher: Usher, worker: Callable[..., None]) -> None:
    """A worker that breaks off in the middle is seen to break off: half an answer must not look like a whole one."""

    def break_off(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf")
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    steer(slots, 1)
    with client(slots) as sock:
        steer(slots, 0)
        worker(break_off)
        usher.task("relay", [slots.groups[0].fds[1]])
        sock.sendall(REQUEST)
        assert sock.recv(100).endswith(b"half")
        sock.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            rest(sock)


def test_a_stranger_is_not_taken_for_this_machine(usher: Usher) -> None:
    """On a wildcard listener the relay goes where the client went, and comes from there: not from 127.0.0.1."""
    slots = open_for_run([Address(host="0.0.0.0")], 2)
    served, waiting = (socket.socket(fileno=fd) for fd in slots.groups[0].fds)
    served.settimeout(PATIENCE)
    steer(slots, 1)
    with served, waiting, socket.create_connection(("127.1.2.3", slots.groups[0].port), PATIENCE) as sock:
        steer(slots, 0)
        usher.task("relay", [waiting.fileno()])
        relayed, _ = served.accept()
        with relayed:
            assert relayed.getsockname()[0] == "127.1.2.3"
            relayed.sendall(b"hello")
        assert rest(sock) == b"hello"


def test_near(usher: Usher) -> None:
    """Where the unit lets it reach loopback addresses only, it connects to one, and still comes from where the client
    went: who listens on one address alone has that in the unit."""
    slots = open_for_run([Address(host="0.0.0.0")], 2)
    served, waiting = (socket.socket(fileno=fd) for fd in slots.groups[0].fds)
    served.settimeout(PATIENCE)
    steer(slots, 1)
    with served, waiting, socket.create_connection(("127.1.2.3", slots.groups[0].port), PATIENCE) as sock:
        steer(slots, 0)
        usher.task("relay", [waiting.fileno()], near=True)
        relayed, peer = served.accept()
        with relayed:
            assert (relayed.getsockname()[0], peer[0]) == ("127.0.0.1", "127.1.2.3")
            relayed.sendall(b"hello")
        assert rest(sock) == b"hello"


def test_refuses_with_503(slots: Slots, usher: Usher) -> None:
    """With nothing served the client is told so and when to come again, and can read it although it sends on."""
    usher.task("refuse", list(slots.groups[0].fds), **{"retry-after": 7})
    with client(slots) as sock:
        sock.sendall(b"POST /up HTTP/1.1\r\nContent-Length: 300000\r\n\r\n" + bytes(200_000))
        got = rest(sock)
        assert got.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        head, _, body = got.partition(b"\r\n\r\n")
        assert b"\r\nRetry-After: 7\r\n" in head and head.endswith(b"\r\nConnection: close")
        assert b"Content-Length: %d\r\n" % len(body) in head and body


def test_refuses_what_is_not_http(slots: Slots, usher: Usher) -> None:
    """For a program that speaks something else the connection is closed, without words."""
    usher.task("refuse", list(slots.groups[0].fds), kind="close")
    with client(slots) as sock:
        sock.sendall(b"hello")
        assert rest(sock) == b""


@pytest.mark.parametrize("said", [b"\x16\x03\x01\x02\x00\x01", b"*1\r\n$4\r\nPING\r\n", b"hello\r\n"])
def test_hangs_up_on_what_is_not_http(slots: Slots, usher: Usher, said: bytes) -> None:
    """Who begins with what no request of HTTP begins with gets no answer that he could not read."""
    usher.task("refuse", list(slots.groups[0].fds))
    with client(slots) as sock:
        sock.sendall(said)
        try:
            assert rest(sock) == b""
        except ConnectionResetError:
            pass  # there was more that it had not read


def test_what_may_be_http() -> None:
    """However little of a request has come, and nothing else."""
    for length in range(len(REQUEST) + 1):
        assert may_be_http(REQUEST[:length])
    for head in (b"get / HTTP/1.1", b" GET / ", b"\r\n", b"A" * 30, b"GET\t/"):
        assert not may_be_http(head)


def test_head_has_no_body() -> None:
    """The answer to HEAD is a head."""
    assert answer(b"HEAD / HTTP/1.1\r\n\r\n", 5).endswith(b"\r\n\r\n") and not answer(b"GET", 5).endswith(b"\r\n\r\n")


def test_never_relays_itself(slots: Slots, usher: Usher) -> None:
    """When the kernel steers the usher's own connection back to it, nothing is served: 503 once, no circle."""
    steer(slots, 1)
    usher.task("relay", list(slots.groups[0].fds))
    with client(slots) as sock:
        sock.sendall(REQUEST)
        assert rest(sock).startswith(b"HTTP/1.1 503 ")


def test_refuses_when_relaying_fails(slots: Slots, usher: Usher, tmp_path: Path) -> None:
    """When nobody can be reached the client gets 503, not a reset."""
    usher.task("relay", list(slots.groups[0].fds), target=[str(tmp_path / "nobody")] * 3)
    with client(slots) as sock:
        sock.sendall(REQUEST)
        assert rest(sock).startswith(b"HTTP/1.1 503 ")


def test_new_task_replaces_the_old(slots: Slots, usher: Usher) -> None:
    """From the next order on only its slots are accepted on: a slot with a worker again is the worker's."""
    usher.task("refuse", list(slots.groups[0].fds))
    steer(slots, 2)
    with client(slots) as sock:
        sock.sendall(REQUEST)
        rest(sock)
    usher.task("refuse", [slots.groups[0].fds[0]])
    steer(slots, 0)
    with client(slots) as sock:  # answered, so the order has been taken
        sock.sendall(REQUEST)
        assert rest(sock)
    steer(slots, 2)
    with client(slots), socket.socket(fileno=os.dup(slots.groups[0].fds[2])) as mine:
        assert readable(mine.fileno())
        mine.accept()[0].close()


def test_end_lets_open_relays_finish(slots: Slots, usher: Usher, worker: Callable[..., None]) -> None:
    """At the end nothing more is accepted, what is open is finished, and then it exits 0."""
    relayed = threading.Event()

    def echo_what_has_begun(sock: socket.socket) -> None:
        begun = sock.recv(100)
        relayed.set()
        sock.sendall(b"echo:" + begun + rest(sock))

    steer(slots, 1)
    with client(slots) as sock:
        steer(slots, 0)
        worker(echo_what_has_begun)
        listener = slots.groups[0].fds[1]
        usher.task("relay", [listener])
        sock.sendall(b"begun ")
        assert relayed.wait(PATIENCE)
        usher.wire.send({"op": "end"})
        steer(slots, 1)
        with client(slots):
            sock.sendall(b"and ended")
            sock.shutdown(socket.SHUT_WR)
            assert rest(sock) == b"echo:begun and ended"
            assert usher.status() == 0
            assert queue_length(listener) == 1


@pytest.mark.parametrize("how", ["end", "gone"])
def test_leaves_with_the_master(slots: Slots, usher: Usher, how: str) -> None:
    """Told to end, or with its master dead, it exits 0 at once."""
    usher.task("refuse", list(slots.groups[0].fds))
    if how == "end":
        usher.wire.send({"op": "end"})
    else:
        usher.wire.close()
    assert usher.status() == 0


def test_tells_that_it_is_idle(slots: Slots, python: Spawn) -> None:
    """When nothing has happened for a while it says so, and again."""
    usher = Usher(python, idle=0.05)
    usher.task("refuse", list(slots.groups[0].fds))
    heard: list[dict[str, object]] = []
    while len(heard) < 2:
        heard += [message for message, _ in usher.wire.receive()]
    assert heard == [{"event": "idle"}] * len(heard)
    usher.wire.send({"op": "end"})
    assert usher.status() == 0
    with pytest.raises(Closed):
        while True:
            usher.wire.receive()
    usher.wire.close()


def test_unix_socket_is_refused_only(usher: Usher, tmp_path: Path) -> None:
    """A UNIX socket is everybody's: there is no other slot to relay to."""
    made = open_for_run([Address("unix", "", 0, str(tmp_path / "s"))], 1)
    usher.task("relay", list(made.groups[0].fds))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(tmp_path / "s"))
        sock.sendall(REQUEST)
        assert rest(sock).startswith(b"HTTP/1.1 503 ")
    os.close(made.groups[0].fds[0])


def test_addresses() -> None:
    """Addresses are read as clusterd writes them; a wildcard is reached by loopback."""
    assert parse("0.0.0.0:8000") == ("127.0.0.1", 8000) and parse("[::]:8000") == ("::1", 8000)
    assert parse("[2001:db8::1]:80") == ("2001:db8::1", 80) and parse("/run/x") == "/run/x"
