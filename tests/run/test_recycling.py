"""Workers that have served enough, are old, or take too much: each replaced by one that serves already."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import asking
from tests.patience import HANG
from tests.run.foreground import Foreground
from tests.worker.environments import environment

GREEDY = """

inner, kept = app, []


async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/eat":
        kept.append(bytearray(os.urandom(1 << 20)) * 150)
    await inner(scope, receive, send)
"""

WSGI = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


class Recycled(Foreground):
    recycle = ""
    installed = ""

    def deploy(self, greeting: str, extra: str = "") -> None:
        super().deploy(greeting, GREEDY + extra)

    def configure(self) -> Path:
        file = super().configure()
        text = file.read_text()
        if self.installed:
            text = re.sub("^python = .*$", f'python = "{environment(self.installed)}"', text, flags=re.M)
        file.write_text(f"{text}[recycle]\n{self.recycle}\n")
        return file

    def recycled(self) -> int:
        return recycled(self.said())


def recycled(said: str) -> int:
    return said.count("is to be replaced: it ")


@pytest.fixture
def run() -> Iterator[Recycled]:
    with Recycled(workers=2) as made:
        yield made


@pytest.mark.parametrize(
    "installed",
    ["", "waitress-newest", "granian-newest", pytest.param("waitress-2.1.2", marks=pytest.mark.proof)],
    ids=lambda name: name or "uvicorn",
)
def test_max_requests(run: Recycled, installed: str) -> None:
    """A worker goes once it has served so many and its successor serves; under load no request is lost."""
    run.recycle, run.installed = "max-requests = 100\nmax-requests-jitter = 20", installed
    if installed:
        (run.directory / "hello.py").write_text(WSGI)
    run.start()
    first = set(run.pids().values())
    with asking(("127.0.0.1", run.port)) as asked:
        run.wait_for("six successions", lambda: run.recycled() >= 6)
    asked.assert_nothing_lost()
    run.wait_for("it to be at rest", run.at_rest)
    assert not first & set(run.pids().values())
    said = run.said()
    served = [int(n) for n in re.findall(r"it has served (\d+) requests", said)]
    assert len(served) == recycled(said) and min(served) >= 100


def test_max_age(run: Recycled) -> None:
    """All are replaced, one after another, again and again, and no request is lost."""
    run.recycle = 'max-age = "2s"'
    run.start()
    with asking(("127.0.0.1", run.port)) as asked:
        run.wait_for("six successions", lambda: run.recycled() >= 6)
    asked.assert_nothing_lost()
    assert "it has served for 2 s" in run.said()


def test_max_memory(run: Recycled) -> None:
    """Who takes too much is replaced, once its successor serves; who does not, stays."""
    run.recycle = 'max-memory = "150M"'
    run.start()
    before = run.pids()
    with asking(("127.0.0.1", run.port)) as asked:
        with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/eat", timeout=HANG) as answer:
            assert answer.read() == b"hello"
        run.wait_for("one to be replaced", lambda: run.recycled() == 1)
        run.wait_for("the successor", run.at_rest)
    asked.assert_nothing_lost()
    assert len(set(before.values()) & set(run.pids().values())) == 1
    assert re.search(r"it takes \d+\.\d MiB of memory, at most 150\.0 \(\[recycle\]\)", run.said())
