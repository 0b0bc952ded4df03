"""The installed package's workers talk: under every engine, in the unit's sandbox, and with the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.systemd.apps import GRANIAN, GRANIAN_ASGI, UVICORN, WAITRESS, App
from tests.systemd.harness.instance import Instance

COMMON = """
import json
from clusterd import worker

GREETING = "hello"
heard = []


@worker.on("say")
def hear(message):
    heard.append([message.data, message.sender])


def answer():
    return json.dumps({"id": worker.id, "heard": heard, "value": worker.value("flag")}).encode()

"""
ASGI = """
@worker.on("double")
async def double(message):
    return message.data * 2


async def app(scope, receive, send):
    path = scope.get("path", "").split("/")
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    if path[1] == "say":
        await worker.broadcast("say", path[2], include_self=True)
    elif path[1] == "publish":
        await worker.publish("flag", path[2])
    elif path[1] == "double":
        body = json.dumps(await worker.request(int(path[2]), "double", 21)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body or answer()})
"""
WSGI = """
@worker.on("double")
def double(message):
    return message.data * 2


def app(environ, start_response):
    path = environ["PATH_INFO"].split("/")
    body = b""
    if path[1] == "say":
        worker.sync.broadcast("say", path[2], include_self=True)
    elif path[1] == "publish":
        worker.sync.publish("flag", path[2])
    elif path[1] == "double":
        body = json.dumps(worker.sync.request(int(path[2]), "double", 21)).encode()
    body = body or answer()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(UVICORN, marks=pytest.mark.once),
        *(pytest.param(app, marks=pytest.mark.proof) for app in (WAITRESS, GRANIAN, GRANIAN_ASGI)),
    ],
    ids=lambda app: app.name,
)
def test_workers_talk(instance: Instance, app: App) -> None:
    """What is said is heard by all, what is published is there after a reload, whatever engine serves."""
    machine = instance.machine
    app.deploy(instance, extra='workers = 2\nslots = 2\n[reload]\nsoak = "100ms"\nlinger = "200ms"\n')
    instance.write(app.module, COMMON + (WSGI if app.module == "wsgi.py" else ASGI))
    instance.start()

    def ask(path: str = "/") -> Any:
        status, body = instance.get(path)
        assert status == 200, (path, body)
        return json.loads(body)

    def every() -> dict[int, Any]:
        """What each worker answers."""
        found: dict[int, Any] = {}

        def asked() -> bool:
            answer = ask()
            found[answer["id"]] = answer
            return len(found) == 2

        machine.wait_for("an answer of each worker", asked)
        return found

    first, second = every()
    sender = ask("/say/hi")["id"]
    machine.wait_for("both to hear", lambda: all(a["heard"] == [["hi", sender]] for a in every().values()))
    assert ask(f"/double/{first}") == ask(f"/double/{second}") == 42
    ask("/publish/on")
    machine.run(["clusterd", "send", instance.name, "say", '"outside"', "--worker", str(first)])
    machine.wait_for("it to be heard", lambda: every()[first]["heard"] == [["hi", sender], ["outside", None]])
    assert every()[second]["heard"] == [["hi", sender]]
    instance.reload()
    successors = every()
    assert not {first, second} & set(successors)
    assert [answer["value"] for answer in successors.values()] == ["on", "on"]

    nobody = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
    for command in (["send", instance.name, "say", "1"], ["listen", instance.name, "say"]):
        refused = machine.run([*nobody, "clusterd", *command], check=False)
        assert refused.returncode == 5 and "is for root and the service's user" in refused.stderr
