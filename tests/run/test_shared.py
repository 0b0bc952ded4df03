"""The case clusterd was asked for: who has logged in at one worker is known to the others."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest

from tests.patience import HANG
from tests.run.foreground import Foreground

LOGIN = """
import os
from clusterd import worker

alone = {{}}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/login":
        {set}
    user = {get}
    body = f"{{os.getpid()}} {{user}}".encode()
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]}})
    await send({{"type": "http.response.body", "body": body}})
"""
ALONE = {"set": 'alone["session"] = "ada"', "get": 'alone.get("session")'}
SHARED = {"set": 'await worker.cache.aset("session", "ada", ttl="1h")', "get": 'await worker.cache.aget("session")'}


def ask(port: int, path: str) -> tuple[str, str]:
    """(pid of the worker, the user it knows)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
    try:
        connection.request("GET", path)
        pid, user = connection.getresponse().read().decode().split()
        return pid, user
    finally:
        connection.close()


@pytest.mark.parametrize("how", [ALONE, SHARED], ids=["alone", "shared"])
def test_login(how: dict[str, str]) -> None:
    """In a variable a login is known to one worker alone; in the cache to all of them, and after a reload."""
    with Foreground(workers=3) as run:
        run.deploy("", LOGIN.format(**how))
        run.start()
        first, _ = ask(run.port, "/login")
        seen: dict[str, str] = {}
        run.wait_for("an answer of each worker", lambda: seen.update([ask(run.port, "/")]) or len(seen) == 3)
        know = {pid for pid, user in seen.items() if user == "ada"}
        assert know == (set(seen) if how is SHARED else {first})
        if how is SHARED:
            assert run.clusterd("reload").returncode == 0
            assert ask(run.port, "/")[1] == "ada"
            assert not set(seen) & set(map(str, run.pids().values()))
            assert Path(run.runtime / "cache").stat().st_mode & 0o777 == 0o700
