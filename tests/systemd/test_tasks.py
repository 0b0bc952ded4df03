"""Tasks on a machine: the timers that the generator makes of their calendars, and what they run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.systemd.accounting import at_rest, descriptors, kill, let_go
from tests.systemd.harness.instance import Instance

APP = """
import json, os

from clusterd import worker


def count():
    return [worker.task, os.getuid()]


def purge():
    with open(os.path.join(os.environ["STATE_DIRECTORY"], "purged"), "w") as f:
        f.write("done")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"].endswith("shutdown"):
                return
    body = json.dumps([worker.value("users"), os.getuid()]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
FILE = """\
app = "hello:app"
directory = "@DIRECTORY@"
listen = ["127.0.0.1:@PORT@"]
workers = 2
slots = 4
[reload]
soak = "20ms"
[task.count]
call = "hello:count"
publish = "users"
calendar = "{often}"
"""
OFTEN, SELDOM = "*:*:*", "*-1-1 04:00"


def last(instance: Instance, task: str) -> dict[str, Any]:
    found = next((t for t in instance.status()["tasks"] if t["task"] == task), {})
    came: dict[str, Any] = found.get("last") or {}
    return came


@pytest.mark.once
def test_calendar(instance: Instance) -> None:
    """systemd runs a task by its calendar, as the application's user, while the application runs and no longer; a
    daemon-reload and a reload bring another calendar, and other tasks."""
    machine = instance.machine
    instance.write("hello.py", APP)
    instance.configure(FILE.format(often=OFTEN))
    count, purge = (f"cluster-task@{instance.name}:{task}" for task in ("count", "purge"))
    # Under names without a colon, which is `verify`'s own. It does not see what generators made, so the rest of what it
    # says is of the socket that has no address then.
    copies = "; ".join(f"cp '/run/systemd/generator/{count}.{k}' /run/users-task.{k}" for k in ("timer", "service"))
    verify = "systemd-analyze verify /run/users-task.timer /run/users-task.service"
    assert "users-task" not in machine.sh(f"{copies}; {verify}; rm /run/users-task.*").stderr
    assert machine.show(f"{count}.timer", "ActiveState") == "inactive"
    instance.start()
    machine.wait_for("its timer", lambda: machine.show(f"{count}.timer", "ActiveState") == "active")
    first = machine.wait_for("a run", lambda: last(instance, "count"))
    uid = json.loads(instance.get()[1])[1]
    assert (first["outcome"], json.loads(first["result"])) == ("done", ["count", uid])
    machine.wait_for("another", lambda: last(instance, "count")["number"] > first["number"])
    assert machine.show(f"{count}.service", "Result") == "success"

    instance.configure(FILE.format(often=SELDOM) + f'[task.purge]\ncall = "hello:purge"\ncalendar = "{OFTEN}"\n')
    instance.reload()
    machine.wait_for("the new one", lambda: last(instance, "purge"))
    machine.wait_for("its next time", lambda: "01-01 04:00:00" in instance.clusterd("task").stdout)
    assert OFTEN in instance.clusterd("task").stdout

    instance.configure(FILE.format(often="Mon..Fri 25:00"), reload=False)
    refused = instance.clusterd("check", check=False)
    assert refused.returncode == 2 and 'found "Mon..Fri 25:00", expected a time that systemd takes' in refused.stderr

    instance.configure(FILE.format(often=SELDOM) + f'[task.purge]\ncall = "hello:purge"\ncalendar = "{OFTEN}"\n')
    machine.systemctl("stop", instance.service)
    machine.wait_for("its timers to stop", lambda: machine.show(f"{purge}.timer", "ActiveState") == "inactive")
    instance.start()
    machine.wait_for("a run", lambda: last(instance, "purge"))

    instance.configure(FILE.format(often=SELDOM))
    instance.reload()
    assert machine.show(f"{purge}.timer", "LoadState") == "not-found"
    assert machine.show(f"{purge}.timer", "NextElapseUSecRealtime") == ""
    instance.reload()
    assert "purge" not in instance.clusterd("task").stdout


@pytest.mark.once
def test_what_comes_and_goes_leaves_nothing_open(instance: Instance) -> None:
    """Runs of tasks, workers, spares and zygotes, of reloads that are done and refused: after twenty runs keeper and
    master have no more descriptors than after the first."""
    instance.configure(FILE.format(often=SELDOM) + "[restart]\nspares = 1\n")
    instance.write("hello.py", APP)
    instance.start()

    def come_and_go(runs: int) -> None:
        for _ in range(runs):
            instance.machine.run(["clusterd", "task", instance.name, "run", "count"])
        instance.reload()
        instance.write("hello.py", "raise RuntimeError('not today')\n")
        assert instance.reload(check=False).returncode == 1
        instance.write("hello.py", APP)
        kill(instance, instance.workers()[1])
        at_rest(instance)

    come_and_go(1)
    first = descriptors(instance)
    come_and_go(20)
    let_go(instance, first)
