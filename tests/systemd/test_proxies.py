"""A real nginx and a real HAProxy in front, with the files of examples/proxies, over TCP and over a UNIX socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd import load
from tests.systemd.clients import WebSocket
from tests.systemd.harness import container, images
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance
from tests.worker.certificates import make

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "proxies"
PROXIES = images.Addition("proxies", packages=("nginx-light", "haproxy"))
PORTS = {"nginx": (8180, 8143), "haproxy": (8280, 8243)}

APP = """\
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    headers = dict(scope["headers"])
    seen = {"client": scope["client"] and scope["client"][0], "scheme": scope["scheme"]}
    body = json.dumps(seen).encode()
    host = headers[b"host"].decode()
    location = [(b"location", f"{scope['scheme']}://{host}/there".encode())] if scope["path"] == "/redirect" else []
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 307 if location else 200, "headers": length + location})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture(scope="module")
def proxies(release: images.Release, deb: Path) -> Iterator[Container]:
    """A machine with both proxies, for all tests here."""
    with container.boot(release, [deb], PROXIES) as booted:
        yield booted


WAYS = [
    pytest.param(("nginx", "unix"), id="nginx-unix"),
    pytest.param(("haproxy", "tcp"), id="haproxy-tcp"),
    pytest.param(("nginx", "tcp"), id="nginx-tcp", marks=pytest.mark.proof),
    pytest.param(("haproxy", "unix"), id="haproxy-unix", marks=pytest.mark.proof),
]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The proxy, and how it reaches the application."""
    proxy, kind = request.param
    return proxy, kind


@pytest.fixture
def proxy(way: tuple[str, str]) -> str:
    return way[0]


@pytest.fixture
def served(proxies: Container, way: tuple[str, str], tmp_path: Path) -> Iterator[Instance]:
    """An application with the proxy in front of it."""
    proxy, kind = way
    name = f"{proxy}-{kind}"
    address = "127.0.0.1:8000" if kind == "tcp" else f"/run/{name}.sock"
    with Instance(proxies, name, 8000) as made:
        made.write("app.py", APP)
        made.configure(
            f'app = "app:app"\ndirectory = "@DIRECTORY@"\nlisten = ["{address}"]\n'
            '[http]\nkeep-alive = "75s"\n[reload]\ndrain-timeout = "75s"\nsoak = "200ms"\n'
        )
        made.start()
        pair = make(tmp_path, "hello", 1)
        plain, encrypted = PORTS[proxy]
        text = (EXAMPLES / ("nginx.conf" if proxy == "nginx" else "haproxy.cfg")).read_text()
        for old, new in ((" 80;", f" {plain};"), (" 443 ", f" {encrypted} "), (":80\n", f":{plain}\n"),
                         (":443 ", f":{encrypted} ")):  # fmt: skip
            text = text.replace(old, new)
        if kind == "unix":
            text = text.replace("127.0.0.1:8000", f"{'unix:' if proxy == 'nginx' else 'unix@'}{address}")
        if proxy == "nginx":
            proxies.write("/etc/ssl/hello.crt", pair.certificate.read_text())
            proxies.write("/etc/ssl/hello.key", pair.key.read_text())
            proxies.write("/etc/nginx/conf.d/hello.conf", text)
        else:
            proxies.write("/etc/haproxy/hello.pem", pair.certificate.read_text() + pair.key.read_text(), mode="0600")
            proxies.write("/etc/haproxy/haproxy.cfg", text)
        proxies.systemctl("start", proxy)
        yield made
        proxies.systemctl("stop", proxy)


@pytest.mark.once
def test_in_front(proxies: Container, served: Instance, proxy: str) -> None:
    """The client's address, https only where it was, whatever the client says itself; redirects; WebSockets; and three
    reloads with kept connections to the application, without one 502."""
    plain, encrypted = PORTS[proxy]
    lie = ["-H", "X-Forwarded-For: 198.51.100.1", "-H", "X-Forwarded-Proto: gopher"]
    curl = ["curl", "-sk", "-m", "20", "--interface", "127.0.0.5", *lie]
    for url, scheme in ((f"http://127.0.0.1:{plain}", "http"), (f"https://127.0.0.1:{encrypted}", "https")):
        seen = json.loads(proxies.run([*curl, f"{url}/"]).stdout)
        assert seen == {"client": "127.0.0.5", "scheme": scheme}
        location = proxies.run([*curl, "-o", "/dev/null", "-w", "%{redirect_url}", f"{url}/redirect"]).stdout
        assert location == f"{url}/there"
    with WebSocket(served, port=plain) as open_:
        assert open_.echoes("through")
    reloads(proxies, served, plain, 3)


@pytest.mark.proof
def test_twenty_reloads(proxies: Container, served: Instance, proxy: str) -> None:
    """The same with twenty. On Debian 12 with five: it is the same."""
    reloads(proxies, served, PORTS[proxy][0], 20 if proxies.release is images.DEBIAN13 else 5)


def reloads(machine: Container, instance: Instance, port: int, times: int) -> None:
    with load.wrk(machine, port, connections=32) as asked:
        for _ in range(times):
            before = instance.workers()
            instance.reload()
            assert set(instance.workers().values()).isdisjoint(before.values())
    assert asked.requests and not asked.failed, (asked.failures, asked.text)
