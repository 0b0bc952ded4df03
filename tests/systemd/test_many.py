"""Many applications that nobody asks anything: what two hundred of them take."""

from __future__ import annotations

import json

import pytest

from tests.systemd.apps import UVICORN
from tests.systemd.harness import images
from tests.systemd.harness.container import Container

COUNT = 200
REST = 60
"""Seconds for which they are watched."""
FILE = """\
app = "hello:app"
directory = "/srv/many"
listen = ["127.0.0.1:{port}"]
workers = 1
"""
MAKE = """
import sys
for number in range(int(sys.argv[1])):
    with open(f"/etc/clusterd/many{number}.toml", "w") as f:
        f.write(sys.argv[2].replace("{port}", str(9000 + number)))
"""
LOOK = """
import json, os, re, sys, time

def processes():
    '''Each as (unit, what it is, pid); what it is: the sub-cgroup's name without its number.'''
    found = set()
    for place, _, _ in os.walk("/sys/fs/cgroup"):
        kind = re.search(r"/(cluster@many\\d+\\.service)/([a-z]+)(-\\d+)?$", place)
        if kind:
            with open(place + "/cgroup.procs") as f:
                found |= {(kind[1], kind[2], int(pid)) for pid in f.read().split()}
    return found

def pss(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return sum(int(line.split()[1]) << 10 for line in f if line.startswith("Pss:"))

def ran(pid):
    '''Seconds of processor time, and how often it was put on a processor.'''
    with open(f"/proc/{pid}/schedstat") as f:
        ns, _, times = map(int, f.read().split())
    return ns / 1e9, times

def while_it_lives(look, pid):
    try:
        return look(pid)
    except OSError:
        gone.add(pid)

gone = set()
found = processes()
before = {pid: while_it_lives(ran, pid) for _, _, pid in found}
time.sleep(int(sys.argv[1]))
then = processes()
after = {pid: while_it_lives(ran, pid) for _, _, pid in found & then}
size = {pid: while_it_lives(pss, pid) for _, _, pid in found & then}
then = {each for each in then if each[2] not in gone}
said = {"came": sorted(then - found), "went": sorted(found - then), "kinds": {}}
for kind in {kind for _, kind, _ in found & then}:
    pids = [pid for _, its, pid in found & then if its == kind]
    said["kinds"][kind] = {
        "count": len(pids),
        "pss": sum(size[pid] for pid in pids),
        "seconds": sum(after[pid][0] - before[pid][0] for pid in pids),
        "runs": sum(after[pid][1] - before[pid][1] for pid in pids),
    }
print(json.dumps(said))
"""


@pytest.mark.proof
@pytest.mark.timeout(1500)  # two hundred starts take their time, beside other tests above all
@pytest.mark.parametrize("release", [images.DEBIAN13.name], indirect=True)
def test_two_hundred_at_rest(fresh_machine: Container, record_property: pytest.RecordProperty) -> None:
    """All of them serve; then keeper and master of each take little memory, and together next to nothing of a
    processor; all are stopped by one command, and nothing is left."""
    machine = fresh_machine
    machine.write("/srv/many/hello.py", UVICORN.source())
    machine.run(["/usr/bin/python3", "-c", MAKE, str(COUNT), FILE])
    machine.systemctl("daemon-reload")
    units = [f"cluster@many{number}.service" for number in range(COUNT)]
    for begin in range(0, COUNT, 10):
        machine.systemctl("start", *units[begin : begin + 10], timeout=600)
    asked = f"seq 9000 {8999 + COUNT} | xargs -I@ curl -s -m 60 -o /dev/null -w '%{{http_code}}\\n' http://127.0.0.1:@/"
    assert machine.sh(asked, timeout=600).stdout.split() == ["200"] * COUNT
    kinds = ("keeper", "master", "zygote", "twin", "worker")
    groups = "find /sys/fs/cgroup -path '*/cluster@many*/*' -name cgroup.procs | xargs cat | wc -l"
    machine.wait_for("every process to be there", lambda: int(machine.sh(groups).stdout) == COUNT * len(kinds))
    said = json.loads(machine.run(["/usr/bin/python3", "-c", LOOK, str(REST)], timeout=600).stdout)
    found, restless = said["kinds"], said["came"] + said["went"]
    journals = {unit: journal(machine, unit) for unit, _, _ in restless}
    record_property("restless", json.dumps([restless, journals]))
    # A machine this full is not always quiet: measured is who was there all the time, which is nearly everybody.
    assert set(found) == set(kinds), found
    assert all(each["count"] >= 0.99 * COUNT for each in found.values()), (restless, journals)
    told = {
        kind: {
            "MB": round(each["pss"] / each["count"] / 1e6, 1),
            "% of a processor, all": round(100 * each["seconds"] / REST, 2),
            "wake-ups/s": round(each["runs"] / each["count"] / REST, 2),
        }
        for kind, each in found.items()
    }
    record_property("at rest", json.dumps(told))
    ours = sum(found[kind]["pss"] / found[kind]["count"] for kind in ("keeper", "master"))
    assert ours < 35e6, told
    assert (found["master"]["seconds"] + found["keeper"]["seconds"]) / REST < 0.2, told
    machine.systemctl("stop", "cluster@many*", timeout=600)
    assert [unit for unit in units if machine.processes(unit)] == []


def journal(machine: Container, unit: str) -> list[str]:
    """What its last records say."""
    return [str(each.get("MESSAGE")) for each in machine.journal(unit=unit)][-30:]
