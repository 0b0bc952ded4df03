"""HTTP/2 and TLS, which granian speaks: what is agreed on, and a drain that no stream notices."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import make
from environments import CASES, Case, environment
from harness import HELD, Master
from http2 import Http2, insecure

from tests.descriptors import links
from tests.patience import HANG

GRANIANS = [
    pytest.param(case, marks=[] if case.engine == "auto" else pytest.mark.proof, id=case.name)
    for case in CASES
    if case.environment == "granian-newest"
]


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A certificate and its key, as the "boot" message has them."""
    return make(tmp_path_factory.mktemp("pem"), "one", 1).contents


@pytest.fixture(params=GRANIANS)
def booted(request: pytest.FixtureRequest, start, application: Path) -> Callable[..., Master]:
    """booted(tls=, http=) -> a master whose zygote has loaded the example."""
    case: Case = request.param

    def boot(**changes: Any) -> Master:
        master = start(python=environment(case.environment))
        master.up(**case.boot, **changes)
        return master

    return boot


@pytest.mark.parametrize("over", ["tls", "plain"])
def test_staged_drain(booted, application: Path, begun, slots, pem: dict[str, str], over: str) -> None:
    """Streams on a kept connection are answered until linger is over; then GOAWAY, after which those under way are."""
    (slot,) = slots(1)
    worker = booted(tls=pem if over == "tls" else None).serving([slot])
    client = Http2(slot.getsockname(), insecure("h2") if over == "tls" else None)
    assert client.get("/pid") == (200, f"{worker.pid}\n")
    slow = begun(client.ask, HELD)
    worker.drain(linger=30)
    worker.peer.expect("draining")
    stream = client.ask("/pid")
    assert client.read(stream) == (200, f"{worker.pid}\n")
    assert "connection" not in client.headers[stream]
    assert client.going_away is None
    worker.drain(linger=0.2)
    while client.going_away is None:
        assert client.turn()
    assert slow not in client.ended
    (application / "go").touch()
    assert client.read(slow) == (200, "slept 0 s\n")
    while client.turn():
        pass
    assert client.going_away >= stream
    assert worker.peer.expect("drained")["cut"] == 0
    assert worker.gone()
    client.close()


@pytest.mark.parametrize(("version", "agreed"), [("auto", "h2"), ("1", "http/1.1"), ("2", "h2")])
def test_what_is_agreed_on(booted, slots, pem: dict[str, str], version: str, agreed: str) -> None:
    """http.version decides what TLS offers: both, HTTP/1.1 alone, HTTP/2 alone."""
    (slot,) = slots(1)
    booted(tls=pem, http={"version": version}).serving([slot])
    with socket.create_connection(slot.getsockname(), timeout=HANG) as plain:
        with insecure("h2", "http/1.1").wrap_socket(plain, server_hostname="localhost") as sock:
            assert sock.selected_alpn_protocol() == agreed


def test_the_key_is_nowhere(booted, slots, pem: dict[str, str]) -> None:
    """While it serves, a worker has no descriptor of the key, and so nothing it starts does."""
    (slot,) = slots(1)
    worker = booted(tls=pem).serving([slot])
    assert not [link for link in links(worker.pid) if "memfd" in link]


class Load(threading.Thread):
    """Asks without a pause, on a new connection after each GOAWAY; what should not happen is in `wrong`."""

    def __init__(self, address: Any, context: ssl.SSLContext) -> None:
        super().__init__()
        self._address = address
        self._context = context
        self._told = threading.Event()
        self.answered = self.connections = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            while not self._told.is_set():
                self.connections += 1
                client = Http2(self._address, self._context)
                self._use(client)
                client.close()
        except Exception as e:
            self.wrong.append(repr(e))

    def _use(self, client: Http2) -> None:
        while client.going_away is None and not self._told.is_set():
            streams = [client.ask("/pid") for _ in range(4)]
            for stream in streams:
                while stream not in client.ended and not (client.going_away or stream) < stream and client.turn():
                    pass
                if stream in client.ended:
                    self.answered += 1
                elif client.going_away is None or stream <= client.going_away:
                    self.wrong.append(f"stream {stream} of {streams} has no answer (GOAWAY: {client.going_away})")

    def stop(self) -> None:
        self._told.set()
        self.join(HANG)


@pytest.mark.proof
def test_nothing_is_lost(booted, slots, pem: dict[str, str]) -> None:
    """Three handovers under load: every stream that the server does not disown by GOAWAY has its answer."""
    master = booted(tls=pem)
    (slot,) = slots(1)
    worker = master.serving([slot])
    loads = [Load(slot.getsockname(), insecure("h2")) for _ in range(3)]
    for load in loads:
        load.start()
    for _ in range(3):
        answered = [load.answered for load in loads]
        while any(
            load.answered < before + 20 and load.is_alive() for load, before in zip(loads, answered, strict=True)
        ):
            threading.Event().wait(0.01)
        successor = master.fork([slot])
        successor.go()
        successor.serve()
        worker.drain(linger=0.3)
        assert worker.drained()["cut"] == 0
        master.zygote.expect("exited")
        worker = successor
    while any(load.connections < 4 and load.is_alive() for load in loads):  # each hears of the last one in its own time
        threading.Event().wait(0.01)
    for load in loads:
        load.stop()
    assert [load.wrong for load in loads] == [[]] * len(loads)
    assert all(load.connections >= 4 for load in loads)
