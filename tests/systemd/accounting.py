"""Who belongs to an instance: the processes in its cgroup against those that it accounts for."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.systemd.harness.instance import Instance


def keeper(instance: Instance) -> int:
    """The pid, as the machine numbers it, of whoever restarts the master; 0 while there is none.

    Not the master's parent: a keeper that a master has started is its child, until it starts the next master.
    """
    group = f"/sys/fs/cgroup{instance.show('ControlGroup')}/keeper/cgroup.procs"
    pids = instance.machine.run(["cat", group], check=False).stdout.split()
    return int(pids[0]) if pids else 0


def kill(instance: Instance, *pids: int, signal: str = "KILL") -> None:
    instance.machine.run(["kill", f"-{signal}", *map(str, pids)])


def connections(instance: Instance, pid: int) -> int:
    """How many the worker has taken from its slot's queue."""
    shown = instance.machine.run(["ss", "-Htnp", f"sport = :{instance.port}"]).stdout
    return len(re.findall(rf"\bpid={pid},", shown))


def halt(instance: Instance, pid: int) -> int:
    """SIGSTOP, and wait until each of its threads stands still; how many connections it has taken by then."""
    kill(instance, pid, signal="STOP")
    states = f"sed 's/.*) //; s/ .*//' /proc/{pid}/task/*/stat"
    instance.machine.wait_for("it to stand still", lambda: set(instance.machine.sh(states).stdout.split()) <= {"T"})
    return connections(instance, pid)


def kill_master(instance: Instance, signal: str = "KILL") -> dict[str, Any]:
    """End the master; the status that its successor gives."""
    old = instance.status()["master"]["pid"]
    kill(instance, old, signal=signal)
    return instance.machine.wait_for("another master", lambda: (s := status(instance)) and differs(s, old) and s)


def differs(status: dict[str, Any], old: int) -> bool:
    return bool(status["master"]["pid"] != old)


def status(instance: Instance) -> dict[str, Any]:
    """The status, {} while nobody answers."""
    done = instance.clusterd("status", "--json", check=False)
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def at_rest(instance: Instance) -> dict[str, Any]:
    """The status as soon as every worker serves or is a spare, of one generation, and every process accounted for."""

    def probe() -> dict[str, Any] | None:
        now = status(instance)
        if not now or now["state"] != "serving" or not all(w["state"] in ("serving", "spare") for w in now["workers"]):
            return None
        serving = [w["state"] for w in now["workers"]].count("serving")
        if {w["generation"] for w in now["workers"]} != {now["generation"]} or serving != now["wanted"]:
            return None
        return now if set(instance.machine.processes(instance.service)) == accounted(instance, now) else None

    try:
        return instance.machine.wait_for("an instance at rest", probe)
    except Exception:
        listed = instance.machine.sh(f"systemctl status --no-pager -l {instance.service} || :").stdout
        raise AssertionError(f"{status(instance)}\n{listed}") from None


def accounted(instance: Instance, status: dict[str, Any]) -> set[int]:
    zygotes = {g[kind] for g in status["generations"] for kind in ("zygote", "twin") if g[kind]}
    return {keeper(instance), status["master"]["pid"], *zygotes, *(w["pid"] for w in status["workers"])}


def descriptors(instance: Instance) -> list[int]:
    """How many keeper and master have at rest, the fewest seen."""
    pids = (keeper(instance), at_rest(instance)["master"]["pid"])
    script = "; ".join(f"ls /proc/{pid}/fd | wc -l" for pid in pids)
    seen = [instance.machine.sh(script).stdout.split() for _ in range(10)]
    return [min(map(int, each)) for each in zip(*seen, strict=True)]


def let_go(instance: Instance, most: list[int]) -> None:
    """Wait until keeper and master have at most so many `descriptors`: the master keeps what the dead printed into for
    some seconds, so that journald comes to read it."""

    def gone() -> bool:
        return all(now <= then for now, then in zip(descriptors(instance), most, strict=True))

    instance.machine.wait_for("what the dead had to be let go", gone)
