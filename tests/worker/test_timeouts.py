"""socket.setdefaulttimeout() in an application is for its own sockets: nothing of ours is shortened by it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Client, Master

from clusterd.worker import inspection, stdio
from clusterd.worker.engines.accepted import Accepted

SHORT = 0.02
LONG = 0.5

CODE = f"""
import os, time, socket
from hello import respond
socket.setdefaulttimeout({SHORT})

def task():
    time.sleep({LONG})
    return socket.getdefaulttimeout()

async def app(scope, receive, send):
    await respond(send, 200, str(socket.getdefaulttimeout()))
"""


@pytest.fixture
def master(start: Any, application: Path) -> Master:
    (application / "short.py").write_text(CODE)
    master: Master = start()
    assert master.up(app="short:app")["mode"] == "fork"
    return master


def test_the_order_to_begin_is_waited_for(master: Master, slots: Any) -> None:
    """However long the master takes; and the worker hears of its end when that comes."""
    (slot,) = slots(1)
    worker = master.fork([slot])
    assert not worker.gone(LONG)
    worker.go()
    worker.serve()
    client = Client(slot.getsockname())
    assert client.get()[2] == str(SHORT)
    client.close()
    worker.drain()
    worker.drained()


def test_a_task_has_its_time(master: Master) -> None:
    """It is not taken for one whose master is gone."""
    run = master.fork([], task={"name": "task", "call": "short:task", "publish": None})
    run.peer.send({"op": "go"})
    assert run.told() == {"event": "done", "result": SHORT}
    run.peer.send({"op": "dismiss"})
    assert run.gone()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Blocking ones, made before the default is set."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client, server.accept()[0] as accepted:
            socket.setdefaulttimeout(SHORT)
            yield client, accepted
            socket.setdefaulttimeout(None)


def test_what_is_looked_at_is_left_as_it_is(pair: tuple[socket.socket, socket.socket]) -> None:
    """To ask a socket something makes it non-blocking for nobody: standard error, or a connection to a database."""
    client, accepted = pair
    port = accepted.getsockname()[1]
    stdio.tell_journal_stream(client.fileno())
    assert f"connected to 127.0.0.1:{port} at import" in inspection.reasons({})
    assert accepted.fileno() in Accepted([accepted]).fds()
    assert os.get_blocking(client.fileno()) and os.get_blocking(accepted.fileno())
    assert socket.getdefaulttimeout() == SHORT
