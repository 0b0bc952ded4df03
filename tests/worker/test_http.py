"""[http]: each key, on each engine that can do it; the others refuse it and say what to do."""

from __future__ import annotations

import functools
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from environments import CASES, environment
from harness import BEGUN, Client, Master, Message, Worker
from websocket import WebSocket

from clusterd.worker.engines import waitress
from tests.patience import HANG

CASE = {case.name: case for case in CASES}
OFTEN = ("uvicorn-0.17.6", "uvicorn-newest", "waitress-newest", "granian-newest")
"""The others are for the proof."""


def engines(*kinds: str, without: str = "none") -> list[Any]:
    """Those whose names begin so."""
    names = [name for name in CASE if name.startswith(kinds or ("",)) and without not in name]
    return [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.proof) for name in names]


ASGI = """\
import json, threading

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(message["text"]))})
        return
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    client = scope["client"]
    seen = {"client": client and client[0], "scheme": scope["scheme"], "root": scope["root_path"]}
    body = json.dumps(seen).encode()
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})
"""

WSGI = f"""\
{BEGUN}
import json, threading

barrier = threading.Barrier(6)

def app(environ, start_response):
    if environ["PATH_INFO"].endswith("/together"):
        tell_begun()
        barrier.wait(60)
    seen = dict(client=environ["REMOTE_ADDR"], scheme=environ["wsgi.url_scheme"], root=environ["SCRIPT_NAME"])
    seen["path"] = environ["PATH_INFO"]
    body = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

FORWARDED = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n"

Serve = Callable[..., Worker]


@pytest.fixture
def boot(start, application: Path) -> Callable[..., tuple[Master, Message]]:
    """boot(engine, **http) -> a master, and what its zygote answers."""
    (application / "asgi.py").write_text(ASGI)
    (application / "wsgi.py").write_text(WSGI)

    def boot(engine: str, **http: Any) -> tuple[Master, Message]:
        case = CASE[engine]
        master = start(python=environment(case.environment))
        keys = {key.replace("_", "-"): value for key, value in http.items()}
        app = "asgi:app" if case.app == "hello:app" else "wsgi:app"
        return master, master.boot(app=app, engine=case.engine, http=keys)

    return boot


@pytest.fixture
def serve(boot, slots) -> Iterator[Callable[..., Any]]:
    """serve(engine, **http) -> the address where a worker with these keys serves."""

    def serve(engine: str, listener: socket.socket | None = None, **http: Any) -> Any:
        master, answer = boot(engine, **http)
        assert answer["event"] == "up", answer
        listener = listener or slots(1)[0]
        master.serving([listener])
        return listener.getsockname()

    yield serve


def seen(address: Any, headers: str = "", path: str = "/") -> dict[str, str]:
    """What the application is told of the client."""
    client = Client(address)
    client.ask(path, headers)
    status, _, body = client.read()
    client.close()
    assert status == 200
    found: dict[str, str] = json.loads(body)
    return found


@pytest.mark.parametrize("engine", engines())
def test_a_proxy_on_this_machine_is_believed(serve, engine: str) -> None:
    """Without a key, X-Forwarded-For and -Proto of a peer on the loopback address count."""
    address = serve(engine)
    found = seen(address, FORWARDED)
    assert (found["client"], found["scheme"]) == ("203.0.113.7", "https")
    found = seen(address)
    assert (found["client"], found["scheme"]) == ("127.0.0.1", "http")


@pytest.mark.parametrize("engine", engines())
@pytest.mark.parametrize("trusted", [["10.0.0.1", "unix"], []])
def test_a_stranger_is_not_believed(serve, engine: str, trusted: list[str]) -> None:
    """Who is not in the list may say what he likes: he is who he is, and the scheme is that of the connection."""
    found = seen(serve(engine, forwarded_allow_ips=trusted), FORWARDED)
    assert (found["client"], found["scheme"]) == ("127.0.0.1", "http")


@pytest.mark.parametrize("engine", engines())
def test_a_list_and_everybody(serve, engine: str) -> None:
    """Several addresses, and "*"."""
    for trusted in (["10.0.0.1", "127.0.0.1"], ["*"]):
        assert seen(serve(engine, forwarded_allow_ips=trusted), FORWARDED)["client"] == "203.0.113.7"


@pytest.mark.parametrize("engine", engines(without="0.17"))
def test_networks(serve, engine: str) -> None:
    """A network, where the engine knows them."""
    assert seen(serve(engine, forwarded_allow_ips=["127.0.0.0/8"]), FORWARDED)["client"] == "203.0.113.7"
    assert seen(serve(engine, forwarded_allow_ips=["10.0.0.0/8"]), FORWARDED)["client"] == "127.0.0.1"


def test_networks_of_an_old_uvicorn(boot) -> None:
    """A version that does not know a value refuses it at the boot, by the table's words."""
    reason = boot("uvicorn-0.17.6", forwarded_allow_ips=["10.0.0.0/8"])[1]["reason"]
    assert reason == (
        "http.forwarded-allow-ips: uvicorn 0.17.6 cannot do it: networks are known to uvicorn 0.31 and newer; instead: "
        "the proxies' addresses, one by one, or a newer uvicorn"
    )


@pytest.mark.parametrize("engine", engines())
def test_ipv4_through_a_socket_of_both_families(serve, engine: str) -> None:
    """listen = "8000" takes IPv4 as ::ffff:127.0.0.1, which is the same proxy."""
    with socket.socket(socket.AF_INET6) as both:
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        both.bind(("::", 0))
        both.listen(16)
        both.setblocking(False)
        serve(engine, both, forwarded_allow_ips=["127.0.0.1"])
        found = seen(("127.0.0.1", both.getsockname()[1]), FORWARDED)
    assert (found["client"], found["scheme"]) == ("203.0.113.7", "https")


@pytest.mark.parametrize("engine", engines())
@pytest.mark.parametrize("trusted", [["unix"], ["*"], ["127.0.0.1"]])
def test_a_proxy_over_a_unix_socket(serve, tmp_path: Path, engine: str, trusted: list[str]) -> None:
    """It has no address: "unix" and "*" believe it, an address does not. What the client wrote itself is not taken."""
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen(16)
        unix.setblocking(False)
        address = serve(engine, unix, forwarded_allow_ips=trusted)
        found = seen(address, FORWARDED)
    believed = trusted != ["127.0.0.1"]
    assert found["scheme"] == ("https" if believed else "http")
    assert (found["client"] == "203.0.113.7") == believed


@pytest.mark.parametrize("engine", engines())
def test_what_the_client_says_of_itself_comes_first(serve, engine: str) -> None:
    """A proxy appends the peer it has seen: what stood there before is the client's own invention."""
    lie = "X-Forwarded-For: 198.51.100.1, 203.0.113.7\r\n"
    assert seen(serve(engine), lie)["client"] == "203.0.113.7"


@pytest.mark.parametrize("engine", engines())
def test_root_path(serve, engine: str) -> None:
    """The application knows below which path it is served."""
    assert seen(serve(engine, root_path="/api"), path="/api/x")["root"] == "/api"


@pytest.mark.parametrize("engine", engines())
def test_keep_alive(serve, engine: str) -> None:
    """An idle connection is closed when its time is over, not before."""
    client = answered(serve(engine, keep_alive=1.0), "/", "/")
    assert client.ended()
    client.close()


def answered(address: Any, *paths: str) -> Client:
    """A client that has had its answers within the second for which it is kept without a request."""
    while True:
        began, client = time.monotonic(), Client(address)
        try:
            for path in paths:
                client.get(path)
            return client
        except (AssertionError, OSError):
            assert time.monotonic() - began >= 1.0  # it was this test that stood still
            client.close()


def test_a_request_that_waits_is_not_idle() -> None:
    """Where waitress has stood still for longer than connections are kept, what has come meanwhile is answered."""
    ours, theirs = socket.socketpair()
    state = {"request": None, "requests": [], "total_outbufs_len": 0, "close_when_flushed": False, "will_close": False}
    channel = SimpleNamespace(socket=ours, last_activity=100.0, **state)
    look = functools.partial(waitress._close_late, SimpleNamespace(active_channels={1: channel}), lambda now: None, 5.0)
    theirs.send(b"GET")
    look(106.0)
    assert not channel.will_close
    channel.will_close = True
    look(106.0)
    assert channel.will_close, "to be closed for another reason"
    channel.will_close = False
    ours.recv(3)
    look(104.0)
    assert not channel.will_close
    look(106.0)
    assert channel.will_close
    ours.close()
    theirs.close()


SLOW = f"""\
{BEGUN}
def app(environ, start_response):
    if environ["PATH_INFO"] == "/0":
        tell_begun()
    body = b"x" * (int(environ["PATH_INFO"][1:]) or len(environ["wsgi.input"].read()))
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.mark.parametrize("engine", engines("waitress", "granian", without="asgi"))
def test_slow_is_not_idle(serve, application: Path, begun, engine: str) -> None:
    """A client that pauses in the middle of an upload or a download, for longer than idle connections are kept."""
    (application / "wsgi.py").write_text(SLOW)
    address = serve(engine, keep_alive=1.0)
    up = Client(address)
    asked = ("/0", "Content-Length: 10\r\n", "POST")
    if engine.startswith("granian"):
        begun(up.ask, *asked)
    else:
        up.ask(*asked)  # waitress begins when it has the body
    up.sock.sendall(b"12345")
    down = Client(address)
    down.ask(f"/{64 << 20}")
    assert down.read_head()[0] == 200
    for _ in range(2):  # one after the other: the second begins when all that can be sent has been sent
        idle = answered(address, "/1")
        assert idle.ended()
        idle.close()
    up.sock.sendall(b"67890")
    assert up.read()[2] == "x" * 10
    assert down.read_body(64 << 20) == b"x" * (64 << 20)
    for client in (up, down):
        client.close()


@pytest.mark.parametrize("engine", engines("uvicorn"))
def test_max_connections_of_uvicorn(serve, engine: str) -> None:
    """With more open than that, 503; with fewer again, the application."""
    address = serve(engine, max_connections=2)
    clients = [Client(address) for _ in range(4)]
    clients[-1].ask()
    assert clients[-1].read_head()[0] == 503
    for client in clients:
        client.close()
    client = Client(address)
    client.ask()
    while client.read_head()[0] != 200:  # it may come before the others' end
        client.close()
        client = Client(address)
        client.ask()
    client.close()


@pytest.mark.parametrize("engine", engines("waitress", "granian"))
def test_max_connections_of_others(serve, engine: str) -> None:
    """Above it, they wait until another has gone."""
    address = serve(engine, max_connections=2, keep_alive=HANG)
    clients = [Client(address) for _ in range(4)]
    clients[0].get()
    last = clients[-1]
    last.ask()
    last.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        last.read()
    for client in clients[:-1]:
        client.close()
    last.sock.settimeout(HANG)
    assert last.read()[0] == 200
    last.close()


@pytest.mark.parametrize("engine", engines(without="0.17"))
def test_max_header_size(serve, engine: str) -> None:
    """More than that of headers is refused; less is answered."""
    keys = {"parser": "h11"} if engine.startswith("uvicorn") else {}
    address = serve(engine, max_header_size=8192, **keys)
    assert seen(address, f"X: {'x' * 7000}\r\n")
    client = Client(address)
    client.sock.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nX: {'x' * 16000}".encode())
    assert client.read_head()[0] in (400, 431)
    client.close()


@pytest.mark.parametrize("engine", engines("waitress"))
def test_max_body_size(serve, engine: str) -> None:
    """A longer body is refused with 413."""
    client = Client(serve(engine, max_body_size=10))
    client.ask(headers="Content-Length: 11\r\n", method="POST")
    assert client.read_head()[0] == 413
    client.close()


@pytest.mark.parametrize("engine", engines("waitress", "granian", without="asgi"))
def test_threads(serve, begun, engine: str) -> None:
    """So many requests are worked on at once: six wait for each other here."""
    address = serve(engine, threads=6, keep_alive=HANG)
    clients = [Client(address) for _ in range(6)]
    for client in clients:
        begun(client.ask, "/together")
    for client in clients:
        assert client.read()[0] == 200
        client.close()


@pytest.mark.parametrize("engine", engines("uvicorn", "waitress"))
def test_server_header(serve, engine: str) -> None:
    """Answers name the engine, unless told not to."""
    for wanted in (True, False):
        client = Client(serve(engine, server_header=wanted))
        assert ("server" in client.get()[1]) == wanted
        client.close()


@pytest.mark.parametrize("engine", engines("uvicorn"))
def test_date_header(serve, engine: str) -> None:
    """Answers have the date, unless told not to."""
    client = Client(serve(engine, date_header=False))
    assert "date" not in client.get()[1]
    client.close()


@pytest.mark.parametrize("engine", engines("uvicorn", without="plain"))
def test_parser_and_loop(serve, engine: str) -> None:
    """Each parser with each loop."""
    for parser, loop in (("h11", "asyncio"), ("httptools", "uvloop"), ("h11", "uvloop"), ("httptools", "asyncio")):
        assert seen(serve(engine, parser=parser, loop=loop))


@pytest.mark.parametrize(("key", "value"), [("parser", "httptools"), ("loop", "uvloop"), ("ws", "websockets")])
def test_what_is_not_installed(boot, key: str, value: str) -> None:
    """A part that is named and not there is told with the line that installs it."""
    engine = "uvicorn-newest-plain"
    python = environment(engine)
    reason = boot(engine, **{key: value})[1]["reason"]
    assert reason == f"{value} is not installed for {python}: {python} -m pip install {value}"


@pytest.mark.parametrize("engine", engines("uvicorn", without="plain"))
def test_webopenedlimits(serve, engine: str) -> None:
    """A message that is too long ends the connection with 1009; pings come as often as told."""
    address = serve(engine, ws="websockets", ws_max_size=100, ws_ping_interval=0.2)
    opened = WebSocket(address)
    opened.send("x" * 90)
    assert opened.text() == "90"
    if not opened.pings:
        assert opened.frame()[0] == 9
    opened.send("x" * 120)
    assert opened.close_code() == 1009
    opened.close()


@pytest.mark.parametrize("engine", engines("uvicorn", "granian-newest-asgi"))
def test_no_websockets(serve, engine: str) -> None:
    """ws = "none": the request for one is answered as plain HTTP."""
    client = Client(serve(engine, ws="none"))
    client.ask(headers="Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")  # fmt: skip
    assert client.read_head()[0] != 101
    client.close()


REFUSED = {
    ("uvicorn-newest", "threads", 8): "an ASGI application has no request threads",
    ("uvicorn-newest", "max-body-size", 9): "it passes a body on to the application as it comes",
    ("uvicorn-newest", "max-header-size", 9000): "its fast parser, httptools, has no limit to set",
    ("uvicorn-newest", "version", "2"): "it speaks HTTP/1.1",
    ("waitress-newest", "parser", "h11"): "it has one HTTP parser only",
    ("waitress-newest", "loop", "uvloop"): "it has no event loop of asyncio",
    ("waitress-newest", "version", "2"): "it speaks HTTP/1.1",
    ("waitress-newest", "ws", "websockets"): "WSGI has no WebSockets",
    ("waitress-newest", "ws-max-size", 9): "WSGI has no WebSockets",
    ("waitress-newest", "date-header", False): "it sends Date with every answer",
    ("granian-newest", "max-header-size", 8000): "its buffer has 8K at least",
    ("granian-newest", "max-body-size", 9): "it passes a body on to the application as it comes",
    ("granian-newest", "parser", "h11"): "it has one HTTP parser only",
    ("granian-newest", "ws", "websockets"): "it has WebSockets of its own",
    ("granian-newest", "ws-max-size", 9): "its WebSockets have no such setting",
    ("granian-newest", "server-header", False): "it has no switch for that header",
    ("granian-newest", "date-header", False): "it sends Date with every answer",
}


@pytest.mark.parametrize(("engine", "key", "value"), REFUSED)
def test_refused_when_the_engine_is_known(boot, engine: str, key: str, value: Any) -> None:
    """With engine = "auto": the boot fails, naming key, engine, reason and what to do instead."""
    reason = boot(engine, **{key: value})[1]["reason"]
    name = engine.split("-")[0]
    assert reason.startswith(f"http.{key}: {name} ")
    assert f"cannot do it: {REFUSED[engine, key, value]}" in reason and "; instead: " in reason


@pytest.mark.parametrize(
    ("engine", "key", "value"),
    [("granian-newest-asgi", "threads", 8), ("granian-newest", "loop", "uvloop")],
)
def test_refused_for_the_other_interface(boot, engine: str, key: str, value: Any) -> None:
    """What granian can do for ASGI or for WSGI alone is refused for the other."""
    assert boot(engine, **{key: value})[1]["reason"].startswith(f"http.{key}: ")


@pytest.mark.parametrize("engine", engines("granian", "waitress", without="asgi"))
def test_root_path_is_cut_once(serve, engine: str) -> None:
    """WSGI has the path below the root in PATH_INFO, whether or not the proxy has taken the root off."""
    address = serve(engine, root_path="/api")
    assert seen(address, path="/api/x")["path"] == seen(address, path="/x")["path"] == "/x"
