"""[tls] in a worker: what is served, what is refused, and the drain of connections that are encrypted."""

from __future__ import annotations

import select
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from certificates import Pair, make
from environments import CASES, ENGINES, environment
from harness import DEADLINE, HELD, Client, Master

from clusterd.worker import tls
from clusterd.worker.boot import Boot, Tls
from clusterd.worker.refusal import Refusal

CASE = {case.name: case for case in CASES}
OFTEN = ("uvicorn-0.17.6", "uvicorn-newest", "uvicorn-newest-plain", "granian-newest")
ABLE = [
    pytest.param(name, marks=[] if name in OFTEN else pytest.mark.proof)
    for name in CASE
    if not name.startswith("waitress")
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make(tmp_path_factory.mktemp("tls"), "one", 0xABC1)


class Secure(Client):
    """A Client over TLS, which takes any certificate; `late`: it does not shake hands until told."""

    def __init__(self, address: Any, *, late: bool = False, least: ssl.TLSVersion | None = None) -> None:
        super().__init__(address)
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        if least is not None:
            self.context.maximum_version = least
        if not late:
            self.shake_hands()

    def shake_hands(self) -> None:
        self.sock = self.context.wrap_socket(self.sock, server_hostname="localhost")

    def ended(self) -> bool:
        try:
            return super().ended()
        except (ssl.SSLEOFError, ConnectionResetError):
            return False


@pytest.fixture
def booted(start, application: Path, pair: Pair):
    def booted(engine: str, **changes: Any) -> Master:
        case = CASE[engine]
        master: Master = start(python=environment(case.environment))
        master.up(**{**case.boot, "tls": pair.contents, **changes})
        return master

    return booted


@pytest.mark.parametrize("engine", ABLE)
def test_https(booted, slots, pair: Pair, engine: str) -> None:
    """The certificate of the file is served, over TLS 1.2 and 1.3, and the application knows that it is https."""
    (slot,) = slots(1)
    booted(engine).serving([slot])
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = Secure(slot.getsockname(), least=version)
        served = client.sock.getpeercert(binary_form=True)
        assert ssl.DER_cert_to_PEM_cert(served).strip() == pair.certificate.read_text().strip()
        assert client.get()[0] == 200
        client.close()


@pytest.mark.parametrize("engine", ["uvicorn-newest", "granian-newest"])
def test_minimum_version(booted, slots, pair: Pair, engine: str) -> None:
    """Nothing older than told is spoken."""
    (slot,) = slots(1)
    booted(engine, tls={**pair.contents, "minimum-version": "1.3"}).serving([slot])
    with pytest.raises(ssl.SSLError):
        Secure(slot.getsockname(), least=ssl.TLSVersion.TLSv1_2)
    client = Secure(slot.getsockname())
    assert client.sock.version() == "TLSv1.3"
    client.close()


@pytest.mark.parametrize("engine", ABLE)
def test_drain(booted, application: Path, begun, slots, engine: str) -> None:
    """In flight answered, kept told, idle closed after linger, as without TLS; a handshake under way is waited for."""
    (slot,) = slots(1)
    master = booted(engine)
    worker = master.serving([slot])
    address = slot.getsockname()
    busy, kept, idle = (Secure(address) for _ in range(3))
    for client in (kept, idle):
        client.get()
    late = Secure(address, late=True)
    begun(busy.ask, HELD)
    kept.get()  # late was accepted before this was answered, or with it
    worker.drain(linger=30)
    worker.peer.expect("draining")
    late.shake_hands()
    status, headers, body = late.get("/pid")
    assert (status, headers["connection"].lower(), body) == (200, "close", f"{worker.pid}\n")
    successor = master.serving([slot])
    queued = Secure(address)
    assert queued.get("/pid")[2] == f"{successor.pid}\n"
    assert kept.get()[1]["connection"].lower() == "close"
    worker.drain(linger=0.2)
    assert idle.ended()
    (application / "go").touch()
    # It outlasts the linger: granian need not tell ASGI then.
    told = busy.read()[1].get("connection", "close" if CASE[engine].engine == "granian" else "")
    assert told.lower() == "close"
    for client in (busy, kept):
        assert client.ended()
        client.close()
    idle.close()
    late.close()
    assert worker.peer.expect("drained")["cut"] == 0
    queued.close()


@pytest.mark.parametrize("engine", ["uvicorn-newest", "uvicorn-newest-plain", "granian-newest"])
def test_who_never_shakes_hands(booted, slots, engine: str) -> None:
    """Does not keep a worker from draining, nor plain HTTP on that address."""
    (slot,) = slots(1)
    worker = booted(engine).serving([slot])
    silent = Client(slot.getsockname())
    plain = Client(slot.getsockname())
    plain.sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" not in plain.sock.recv(4096)
    worker.drain(linger=0.2, timeout=20)
    assert worker.drained()["cut"] == 0
    silent.close()
    plain.close()


@pytest.mark.parametrize("engine", ABLE)
def test_who_never_says_goodbye(booted, slots, engine: str) -> None:
    """An idle client that does not read, as those in a pool, gets the end that TLS wants and no time to answer it."""
    (slot,) = slots(1)
    worker = booted(engine).serving([slot])
    pooled = Secure(slot.getsockname())
    pooled.get()
    worker.drain(linger=0.2, timeout=3 * DEADLINE)
    assert worker.drained()["closed"] == 1
    assert pooled.ended()  # by close_notify: SSLEOFError, a truncation, is False
    pooled.close()


BIG = """\
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    body = b"x" * (32 << 20 if scope["path"] == "/big" else 1)
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.parametrize("engine", ["uvicorn-newest", "uvicorn-newest-plain"])
def test_who_reads_slowly(booted, slots, application: Path, engine: str) -> None:
    """Gets all of its answer, also after those are cut who have theirs and do not say goodbye."""
    (application / "big.py").write_text(BIG)
    (slot,) = slots(1)
    worker = booted(engine, app="big:app").serving([slot])
    slow, pooled = Secure(slot.getsockname()), Secure(slot.getsockname())
    slow.ask("/big")
    assert slow.read_head()[0] == 200
    pooled.get()
    worker.drain(linger=0.0, timeout=3 * DEADLINE)
    poller = select.poll()
    poller.register(pooled.sock.fileno(), select.POLLRDHUP)
    assert poller.poll(1000 * DEADLINE)
    left = (32 << 20) - len(slow._data)
    while left and (part := slow.sock.recv(1 << 20)):
        left -= len(part)
    assert left == 0
    assert worker.drained()["cut"] == 0
    slow.close()
    pooled.close()


@pytest.mark.parametrize("engine", ["uvicorn-newest"])
def test_sessions_are_of_all_workers(booted, slots, engine: str) -> None:
    """A session begun with one worker is resumed by another: the keys of the tickets are made before the fork."""
    master = booted(engine)
    first, second = slots(1), slots(1)
    for slot in (first, second):
        master.serving(slot)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session = None
    reused = []
    for slot in (first, second):
        with socket.create_connection(slot[0].getsockname()) as sock:
            with context.wrap_socket(sock, session=session) as secure:
                session = secure.session
                reused.append(secure.session_reused)
    assert reused == [False, True]


@pytest.mark.parametrize("engine", [name for name in ENGINES if name.startswith("waitress")])
def test_an_engine_without(start, application: Path, pair: Pair, engine: str) -> None:
    """It is refused, with what to do instead."""
    (application / "shop.py").write_text("def app(environ, start_response): ...\n")
    reason = start(python=environment(engine)).boot(app="shop:app", tls=pair.contents)["reason"]
    assert reason.startswith("tls: waitress ")
    assert "cannot do it: it speaks plain HTTP only; instead: " in reason


def test_broken(start, tmp_path: Path, pair: Pair) -> None:
    """What is no certificate, no key, encrypted, or not a pair: one line that says so, and no secret in it."""
    other = make(tmp_path, "other", 2)
    good = pair.contents
    encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n-----END ENCRYPTED PRIVATE KEY-----\n"
    head, line, *rest = good["certificate"].splitlines()
    cases = {
        "tls.certificate: no certificate in PEM in it": {"certificate": "-"},
        "tls.key: no private key in PEM in it": {"key": good["certificate"]},
        "tls.key: it is encrypted": {"key": encrypted},
        "tls: certificate and key do not belong together": {"key": other.contents["key"]},
        "tls: certificate or key cannot be read as PEM": {"certificate": "\n".join([head, line[::-1], *rest])},
    }
    for reason, changes in cases.items():
        with pytest.raises(Refusal) as e:
            tls.context(Tls(**{**good, **changes}))
        assert e.value.reason.startswith(reason)
    answer = start(python=environment("uvicorn-newest")).boot(tls={**good, "key": other.contents["key"]})
    assert answer["event"] == "failed" and answer["reason"].startswith("tls: certificate and key do not belong")


def test_time(tmp_path: Path, pair: Pair) -> None:
    """One that has expired, is not valid yet, or ends within a week, is told of; it is served all the same."""
    good = Tls(**pair.contents)
    now = 1_000_000_000.0
    assert tls.warning(good) == ""
    assert "is not valid before" in tls.warning(good, now)
    assert "expires on" in tls.warning(good, time.time() + 25 * 86400)
    expired = Tls(**make(tmp_path, "expired", 3, ends="20200101000000Z").contents)
    assert "expired on Jan  1 00:00:00 2020 GMT" in tls.warning(expired)
    tls.context(expired)


def test_the_key_is_not_shown(pair: Pair) -> None:
    """A Tls, and a Boot with one, may be printed in a traceback."""
    secret = pair.contents["key"].splitlines()[1]
    assert secret not in repr(Tls(**pair.contents))
    boot = Boot.parse({"generation": 1, "kind": "app", "directory": "/", "tls": pair.contents})
    assert secret not in repr(boot)
