"""What /proc and ss tell of the servers' processes. Seconds, bytes, counts."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in _tasks(pid):
        found += [int(word) for word in _text(f"{task}/children").split()]
    return sorted(found)


def family(pid: int) -> list[int]:
    """`pid` and all that descend from it."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children(one)
    return found


def command_line(pid: int) -> str:
    return _text(f"/proc/{pid}/cmdline").replace("\0", " ")


def threads(pid: int) -> int:
    return len(_tasks(pid))


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time used so far, to the nanosecond; of processes that are gone nothing."""
    return sum(int((_text(f"{task}/schedstat") or "0").split()[0]) for pid in pids for task in _tasks(pid)) / 1e9


def wakeups(pids: Iterable[int]) -> int:
    """How often they have gone to sleep so far."""
    total = 0
    for pid in pids:
        for task in _tasks(pid):
            match = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", _text(f"{task}/status"), re.MULTILINE)
            total += int(match[1]) if match else 0
    return total


def pss(pids: Iterable[int]) -> int:
    """Memory, a page that n processes share counted as 1/n in each."""
    total = 0
    for pid in pids:
        match = re.search(r"^Pss:\s+(\d+) kB", _text(f"/proc/{pid}/smaps_rollup"), re.MULTILINE)
        total += 1024 * int(match[1]) if match else 0
    return total


def connections(pid: int, port: int) -> int:
    """Clients' connections to `port` that the process has accepted; what waits in a queue is nobody's."""
    listed = subprocess.run(
        ["ss", "-Htne", "state", "established", f"( sport = :{port} )"], capture_output=True, text=True, check=True
    ).stdout
    inodes = {f"socket:[{found}]" for found in re.findall(r"\bino:(\d+)", listed)}
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += os.readlink(entry) in inodes
        except OSError:
            continue
    return count


def _tasks(pid: int) -> list[str]:
    try:
        return [f"/proc/{pid}/task/{name}" for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
