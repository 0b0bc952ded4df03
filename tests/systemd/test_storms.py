"""Workers that end in every way, at random, one after the other: what it costs, and what it leaves behind."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from clusterd.shell import messages
from tests.systemd import load, storm
from tests.systemd.accounting import at_rest, descriptors, kill, let_go
from tests.systemd.apps import UVICORN
from tests.systemd.harness.images import DEBIAN13
from tests.systemd.harness.instance import Instance

SEED = 5
DOOMED = """

import pathlib

inner = app


async def app(scope, receive, send):
    if scope["type"] == "lifespan" and pathlib.Path(__file__).with_name("doomed").exists():
        os._exit(7)
    await inner(scope, receive, send)
"""
TABLES = """\
workers = 6
[http]
loop = "asyncio"
[restart]
delay = "{delay}"
max-delay = "{longest}"
"""


def deploy(instance: Instance, delay: str, longest: str) -> None:
    UVICORN.deploy(instance, extra=TABLES.format(delay=delay, longest=longest))
    instance.write("hello.py", UVICORN.source() + storm.VICTIM)
    instance.write("storm.py", Path(storm.__file__).read_text())
    instance.start()


def raise_storm(instance: Instance, crashes: int, interval: float, kinds: tuple[str, ...]) -> dict[str, Any]:
    control = f"/run/clusterd/{instance.name}/control"
    arguments = [control, str(instance.port), str(SEED), str(crashes), str(interval), *kinds]
    done = instance.machine.run(["/usr/bin/python3", f"{instance.directory}/storm.py", *arguments], timeout=500)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def died(instance: Instance, cursor: str) -> int:
    return len(instance.machine.journal(f"MESSAGE_ID={messages.WORKER_DIED.id}", unit=instance.service, after=cursor))


def held(instance: Instance, cursor: str) -> list[int]:
    """What those that ended from within say they had taken."""
    records = instance.machine.journal(unit=instance.service, after=cursor)
    return [int(m[1]) for r in records if (m := re.fullmatch(r"storm: held (\d+)", str(r.get("MESSAGE", ""))))]


@pytest.mark.proof
def test_a_storm_of_crashes(instance: Instance) -> None:
    """For a minute a worker ends every 0.3 s, killed, crashed or by its own doing: no more requests fail than the
    victims had taken connections, the kernel drops none, and every slot is served again."""
    deploy(instance, "100ms", "1s")
    crashes = 200 if instance.machine.release is DEBIAN13 else 60
    cursor = instance.machine.cursor()
    with load.everything(instance.machine, instance.port) as asked:
        found = raise_storm(instance, crashes, 0.3, tuple(storm.KINDS))
        instance.machine.wait_for("all to serve", lambda: sorted(instance.workers()) == list(range(6)))
    at_rest(instance)
    ends = found["ends"]
    within = sum(ends[kind] for kind in ("exit 0", "exit 1", "os._exit"))
    told = instance.machine.wait_for("their words", lambda: len(h := held(instance, cursor)) >= within and h)
    taken = found["taken"] + sum(told)
    twice = re.search(r"Receive: (\d+).*Exceptions: (\d+)", asked.ab.text)  # ab counts a reset as one of each
    failed = asked.wrk.failed + asked.ab.failed + asked.probe.failed - min(map(int, twice.groups() if twice else "0"))
    said = f"{asked.wrk.failures} {asked.ab.failures} {asked.probe.failures}\n{asked.wrk.text}\n{asked.ab.text}"
    print(f"{ends}: {failed} failures, {taken} connections taken; {asked.wrk.requests + asked.ab.requests} requests")
    assert failed <= taken, f"{failed} failures, {taken} connections had been taken: {said}"
    assert not any(asked.dropped.values()) and "timeout" not in asked.wrk.failures, said
    lethal = sum(ends.values()) - ends["uncaught"]
    assert died(instance, cursor) == lethal, "an error that nobody catches ends no worker"


@pytest.mark.proof
def test_what_a_thousand_crashes_leave(instance: Instance) -> None:
    """No process, no descriptor, no cgroup more than before, and the master grows by 1 KiB a crash at most, after the
    first two hundred, which come as fast as they can.

    What leaks does so in each four hundred. That more was needed at once than ever before happens in one of them, on a
    busy machine: of two times four hundred those count that left less.
    """
    deploy(instance, "10ms", "10ms")
    found = [standing(instance)]
    for crashes, interval in ((200, 0.0), (400, 0.05), (400, 0.05)):
        ends = raise_storm(instance, crashes, interval, ("KILL", "SEGV", "exit 1", "os._exit"))["ends"]
        let_go(instance, found[0]["descriptors"])
        found.append(standing(instance))
    memory = [each.pop("memory") for each in found]
    grown = [(after - before) / 400 for before, after in itertools.pairwise(memory[1:])]
    print(f"{ends}: {grown} bytes a crash; {memory}; {found}")
    assert all(each == found[0] for each in found)
    assert min(grown) <= 1024


def standing(instance: Instance) -> dict[str, Any]:
    """At rest: how many processes and cgroups there are, and what keeper and master have open, the fewest seen.

    `memory` is the master's PSS in bytes, but for files: its part of what all interpreters share depends on how many
    there are, in other machines too, and one that ends is half a megabyte more for the others.
    """
    master = at_rest(instance)["master"]["pid"]
    group = f"/sys/fs/cgroup{instance.show('ControlGroup')}"
    own = "awk '/^Pss_(Anon|Shmem):/ {n += $2} END {print n}'"
    return {
        "processes": len(instance.processes()),
        "cgroups": int(instance.machine.sh(f"find {group} -type d | wc -l").stdout),
        "descriptors": descriptors(instance),
        "memory": 1024 * int(instance.machine.sh(f"{own} /proc/{master}/smaps_rollup").stdout),
    }


@pytest.mark.proof
def test_when_no_worker_can_live(instance: Instance) -> None:
    """All workers dead and each successor dies at its start: the service lives and says why, whoever comes gets 503 and
    when to come again, whichever slot it comes to; the first worker that lives takes over, and nobody is cut off."""
    UVICORN.deploy(instance, extra='workers = 2\nslots = 4\n[restart]\ndelay = "50ms"\nmax-delay = "500ms"\n')
    instance.write("hello.py", UVICORN.source() + DOOMED)
    instance.start()
    inodes, master = instance.inodes(), instance.status()["master"]["pid"]
    instance.write("doomed", "")
    kill(instance, *instance.workers().values())
    why = re.compile(r"^0/2 workers: .* exited with status 7.* \(\d+ times in a row; trying again with back-off\)$")
    instance.machine.wait_for("the reason", lambda: why.match(instance.show("StatusText")))
    with load.probe(instance.machine, instance.port, rate=50.0) as asked:
        close = ["-H", "Connection: close", f"http://127.0.0.1:{instance.port}/[1-16]"]
        shown = ["-w", "%{http_code} %header{retry-after}\\n"]
        answers = instance.machine.run(
            ["curl", "-s", "-m", "60", "-o", "/dev/null", *shown, *close]
        ).stdout.splitlines()
        assert len(answers) == 16 and all(re.fullmatch(r"503 \d+", answer) for answer in answers), answers
        instance.machine.run(["rm", f"{instance.directory}/doomed"])
        instance.machine.wait_for("all well", lambda: instance.show("StatusText") == "2/2 workers, generation 1")
    assert set(asked.failures) <= {"status 503"}, asked.failures
    assert (instance.status()["master"]["pid"], instance.inodes()) == (master, inodes)
    assert instance.show("NRestarts") == "0"
