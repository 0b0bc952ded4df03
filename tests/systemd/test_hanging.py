"""Workers that hang or are recycled under load, on a real systemd."""

from __future__ import annotations

import pytest

from clusterd.shell import messages
from tests.systemd import load
from tests.systemd.accounting import at_rest, connections, kill
from tests.systemd.apps import GRANIAN, GRANIAN_ASGI, NODE, UVICORN, WAITRESS, App
from tests.systemd.harness import images
from tests.systemd.harness.instance import Instance

VICTIM = """

import os, pathlib, time

HANG = pathlib.Path(__file__).with_name("hang")
inner = app


def deep_in_the_application():
    while HANG.exists() and HANG.read_text() == str(os.getpid()):
        time.sleep(0.01)

"""
ASGI = (
    VICTIM
    + """
async def app(scope, receive, send):
    if scope["type"] == "lifespan" and pathlib.Path(__file__).with_name("slowly").exists():
        time.sleep(7)
    deep_in_the_application()
    await inner(scope, receive, send)
"""
)
WSGI = (
    VICTIM
    + """
def app(environ, start_response):
    deep_in_the_application()
    return inner(environ, start_response)
"""
)
JS = """
const fs = require("node:fs");
const stands = () => fs.existsSync("hang") && fs.readFileSync("hang", "utf8") === String(process.pid);
server.prependListener("request", () => {
  while (stands()) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
});
setInterval(() => execFile("systemd-notify", ["WATCHDOG=1"]), 1000);
"""
"""Who has its pid in the file `hang` blocks in its next request; with the file `slowly` starts are slow."""

ON_NEWEST = pytest.mark.parametrize("release", [images.DEBIAN13.name], indirect=True)
"""What takes long is no matter of systemd's version; the others are tried on both."""

APPS = [(UVICORN, ASGI), (GRANIAN_ASGI, ASGI), (WAITRESS, WSGI), (GRANIAN, WSGI), (NODE, JS)]


def deploy(instance: Instance, app: App, tail: str) -> None:
    app.deploy(instance, extra='workers = 3\n[health]\nwatchdog = "8s"\n')
    instance.write(app.module, app.source() + tail)


def followed(instance: Instance, pid: int) -> int:
    """Wait until `pid` is gone and three others serve; the most connections it was seen to have."""
    most = 0

    def gone() -> bool:
        nonlocal most
        most = max(most, connections(instance, pid))
        now = instance.status()["workers"]
        return len(now) == 3 and all(w["pid"] != pid and w["state"] == "serving" for w in now)

    instance.machine.wait_for(f"others in place of {pid}", gone)
    return most


@pytest.mark.proof
@pytest.mark.parametrize(("app", "tail"), APPS, ids=[app.name for app, _ in APPS])
@ON_NEWEST
def test_a_worker_that_hangs_under_load(instance: Instance, app: App, tail: str) -> None:
    """It is told with the stack of where it stands, followed by another, and killed: only the connections that it had
    taken fail, those that wait in its slot are answered. No other worker is blamed, nor one that starts slowly."""
    deploy(instance, app, tail)
    if app is UVICORN:
        instance.write("slowly", "")
    instance.start()
    after = instance.machine.cursor()
    with load.everything(instance.machine, instance.port) as asked:
        victim = instance.workers()[1]
        instance.write("hang", str(victim))
        taken = followed(instance, victim)
    assert taken > 0
    assert_only(asked, taken)
    at_rest(instance)
    (record,) = instance.machine.journal(f"MESSAGE_ID={messages.WORKER_HUNG.id}", after=after)
    assert record["CLUSTERD_SLOT"] == "1", record
    if app is not NODE:
        instance.machine.run(["journalctl", "--sync"])
        shown = instance.machine.run(["journalctl", "--no-pager", "-u", instance.service]).stdout
        assert "in deep_in_the_application" in shown


@pytest.mark.proof
def test_a_worker_that_is_stopped_under_load(instance: Instance) -> None:
    """SIGSTOP: followed and killed as one that hangs by itself, and told as what it is."""
    deploy(instance, UVICORN, ASGI)
    instance.start()
    with load.everything(instance.machine, instance.port) as asked:
        victim = instance.workers()[1]
        kill(instance, victim, signal="STOP")
        taken = followed(instance, victim)
    assert taken > 0
    assert_only(asked, taken)
    (record,) = instance.machine.journal(f"MESSAGE_ID={messages.WORKER_HUNG.id}", unit=instance.service)
    assert "it is stopped (SIGSTOP)" in record["MESSAGE"], record


def assert_only(asked: load.Load, taken: int) -> None:
    """At most `taken` requests failed, none for want of an answer, and no connection was dropped."""
    said = f"{asked.wrk.failures} {asked.ab.failures} {asked.probe.failures}\n{asked.wrk.text}\n{asked.ab.text}"
    assert asked.lost <= taken, f"{asked.lost} failures, {taken} connections had been taken: {said}"
    assert not any(asked.dropped.values()) and "timeout" not in asked.wrk.failures, said


GREEDY = """

inner, kept = app, []


async def app(scope, receive, send):
    kept.append(b"x" * (1 << 16))
    await inner(scope, receive, send)
"""
BOUNDS = {
    "max-requests": "max-requests = 200\nmax-requests-jitter = 100",
    "max-age": 'max-age = "2s"',
    "max-memory": 'max-memory = "90M"',
}


@pytest.mark.proof
@pytest.mark.parametrize("bound", BOUNDS)
@ON_NEWEST
def test_recycling_under_load(instance: Instance, bound: str) -> None:
    """Workers follow each other without a pause: nothing is lost, every slot is served at every instant, and never do
    two start at once, though all are of the same age."""
    UVICORN.deploy(instance, extra=f'workers = 3\n[reload]\nlinger = "30s"\n[recycle]\n{BOUNDS[bound]}\n')
    if bound == "max-memory":
        instance.write("hello.py", UVICORN.source() + GREEDY)
    instance.start()
    with load.everything(instance.machine, instance.port, steady="/healthz") as asked:
        instance.machine.wait_for("ten successions", lambda: whole(instance) and recycled(instance) >= 10)
    asked.assert_nothing_lost()
    said = [text for text in instance.messages() if "is to be replaced: it" in text]
    words = {"max-requests": "it has served", "max-age": "it has served for 2 s", "max-memory": "it takes"}[bound]
    assert all(words in text for text in said), said
    if bound == "max-memory":
        assert instance.show("NRestarts") == "0"


def whole(instance: Instance) -> bool:
    """Asserts what holds at every instant of it."""
    workers = instance.status()["workers"]
    assert {w["slot"] for w in workers if w["state"] == "serving"} == {0, 1, 2}, workers
    assert sum(w["state"] in ("starting", "ready") for w in workers) <= 1, workers
    return True


def recycled(instance: Instance) -> int:
    return len(instance.machine.journal(f"MESSAGE_ID={messages.WORKER_SPENT.id}", unit=instance.service))
