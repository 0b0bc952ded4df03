"""Masters, keepers, zygotes and workers killed under load, on a real systemd: what serves goes on serving."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from clusterd.shell import messages
from tests.patience import HANG
from tests.systemd import load
from tests.systemd.accounting import at_rest, differs, keeper, kill, kill_master, status
from tests.systemd.apps import UVICORN
from tests.systemd.clients import Held
from tests.systemd.harness.instance import Instance
from tests.systemd.releases import windowed

QUICK = """\
workers = 3
[reload]
soak = "100ms"
linger = "30s"
drain-timeout = "60s"
watch = "1s"
[stop]
drain-timeout = "1s"
[restart]
delay = "100ms"
max-delay = "1s"
"""

GATED = """

import pathlib, time
while pathlib.Path(__file__).with_name("gate").exists():
    time.sleep(0.02)
"""
"""Code whose import waits for as long as there is a file 'gate' beside it."""


def gate(instance: Instance, *, shut: bool) -> None:
    path = f"{instance.directory}/gate"
    instance.machine.run(["touch", path] if shut else ["rm", "-f", path])


def wait_for_phase(instance: Instance, phase: str) -> None:
    instance.machine.wait_for(phase, lambda: ((status(instance) or {}).get("rollout") or {}).get("phase") == phase)


@contextlib.contextmanager
def reloading(instance: Instance, expected: int = 0) -> Iterator[None]:
    """`systemctl reload` runs while the block does, and exits as expected."""
    process = instance.machine.popen(
        ["systemctl", "reload", instance.service], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    yield
    assert process.wait(HANG) == expected


def test_masters_killed(instance: Instance) -> None:
    """SIGKILL and SIGUSR1 to the master, under load: nothing lost, the same workers, and a reload works afterwards."""
    UVICORN.deploy(instance, extra=QUICK)
    instance.start()
    workers, inodes = instance.workers(), instance.inodes()
    with load.everything(instance.machine, instance.port) as asked:
        for signal in ("KILL", "USR1", "KILL"):
            assert kill_master(instance, signal)["state"] == "serving"
            assert instance.workers() == workers
        instance.reload()
        assert not set(instance.workers().values()) & set(workers.values())
    asked.assert_nothing_lost()
    assert instance.inodes() == inodes
    assert (instance.show("ActiveState"), instance.show("NRestarts")) == ("active", "0")
    assert instance.show("MainPID") == str(at_rest(instance)["master"]["pid"])


DEATHS = ("KILL", "SEGV", "ABRT", "BUS")
UNDER_WAY = (["reload"], ["scale", "5"], ["scale", "1"], ["scale", "3"], [])


@pytest.mark.proof
def test_masters_that_die_at_any_time(instance: Instance) -> None:
    """At seeded moments of reloads and of more or fewer workers, half of them twice in a row: nothing is lost, what was
    asked for is so in the end, and every process is accounted for each time."""
    UVICORN.deploy(instance, extra=QUICK)
    instance.start()
    chance = random.Random(20)
    with load.everything(instance.machine, instance.port) as asked:
        for round in range(15):
            wish = UNDER_WAY[round % len(UNDER_WAY)]
            before = at_rest(instance)
            argv = ["clusterd", *wish[:1], instance.name, *wish[1:]]
            process = (
                instance.machine.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) if wish else None
            )
            time.sleep(chance.uniform(0.0, 0.8))  # any moment is a good one
            after = kill_master(instance, chance.choice(DEATHS))
            if chance.random() < 0.5:
                after = kill_master(instance, chance.choice(DEATHS))
            if process is not None:
                process.wait(HANG)
            now = at_rest(instance)
            assert now["generation"] in (before["generation"], before["generation"] + 1), (wish, after)
            if wish[:1] == ["scale"]:
                # The client is told when the master dies that it asked; what it asked for may or may not have begun.
                assert now["wanted"] in (before["wanted"], int(wish[1])), wish
    asked.assert_nothing_lost()
    assert (instance.show("ActiveState"), instance.show("NRestarts")) == ("active", "0")
    assert not instance.machine.journal(f"MESSAGE_ID={messages.WORKER_DIED.id}", unit=instance.service)


def test_keeper_killed(instance: Instance) -> None:
    """The keeper is SIGKILLed under load, then the master that started another: the same workers, nothing lost."""
    UVICORN.deploy(instance, extra=QUICK)
    instance.start()
    workers, first = instance.workers(), keeper(instance)
    with load.everything(instance.machine, instance.port) as asked:
        kill(instance, first)
        instance.machine.wait_for("another keeper", lambda: keeper(instance) not in (0, first))
        assert instance.workers() == workers
        kill_master(instance)
        assert instance.workers() == workers
        instance.reload()
    asked.assert_nothing_lost()
    at_rest(instance)
    assert (instance.show("ActiveState"), instance.show("NRestarts")) == ("active", "0")


def test_keeper_that_cannot_be_followed(instance: Instance) -> None:
    """Its program is not there when it dies: another is tried until there is one, and an upgrade waits for it, because
    nobody would start the next master."""
    UVICORN.deploy(instance)
    instance.start()
    machine, master, first = instance.machine, instance.status()["master"]["pid"], keeper(instance)
    workers = instance.workers()
    machine.run(["mv", "/usr/bin/python3", "/usr/bin/python3.away"])
    try:
        kill(instance, first)
        told = "another cannot be started: [Errno 2] No such file or directory: '/usr/bin/python3'; trying again every"
        machine.wait_for("the trouble", lambda: any(told in text for text in instance.messages()))
        kill(instance, master, signal="USR1")
        assert instance.get()[0] == 200
    finally:
        machine.run(["mv", "/usr/bin/python3.away", "/usr/bin/python3"])
    machine.wait_for("another keeper", lambda: keeper(instance) not in (0, first))
    machine.wait_for("another master", lambda: (s := status(instance)) and differs(s, master))
    assert instance.workers() == workers and at_rest(instance)["master"]["starts"] == 2


def test_keeper_that_dies_at_once(instance: Instance) -> None:
    """Half of the package is there when it dies: one keeper after the other is started, but not as fast as they die,
    until one lives; who asks meanwhile is served."""
    UVICORN.deploy(instance)
    instance.start()
    machine, workers, first = instance.machine, instance.workers(), keeper(instance)
    part = "/usr/share/clusterd/clusterd/shell/subreaper.py"
    replaced = f"MESSAGE_ID={messages.KEEPER_REPLACED.id}"
    machine.run(["mv", part, f"{part}.away"])
    try:
        kill(instance, first)
        machine.wait_for("three of them", lambda: len(machine.journal(replaced, unit=instance.service)) >= 3)
        assert instance.get()[0] == 200
    finally:
        machine.run(["mv", f"{part}.away", part])
    _, second, third, *_ = machine.journal(replaced, unit=instance.service)
    at = [int(each["_SOURCE_REALTIME_TIMESTAMP"]) for each in (second, third)]  # when it was told, not when read
    assert at[1] - at[0] > 2e6, "they are counted by beats"
    machine.wait_for("one that lives", lambda: keeper(instance) not in (0, first))
    kill_master(instance)
    assert instance.workers() == workers and at_rest(instance)["master"]["starts"] == 2


def test_keeper_and_master_killed(instance: Instance) -> None:
    """Both at once: systemd starts afresh, with the same sockets; who asks meanwhile waits and is answered."""
    UVICORN.deploy(instance, extra=QUICK)
    instance.start()
    workers, inodes = instance.workers(), instance.inodes()
    with load.probe(instance.machine, instance.port) as asked:
        both = keeper(instance), instance.status()["master"]["pid"]
        kill(instance, *both, signal="STOP")  # or the one that is killed last may have started another of the first
        kill(instance, *both)
        instance.machine.wait_for("new workers", lambda: status(instance) and instance.workers() != workers)
        at_rest(instance)
    assert not asked.failures, asked.failures
    assert instance.inodes() == inodes and instance.show("NRestarts") == "1"
    assert not set(instance.workers().values()) & set(workers.values())


@pytest.mark.once
def test_zygotes_killed(instance: Instance) -> None:
    """Zygote, twin, and both at once: the workers are untouched, and there is a zygote and a twin again."""
    UVICORN.deploy(instance, extra=QUICK)
    instance.start()
    workers = instance.workers()

    def zygotes() -> tuple[int, int]:
        (generation,) = instance.status()["generations"]
        return generation["zygote"], generation["twin"]

    def both_new(old: tuple[int, int]) -> bool:
        now = zygotes()
        return all(now) and now != old

    with load.everything(instance.machine, instance.port) as asked:
        for victims in ((0,), (1,), (0, 1)):
            before = instance.machine.wait_for("zygote and twin", lambda: (z := zygotes()) and all(z) and z)
            kill(instance, *(before[victim] for victim in victims))
            instance.machine.wait_for("another", lambda old=before: both_new(old))
            assert instance.workers() == workers
    asked.assert_nothing_lost()
    kill(instance, workers[1])
    instance.machine.wait_for("a successor", lambda: instance.workers().get(1) not in (None, workers[1]))
    after = at_rest(instance)
    assert {w["pid"] for w in after["workers"]} & set(workers.values()) == {workers[0], workers[2]}


@pytest.mark.parametrize(
    "phase", ["preparing", *(pytest.param(p, marks=pytest.mark.proof) for p in ("soaking", "draining"))]
)
def test_master_killed_in_a_reload(instance: Instance, phase: str) -> None:
    """The master dies amid a reload: the next one finishes it, systemctl says so, and nobody is orphaned."""
    # Long enough to be seen: a soak of its own, a drain that waits for a request.
    UVICORN.deploy(instance, extra=QUICK.replace('soak = "100ms"', 'soak = "15s"') if phase == "soaking" else QUICK)
    instance.write("hello.py", windowed("first"))
    instance.start()
    before = set(instance.workers().values())
    instance.write("hello.py", windowed("second") + GATED)
    with load.probe(instance.machine, instance.port) as asked, contextlib.ExitStack() as stack:
        if phase == "preparing":
            gate(instance, shut=True)
        held = stack.enter_context(Held(instance)) if phase == "draining" else None
        with reloading(instance):
            if phase == "draining":
                instance.machine.wait_for("the drain", lambda: drains(instance))
            else:
                wait_for_phase(instance, phase)
            kill_master(instance)
            gate(instance, shut=False)
            instance.write("release", "")
            assert held is None or held.rest() == ("done", 0)
        after = at_rest(instance)
    assert not asked.failures, asked.failures
    assert after["generation"] == 2 and not {w["pid"] for w in after["workers"]} & before
    assert instance.get()[1].startswith("second ") and instance.show("ActiveState") == "active"


def drains(instance: Instance) -> bool:
    return any(w["state"] == "draining" for w in instance.status()["workers"])


def test_master_killed_in_a_start(instance: Instance) -> None:
    """The master dies while the application is imported: the start goes on, and `systemctl start` succeeds."""
    UVICORN.deploy(instance, extra=QUICK)
    instance.write("hello.py", UVICORN.source() + GATED)
    gate(instance, shut=True)
    process = instance.machine.popen(["systemctl", "start", instance.service])
    instance.machine.wait_for("the import", lambda: status(instance).get("state") == "starting")
    kill_master(instance)
    gate(instance, shut=False)
    assert process.wait(HANG) == 0
    at_rest(instance)


def starting(instance: Instance) -> None:
    gate(instance, shut=True)
    instance.write("hello.py", UVICORN.source() + GATED)
    instance.machine.popen(["systemctl", "start", instance.service], stderr=subprocess.DEVNULL)
    instance.machine.wait_for("the import", lambda: status(instance).get("state") == "starting")


def preparing(instance: Instance) -> None:
    instance.start()
    gate(instance, shut=True)
    instance.write("hello.py", UVICORN.source() + GATED)
    instance.machine.popen(["systemctl", "reload", instance.service], stderr=subprocess.DEVNULL)
    wait_for_phase(instance, "preparing")


def soaking(instance: Instance) -> None:
    instance.configure(instance.machine.read(instance.file).replace('soak = "100ms"', 'soak = "60s"'))
    instance.start()
    instance.machine.popen(["systemctl", "reload", instance.service], stderr=subprocess.DEVNULL)
    wait_for_phase(instance, "soaking")


def draining(instance: Instance) -> None:
    instance.start()
    argv = ["curl", "-s", f"http://127.0.0.1:{instance.port}/sleep?seconds=50"]
    instance.machine.popen(argv, stdout=subprocess.DEVNULL)
    instance.machine.wait_for("the request to be taken", lambda: taken(instance))
    instance.reload()
    instance.machine.wait_for("the drain", lambda: drains(instance))


def degraded(instance: Instance) -> None:
    instance.start()
    instance.write("hello.py", "raise RuntimeError('gone')\n")
    (generation,) = instance.status()["generations"]
    # Stopped, or the one makes another twin before it is killed too; the twin first, for when the zygote, which leads
    # its session, dies, the kernel continues its stopped children.
    both = generation["twin"], generation["zygote"]
    kill(instance, *both, signal="STOP")
    kill(instance, *both)
    instance.machine.wait_for("a failed boot", lambda: instance.status()["state"] == "degraded")
    kill(instance, *instance.workers().values())


def hung(instance: Instance) -> None:
    instance.start()
    kill(instance, instance.workers()[0], signal="STOP")


def busy(instance: Instance) -> None:
    instance.start()
    argv = ["curl", "-s", f"http://127.0.0.1:{instance.port}/sleep?seconds=50"]
    for _ in range(3):
        instance.machine.popen(argv, stdout=subprocess.DEVNULL)


def bereft(instance: Instance) -> None:
    instance.start()
    kill(instance, instance.status()["master"]["pid"])


def stopped_master(instance: Instance) -> None:
    instance.start()
    kill(instance, instance.status()["master"]["pid"], signal="STOP")


STATES = [
    *(starting, preparing, degraded, hung, bereft),
    *(pytest.param(state, marks=pytest.mark.proof) for state in (soaking, draining, busy)),
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_stop_in_every_state(instance: Instance, state: Callable[[Instance], None]) -> None:
    """A stop leaves no process, whatever went on, and is ended by [stop] drain-timeout, not by systemd's time-out."""
    UVICORN.deploy(instance, extra=QUICK)
    state(instance)
    instance.stop()
    assert instance.machine.processes(instance.service) == []
    assert (instance.show("ActiveState"), instance.show("Result")) == ("inactive", "success")
    assert instance.inodes() == []


def test_stop_in_a_reload_drains(instance: Instance) -> None:
    """A stop amid a reload answers what is in flight, as any stop does, though systemd runs no ExecStop= then."""
    UVICORN.deploy(instance, extra=QUICK.replace('[stop]\ndrain-timeout = "1s"', '[stop]\ndrain-timeout = "60s"'))
    instance.write("hello.py", windowed())
    preparing(instance)
    stop = ["systemctl", "stop", instance.service, instance.socket]
    with Held(instance) as held, instance.machine.popen(stop) as stopping:
        instance.machine.wait_for("the drain", lambda: status(instance).get("state") == "stopping")
        instance.write("release", "")
        assert held.rest() == ("done", 0)
        assert stopping.wait(HANG) == 0
    assert (instance.show("ActiveState"), instance.show("Result")) == ("inactive", "success")


def taken(instance: Instance) -> bool:
    """Whether a connection is open and nothing it sent is unread."""
    filters = ["state", "established", f"sport = :{instance.port}"]
    rows = [line.split() for line in instance.machine.host_exec(["ss", "-Htn", *filters]).stdout.splitlines()]
    return bool(rows) and all(row[0] == "0" for row in rows)


@pytest.mark.proof
def test_stopped_master_is_replaced(instance: Instance) -> None:
    """A master that hangs (SIGSTOP) is killed by the keeper in 15 s and replaced: nothing lost, no worker hurt. A
    reload that was asked for meanwhile waits for the next master, and is done."""
    UVICORN.deploy(instance, extra=QUICK)
    instance.start()
    workers, old = instance.workers(), instance.status()["master"]["pid"]
    with load.probe(instance.machine, instance.port) as asked:
        kill(instance, old, signal="STOP")
        with reloading(instance):
            gone = ["sh", "-c", f"while kill -0 {old} 2>/dev/null; do sleep 0.1; done"]
            instance.machine.run(gone)
        assert set(instance.workers().values()).isdisjoint(workers.values())
    assert not asked.failures
    at_rest(instance)
    assert not instance.machine.journal(f"MESSAGE_ID={messages.WORKER_DIED.id}", unit=instance.service)


@pytest.mark.proof
def test_systemds_watchdog(instance: Instance) -> None:
    """Keeper and master hang both: nobody is left to say WATCHDOG=1, so systemd ends all of it and starts it afresh.
    Workers serve until then; the sockets stay, so that nobody is refused."""
    UVICORN.deploy(instance, extra=QUICK)
    instance.start()
    inodes, before = instance.inodes(), at_rest(instance)
    with load.probe(instance.machine, instance.port) as asked:
        for pid in (keeper(instance), before["master"]["pid"]):
            kill(instance, pid, signal="STOP")
        instance.machine.wait_for("systemd to start it again", lambda: instance.show("NRestarts") == "1")
        after = at_rest(instance)
    # Those that a worker had when it was ended: a moment's, of all.
    assert set(asked.failures) <= {"ConnectionResetError", "IndexError"}, asked.failures
    assert sum(asked.failures.values()) < asked.requests / 10
    assert instance.inodes() == inodes and after["master"]["pid"] != before["master"]["pid"]
    assert any("Watchdog timeout" in text for text in instance.messages())


@pytest.mark.proof
def test_stop_with_a_stopped_master(instance: Instance) -> None:
    """A stop while the master hangs is ended by systemd's own time-out, and leaves no process."""
    UVICORN.deploy(instance, extra=QUICK)
    stopped_master(instance)
    instance.stop()
    assert instance.machine.processes(instance.service) == []
