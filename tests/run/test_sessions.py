"""Logins on several workers: each framework's sessions in one process, then by the files of examples/sessions."""

from __future__ import annotations

import http.client
import http.cookies
import json
import re
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.patience import HANG
from tests.run import sites
from tests.run.foreground import Foreground

EXAMPLES = Path(__file__).parents[2] / "examples/sessions"
WORKERS = 3


class Framework(NamedTuple):
    source: str
    recipe: str
    cookie: str
    alone: str
    shared: str


FRAMEWORKS = {
    "django": Framework(sites.DJANGO, "django_cache.py", "sessionid", "default", "shared"),
    "flask": Framework(sites.FLASK, "flask_cache.py", "session", "SimpleCache()", "shared.Cache()"),
    "starlette": Framework(sites.STARLETTE, "starlette_store.py", "session", "InMemoryStore()", "shared.Store()"),
}


class Visitor:
    """A browser that takes a cookie only where it is told to."""

    def __init__(self, port: int, name: str) -> None:
        self.port, self.name = port, name
        self.cookie: str | None = None

    def ask(self, path: str, cookie: str | None) -> tuple[str, str]:
        """(pid of the worker, the user that the session of `cookie` knows or "-")"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG)
        try:
            sent = {"Cookie": f"{self.name}={cookie}"} if cookie is not None else {}
            connection.request("GET", path, headers={"Connection": "close", **sent})
            answer = connection.getresponse()
            body = answer.read().decode()
            assert answer.status == 200, body
            given = http.cookies.SimpleCookie(", ".join(answer.headers.get_all("Set-Cookie", [])))
            self.cookie = given[self.name].value if self.name in given else None
            pid, user = body.split()
            return pid, user
        finally:
            connection.close()

    def known(self, run: Foreground, cookie: str) -> dict[str, str]:
        """What each worker says of the session."""
        seen: dict[str, str] = {}
        every = set(map(str, run.pids().values()))
        run.wait_for("an answer of each worker", lambda: seen.update([self.ask("/", cookie)]) or set(seen) >= every)
        return {pid: seen[pid] for pid in every}


def deploy(run: Foreground, site: Framework, kept: str) -> None:
    shutil.copy(EXAMPLES / site.recipe, run.directory / "shared.py")
    run.deploy("", site.source.replace("<kept>", kept))


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_logins(name: str) -> None:
    """Kept in a process a login is known to one worker alone. By the example it is known to all of them, under an id
    that no client can choose and the login changes, through reloads, for as long as the framework's setting says; it
    ends at the logout, and is kept as JSON."""
    site = FRAMEWORKS[name]
    with Foreground(workers=WORKERS) as run:
        visitor = Visitor(run.port, site.cookie)
        deploy(run, site, site.alone)
        run.start()
        worker, _ = visitor.ask("/login", None)
        assert visitor.cookie is not None
        known = visitor.known(run, visitor.cookie)
        assert {pid for pid, user in known.items() if user == "ada"} == {worker} and len(known) == WORKERS

        deploy(run, site, site.shared)
        assert run.clusterd("reload").returncode == 0
        for forged in ("a" * 32, "x" * 3000):
            assert visitor.ask("/visit", forged)[1] == "-"
            assert visitor.cookie not in (None, forged)
        before = visitor.cookie
        visitor.ask("/login", before)
        cookie = visitor.cookie
        assert cookie is not None and cookie != before
        assert re.fullmatch("[A-Za-z0-9_-]{32,}", cookie)
        assert set(visitor.known(run, cookie).values()) == {"ada"}
        assert visitor.ask("/", before)[1] == "-"

        with closing(sqlite3.connect(run.runtime / "cache/cache.sqlite")) as db:
            kept = db.execute("SELECT key, value, expires FROM entry").fetchall()
        assert kept
        for key, value, expires in kept:
            assert 0 < expires - time.monotonic() <= 1000
            assert "user" in str(json.loads(value.lstrip(b"\0"))) or "seen" in str(json.loads(value.lstrip(b"\0")))
            assert name == "django" or cookie not in key

        old = visitor.known(run, cookie)
        assert run.clusterd("reload").returncode == 0
        new = visitor.known(run, cookie)
        assert not set(old) & set(new)
        assert set(new.values()) == {"ada"}
        visitor.ask("/logout", cookie)
        assert set(visitor.known(run, cookie).values()) == {"-"}
