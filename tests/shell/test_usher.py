"""The usher as a process, on real slots: relaying, refusing, never going round in circles."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd.balance.program import program
from clusterd.shell import reuseport
from clusterd.shell.listeners import Slots, open_for_run
from clusterd.usher import answer, may_be_http, parse
from clusterd.worker.wire import Closed, Wire
from tests.run.foreground import unread
from tests.shell.test_listeners import Address
from tests.shell.waiting import PATIENCE, Spawn, queue_length, readable, until

START = """
import sys
from clusterd import usher
usher.IDLE = float(sys.argv[2])
usher.HEAD = usher.LINGER = usher.CONNECT = float(sys.argv[3])
usher.FINISH = float(sys.argv[4])
sys.exit(usher.main([sys.argv[1]]))
"""
FEW = """
import asyncio
import os
import resource
import sys
import time
from clusterd import usher

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
"""
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
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Usher:
    """The process, and the master's end of its wire."""

    def __init__(
        self,
        python: Spawn,
        idle: float = 60.0,
        finish: float = PATIENCE,
        connect: float = PATIENCE,
        text: str = START,
        **options: object,
    ) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        arguments = map(str, (theirs.fileno(), idle, connect, finish))
        self.child = python(text, *arguments, pass_fds=[theirs.fileno()], **options)
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


@contextlib.contextmanager
def serve(listener: socket.socket, by: Callable[[socket.socket], None]) -> Iterator[None]:
    """Serve a slot by a function, a thread a connection; closes the listener."""
    threads: list[threading.Thread] = []
    waking, wake = socket.socketpair()

    def accepting() -> None:
        while True:
            ready, _, _ = select.select([listener, waking], [], [])
            if waking in ready:
                return
            with contextlib.suppress(BlockingIOError):
                sock, _ = listener.accept()
                sock.settimeout(PATIENCE)
                threads.append(threading.Thread(target=served, args=(sock,)))
                threads[-1].start()

    def served(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            by(sock)

    threads.append(threading.Thread(target=accepting))
    threads[0].start()
    yield
    wake.close()
    for thread in threads:
        thread.join(PATIENCE)
    listener.close()
    waking.close()


@pytest.fixture
def worker(slots: Slots) -> Iterator[Callable[[Callable[[socket.socket], None]], None]]:
    """Serve slot 0 by a function."""
    with contextlib.ExitStack() as stack:
        yield lambda by: stack.enter_context(serve(socket.socket(fileno=os.dup(slots.groups[0].fds[0])), by))


def steer(slots: Slots, *live: int, group: int = 0) -> None:
    reuseport.attach(slots.groups[group].fds[0], program("random", live))


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
