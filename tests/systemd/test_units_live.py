"""What an administrator does with the units, seen from both sides: systemctl's properties and clusterd's own status."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import HANG
from tests.systemd import load
from tests.systemd.accounting import kill_master
from tests.systemd.apps import UVICORN
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance

FILE = """\
app = "hello:app"
directory = "@DIRECTORY@"
listen = ["127.0.0.1:@PORT@"]
workers = 2
slots = 4
[reload]
soak = "100ms"
[stop]
drain-timeout = "3s"
"""
EXPOSURE = 1.6
UNITS = Path(__file__).resolve().parents[2] / "docs" / "units.md"


def deployed(instance: Instance, text: str = FILE) -> Instance:
    UVICORN.deploy(instance)
    instance.configure(text)
    return instance


def state(instance: Instance) -> tuple[str, str]:
    """ActiveState of service and socket."""
    return instance.show("ActiveState"), instance.machine.show(instance.socket, "ActiveState")


def running(instance: Instance) -> None:
    """It is, or will be in a moment: who is answered by the first worker may look before the last one serves."""
    instance.machine.wait_for("its start to be over", lambda: instance.show("ActiveState") != "activating")
    assert state(instance) == ("active", "active")
    assert instance.status()["state"] == "serving" and instance.get()[0] == 200


def gone(instance: Instance) -> None:
    """No process is left of it, and clusterd says so with its own exit status."""
    assert instance.machine.processes(instance.service) == []
    said = instance.clusterd("status", check=False)
    assert said.returncode == 4 and "not running" in said.stderr


def test_stop_and_start(instance: Instance) -> None:
    """start, stop, restart, and each again: exit 0, and the socket listens on after `stop` of the service, so that the
    next connection starts it."""
    machine = deployed(instance).machine
    for _ in range(2):
        assert machine.systemctl("start", instance.service).returncode == 0
        running(instance)
    inodes = instance.inodes()
    for _ in range(2):
        assert machine.systemctl("stop", instance.service).returncode == 0
        assert state(instance) == ("inactive", "active") and instance.inodes() == inodes
        gone(instance)
    assert machine.systemctl("reload", instance.service, check=False).returncode != 0
    assert instance.get()[0] == 200
    running(instance)
    assert machine.systemctl("restart", instance.service).returncode == 0
    running(instance)
    assert instance.inodes() == inodes
    for _ in range(2):
        assert machine.systemctl("stop", f"cluster@{instance.name}.*").returncode == 0
        assert state(instance) == ("inactive", "inactive") and instance.inodes() == []
        gone(instance)
    assert instance.get()[0] == 0
    assert machine.systemctl("restart", instance.service).returncode == 0
    running(instance)


def test_clusterd_start_and_stop(instance: Instance) -> None:
    """`clusterd start` needs no daemon-reload before it and starts the socket too; `clusterd stop` stops both; each
    again is no error."""
    UVICORN.deploy(instance)
    instance.configure(FILE, reload=False)
    for _ in range(2):
        said = instance.clusterd("start")
        assert said.returncode == 0 and "2/2 workers" in said.stdout and f"127.0.0.1:{instance.port}" in said.stdout
        running(instance)
    for _ in range(2):
        assert instance.clusterd("stop").returncode == 0
        assert state(instance) == ("inactive", "inactive") and instance.inodes() == []
        gone(instance)


def test_enable(instance: Instance) -> None:
    """`systemctl enable` is all it takes to be wanted by cluster.target, `disable` takes it out of it."""
    machine = deployed(instance).machine
    assert machine.systemctl("is-enabled", instance.service, check=False).stdout.strip() == "disabled"
    machine.systemctl("enable", instance.service)
    assert machine.systemctl("is-enabled", instance.service, instance.socket).stdout.split() == ["enabled", "enabled"]
    wanted = machine.show("cluster.target", "Wants").split()
    assert instance.service in wanted and instance.socket in machine.show("sockets.target", "Wants").split()
    machine.systemctl("start", "cluster.target")
    running(instance)
    machine.systemctl("stop", "cluster.target")
    machine.wait_for("the instance to stop with it", lambda: state(instance) == ("inactive", "active"))
    machine.systemctl("start", "cluster.target")
    running(instance)
    machine.systemctl("disable", instance.service)
    assert instance.service not in machine.show("cluster.target", "Wants").split()
    running(instance)


def test_boot(fresh_machine: Container, instances: Callable[[Container], Instance]) -> None:
    """After a reboot of the machine an enabled application serves, a disabled one does not, and nothing has failed."""
    enabled, disabled = deployed(instances(fresh_machine)), deployed(instances(fresh_machine))
    fresh_machine.systemctl("enable", enabled.service)
    disabled.start()
    fresh_machine.reboot()
    assert fresh_machine.systemctl("is-system-running", check=False).stdout == "running\n"
    running(enabled)
    assert state(disabled) == ("inactive", "inactive") and disabled.inodes() == []


def test_slots_never_block(instance: Instance) -> None:
    """Every slot is O_NONBLOCK in whoever holds it, also after another master and another start."""
    machine = deployed(instance).machine
    instance.start()
    assert blocking(instance) == []
    kill_master(instance)
    assert blocking(instance) == []
    machine.systemctl("restart", instance.service)
    assert blocking(instance) == []


def blocking(instance: Instance) -> list[str]:
    """PID and number of each descriptor of a slot that would block in accept()."""
    slots = {f"socket:[{inode}]" for inode in instance.inodes()}
    assert slots
    found, seen = [], 0
    for pid in instance.machine.processes(instance.service):
        listed = instance.machine.sh(f"cd /proc/{pid}/fd && for fd in *; do echo $fd $(readlink $fd); done").stdout
        for line in listed.splitlines():
            fd, _, target = line.partition(" ")
            if target in slots:
                info = instance.machine.read(f"/proc/{pid}/fdinfo/{fd}")
                flags = int(dict(row.split(":\t", 1) for row in info.splitlines())["flags"], 8)
                seen += 1
                found += [] if flags & os.O_NONBLOCK else [f"{pid} {fd}"]
    assert seen >= len(slots)
    return found


def test_reload_several(instance: Instance, instances: Callable[[Container], Instance]) -> None:
    """`systemctl reload 'cluster@*.service'` reloads every instance, and exits non-zero when one of them refuses."""
    machine = deployed(instance).machine
    other = deployed(instances(machine))
    machine.systemctl("start", instance.service, other.service)
    before = instance.workers(), other.workers()
    assert machine.systemctl("reload", "cluster@*.service").returncode == 0
    after = instance.workers(), other.workers()
    for old, new in zip(before, after, strict=True):
        assert len(new) == 2 and not set(old.values()) & set(new.values())
    other.write("hello.py", "raise SystemExit\n")
    assert machine.systemctl("reload", "cluster@*.service", check=False).returncode != 0
    assert set(instance.workers().values()).isdisjoint(after[0].values()) and other.workers() == after[1]
    assert (instance.show("ActiveState"), other.show("ActiveState")) == ("active", "active")


SLOW = """\
import asyncio, pathlib

HERE = pathlib.Path(__file__).parent


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"].endswith("shutdown"):
                return
    if scope["path"] == "/slow":
        print("in flight", flush=True)
        while not HERE.joinpath("release").exists():
            await asyncio.sleep(0.02)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.mark.parametrize("verb", ["restart", pytest.param("stop", marks=pytest.mark.proof)])
def test_drains(instance: Instance, verb: str) -> None:
    """`systemctl restart` and `stop` wait for a request in flight, and it is answered; so is who asks meanwhile."""
    instance.write("slow.py", SLOW)
    instance.configure(FILE.replace("hello:app", "slow:app").replace("3s", "20s"))
    machine = instance.machine
    instance.start()
    url = f"http://127.0.0.1:{instance.port}/slow"
    with (
        load.probe(machine, instance.port) as asked,
        machine.popen(["curl", "-s", "-m", "30", "-w", "%{http_code}", url], stdout=subprocess.PIPE) as asking,
    ):
        machine.wait_for("it to be in flight", lambda: "in flight" in instance.messages())
        with machine.popen(["systemctl", verb, instance.service]) as order:
            machine.wait_for("the drain", lambda: instance.status()["state"] == "stopping")
            assert order.poll() is None
            instance.write("release", "")
            answer, _ = asking.communicate(timeout=HANG)
            assert order.wait(HANG) == 0
        machine.wait_for("the next start", lambda: state(instance) == ("active", "active"))
    assert answer == "ok200"
    assert asked.failures == {} and asked.requests, asked
    assert not any("was cut" in text or "not finish draining" in text for text in instance.messages())


def keeper(instance: Instance) -> int:
    """The master's parent."""
    pid = instance.status()["master"]["pid"]
    return int(instance.machine.run(["ps", "-o", "ppid=", "-p", str(pid)]).stdout)


@pytest.mark.parametrize(
    "who", ["master", pytest.param("keeper", marks=pytest.mark.proof), pytest.param("both", marks=pytest.mark.proof)]
)
def test_stop_while_hung(instance: Instance, who: str) -> None:
    """`systemctl stop` ends within TimeoutStopSec though master or keeper, or both, stand still; no process is left,
    and the next connection starts it again."""
    machine = deployed(instance, FILE.replace('"3s"', '"30s"')).machine  # whoever hangs is given 8 s of what that adds
    instance.start()
    hung = {"master": instance.status()["master"]["pid"], "keeper": keeper(instance)}
    machine.run(["kill", "-STOP", *(str(pid) for name, pid in hung.items() if who in (name, "both"))])
    machine.systemctl("stop", instance.service)
    assert instance.show("Result") != "timeout"
    gone(instance)
    assert state(instance) == ("inactive", "active")
    assert instance.get()[0] == 200


def test_no_limit_closes_the_port(instance: Instance) -> None:
    """A service that dies more often than systemd's limits allow, while clients wait: service and socket stay active,
    the sockets are the same, and it serves."""
    machine = deployed(instance).machine
    instance.start()
    inodes = instance.inodes()
    client = ["curl", "-s", "-m", "30", "--retry", "20", "--retry-all-errors", "--retry-delay", "1"]
    with machine.popen([*client, f"http://127.0.0.1:{instance.port}/"], stdout=subprocess.PIPE) as asking:
        for number in range(8):
            machine.wait_for("something to kill", lambda: machine.processes(instance.service))
            machine.systemctl("kill", "--kill-whom=all", "--signal=SIGKILL", instance.service)
            machine.wait_for("the restart", lambda n=number: int(instance.show("NRestarts")) > n)  # type: ignore[misc]
        machine.wait_for("it to serve", lambda: instance.get()[0] == 200)
        asking.communicate(timeout=HANG)
    assert asking.returncode == 0
    running(instance)
    assert instance.inodes() == inodes and instance.show("NFileDescriptorStore") == "4"


def test_drop_ins(instance: Instance) -> None:
    """`systemctl cat` shows where a setting comes from, and what `systemctl edit` writes wins over the generator's."""
    machine = deployed(instance, f'user = "www-data"\n{FILE}').machine
    for unit in (instance.service, instance.socket):
        assert machine.show(unit, "SourcePath") == instance.file
        assert f"/run/systemd/generator/{unit}.d/50-clusterd.conf" in machine.show(unit, "DropInPaths").split()
    assert (machine.show(instance.service, "User"), machine.show(instance.service, "TimeoutStopUSec")) == (
        "www-data",
        "13s",
    )
    edit = f"/etc/systemd/system/{instance.service}.d/override.conf"
    machine.write(edit, "[Service]\nUser=games\nTimeoutStopSec=7s\n")
    machine.systemctl("daemon-reload")
    assert (machine.show(instance.service, "User"), machine.show(instance.service, "TimeoutStopUSec")) == (
        "games",
        "7s",
    )
    instance.start()
    assert owners(instance) == {uid(machine, "games")}


def owners(instance: Instance) -> set[str]:
    """The uids that processes of the service run as."""
    pids = instance.machine.processes(instance.service)
    return set(instance.machine.run(["stat", "-c", "%u", *(f"/proc/{pid}" for pid in pids)]).stdout.split())


def uid(machine: Container, name: str) -> str:
    return machine.run(["id", "-u", name]).stdout.strip()


def test_dynamic_user(instance: Instance, instances: Callable[[Container], Instance]) -> None:
    """Without `user` each instance has an account of its own, which is never root and is in no file."""
    machine = deployed(instance).machine
    other = deployed(instances(machine))
    machine.systemctl("start", instance.service, other.service)
    assert (instance.show("User"), other.show("User")) == (f"cluster-{instance.name}", f"cluster-{other.name}")
    uids = owners(instance) | owners(other)
    assert uids == {instance.show("UID"), other.show("UID")} and len(uids) == 2 and "0" not in uids
    assert machine.run(["grep", "-c", "cluster-", "/etc/passwd"], check=False).stdout == "0\n"


def test_existing_user(instance: Instance) -> None:
    """`user` is an account of the machine; root is refused in words, and nothing of it runs."""
    machine = deployed(instance, f'user = "www-data"\n{FILE}').machine
    instance.start()
    running(instance)
    assert owners(instance) == {uid(machine, "www-data")}
    instance.stop()
    instance.configure(f'user = "root"\n{FILE}')
    said = instance.clusterd("start", check=False)
    assert said.returncode == 2 and "root" in said.stderr
    assert instance.start(check=False).returncode != 0
    machine.wait_for("the end of it", lambda: instance.show("ActiveState") == "failed")
    assert "root" in instance.show("StatusText") and machine.processes(instance.service) == []


def test_unix_socket(instance: Instance) -> None:
    """A UNIX socket has the mode and the group of the file, serves whoever may connect and nobody else, and is removed
    with its socket unit."""
    path = f"/run/{instance.name}.sock"
    listen = f'listen = ["127.0.0.1:@PORT@", {{ path = "{path}", mode = "0660", group = "www-data" }}]'
    machine = deployed(instance, FILE.replace('listen = ["127.0.0.1:@PORT@"]', listen)).machine
    instance.start()
    assert machine.run(["stat", "-c", "%a %U %G", path]).stdout == "660 root www-data\n"

    def ask(user: str, *groups: str) -> int:
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={','.join(groups) or user}"]
        return machine.run([*become, "curl", "-sf", "--unix-socket", path, "http://x/"], check=False).returncode

    assert (ask("games", "www-data"), ask("games")) == (0, 7)
    before = instance.workers()
    instance.reload()
    assert not set(before.values()) & set(instance.workers().values())
    assert (ask("games", "www-data"), instance.get()[0]) == (0, 200)
    machine.systemctl("stop", instance.service)
    assert ask("games", "www-data") == 0, "the next connection starts it"
    instance.stop()
    assert not machine.exists(path)


def test_exposure(instance: Instance) -> None:
    """`systemd-analyze security` scores the running example no worse than is promised, and docs/units.md says of each
    directive that it finds unset, or open, why."""
    machine = deployed(instance).machine
    instance.start()
    said = machine.run(["systemd-analyze", "security", "--no-pager", instance.service]).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found and float(found[1]) <= EXPOSURE, said
    rows = json.loads(machine.run(["systemd-analyze", "security", "--json=short", instance.service]).stdout)
    unset = {re.split("[=/]", row["name"])[0] for row in rows if row["set"] is False}
    page = UNITS.read_text().split("## Hardening", 1)[1]
    assert unset and {name for name in unset if f"`{name}=" not in page} == set()


def test_rights(instance: Instance) -> None:
    """Members of the group clusterd see the status, others do not; neither may reload, nor roll back, nor stop."""
    machine = deployed(instance).machine
    instance.start()
    before = instance.workers()

    def run(group: str, *command: str) -> tuple[int, str]:
        become = ["setpriv", "--reuid=games", "--regid=games", f"--groups={group}"]
        said = machine.run([*become, "clusterd", *command, instance.name], check=False)
        return said.returncode, said.stdout + said.stderr

    status, text = run("clusterd", "status")
    assert status == 0 and "2/2 workers" in text
    assert run("games", "status")[0] == 5
    for group in ("clusterd", "games"):
        for command in ("reload", "rollback", "stop", "try"):
            status, text = run(group, command)
            assert status == 5, (group, command, text)
    assert instance.workers() == before
