"""A worker that is forked without a slot, and gets one when it is told to serve."""

from __future__ import annotations

import os

import pytest
from environments import environment
from harness import Client

from tests.descriptors import links

APP = """
import os
from clusterd import worker

def slot():
    print("asked in slot", os.environ.get("CLUSTERD_SLOT"), flush=True)
    return b"%d" % worker.slot

async def app(scope, receive, send):
    body = slot()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": body})

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "1")])
    return [slot()]
"""


@pytest.mark.parametrize(
    "engine,app",
    [("uvicorn-newest", "app"), ("waitress-newest", "wsgi"), ("granian-newest", "wsgi"), ("granian-newest", "app")],
)
def test_a_spare_takes_a_slot(start, slots, application, engine, app):
    """Ready without a socket, it serves what comes with the order, writes where it is told to, and knows its slot. The
    order repeated changes nothing."""
    (listener,) = slots(1)
    (application / "spare.py").write_text(APP)
    master = start(python=environment(engine))
    up = master.up(app=f"spare:{app}", engine=engine.partition("-")[0], health={"path": "/"})
    assert up["mode"] == "fork" and up["engine"].startswith(engine.partition("-")[0])
    spare = master.fork([], slot=None)
    spare.go()
    reader, writer = os.pipe()
    order = {"op": "serve", "slot": 3, "listeners": ["tcp"]}
    spare.peer.send(order, [writer, listener.fileno()])
    spare.peer.expect("serving")
    spare.peer.send(order, [writer, listener.fileno()])
    spare.peer.send({"op": "state"})
    spare.peer.expect("serving")  # by now it has dealt with the second order, and closed what came with that
    os.close(writer)
    client = Client(listener.getsockname())
    assert client.get("/")[2] == "3"
    assert os.read(reader, 100) == b"asked in slot 3\n"
    assert links(spare.pid).count(f"socket:[{os.fstat(listener.fileno()).st_ino}]") == 1
    spare.drain()
    client.close()
    assert spare.drained()["requests"] in (1, None)  # granian does not count
    assert set(spare.output().splitlines()) == {"asked in slot None"}  # start-up and health check, before it had one
    os.close(reader)


def test_a_spare_that_is_never_needed_leaves(start, slots, application):
    """Told to drain, or with nobody there any more who could tell it, it is gone."""
    master = start(python=environment("uvicorn-newest"))
    master.up()
    told, orphan = master.fork([], slot=None), master.fork([], slot=None)
    told.go()
    orphan.go()
    told.drain()
    told.drained()
    orphan.peer.close()
    assert orphan.gone()
