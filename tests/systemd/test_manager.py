"""What systemd is told amid everything else: restarts, its own reloads and re-execution, many instances at once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.patience import HANG
from tests.systemd import load
from tests.systemd.accounting import at_rest
from tests.systemd.apps import UVICORN
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance
from tests.systemd.test_crash import GATED, QUICK, gate, wait_for_phase


@pytest.mark.proof
def test_restarts_refuse_nobody(instance: Instance) -> None:
    """Two `systemctl restart` under load: requests in flight are answered, and all others wait for the next workers.

    Who keeps a connection and does not use it for a second is no such request: a stop closes it.
    """
    UVICORN.deploy(instance, extra=QUICK.replace('[stop]\ndrain-timeout = "1s"', '[stop]\ndrain-timeout = "10s"'))
    instance.start()
    inodes = instance.inodes()
    with load.everything(instance.machine, instance.port, kept=False) as asked:
        for _ in range(2):
            before = set(instance.workers().values())
            instance.machine.systemctl("restart", instance.service, timeout=HANG)
            assert before.isdisjoint(instance.workers().values())
    asked.assert_nothing_lost()
    assert instance.inodes() == inodes
    at_rest(instance)


@pytest.mark.proof
@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
def test_a_manager_that_begins_anew(instance: Instance, verb: str) -> None:
    """At rest, amid a start, amid a reload and after it: systemd reads its units anew, or becomes another process, and
    nothing is lost; what was under way is done, and systemctl says so."""
    machine = instance.machine
    UVICORN.deploy(instance, extra=QUICK)
    instance.write("hello.py", UVICORN.source() + GATED)
    gate(instance, shut=True)
    with machine.popen(["systemctl", "start", instance.service]) as starting:
        machine.wait_for("the import", lambda: "starting" in instance.clusterd("status", check=False).stdout)
        machine.systemctl(verb)
        gate(instance, shut=False)
        # systemctl loses its connection when systemd is executed anew; what it asked for goes on.
        assert starting.wait(HANG) == 0 or verb == "daemon-reexec"
    machine.wait_for("it to be up", lambda: instance.show("ActiveState") == "active")
    at_rest(instance)
    with load.everything(machine, instance.port) as asked:
        machine.systemctl(verb)
        before = set(instance.workers().values())
        gate(instance, shut=True)
        with machine.popen(["systemctl", "reload", instance.service], stderr=subprocess.DEVNULL) as reloading:
            wait_for_phase(instance, "preparing")
            machine.systemctl(verb)
            gate(instance, shut=False)
            assert reloading.wait(HANG) == 0 or verb == "daemon-reexec"
        machine.wait_for("the new ones", lambda: len(w := instance.workers()) == 3 and before.isdisjoint(w.values()))
        machine.systemctl(verb)
        at_rest(instance)
        instance.reload()
    asked.assert_nothing_lost()
    assert (instance.show("ActiveState"), instance.show("NRestarts")) == ("active", "0")


@pytest.mark.proof
def test_five_by_the_target(machine: Container, instances: Callable[[Container], Instance]) -> None:
    """cluster.target starts five that are enabled, and stops them, with no process left and the sockets there; all are
    reloaded by a pattern, and stopped by one under load."""
    five = [instances(machine) for _ in range(5)]
    for each in five:
        UVICORN.deploy(each, extra='workers = 1\n[stop]\ndrain-timeout = "5s"\n[reload]\nsoak = "100ms"\n')
        machine.systemctl("enable", "--quiet", each.service)
    for _ in range(2):
        machine.systemctl("restart", "cluster.target", timeout=HANG)
        for each in five:
            machine.wait_for(f"{each.name} to serve", lambda e=each: e.get()[0] == 200)  # type: ignore[misc]
            at_rest(each)
        machine.systemctl("stop", "cluster.target", timeout=HANG)
        for each in five:
            machine.wait_for("its end", lambda e=each: e.show("ActiveState") == "inactive")  # type: ignore[misc]
            assert each.processes() == [] and each.show("Result") == "success"
            assert machine.show(each.socket, "ActiveState") == "active"
    machine.systemctl("start", "cluster.target")
    before = {each.name: at_rest(each)["generation"] for each in five}
    machine.systemctl("reload", "cluster@*.service", timeout=HANG)
    assert {each.name: at_rest(each)["generation"] for each in five} == {n: g + 1 for n, g in before.items()}
    with load.wrk(machine, five[0].port), load.wrk(machine, five[1].port):
        # The sockets first: one that outlives its service for a moment starts it again for whoever waits.
        machine.systemctl("stop", *(each.socket for each in five), *(each.service for each in five), timeout=HANG)
        for each in five:
            assert each.processes() == [] and each.inodes() == []
            assert each.show("Result") == "success"
    machine.systemctl("stop", "cluster.target")
