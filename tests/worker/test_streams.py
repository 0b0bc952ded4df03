"""What takes long across a drain: a slow answer, an upload, a stream of events, a download, and how each is cut."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from environments import CASES, ROOT, Case, environment
from harness import BEGUN, Client, Master, Worker, signal_pidfd
from websocket import WebSocket

from tests.lacking import lacking

ASGI = '''
import asyncio, os

from clusterd import worker

PIECE = b"x" * 65536


async def app(scope, receive, send):
    """/slow and /events go on when the file `go` is there; /polite until the drain begins."""
    if scope["type"] != "http":
        raise RuntimeError("no lifespan, no WebSockets")
    path = scope["path"]
    if path in ("/upload", "/slow"):
        tell_begun()
    if path == "/upload":
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RuntimeError("the client is gone")
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await answer(send, [str(size).encode()])
        return
    await receive()
    gone = asyncio.ensure_future(receive())  # as Starlette listens for the end of the client while it streams
    try:
        if path == "/slow":
            await until(gone, lambda: os.path.exists("go"))
            await answer(send, [b"slow"])
        elif path == "/polite":
            state = scope["state"]["clusterd"] if "state" in scope else worker
            await begin(send, [])
            await part(send, b"data: %d\\n\\n" % state.draining)
            await until(gone, lambda: state.draining)
            await end(send, b"data: %d\\n\\n" % state.draining)
        elif path == "/events":
            await begin(send, [])
            await part(send, b"data: 1\\n\\n")
            await until(gone, lambda: os.path.exists("go"))
            await end(send, b"data: 2\\n\\n")
        elif path == "/bulk":
            await answer(send, [PIECE * 160])
        else:
            await begin(send, [(b"content-length", b"%d" % (len(PIECE) * 160))])
            for _ in range(159):
                await part(send, PIECE)
            await end(send, PIECE)
    finally:
        gone.cancel()


async def until(gone, ready):
    while not ready():
        if gone.done():
            raise RuntimeError("the client is gone")
        await asyncio.sleep(0.01)


async def answer(send, pieces):
    await begin(send, [(b"content-length", b"%d" % sum(map(len, pieces)))])
    await end(send, b"".join(pieces))


async def begin(send, headers):
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def part(send, body):
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def end(send, body):
    await send({"type": "http.response.body", "body": body})
'''

WSGI = '''
import os, time

PIECE = b"x" * 65536


def app(environ, start_response):
    """As the other."""
    path = environ["PATH_INFO"]
    state = environ["clusterd.worker"]
    if path in ("/upload", "/slow"):
        tell_begun()
    if path == "/upload":
        size = 0
        while piece := environ["wsgi.input"].read(65536):
            size += len(piece)
        return answer(start_response, str(size).encode())
    if path == "/slow":
        until(lambda: os.path.exists("go"))
        return answer(start_response, b"slow")
    if path == "/bulk":
        return answer(start_response, PIECE * 160)
    if path == "/polite":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return polite(state)
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return events()
    start_response("200 OK", [("Content-Length", str(len(PIECE) * 160))])
    return (PIECE for _ in range(160))


def answer(start_response, body):
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def until(ready):
    while not ready():
        time.sleep(0.01)


def events():
    yield b"data: 1\\n\\n"
    until(lambda: os.path.exists("go"))
    yield b"data: 2\\n\\n"


def polite(worker):
    yield b"data: %d\\n\\n" % worker.draining
    until(lambda: worker.draining)
    yield b"data: %d\\n\\n" % worker.draining
'''

PIECE = 1 << 16
DOWNLOAD = 160 * PIECE
"""More than the kernel holds for both ends."""
UPLOAD = 64 * PIECE
THREADS = {"keep-alive": 60.0, "forwarded-allow-ips": [], "root-path": "", "max-connections": None, "threads": 8}


class Reader:
    """An answer, read as far as a test likes: head and whatever followed, until the server ends it."""

    def __init__(self, client: Client, path: str, headers: str = "", method: str = "GET") -> None:
        self.sock = client.sock
        client.ask(path, headers, method)
        self.data = bytearray()

    def until(self, piece: bytes) -> None:
        while piece not in self.data:
            more = self.sock.recv(1 << 16)
            assert more, f"ended without {piece!r}: {self.data[-200:]!r}"
            self.data += more

    def rest(self) -> bytearray:
        """All of it; raises ConnectionResetError where it ends in a reset."""
        while more := self.sock.recv(1 << 16):
            self.data += more
        return self.data

    @property
    def body(self) -> bytearray:
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def chunked(self) -> bool:
        return b"transfer-encoding: chunked" in self.data.partition(b"\r\n\r\n")[0].lower()


class Long:
    """One of each, begun for sure, on connections of their own; whoever reads slowly is one of them.

    `begin`: as the fixture.
    """

    def __init__(self, address: Any, begin: Any) -> None:
        self.clients = [Client(address) for _ in range(6)]
        self.upload_sock = self.clients[0].sock
        self.upload = begin(Reader, self.clients[0], "/upload", f"Content-Length: {UPLOAD}\r\n", "POST")
        self.upload_sock.sendall(b"u" * PIECE)
        self.download = Reader(self.clients[1], "/download")
        self.download.until(b"x" * 100)
        self.bulk = Reader(self.clients[5], "/bulk")
        self.bulk.until(b"x" * 100)
        self.slow = begin(Reader, self.clients[2], "/slow")
        self.events = Reader(self.clients[3], "/events")
        self.events.until(b"data: 1\n\n")
        self.polite = Reader(self.clients[4], "/polite")
        self.polite.until(b"data: 0\n\n")

    def close(self) -> None:
        for client in self.clients:
            client.close()


EACH = [
    pytest.param(case, marks=[] if case.environment.endswith("-newest") else pytest.mark.proof, id=case.name)
    for case in CASES
]


@pytest.fixture(params=EACH)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def booted(start: Any, application: Path, case: Case) -> Master:
    asgi = case.app == "hello:app"
    (application / "streaming.py").write_text(BEGUN + (ASGI if asgi else WSGI))
    master: Master = start(python=environment(case.environment))
    http = {} if asgi else {"http": THREADS}
    master.up(app="streaming:app", engine=case.environment.partition("-")[0], **http)
    return master


def at_once(ask: Any, *args: Any) -> Any:
    return ask(*args)


@pytest.fixture
def begin(case: Case, begun: Any) -> Any:
    """`begun`, for granian; waitress begins with an upload when it has all of it, and whoever comes next is served."""
    return begun if case.environment.startswith("granian") else at_once


def test_what_has_begun_is_finished(booted: Master, application: Path, slots: Any, begin: Any) -> None:
    """Whole, each of them, though `linger` is long over; who looks whether a drain has begun can end in good order."""
    (slot,) = slots(1)
    worker = booted.serving([slot])
    idle = Client(slot.getsockname())
    long = Long(slot.getsockname(), begin)
    worker.drain(linger=0.1, timeout=60)
    worker.peer.expect("draining")
    assert long.polite.rest().count(b"data: 1\n\n") == 1 and ended(long.polite)
    assert idle.ended()  # so `linger` is over
    (application / "go").touch()
    for _ in range(UPLOAD // PIECE - 1):
        long.upload_sock.sendall(b"u" * PIECE)
    assert long.upload.rest().endswith(b"\r\n\r\n%d" % UPLOAD)
    assert long.slow.rest().endswith(b"\r\n\r\nslow")
    assert b"data: 2\n\n" in long.events.rest() and ended(long.events)
    for download in (long.download, long.bulk):
        download.rest()
        assert len(download.body) == DOWNLOAD
    assert worker.peer.expect("drained")["cut"] == 0
    assert worker.gone()
    idle.close()
    long.close()


def ended(reader: Reader) -> bool:
    """Whether the client can tell that it is whole: the last chunk came. One by HTTP/1.0's rules never tells."""
    return reader.body.endswith(b"0\r\n\r\n") if reader.chunked else True


def test_what_takes_too_long_is_cut(booted: Master, slots: Any, begin: Any) -> None:
    """At the end of the drain each client can tell that it did not get all, and none that waits is reset."""
    (slot,) = slots(1)
    worker = booted.serving([slot])
    long = Long(slot.getsockname(), begin)
    worker.drain(linger=0.1, timeout=60)
    worker.peer.expect("draining")
    long.polite.rest()
    worker.drain(linger=0.1, timeout=0.8)
    assert long.slow.rest() == b""
    assert b"data: 2" not in long.events.rest() and long.events.chunked and not ended(long.events)
    assert long.upload.rest() == b""
    for download in (long.download, long.bulk):
        download.rest()
        assert len(download.body) < DOWNLOAD
    assert worker.peer.expect("drained")["cut"] == 5
    assert worker.gone()
    long.close()


@pytest.mark.parametrize("constants", ["channel.LAST = 119.5"], ids=["last"])
@pytest.mark.parametrize("case", [param for param in EACH if param.values[0].app == "hello:app"])
def test_a_websocket_is_told_before_the_end(start: Any, slots: Any, case: Case) -> None:
    """1012, also where `linger` is as long as the whole drain, as it is when a stop leaves little time."""
    master = start(python=environment(case.environment))
    master.up(**case.boot)
    (slot,) = slots(1)
    worker = master.serving([slot])
    websockets = [WebSocket(slot.getsockname()) for _ in range(3)]
    kept = Client(slot.getsockname())
    kept.get()
    worker.drain(linger=120, timeout=120)
    for websocket in websockets:
        assert websocket.close_code() == 1012
        websocket.close()
    assert kept.ended()
    report = worker.drained()
    assert (report["websockets"], report["closed"], report["cut"]) == (3, 1, 0)
    kept.close()


@pytest.mark.parametrize("case", [param for param in EACH if param.values[0].app == "hello:app"])
def test_a_websocket_is_told_after_the_end(start: Any, slots: Any, case: Case) -> None:
    """1012 also where the worker has stood still until the drain was to be over: here it is over as it begins."""
    master = start(python=environment(case.environment))
    master.up(**case.boot)
    (slot,) = slots(1)
    worker = master.serving([slot])
    websocket = WebSocket(slot.getsockname())
    worker.drain(linger=0, timeout=0)
    assert websocket.close_code() == 1012
    websocket.close()
    assert worker.drained()["websockets"] == 1


ROUTES = """
  if (url.pathname === "/slow") until("go", () => answer("slow"));
  else if (url.pathname === "/events") {
    response.write("data: 1\\n\\n");
    until("go", () => response.end("data: 2\\n\\n"));
  } else if (url.pathname === "/polite") {
    response.write("data: 0\\n\\n");
    process.once("SIGTERM", () => response.end("data: 1\\n\\n"));
  } else if (url.pathname === "/download" || url.pathname === "/bulk") {
    response.setHeader("Content-Length", 160 * 65536);
    if (url.pathname === "/bulk") response.end(Buffer.alloc(160 * 65536, "x"));
    else Readable.from(Array(160).fill(Buffer.alloc(65536, "x"))).pipe(response);
  } else if (url.pathname === "/upload") {
    let size = 0;
    request.on("data", (piece) => (size += piece.length)).on("end", () => response.end(String(size)));
  } else """
UNTIL = """
const fs = require("node:fs");
const { Readable } = require("node:stream");
const until = (file, then) => {
  const timer = setInterval(() => fs.existsSync(file) && (clearInterval(timer), then()), 10);
};
"""


@pytest.fixture
def node(start: Any, application: Path, slots: Any, tmp_path: Path) -> tuple[Worker, Long]:
    """examples/node with the same paths, serving each of them."""
    if shutil.which("node") is None:
        lacking("no node")
    source = (ROOT / "examples/node/server.js").read_text()
    first = '  if (url.pathname === "/pid")'
    assert first in source
    (application / "server.js").write_text(UNTIL + source.replace(first, ROUTES + first.strip()))
    (slot,) = slots(1)
    master = start(directory=application, env={"LINGER": "0.1"})
    master.up(kind="command", command=["node", "server.js"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path := str(tmp_path / "notify"))
        notify.settimeout(60)
        worker: Worker = master.fork([slot], 0, notify=path)
        worker.peer.send({"op": "go"})
        assert b"READY=1" in notify.recv(4096)
    return worker, Long(slot.getsockname(), at_once)


def test_a_command_finishes_what_has_begun(node: tuple[Worker, Long], application: Path) -> None:
    """SIGTERM is how it learns of the drain, and all it has to do is to leave when the last one is served."""
    worker, long = node
    signal_pidfd(worker.pidfd, signal.SIGTERM)
    assert long.polite.rest().count(b"data: 1\n\n") == 1 and ended(long.polite)
    (application / "go").touch()
    for _ in range(UPLOAD // PIECE - 1):
        long.upload_sock.sendall(b"u" * PIECE)
    assert long.upload.rest().endswith(b"%d" % UPLOAD)
    assert long.slow.rest().endswith(b"slow\n")
    assert b"data: 2\n\n" in long.events.rest() and ended(long.events)
    for download in (long.download, long.bulk):
        download.rest()
        assert len(download.body) == DOWNLOAD
    assert worker.gone()
    long.close()


@pytest.mark.proof
def test_a_command_that_is_killed_ends_nothing_falsely(node: tuple[Worker, Long]) -> None:
    """SIGKILL at the end of the drain: to its clients it is as the end of any other worker."""
    worker, long = node
    signal_pidfd(worker.pidfd)
    assert worker.gone()
    assert long.slow.rest() == b"" and long.upload.rest() == b""
    long.events.rest()
    assert long.events.chunked and not ended(long.events)
    for download in (long.download, long.bulk):
        download.rest()
        assert len(download.body) < DOWNLOAD
    long.close()
