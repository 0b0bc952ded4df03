"""The journal and the status line: what happens is told, once, with fields to search by, and no secret is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clusterd.shell import messages
from clusterd.shell.messages import Message
from tests.patience import HANG
from tests.systemd.accounting import at_rest, kill, kill_master
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance

APP = """
import logging, os, pathlib, sys, time

print("imported now")
GREETING = "hello"


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/talk":
        print("a printed line")
        print("<3>a bad line", file=sys.stderr, flush=True)
        logging.getLogger("shop").warning("logged %s", "once", extra={"order": 17})
        try:
            {}["nothing"]
        except KeyError:
            logging.getLogger("shop").exception("it broke")
    if scope["path"] == "/print-and-die":
        print("my last words")
        os._exit(3)
    if scope["path"] == "/log-and-die":
        logging.getLogger("shop").warning("my last words")
        os._exit(3)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": GREETING.encode()})
"""
TOML = """\
app = "hello:app"
directory = "@DIRECTORY@"
listen = ["127.0.0.1:@PORT@"]
workers = 2
environment-file = "@DIRECTORY@/secret.env"
[env]
TOKEN = "secret-in-the-file"
[reload]
soak = "100ms"
watch = "300ms"
linger = "100ms"
"""
GATE = """
while pathlib.Path(__file__).with_name("gate").exists():
    time.sleep(0.02)
"""


def deploy(instance: Instance, extra: str = "") -> None:
    instance.write("hello.py", APP + extra)
    instance.write("secret.env", "PASSWORD=secret-in-the-environment\n")
    instance.configure(TOML)


def told(records: list[dict[str, Any]], message: Message) -> list[dict[str, Any]]:
    return [record for record in records if record.get("MESSAGE_ID") == message.id]


def text(record: dict[str, Any]) -> str:
    return str(record["MESSAGE"])


def test_what_happens_is_told(instance: Instance) -> None:
    """Each happening has its record, with worker, slot and generation where they apply, and its catalog entry."""
    machine = instance.machine
    deploy(instance)
    instance.start()
    instance.reload()
    victim = instance.workers()[1]
    kill(instance, victim)
    machine.wait_for("a successor", lambda: instance.workers().get(1) not in (None, victim))
    instance.write("hello.py", "raise RuntimeError('not today')\n")
    refused = instance.reload(check=False)
    machine.wait_for(
        "the first's receipt", lambda: told(machine.journal(unit=instance.service), messages.RELOAD_RECEIPT)
    )
    instance.clusterd("rollback")
    kill_master(instance)
    at_rest(instance)
    machine.wait_for(
        "the watch to be over", lambda: told(machine.journal(unit=instance.service), messages.RELOAD_SETTLED)
    )
    records = machine.journal(unit=instance.service)
    cursor = machine.cursor()
    instance.stop()
    ended = machine.journal(f"CLUSTERD_APP={instance.name}", after=cursor)  # of a master that is gone, by now

    assert refused.returncode == 1
    for message, count in (
        (messages.START_BEGUN, 1), (messages.STARTED, 1), (messages.RELOAD_BEGUN, 2), (messages.RELOAD_DONE, 1),
        (messages.WORKER_DIED, 1), (messages.WORKER_REPLACED, 1), (messages.RELOAD_REFUSED, 1),
        (messages.ROLLBACK_BEGUN, 1), (messages.ROLLBACK_DONE, 1), (messages.MASTER_DIED, 1),
        (messages.MASTER_TOOK_OVER, 1), (messages.RELOAD_RECEIPT, 2),
    ):  # fmt: skip
        assert len(told(records, message)) == count, (message.subject, [text(r) for r in told(records, message)])
    assert (len(told(ended, messages.STOPPING)), len(told(ended, messages.STOPPED))) == (1, 1)
    (died,) = told(records, messages.WORKER_DIED)
    assert (died["CLUSTERD_SLOT"], died["CLUSTERD_GENERATION"], died["PRIORITY"]) == ("1", "2", "4")
    assert "SIGKILL" in text(died) and died["CLUSTERD_WORKER"].isdigit() and died["CLUSTERD_APP"] == instance.name
    (replaced,) = told(records, messages.WORKER_REPLACED)
    assert (replaced["CLUSTERD_SLOT"], replaced["CLUSTERD_GENERATION"]) == ("1", "2")
    ready = told(records, messages.WORKER_READY)
    assert {r["CLUSTERD_SLOT"] for r in ready if r["CLUSTERD_GENERATION"] == "1"} == {"0", "1"}
    (reason,) = told(records, messages.RELOAD_REFUSED)
    assert "Traceback" in text(reason) and "not today" in text(reason) and "hello.py" in text(reason)
    (done,) = told(records, messages.RELOAD_DONE)
    assert text(done).startswith("#2: 2/2 in ") and done["CLUSTERD_RELOAD"] == "2"
    assert "WebSockets" in text(told(records, messages.RELOAD_RECEIPT)[0])
    explained = machine.run(
        ["journalctl", "-x", "--no-pager", "-u", instance.service, f"MESSAGE_ID={died['MESSAGE_ID']}"]
    )
    assert f"Worker {died['CLUSTERD_WORKER']} of {instance.name} died" in explained.stdout


def test_what_the_application_says(instance: Instance) -> None:
    """Lines come under NAME/SLOT with their level, logging whole and with fields, the import under NAME/zygote."""
    deploy(instance)
    instance.start()
    assert instance.get("/talk")[0] == 200
    records = instance.machine.journal(unit=instance.service)
    by = {text(r).splitlines()[0]: r for r in records}
    assert by["imported now"]["SYSLOG_IDENTIFIER"] == f"{instance.name}/zygote"
    slots = {f"{instance.name}/{slot}" for slot in (0, 1)}
    assert by["a printed line"]["SYSLOG_IDENTIFIER"] in slots and by["a printed line"]["PRIORITY"] == "6"
    assert by["a bad line"]["PRIORITY"] == "3"
    logged = by["logged once"]
    assert logged["PRIORITY"] == "4" and logged["LOGGER"] == "shop" and logged["SYSLOG_IDENTIFIER"] in slots
    assert logged["CLUSTERD_SLOT"] in "01" and logged["CLUSTERD_GENERATION"] == "1" and logged["ORDER"] == "17", logged
    broke = by["it broke"]
    assert "Traceback" in json.dumps(broke) and "KeyError: 'nothing'" in json.dumps(broke) and broke["PRIORITY"] == "3"


@pytest.mark.once
def test_status_line(instance: Instance) -> None:
    """STATUS= says what goes on: how many serve, how far a reload is, and why the last one was refused."""
    machine = instance.machine
    deploy(instance, GATE)
    instance.start()
    assert instance.show("StatusText") == "2/2 workers, generation 1"
    machine.run(["touch", f"{instance.directory}/gate"])
    reload = machine.popen(["systemctl", "reload", instance.service])
    machine.wait_for("the reload", lambda: instance.show("StatusText") == "reloading: 0/2 ready (2 serving)")
    assert instance.status()["summary"] == "reloading: 0/2 ready (2 serving)"
    machine.run(["rm", f"{instance.directory}/gate"])
    assert reload.wait(HANG) == 0
    machine.wait_for("the old to be gone", lambda: instance.show("StatusText") == "2/2 workers, generation 2")
    receipt = instance.status()["receipt"]
    assert receipt["number"] == 2 and receipt["outcome"] == "done" and receipt["text"].startswith("#2: 2/2 in ")
    assert receipt["text"] in instance.clusterd("status").stdout
    instance.write("hello.py", "import nowhere\n")
    assert instance.reload(check=False).returncode == 1
    line = instance.show("StatusText")
    assert line.startswith("2/2 workers, generation 2; ") and "refused" in line and "nowhere" in line


@pytest.mark.once
def test_secrets_stay_secret(instance: Instance) -> None:
    """Values of [env] and environment-file are in no record, no status and no process list, whatever happens."""
    deploy(instance)
    instance.start()
    instance.reload()
    kill_master(instance)
    instance.write("hello.py", "raise RuntimeError('x')\n")
    instance.reload(check=False)
    shown = [
        instance.clusterd("status", "--json").stdout,
        instance.clusterd("status").stdout,
        instance.clusterd("check").stdout,
        instance.machine.run(["ps", "axww", "-o", "args"]).stdout,
        instance.show("StatusText"),
        json.dumps(instance.machine.journal(unit=instance.service)),
    ]
    assert not [text for text in shown if "secret-in" in text]


FILL = """
import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 32, 1 << 23)  # SO_SNDBUFFORCE: not what we have sent, the queue is to be full
s.setblocking(False)
while True:
    try:
        s.sendto(b"MESSAGE=filling", "/run/systemd/journal/socket")
    except BlockingIOError:
        break
"""


@contextlib.contextmanager
def late(machine: Container) -> Iterator[None]:
    """journald is stopped, and reads what it is sent when this ends."""
    journald = machine.show("systemd-journald.service", "MainPID")
    machine.run(["kill", "-STOP", journald])
    try:
        yield
    finally:
        machine.run(["kill", "-CONT", journald])


@contextlib.contextmanager
def standing_still(machine: Container) -> Iterator[None]:
    """journald is stopped, and its queue full."""
    with late(machine):
        machine.run(["/usr/bin/python3", "-c", FILL])
        yield


def test_journald_stands_still(instance: Instance) -> None:
    """Nobody waits for it: workers are replaced, a master too, a reload runs. It is told of that when it goes on."""
    machine = instance.machine

    def lose_a_worker() -> None:
        victim = instance.workers()[1]
        kill(instance, victim)
        machine.wait_for("a successor", lambda: instance.workers().get(1) not in (None, victim))

    def told_now(message: Message, count: int) -> bool:
        return len(told(machine.journal(unit=instance.service), message)) == count

    deploy(instance)
    instance.start()
    with standing_still(machine):
        lose_a_worker()
        instance.write("hello.py", APP.replace('"hello"', '"other"'))
        instance.clusterd("reload")
        assert [instance.get("/talk") for _ in range(5)] == [(200, "other")] * 5
    machine.wait_for("the reload to be told", lambda: told_now(messages.RELOAD_DONE, 1))
    assert told_now(messages.WORKER_DIED, 1)
    with standing_still(machine):
        kill_master(instance)
        at_rest(instance)
        lose_a_worker()
    machine.wait_for("the other death to be told", lambda: told_now(messages.WORKER_DIED, 2))
    assert told_now(messages.MASTER_TOOK_OVER, 1)
    machine.wait_for("the keeper to have told", lambda: told_now(messages.MASTER_DIED, 1))


PROGRAM = """
import os, select, socket

slot = socket.socket(fileno=3)
while select.select([slot], [], []):
    with slot.accept()[0] as conn:
        if b"/print-and-die" in conn.recv(4096):
            print("my last words", flush=True)
            os._exit(3)
        conn.sendall(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
"""


LAST = ("print-and-die", ""), ("log-and-die", ""), ("print-and-die", "command")


@pytest.mark.parametrize(("deed", "kind"), LAST, ids=[" ".join(each).strip() for each in LAST])
def test_last_words(instance: Instance, deed: str, kind: str) -> None:
    """What a worker printed or logged before it died is under the unit, though the worker is gone when journald reads
    it: of a process that it had not met it would not know the unit."""
    machine = instance.machine
    deploy(instance)
    if kind == "command":
        instance.write("program.py", PROGRAM)
        settings = 'command = ["/usr/bin/python3", "program.py"]\nready = "after 500ms"\n'
        instance.configure(TOML.replace('app = "hello:app"\n', settings))
    instance.start()
    before = instance.workers()
    cursor = machine.cursor()
    with late(machine):
        assert instance.get(f"/{deed}") == (0, "")
        machine.wait_for("a successor", lambda: sorted(now := instance.workers()) == [0, 1] and now != before)

    def said() -> list[dict[str, Any]]:
        return [record for record in machine.journal(after=cursor) if record.get("MESSAGE") == "my last words"]

    (record,) = machine.wait_for("its words", said)
    assert record.get("_SYSTEMD_UNIT") == instance.service, record


@pytest.mark.once
def test_a_namespace_of_its_own(fresh_machine: Container, instances: Callable[[Container], Instance]) -> None:
    """With LogNamespace= in a drop-in all that is told, printed and logged is in that journal, whole, by its unit."""
    machine = fresh_machine
    instance = instances(machine)
    deploy(instance)
    machine.write(f"/etc/systemd/system/{instance.service}.d/log.conf", "[Service]\nLogNamespace=shop\n")
    machine.systemctl("daemon-reload")
    instance.start()
    assert instance.get("/talk")[0] == 200

    def there() -> dict[str, dict[str, Any]]:
        argv = ["journalctl", "--namespace=shop", "-o", "json", "-u", instance.service]
        records = [json.loads(line) for line in machine.run(argv).stdout.splitlines()]
        return {text(r).splitlines()[0]: r for r in records}

    wanted = {"#1: start of generation 1 begun", "imported now", "a printed line", "logged once", "it broke"}
    found = machine.wait_for("all of it", lambda: wanted <= (now := there()).keys() and now)
    assert found["logged once"]["LOGGER"] == "shop" and "KeyError" in text(found["it broke"])


def test_journald_is_gone(fresh_machine: Container, instances: Callable[[Container], Instance]) -> None:
    """With its sockets, and the streams of who writes to it: nothing waits or spins, code that prints is deployed, and
    what happens is told when it is back."""
    machine = fresh_machine
    instance = instances(machine)
    deploy(instance)
    instance.start()
    units = [f"systemd-journald{kind}" for kind in (".service", ".socket", "-dev-log.socket")]
    machine.systemctl("stop", *units)
    victim = instance.workers()[1]
    kill(instance, victim)
    machine.wait_for("a successor", lambda: instance.workers().get(1) not in (None, victim))
    machine.wait_for("it to serve", lambda: instance.status()["state"] == "serving")
    assert instance.get() == (200, "hello")
    instance.write("hello.py", APP.replace('"hello"', '"other"'))
    instance.clusterd("reload")
    assert [instance.get("/talk") for _ in range(5)] == [(200, "other")] * 5
    machine.systemctl("start", *reversed(units))
    kill(instance, instance.workers()[1])
    machine.wait_for("a death to be told", lambda: told(machine.journal(unit=instance.service), messages.WORKER_DIED))
