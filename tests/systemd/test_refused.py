"""A refused reload costs nothing: no request, no process, no WebSocket; and what dies later comes back from memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence

import pytest

from clusterd.shell import messages
from tests.systemd import load
from tests.systemd.apps import NODE, UVICORN, WAITRESS, App
from tests.systemd.clients import WebSocket
from tests.systemd.harness.instance import Instance
from tests.systemd.releases import BREAKAGES, Breakage

READY_TIMEOUT = 1.0
HEALTH = {UVICORN: '[health]\npath = "/healthz"\n', WAITRESS: '[health]\npath = "/healthz"\n', NODE: ""}


def configure(instance: Instance, app: App, ready_timeout: float = 60.0, soak: str = "1s") -> None:
    reload = f'[reload]\nsoak = "{soak}"\nready-timeout = "{ready_timeout:g}s"\n'
    instance.configure(
        f'{app.toml}\ndirectory = "@DIRECTORY@"\nlisten = ["127.0.0.1:@PORT@"]\nworkers = 2\n{reload}{HEALTH[app]}',
        reload=False,
    )


def start(instance: Instance, app: App) -> None:
    app.deploy(instance)
    configure(instance, app)
    instance.start()


def break_it(instance: Instance, app: App, breakages: Sequence[Breakage]) -> None:
    """Each breakage in turn, on a running instance: refused with its reason, and every worker the same.

    What hangs does so for longer than any command here may take: READY_TIMEOUT it is that ends it.
    """
    workers = instance.workers()
    for breakage in breakages:
        if breakage.hangs:
            configure(instance, app, READY_TIMEOUT)
        elif breakage.name == "soak":
            configure(instance, app, soak="60s")  # which the death ends, however late it is heard of
        instance.write(app.module, app.source("broken") + breakage.tail)
        done = instance.clusterd("reload", check=False)
        assert done.returncode == 1 and re.search(breakage.reason, done.stderr), f"{breakage.name}: {done}"
        assert instance.workers() == workers, breakage.name
        if breakage.hangs or breakage.name == "soak":
            configure(instance, app)


def refused(instance: Instance, app: App, breakages: Sequence[Breakage]) -> None:
    """The whole rule, under load, with a WebSocket open where the engine has them."""
    start(instance, app)
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(load.everything(instance.machine, instance.port))
        websocket = stack.enter_context(WebSocket(instance)) if app is UVICORN else None
        break_it(instance, app, breakages)
        assert websocket is None or websocket.echoes("still here")
    asked.assert_nothing_lost()
    assert instance.show("ActiveState") == "active"


@pytest.mark.once
def test_refused_reload_costs_nothing(instance: Instance) -> None:
    """Broken in every way: exit 1 in time with the reason; 0 failed, the same pids, the WebSocket open, "active"."""
    refused(instance, UVICORN, BREAKAGES[UVICORN])
    comes_back(instance)


@pytest.mark.proof
@pytest.mark.parametrize("app", [WAITRESS, NODE], ids=lambda app: app.name)
def test_refused_whatever_the_engine(instance: Instance, app: App) -> None:
    """The same for the other engines."""
    refused(instance, app, BREAKAGES[app])
    if app is WAITRESS:
        comes_back(instance)


def kill_one(instance: Instance) -> int:
    """SIGKILL one of two workers; its pid."""
    pid = next(iter(instance.workers().values()))
    instance.machine.run(["kill", "-KILL", str(pid)])
    return pid


def comes_back(instance: Instance) -> None:
    """With broken code on disk: a worker that is killed has a successor, and it answers with the code that served."""
    killed = kill_one(instance)
    workers = instance.machine.wait_for(
        "a successor", lambda: (now := instance.workers()) and len(now) == 2 and killed not in now.values() and now
    )
    instance.machine.wait_for("both to accept", lambda: instance.status()["state"] == "serving")
    answers = {instance.get("/pid")[1].strip() for _ in range(40)}
    assert answers == {str(pid) for pid in workers.values()}
    assert {instance.get()[1].split()[0] for _ in range(20)} == {"hello"}


def test_the_reason_is_told(instance: Instance) -> None:
    """`systemctl reload` exits 1 and the unit stays active; the status line and the journal have the reason."""
    start(instance, UVICORN)
    instance.write("hello.py", UVICORN.source() + BREAKAGES[UVICORN][0].tail)
    cursor = instance.machine.cursor()
    assert instance.reload(check=False).returncode == 1
    assert instance.show("ActiveState") == "active"
    assert re.match(r"2/2 workers, generation 1; .*refused.*no such table", instance.show("StatusText"))
    records = instance.machine.journal(unit=instance.service, after=cursor)
    told = [r for r in records if r.get("MESSAGE_ID") == messages.RELOAD_REFUSED.id]
    assert len(told) == 1 and told[0]["CLUSTERD_GENERATION"] == "2"
    assert "no such table" in told[0]["MESSAGE"] and "Traceback" in told[0]["MESSAGE"]
    instance.write("hello.py", UVICORN.source())
    instance.reload()
    instance.machine.wait_for("the old ones' end", lambda: instance.show("StatusText") == "2/2 workers, generation 3")


@pytest.mark.once
def test_a_command_has_its_code_on_disk(instance: Instance) -> None:
    """A `command` is started from disk: a successor of broken code does not come, the other serves everybody.

    The repaired file heals it. Releases behind a link keep it from happening: test_rollout.py.
    """
    start(instance, NODE)
    instance.write("server.js", NODE.source() + BREAKAGES[NODE][-1].tail)
    assert instance.reload(check=False).returncode == 1
    killed = kill_one(instance)
    instance.machine.wait_for("the trouble", lambda: instance.status()["state"] == "degraded")
    with load.probe(instance.machine, instance.port) as asked:
        assert {instance.get()[0] for _ in range(20)} == {200}
        instance.write("server.js", NODE.source())
        instance.machine.wait_for(
            "the cure", lambda: len(now := instance.workers()) == 2 and killed not in now.values()
        )
    assert asked.requests and not asked.failures
