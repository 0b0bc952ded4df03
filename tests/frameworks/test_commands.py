"""Servers of others run by `command`: which take their sockets from systemd, and what each loses at a reload.

docs/commands.md has the table; what is "nothing" there is held here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.systemd import load
from tests.systemd.apps import EXAMPLES
from tests.systemd.harness.instance import Instance

pytestmark = pytest.mark.proof

PUMA = (EXAMPLES / "puma/puma.rb").read_text().replace(":8000", ":@PORT@")
RACK = """
run lambda { |env| [200, { "content-type" => "text/plain" }, ["hello from #{Process.pid}\\n"]] }
"""
ASGI = """
import os


async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})
"""
WSGI = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
"""
LIGHTTPD = """
server.document-root = "@DIRECTORY@/public"
server.port = @PORT@
server.bind = "127.0.0.1"
server.systemd-socket-activation = "enable"
index-file.names = ("index.html")
server.graceful-shutdown-timeout = 10
"""


@dataclass(frozen=True)
class Program:
    name: str
    command: str
    ready: str
    files: dict[str, str] = field(default_factory=dict)
    kept: bool = False
    """Whether it lets go of kept connections between requests, by an answer that says so: wrk loses nothing then."""
    fresh: bool = False
    """Whether it answers every connection it has accepted: ab loses nothing then."""
    reloads: int = 2


SERVER = (EXAMPLES / "socketserver/server.py").read_text()
PROGRAMS = (
    Program("socketserver", '["python3", "server.py"]', '"notify"', {"server.py": SERVER}, kept=True, fresh=True),
    Program(
        "puma",
        '["puma", "-C", "puma.rb", "--bind-to-activated-sockets", "only"]',
        '"notify"',
        {"puma.rb": PUMA, "config.ru": RACK},
    ),
    Program(
        "puma, drained",
        '["puma", "-C", "puma.rb", "--bind-to-activated-sockets", "only"]',
        '"notify"',
        {"puma.rb": PUMA, **{name: (EXAMPLES / "puma" / name).read_text() for name in ("config.ru", "drain.rb")}},
        kept=True,
        fresh=True,
        reloads=4,  # by itself it loses five kept connections a reload, on a busy machine
    ),
    Program(
        "gunicorn",
        '["gunicorn", "-w1", "-k", "gthread", "--threads", "4", "wsgi:app"]',
        '"notify"',
        {"wsgi.py": WSGI},
    ),
    Program(
        "uvicorn",
        '["/srv/venv-newest/bin/python", "-m", "uvicorn", "--fd", "3", "asgi:app"]',
        '"after 3s"',
        {"asgi.py": ASGI},
    ),
    Program(
        "hypercorn",
        '["/srv/venv/hypercorn/bin/hypercorn", "--bind", "fd://3", "--workers", "0", "asgi:app"]',
        '"after 3s"',
        {"asgi.py": ASGI},
    ),
    Program(
        "lighttpd",
        '["lighttpd", "-D", "-f", "lighttpd.conf"]',
        '"after 1s"',
        {"lighttpd.conf": LIGHTTPD, "public/index.html": "hello"},
    ),
    Program(
        "node-exporter",
        '["prometheus-node-exporter", "--web.systemd-socket", "--collector.disable-defaults"]',
        '"after 2s"',
    ),
)


def deploy(instance: Instance, kind: Program) -> None:
    for name, text in kind.files.items():
        instance.write(name, text.replace("@PORT@", str(instance.port)).replace("@DIRECTORY@", instance.directory))
    instance.configure(
        f'command = {kind.command}\nready = {kind.ready}\ndirectory = "@DIRECTORY@"\nlisten = "127.0.0.1:@PORT@"\n'
        'workers = 2\n[reload]\nsoak = "200ms"\ndrain-timeout = "12s"\n'
    )


@pytest.mark.parametrize("kind", PROGRAMS, ids=lambda kind: kind.name)
def test_a_reload(program: Instance, kind: Program) -> None:
    """It starts, takes the socket it is given, is replaced under load, and leaves by itself on SIGTERM."""
    program.machine.run(["mkdir", "-p", program.directory])
    deploy(program, kind)
    program.start()
    with load.wrk(program.machine, program.port) as kept, load.ab(program.machine, program.port) as fresh:
        for _ in range(kind.reloads):
            before = program.workers()
            program.reload()
            assert set(program.workers().values()).isdisjoint(before.values())
    print(f"{kind.name}: kept {kept.failures} of {kept.requests}, fresh {fresh.failures} of {fresh.requests}")
    assert not (kind.kept and kept.failed) and not (kind.fresh and fresh.failed)
    assert program.get()[0] == 200
