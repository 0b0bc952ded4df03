"""Starts: those that fail say why, keep the port and heal by themselves; and a first connection starts a service."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable

import pytest

from tests.systemd import load
from tests.systemd.accounting import at_rest
from tests.systemd.apps import NODE, UVICORN, WAITRESS, App
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance

QUICK = '[restart]\ndelay = "200ms"\nmax-delay = "2s"\n'
FILE = """\
app = "hello:app"
directory = "{directory}"
listen = ["127.0.0.1:@PORT@"]
workers = 2
slots = 4
{more}
"""
BROKEN = "raise RuntimeError('the flux is gone')\n"


def configure(instance: Instance, *, directory: str = "@DIRECTORY@", more: str = "", reload: bool = True) -> None:
    instance.configure(FILE.format(directory=directory, more=f"{more}\n{QUICK}"), reload=reload)


def deployed(instance: Instance) -> Instance:
    """The example's code and a file for it; not started."""
    UVICORN.deploy(instance)
    configure(instance)
    return instance


def fails(instance: Instance, reason: str) -> None:
    """`systemctl start` exits non-zero, status line and journal have the reason, and the service stays up after it."""
    cursor = instance.machine.cursor()
    assert instance.start(check=False).returncode != 0
    instance.machine.wait_for("the reason", lambda: reason in instance.show("StatusText"))
    instance.machine.wait_for("the start after it", lambda: instance.show("ActiveState") == "active")
    instance.machine.wait_for("it in the status", lambda: reason in (instance.status()["problem"] or ""))
    assert reason in instance.show("StatusText")
    records = [r for r in instance.machine.journal(unit=instance.service, after=cursor) if r.get("MESSAGE_ID")]
    assert any(reason in str(r["MESSAGE"]) and r["PRIORITY"] == "3" for r in records), records


def heals(instance: Instance) -> None:
    """It serves again, and nobody gave a command."""
    instance.machine.wait_for("it to serve", lambda: instance.get()[0] == 200)
    instance.machine.wait_for("its state", lambda: instance.status()["state"] == "serving")
    assert instance.status()["problem"] is None
    assert instance.show("StatusText").startswith("2/2 workers")


def headers(instance: Instance) -> str:
    return instance.machine.run(
        ["curl", "-s", "-m", "60", "-D-", "-o/dev/null", f"http://127.0.0.1:{instance.port}/"]
    ).stdout


def test_broken_code(instance: Instance) -> None:
    """Broken code: the start fails and says so, clients get 503 with Retry-After, one boot a back-off step with growing
    delays, the socket never leaves active, and repaired code serves without a command."""
    machine = deployed(instance).machine
    instance.write("hello.py", BROKEN)
    machine.systemctl("start", instance.socket)
    since = machine.show(instance.socket, "ActiveEnterTimestampMonotonic")
    cursor = machine.cursor()
    fails(instance, "the flux is gone")
    answer = headers(instance)
    assert answer.startswith("HTTP/1.1 503 ") and re.search(r"^retry-after: \d+\r?$", answer, re.I | re.M), answer

    def boots() -> list[int]:
        """When each boot failed, in microseconds."""
        records = machine.journal(unit=instance.service, after=cursor)
        told = [r for r in records if r.get("MESSAGE_ID") and "the flux is gone" in str(r["MESSAGE"])]
        return [int(r["_SOURCE_REALTIME_TIMESTAMP"]) for r in told]

    times = machine.wait_for("six boots", lambda: found if len(found := boots()) >= 6 else None)
    # The first is the start's own, and systemd's restart follows it; then 0.2 s x 1.5 each time, a tenth more or less.
    delays = [(b - a) / 1e6 for a, b in itertools.pairwise(times[1:])]
    assert sum(delays) > sum(0.9 * 0.2 * 1.5**step for step in range(len(delays))), delays
    assert instance.show("NRestarts") == "1"
    assert (
        machine.show(instance.socket, "ActiveState"),
        machine.show(instance.socket, "ActiveEnterTimestampMonotonic"),
    ) == (
        "active",
        since,
    )
    instance.write("hello.py", UVICORN.source())
    heals(instance)
    assert len(instance.inodes()) == 4


def test_broken_code_again(instance: Instance) -> None:
    """Stop and restart of a service that failed to start: each start of an administrator's is told the truth again."""
    machine = deployed(instance).machine
    instance.write("hello.py", BROKEN)
    fails(instance, "the flux is gone")
    assert machine.systemctl("restart", instance.service, check=False).returncode != 0
    machine.wait_for("the start after it", lambda: instance.show("ActiveState") == "active")
    assert machine.systemctl("stop", instance.service).returncode == 0
    assert instance.show("ActiveState") == "inactive" and machine.processes(instance.service) == []
    fails(instance, "the flux is gone")
    said = instance.clusterd("start", check=False)
    assert said.returncode == 1 and "the flux is gone" in said.stderr
    instance.write("hello.py", UVICORN.source())
    instance.reload()
    heals(instance)


def test_broken_file(instance: Instance) -> None:
    """A file that is no TOML, the sockets being there: the start fails and says where; the repaired file is enough."""
    deployed(instance).machine.systemctl("start", instance.socket)
    instance.machine.write(instance.file, 'app = "hello:app\n')
    fails(instance, f"{instance.file}")
    assert headers(instance).startswith("HTTP/1.1 503 ")
    configure(instance, reload=False)
    heals(instance)


def test_no_sockets(instance: Instance) -> None:
    """No file that could be read, so no sockets: the start fails, says what to do, and is not tried again and again."""
    machine = instance.machine
    instance.write("hello.py", UVICORN.source())
    instance.configure('app = "hello:app\n')
    assert instance.start(check=False).returncode != 0
    machine.wait_for("it to be failed", lambda: instance.show("ActiveState") == "failed")
    assert f"'clusterd start {instance.name}'" in instance.show("StatusText")
    assert instance.file in instance.show("StatusText")
    assert instance.show("NRestarts") == "0"
    said = instance.clusterd("start", check=False)
    assert said.returncode == 2 and instance.file in said.stderr
    configure(instance, reload=False)
    assert instance.clusterd("start").returncode == 0
    heals(instance)


@pytest.mark.once
def test_missing_directory(instance: Instance) -> None:
    """A directory that is not there: the reason names it; made, it is served."""
    configure(instance, directory=f"/srv/{instance.name}/later")
    fails(instance, f"'/srv/{instance.name}/later'")
    instance.write("later/hello.py", UVICORN.source())
    heals(instance)


@pytest.mark.once
def test_directory_closed_while_it_runs(instance: Instance) -> None:
    """The application's user may not enter its directory any more, and zygote, twin and a worker die: the other serves,
    and status and journal name the directory. Opened again, it heals by itself."""
    machine = deployed(instance).machine
    instance.start()
    first = at_rest(instance)
    generation, workers = first["generations"][0], instance.workers()
    machine.run(["chmod", "0700", instance.directory])
    master, at_once = first["master"]["pid"], [generation["twin"], generation["zygote"], workers.pop(0)]
    # Stopped, so that it does not have another twin made between the first and the second.
    kills = ["-STOP", master], ["-KILL", *at_once], ["-CONT", master]
    machine.sh("; ".join(f"kill {' '.join(map(str, each))}" for each in kills))
    machine.wait_for("the reason", lambda: instance.directory in (instance.status()["problem"] or ""))
    assert instance.directory in instance.show("StatusText") and instance.workers() == workers
    assert instance.get()[0] == 200
    machine.run(["chmod", "0755", instance.directory])
    heals(instance)
    assert instance.workers()[1] == workers[1]


@pytest.mark.proof
def test_missing_interpreter(instance: Instance) -> None:
    """An interpreter that is not there: the reason names it; put there, it is used."""
    deployed(instance)
    configure(instance, more=f'python = "{instance.directory}/bin/python"')
    fails(instance, f"'{instance.directory}/bin/python'")
    instance.machine.sh(f"mkdir {instance.directory}/bin; ln -s /usr/bin/python3 {instance.directory}/bin/python")
    heals(instance)


def test_listen_changed(instance: Instance, instances: Callable[[Container], Instance]) -> None:
    """An address of the file that no socket is for, since the socket was not restarted: the start fails and names the
    command; the old address in the file again heals, and so does the command."""
    machine = deployed(instance).machine
    instance.start()
    inodes = instance.inodes()
    other = instances(machine)
    more = f'127.0.0.1:@PORT@", "127.0.0.1:{other.port}'
    changed = FILE.format(directory="@DIRECTORY@", more=QUICK).replace("127.0.0.1:@PORT@", more)
    instance.configure(changed)
    said = instance.reload(check=False)
    assert said.returncode != 0
    command = f"'clusterd stop {instance.name}' and 'clusterd start {instance.name}'"
    assert machine.systemctl("restart", instance.service, check=False).returncode != 0
    machine.wait_for("the start after it", lambda: instance.show("ActiveState") == "active")
    machine.wait_for("the reason", lambda: f"127.0.0.1:{other.port}" in instance.show("StatusText"))
    assert command in instance.show("StatusText") and instance.inodes() == inodes
    assert headers(instance).startswith("HTTP/1.1 503 ")
    configure(instance, reload=False)
    heals(instance)
    instance.configure(changed, reload=False)
    instance.clusterd("stop")
    instance.clusterd("start")
    heals(instance)
    assert other.get()[0] == 200 and len(other.inodes()) == 4


@pytest.mark.once
def test_port_shared(instance: Instance) -> None:
    """Another program on the port by SO_REUSEPORT: the start fails and names it, since it would take connections
    without a trace; gone, the service starts by itself. One that comes later is told and hurts nobody's reload."""
    machine = deployed(instance).machine
    stranger = f"stranger-{instance.port}.service"
    code = (
        "import signal, socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); "
        f"s.bind(('127.0.0.1', {instance.port})); s.listen(); print('there', flush=True); signal.pause()"
    )
    run = ["systemd-run", "-q", "--unit", stranger, "/usr/bin/python3", "-c", code]
    machine.run(run)
    machine.wait_for("the stranger", lambda: len(instance.inodes()) == 1)
    try:
        fails(instance, f"{stranger} listens on 127.0.0.1:{instance.port} as well")
        machine.systemctl("stop", stranger)
        heals(instance)
        machine.run(run)
        machine.wait_for("the stranger", lambda: len(instance.inodes()) == 5)
        cursor = machine.cursor()
        instance.reload()
        machine.run(["kill", "-KILL", str(instance.status()["master"]["pid"])])
        machine.wait_for("it to be told", lambda: any(stranger in text for text in instance.messages(cursor)))
    finally:
        machine.systemctl("stop", stranger, check=False)


@pytest.mark.once
def test_overlap(instance: Instance, instances: Callable[[Container], Instance]) -> None:
    """A second file with an address that overlaps a running one's: refused, naming both; the running one is unharmed,
    whichever comes first in the alphabet, and takes part in reloads and restarts."""
    machine = deployed(instance).machine
    instance.start()
    inodes, workers = instance.inodes(), instance.workers()
    first = Instance(machine, f"a-{instance.name}"[:23], instance.port)
    with first:
        first.write("hello.py", UVICORN.source("intruder"))
        first.configure('app = "hello:app"\ndirectory = "@DIRECTORY@"\nlisten = ["@PORT@"]\n')
        said = machine.run(["clusterd", "check", first.name], check=False)
        assert said.returncode == 2 and instance.file in said.stderr and first.file in said.stderr
        said = first.clusterd("start", check=False)
        assert said.returncode == 2 and instance.file in said.stderr
        assert first.start(check=False).returncode != 0
        assert instance.file in first.show("StatusText") and first.file in first.show("StatusText")
        told = machine.journal("SYSLOG_IDENTIFIER=clusterd-generator")
        assert any(first.file in str(r["MESSAGE"]) and instance.file in str(r["MESSAGE"]) for r in told)
        assert machine.show(first.socket, "LoadState") == "bad-setting"
        assert (instance.inodes(), instance.workers()) == (inodes, workers)
        instance.reload()
        machine.systemctl("restart", instance.service)
        assert instance.get()[1].startswith("hello") and instance.inodes() == inodes


AT_ONCE = """\
import socket, sys
# Not ab, which waits for the answer to its first request before it opens the other connections.
clients = [socket.create_connection(("127.0.0.1", int(sys.argv[1])), 120) for _ in range(100)]
for client in clients:
    client.sendall(b"GET / HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n")
answers = [client.makefile("rb").read() for client in clients]
print(sum(answer.split(b" ", 2)[1:2] == [b"200"] for answer in answers), "of", len(answers), "answered 200")
"""


SLOW = """
import asyncio
import time

time.sleep(18)
fast = app


async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/slow":
        print("slow begun", flush=True)
        await asyncio.sleep(12)
        scope["path"] = "/"
    await fast(scope, receive, send)
"""
LIMITS = "[Service]\nTimeoutStartSec=9s\nTimeoutStopSec=8s\n"


@pytest.mark.proof
def test_slower_than_systemds_own_limits(instance: Instance) -> None:
    """With a TimeoutStartSec= of nine seconds and a TimeoutStopSec= of eight an import of 18 s is started and reloaded,
    a request of 12 s is answered at the stop; what takes longer than ready-timeout fails by that, as the master says.
    """
    machine = instance.machine
    machine.write(f"/etc/systemd/system/{instance.service}.d/limits.conf", LIMITS)
    instance.write("hello.py", UVICORN.source() + SLOW)
    limits = '[stop]\ndrain-timeout = "30s"\n[reload]\nready-timeout = "{}"\n'
    configure(instance, more=limits.format("40s"))
    assert (instance.show("TimeoutStartUSec"), instance.show("TimeoutStopUSec")) == ("9s", "8s")
    instance.start()
    instance.reload()
    assert instance.status()["generation"] == 2
    slow = ["curl", "-s", "-w", "%{http_code}", "-o", "/dev/null", f"http://127.0.0.1:{instance.port}/slow"]
    with machine.popen(slow, stdout=subprocess.PIPE) as asking:
        machine.wait_for("the request", lambda: any("slow begun" in text for text in instance.messages()))
        machine.systemctl("stop", instance.service)
        assert asking.communicate()[0] == "200"
    assert instance.show("Result") == "success"
    configure(instance, more=limits.format("7s"))
    fails(instance, "the application was not imported within 7 s")


@pytest.mark.parametrize(
    "app",
    [UVICORN, pytest.param(WAITRESS, marks=pytest.mark.proof), pytest.param(NODE, marks=pytest.mark.proof)],
    ids=lambda app: app.name,
)
def test_first_connections(instance: Instance, app: App) -> None:
    """Only the socket started: a hundred connections at once start the service and all are answered, though most
    of them wait in slots that have no worker."""
    app.deploy(instance, extra="workers = 2\nslots = 16\n")
    instance.machine.systemctl("start", instance.socket)
    assert instance.show("ActiveState") == "inactive" and len(instance.inodes()) == 16
    before = instance.machine.counters()
    said = instance.machine.host_exec(["/usr/bin/python3", "-I", "-c", AT_ONCE, str(instance.port)]).stdout
    after = instance.machine.counters()
    assert said == "100 of 100 answered 200\n"
    assert {name: after[name] - before[name] for name in load.COUNTERS} == dict.fromkeys(load.COUNTERS, 0)
    instance.machine.wait_for("the start to be over", lambda: instance.show("ActiveState") == "active")
    assert any("usher started (relay)" in text for text in instance.messages())
    assert instance.status()["slots"]["live"] == [0, 1]
