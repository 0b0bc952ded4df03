"""What an usher relays, on real slots: whole, both ways, to who serves, and never round in circles."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.shell.listeners import Slots, open_for_run
from tests.run.foreground import unread
from tests.shell.test_listeners import Address
from tests.shell.ushering import FEW, REQUEST, START, Usher, client, echo, rest, serve, steer
from tests.shell.waiting import PATIENCE, Spawn, queue_length, until


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


def test_never_relays_itself(slots: Slots, usher: Usher) -> None:
    """When the kernel steers the usher's own connection back to it, nothing is served: 503 once, no circle."""
    steer(slots, 1)
    usher.task("relay", list(slots.groups[0].fds))
    with client(slots) as sock:
        sock.sendall(REQUEST)
        assert rest(sock).startswith(b"HTTP/1.1 503 ")


def test_finds_who_serves_without_steering(python: Spawn) -> None:
    """Where the kernel spreads connections over all slots, most of the usher's own come back to it: it tries again, and
    whoever is in a slot that nobody serves is passed on to one of the few."""
    slots = open_for_run([Address()], 16)
    usher = Usher(python)
    serving = [socket.socket(fileno=fd) for fd in slots.groups[0].fds[:2]]
    with contextlib.ExitStack() as stack:
        for listener in serving:
            stack.enter_context(serve(listener, echo))
        usher.task("relay", list(slots.groups[0].fds[2:]))
        for _ in range(200):
            with client(slots) as sock:
                sock.sendall(REQUEST)
                sock.shutdown(socket.SHUT_WR)
                assert rest(sock) == b"echo:" + REQUEST
    for fd in slots.groups[0].fds[2:]:
        os.close(fd)
    usher.wire.close()


def astray(slots: Slots, usher: Usher) -> socket.socket:
    """A client in slot 1, whose relay waits in slot 2, which nobody serves and the usher does not know of yet."""
    steer(slots, 1)
    sock = client(slots)
    steer(slots, 2)
    usher.task("relay", [slots.groups[0].fds[1]])
    until(lambda: queue_length(slots.groups[0].fds[2]) == 1, "the relay")
    return sock


@pytest.mark.parametrize("more", [b"", b" and more"])
def test_takes_back_what_it_has_sent_itself(
    slots: Slots, usher: Usher, worker: Callable[..., None], more: bytes
) -> None:
    """An upload that it has begun to pass on to a slot where nobody reads it, which is its own then, goes as a whole to
    who serves, no byte lost and none twice, whether the client has sent everything by then or not."""
    data = os.urandom(8 << 20)
    with astray(slots, usher) as sock:

        def upload() -> None:
            sock.sendall(data)
            if not more:
                sock.shutdown(socket.SHUT_WR)

        uploading = threading.Thread(target=upload)
        uploading.start()
        until(lambda: unread(slots.groups[0].port) > 1 << 20, "much to be on its way")
        steer(slots, 0)
        worker(echo)
        usher.task("relay", list(slots.groups[0].fds[1:]))
        uploading.join()
        if more:
            sock.sendall(more)
            sock.shutdown(socket.SHUT_WR)
        assert rest(sock) == b"echo:" + data + more


def test_takes_back_a_whole_request(slots: Slots, usher: Usher, worker: Callable[..., None]) -> None:
    """Half-closed and all."""
    with astray(slots, usher) as sock:
        sock.sendall(REQUEST)
        sock.shutdown(socket.SHUT_WR)
        until(lambda: unread(slots.groups[0].port) >= len(REQUEST), "the request")
        steer(slots, 0)
        worker(echo)
        usher.task("relay", list(slots.groups[0].fds[1:]))
        assert rest(sock) == b"echo:" + REQUEST


def test_refuses_what_it_has_taken_back(slots: Slots, usher: Usher) -> None:
    """When nothing is served any more the client gets its 503, though its request has been read already."""
    with astray(slots, usher) as sock:
        sock.sendall(REQUEST)
        until(lambda: unread(slots.groups[0].port) >= len(REQUEST), "the request")
        usher.task("refuse", list(slots.groups[0].fds[1:]))
        assert rest(sock).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("number", [15, 80])
def test_a_crowd_without_steering(slots: Slots, python: Spawn, worker: Callable[..., None], number: int) -> None:
    """More clients than may be relayed at once, with its own connections behind them: they are all passed on; or with
    many more, some get 503. But nobody waits for ever."""
    usher = Usher(python, connect=PATIENCE if number < 20 else 0.2, text=FEW + START)
    clients = [client(slots) for _ in range(number)]
    for sock in clients:
        sock.sendall(REQUEST)
        sock.shutdown(socket.SHUT_WR)
    worker(echo)
    usher.task("relay", list(slots.groups[0].fds[1:]))
    answers = [rest(sock)[:12] for sock in clients]
    for sock in clients:
        sock.close()
    assert set(answers) <= {b"echo:GET / H", *([b"HTTP/1.1 503"] if number > 20 else [])}
    usher.wire.close()


def test_refuses_when_relaying_fails(slots: Slots, usher: Usher, tmp_path: Path) -> None:
    """When nobody can be reached the client gets 503, not a reset."""
    usher.task("relay", list(slots.groups[0].fds), target=[str(tmp_path / "nobody")] * 3)
    with client(slots) as sock:
        sock.sendall(REQUEST)
        assert rest(sock).startswith(b"HTTP/1.1 503 ")


def test_end_lets_open_relays_finish(slots: Slots, python: Spawn, worker: Callable[..., None]) -> None:
    """At the end nothing more is accepted, what is open is finished, however long that takes, and then it exits 0."""
    usher = Usher(python, finish=0.0)
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
    usher.wire.close()


@pytest.mark.parametrize("how", ["killed", "alone"])
def test_no_end_of_its_own_looks_clean(slots: Slots, python: Spawn, worker: Callable[..., None], how: str) -> None:
    """When it is killed, or has nobody left and has waited for long enough, who has half an answer sees a reset; and
    the worker sees that the request is not whole."""
    seen: list[bytes | OSError] = []

    def begin(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf")
        try:
            seen.append(sock.recv(100))
        except OSError as e:
            seen.append(e)

    usher = Usher(python, finish=0.0)
    steer(slots, 1)
    with client(slots) as sock:
        steer(slots, 0)
        worker(begin)
        usher.task("relay", [slots.groups[0].fds[1]])
        sock.sendall(REQUEST)
        assert sock.recv(100).endswith(b"half")
        if how == "killed":
            usher.child.kill()
        else:
            usher.wire.sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionResetError):
            rest(sock)
    until(lambda: seen, "the worker to see it")
    assert isinstance(seen[0], ConnectionResetError)
    usher.status()
    usher.wire.close()


def test_a_client_that_keeps_its_end(slots: Slots, python: Spawn, worker: Callable[..., None]) -> None:
    """The server has ended, and it does not, as many a pool leaves a connection: it is not waited for without end."""
    usher = Usher(
        python, text=START.replace("sys.exit", "from clusterd import relay\nrelay.AFTERWARDS = 0.1\nsys.exit")
    )
    steer(slots, 1)
    with client(slots) as sock:
        steer(slots, 0)
        worker(lambda sock: sock.sendall(b"whole: " + sock.recv(100)))
        usher.task("relay", [slots.groups[0].fds[1]])
        sock.sendall(REQUEST)
        assert rest(sock) == b"whole: " + REQUEST
        usher.wire.send({"op": "end"})
        assert usher.status() == 0
    usher.wire.close()


def test_who_waits_for_a_place_waits(slots: Slots, python: Spawn, worker: Callable[..., None]) -> None:
    """As many relays as there may be, and all are answered: others wait until one ends, however long; no 503."""
    few = FEW + "usher.MAX_OPEN = 2\n" + START
    usher = Usher(python, text=few, connect=10.0)
    steer(slots, 1)
    clients = [client(slots) for _ in range(4)]
    steer(slots, 0)

    def held(sock: socket.socket) -> None:
        sock.sendall(b"begun: " + sock.recv(100))
        sock.sendall(b"rest of " + sock.recv(100))

    worker(held)
    for sock in clients:
        sock.sendall(b"one")
    usher.task("relay", list(slots.groups[0].fds[1:]))
    until(lambda: len(select.select(clients, [], [], 0.0)[0]) == 2, "two answers")
    first = select.select(clients, [], [], 0.0)[0]
    others = [sock for sock in clients if sock not in first]
    assert select.select(others, [], [], 11.0)[0] == [], "for longer than an attempt may take"
    for sock in [*first, *others]:
        assert sock.recv(100) == b"begun: one"
        sock.sendall(b"two")
        assert rest(sock) == b"rest of two"
        sock.close()
    usher.wire.close()
