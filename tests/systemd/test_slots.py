"""Slots outlive everything: the generator's files, a reload of systemd, a restart, and the master."""

from __future__ import annotations

from tests.systemd import load
from tests.systemd.apps import UVICORN
from tests.systemd.harness.instance import Instance

FILE = """\
app = "hello:app"
directory = "@DIRECTORY@"
listen = ["127.0.0.1:@PORT@"]
workers = 2
slots = {slots}
[stop]
drain-timeout = "20s"
[restart]
max-delay = "300ms"
"""
SLOTS = 8
BROKEN = "listen = [\n"


def served(instance: Instance) -> Instance:
    """The example with eight slots and two workers, started."""
    UVICORN.deploy(instance)
    instance.configure(FILE.format(slots=SLOTS))
    instance.start()
    assert len(instance.inodes()) == SLOTS
    return instance


def kill_master(instance: Instance) -> None:
    """SIGKILL, and wait for the next one to answer."""
    before = instance.status()["master"]
    instance.machine.run(["kill", "-KILL", str(before["pid"])])
    instance.machine.wait_for(
        "another master",
        lambda: (
            (found := instance.clusterd("status", "--json", check=False)).returncode == 0
            and f'"pid": {before["pid"]},' not in found.stdout
        ),
    )


def test_slots_survive(instance: Instance) -> None:
    """Whatever becomes of the drop-in at a daemon-reload, then a restart, then SIGKILL of the master: the same sockets,
    and every connection answered."""
    machine = served(instance).machine
    inodes = instance.inodes()
    with load.probe(machine, instance.port) as asked:
        for text in (FILE.format(slots=3), FILE.format(slots=SLOTS * 2), 'app = "hello:app"\n', BROKEN):
            instance.configure(text)
            assert instance.inodes() == inodes, text
        machine.run(["rm", instance.file])
        machine.systemctl("daemon-reload")
        assert machine.show(instance.socket, "LoadState") == "bad-setting"
        assert instance.inodes() == inodes
        instance.configure(FILE.format(slots=SLOTS))
        assert instance.inodes() == inodes
    assert asked.failures == {} and asked.requests, asked
    with load.probe(machine, instance.port) as asked:
        machine.systemctl("restart", instance.service)
        assert instance.get()[0] == 200
        assert instance.inodes() == inodes
    # Whoever waited over the restart has been answered by its end, with no later event to help.
    assert asked.failures == {} and asked.requests, asked
    with load.probe(machine, instance.port) as asked:
        workers = instance.workers()
        kill_master(instance)
        assert instance.workers() == workers
        assert instance.inodes() == inodes
        instance.reload()
    assert asked.failures == {} and asked.requests, asked
    assert sorted(instance.workers()) == [0, 1]


def test_slots_survive_restart_without_drop_in(instance: Instance) -> None:
    """A restart while the file is broken and the socket unit lost its lines: it fails in words, the same sockets answer
    503, and the repaired file is enough."""
    machine = served(instance).machine
    inodes = instance.inodes()
    instance.configure(BROKEN)
    assert machine.systemctl("restart", instance.service, check=False).returncode != 0
    machine.wait_for("the second start, which stays", lambda: instance.show("ActiveState") == "active")
    status, _ = instance.get()
    assert status == 503 and instance.inodes() == inodes
    assert instance.file in instance.show("StatusText") and "line" in instance.show("StatusText")
    instance.configure(FILE.format(slots=SLOTS), reload=False)
    machine.wait_for("it to heal", lambda: instance.status()["state"] == "serving")
    assert instance.get()[0] == 200 and instance.inodes() == inodes


def test_stored_once(instance: Instance) -> None:
    """systemd's store holds each slot once, however often the service is restarted and the master killed."""
    machine = served(instance).machine
    for _ in range(2):
        machine.systemctl("restart", instance.service)
        kill_master(instance)
    assert instance.show("NFileDescriptorStore") == str(SLOTS)
    assert instance.status()["slots"]["total"] == SLOTS == len(instance.inodes())
    instance.stop()
    assert instance.inodes() == []


def test_fewer_slots_than_wanted(instance: Instance) -> None:
    """More slots in the file than there are sockets: an error that names the command, what there is is served, and the
    command brings the rest."""
    machine = served(instance).machine
    instance.configure(FILE.format(slots=SLOTS * 2))
    cursor = machine.cursor()
    machine.systemctl("restart", instance.service)
    command = f"'clusterd stop {instance.name}' and 'clusterd start {instance.name}'"
    said = f"{SLOTS} of the {SLOTS * 2} slots"
    told = [r for r in machine.journal(unit=instance.service, after=cursor) if said in str(r.get("MESSAGE"))]
    assert [r["PRIORITY"] for r in told] == ["3"] and command in told[0]["MESSAGE"]
    status = instance.status()
    assert said in status["problem"] and status["state"] == "serving" and said in instance.show("StatusText")
    assert instance.get()[0] == 200
    kill_master(instance)
    assert said in instance.status()["problem"]
    instance.clusterd("stop")
    instance.clusterd("start")
    status = instance.status()
    assert status["problem"] is None and status["slots"]["total"] == SLOTS * 2 == len(instance.inodes())
