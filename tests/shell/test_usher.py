"""The usher as a process, on real slots: what it answers, whose it is, and when it ends."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.shell.listeners import Slots, open_for_run
from clusterd.usher import answer, may_be_http, parse
from clusterd.worker.wire import Closed
from tests.shell.test_listeners import Address
from tests.shell.ushering import FEW, REQUEST, START, Usher, client, echo, rest, steer
from tests.shell.waiting import PATIENCE, Spawn, readable

CROWDED = (
    FEW
    + """
accept, calls, eaten = usher.Usher._accept, [], []
usher.AGAIN = 0.05


def counted(self, listener):
    if not calls:
        asyncio.get_running_loop().call_later(0.5, lambda: [os.close(fd) for fd in eaten])
        try:
            while True:
                eaten.append(os.dup(0))
        except OSError:
            pass
    calls.append(time.monotonic())
    accept(self, listener)


usher.Usher._accept = counted
usher.main([sys.argv[1]])
print(len(calls), (calls[-1] - calls[0]) / usher.AGAIN)
"""
)


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


def test_no_more_relays_than_descriptors(slots: Slots, python: Spawn, worker: Callable[..., None]) -> None:
    """With a small RLIMIT_NOFILE fewer are relayed at once, the others wait in their queue: every one is answered."""
    usher = Usher(python, text=FEW + START)
    steer(slots, 1)
    clients = [client(slots) for _ in range(60)]
    steer(slots, 0)
    worker(echo)
    usher.task("relay", list(slots.groups[0].fds[1:]))
    for sock in clients:
        sock.sendall(REQUEST)
        sock.shutdown(socket.SHUT_WR)
    for sock in clients:
        assert rest(sock) == b"echo:" + REQUEST
        sock.close()
    usher.wire.close()


def test_out_of_descriptors(slots: Slots, python: Spawn, worker: Callable[..., None]) -> None:
    """When there is none for the other side of a relay its client is told 503; none is dropped without a word."""
    usher = Usher(python, text=FEW + "usher.SPARE = -1000\n" + START, stderr=subprocess.PIPE)
    steer(slots, 1)
    clients = [client(slots) for _ in range(60)]
    for sock in clients:
        sock.sendall(REQUEST)
        sock.shutdown(socket.SHUT_WR)
    steer(slots, 0)
    worker(echo)
    usher.task("relay", [slots.groups[0].fds[1]])
    answers = {rest(sock)[:12] for sock in clients}
    for sock in clients:
        sock.close()
    assert b"HTTP/1.1 503" in answers and answers <= {b"HTTP/1.1 503", b"echo:GET / H"}
    usher.wire.close()
    assert usher.child.communicate(timeout=PATIENCE)[1] == b""


def test_accepts_again_in_a_moment(slots: Slots, python: Spawn) -> None:
    """While others have taken all descriptors it tries now and then, and does not spin; it needs no relay to end."""
    usher = Usher(python, text=CROWDED)
    steer(slots, 1)
    usher.task("refuse", [slots.groups[0].fds[1]])
    with client(slots) as sock:
        sock.sendall(REQUEST)
        assert rest(sock).startswith(b"HTTP/1.1 503 ")
    usher.wire.close()
    calls, waits = usher.child.communicate(timeout=PATIENCE)[0].split()
    assert 2 <= int(calls) <= float(waits) + 2


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
