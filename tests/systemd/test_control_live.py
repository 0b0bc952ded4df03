"""What a running instance offers to the outside: its control socket, every kind of address, and its peace."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from tests.clients import asking
from tests.systemd import load
from tests.systemd.accounting import at_rest, keeper, kill_master
from tests.systemd.apps import UVICORN, WAITRESS, App
from tests.systemd.harness.instance import Instance

QUICK = '[reload]\nsoak = "100ms"\nlinger = "30s"\ndrain-timeout = "60s"\n'


def test_varlink(instance: Instance) -> None:
    """varlinkctl understands the interface, and may ask for the status; a nobody may not reload."""
    machine = instance.machine
    if machine.run(["sh", "-c", "command -v varlinkctl"], check=False).returncode:
        pytest.skip("no varlinkctl in this release")
    UVICORN.deploy(instance, extra=QUICK)
    instance.start()
    control = f"/run/clusterd/{instance.name}/control"
    info = machine.run(["varlinkctl", "info", control]).stdout
    assert "io.clusterd" in info and "clusterd" in info
    described = machine.run(["varlinkctl", "introspect", control, "io.clusterd"]).stdout
    assert "method Status()" in described and "error Refused" in described
    called = machine.run(["varlinkctl", "call", "--json=short", control, "io.clusterd.Status", "{}"]).stdout
    assert json.loads(called)["status"]["name"] == instance.name
    replies = machine.run(["varlinkctl", "call", "--json=short", "--more", control, "io.clusterd.Reload", "{}"]).stdout
    assert '"receipt"' in replies and '"progress"' in replies
    nobody = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
    refused = machine.run([*nobody, "varlinkctl", "call", control, "io.clusterd.Reload", "{}"], check=False)
    assert refused.returncode and "NotAllowed" in refused.stderr + refused.stdout


@pytest.mark.parametrize("app", (UVICORN, pytest.param(WAITRESS, marks=pytest.mark.proof)), ids=lambda app: app.name)
def test_every_address(instance: Instance, app: App) -> None:
    """IPv4, IPv6 and a UNIX socket of one application: each served, and a reload or a dead master loses nothing."""
    machine = instance.machine
    path = f"/run/{instance.name}.sock"
    app.deploy(instance)
    toml = machine.read(instance.file)
    listen = f'["127.0.0.1:{instance.port}", "[::1]:{instance.port}", {{ path = "{path}", mode = "0666" }}]'
    toml = toml.replace(f'listen = ["127.0.0.1:{instance.port}"]', f"listen = {listen}\nworkers = 2")
    instance.configure(toml + QUICK)
    instance.start()
    assert machine.run(["stat", "-c", "%a", path]).stdout == "666\n"
    over = ["curl", "-sgf", "--unix-socket", path, "http://x/", f"http://[::1]:{instance.port}/"]
    assert machine.run(over).stdout.count("hello") >= 1
    # Seen from here: a pathname leads to the socket whatever network it is in.
    with (
        asking(f"/proc/{machine.leader}/root{path}") as by_path,
        load.ab(machine, instance.port, connections=4) as by_port,
    ):
        instance.write(app.module, app.source("second"))
        instance.reload()
        kill_master(instance)
        instance.write(app.module, app.source("third"))
        instance.reload()
        machine.wait_for("an answer of it", lambda: any(body.startswith("third") for body in list(by_path.answers)))
    by_path.assert_nothing_lost()
    assert not by_port.failures, by_port.text
    greetings = Counter(body.split()[0] for body in by_path.answers.elements())
    assert greetings["second"] and greetings["third"], greetings
    at_rest(instance)
    instance.stop()
    assert not machine.exists(path)


@pytest.mark.once
def test_shared_slots(instance: Instance) -> None:
    """More workers than slots: two processes share a slot, all of them serve, and a reload loses nothing."""
    UVICORN.deploy(instance, extra="workers = 3\nslots = 2\n" + QUICK)
    instance.start()
    with load.everything(instance.machine, instance.port) as asked:
        instance.reload()
    asked.assert_nothing_lost()
    status = at_rest(instance)
    assert sorted(w["slot"] for w in status["workers"]) == [0, 0, 1] and len(instance.inodes()) == 2


@pytest.mark.once
def test_balance_by_client(instance: Instance) -> None:
    """balance = "hash": a client's address always meets the same slot, different clients different ones."""
    UVICORN.deploy(instance, extra='workers = 4\nbalance = "hash"\n' + QUICK)
    instance.start()
    script = (
        "for client in $(seq 1 16); do for again in 1 2 3; do "
        f"curl -sf --interface 127.0.1.$client http://127.0.0.1:{instance.port}/pid; "
        "done | sort -u | tr '\\n' ' '; echo; done"
    )
    rows = [line.split() for line in instance.machine.sh(script).stdout.splitlines()]
    assert all(len(row) == 1 for row in rows) and len({row[0] for row in rows}) >= 2, rows


@pytest.mark.proof
def test_one_worker(instance: Instance) -> None:
    """workers = 1: there is always somebody to answer, at a reload too."""
    UVICORN.deploy(instance, extra="workers = 1\n" + QUICK)
    instance.start()
    with load.everything(instance.machine, instance.port) as asked:
        instance.reload()
    asked.assert_nothing_lost()
    assert len(at_rest(instance)["workers"]) == 1


@pytest.mark.proof
def test_rest(instance: Instance) -> None:
    """A master and a keeper with nothing to do wake up less than once a second."""
    UVICORN.deploy(instance, extra=QUICK + 'watch = "1s"\n')
    instance.start()
    master = at_rest(instance)["master"]["pid"]
    its_keeper = keeper(instance)

    def woken(pid: int) -> int:
        rows = instance.machine.read(f"/proc/{pid}/status").splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("voluntary_ctxt_switches"))

    time.sleep(2)  # the watch is over
    before = [woken(pid) for pid in (master, its_keeper)]
    time.sleep(20)
    assert [now - then < 20 for now, then in zip(map(woken, (master, its_keeper)), before, strict=True)] == [True, True]
