"""Load from the machine the tests run on into a container's network, for as long as a block runs, and what it counted.

wrk keeps 64 connections alive, ab opens one for each request, and a probe asks twenty times a second and remembers the
longest wait (wrk does not count a request that is never answered at all). They are started first, seen to flow, and
stopped after the block by SIGINT, at which each prints its summary: a load that ended early proves nothing and raises.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests import output
from tests.patience import HANG
from tests.systemd.harness.container import Container

MOST_SECONDS = 3600
"""No load runs longer, whatever becomes of the tests."""

PROBE = Path(__file__).with_name("probe.py")
COUNTERS = ("ListenDrops", "ListenOverflows")


class LoadError(Exception):
    """The load did not do its part (not the server): it never flowed, ended early, or printed no summary."""


@dataclass
class Result:
    """What one generator counted; filled in when its block ends."""

    requests: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """By kind, none of them zero."""
    longest: float = 0.0
    """Seconds the slowest answer took; 0.0 where the tool does not say."""
    text: str = ""

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


@dataclass
class Load:
    """Every generator of one block, and what the kernel dropped meanwhile."""

    wrk: Result = field(default_factory=Result)
    ab: Result = field(default_factory=Result)
    probe: Result = field(default_factory=Result)
    dropped: dict[str, int] = field(default_factory=dict)
    kept: bool = True
    """Whether wrk took part."""

    @property
    def lost(self) -> int:
        """How many requests were not answered: ab counts a reset as a failure to receive and as an exception."""
        twice = re.search(r"Receive: (\d+).*Exceptions: (\d+)", self.ab.text)
        return self.wrk.failed + self.ab.failed + self.probe.failed - min(map(int, twice.groups() if twice else "0"))

    def assert_nothing_lost(self) -> None:
        """Raise AssertionError with every tool's summary unless each request was answered and no SYN dropped."""
        parts = (*([self.wrk] if self.kept else []), self.ab, self.probe)
        if any(part.failed for part in parts) or any(self.dropped.values()) or not all(part.requests for part in parts):
            said = "\n".join(f"{part.failures} of {part.requests}\n{part.text}" for part in parts)
            raise AssertionError(f"dropped by the kernel: {self.dropped}\n{said}")


@contextlib.contextmanager
def everything(
    machine: Container, port: int, path: str = "/", *, steady: str = "", kept: bool = True
) -> Iterator[Load]:
    """wrk, ab and the probe together, and the kernel's counters around them. `steady` is ab's own path: see there.

    Not `kept`: without wrk, who keeps its connections.
    """
    load = Load(kept=kept)
    before = machine.counters()
    with (
        wrk(machine, port, path) if kept else contextlib.nullcontext(load.wrk) as load.wrk,
        ab(machine, port, steady or path, steady=bool(steady)) as load.ab,
        probe(machine, port, path) as load.probe,
    ):
        yield load
    after = machine.counters()
    load.dropped = {name: after[name] - before[name] for name in COUNTERS}


@contextlib.contextmanager
def wrk(
    machine: Container, port: int, path: str = "/", *, connections: int = 64, scheme: str = "http"
) -> Iterator[Result]:
    """Kept connections. Times out after thirty seconds without an answer, as ab does: what is late is the probe's."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{MOST_SECONDS}s", "--timeout", "30s", "--latency"]
    result = Result()
    with _running(machine, [*argv, f"{scheme}://127.0.0.1:{port}{path}"], connections, result):
        yield result
    result.requests = _number(r"(\d+) requests in", result)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", result.text)
    counts = dict(
        zip(("connect", "read", "write", "timeout"), map(int, errors.groups() if errors else "0000"), strict=True)
    )
    counts["status"] = _number(r"Non-2xx or 3xx responses: (\d+)", result, 0)
    result.failures = {kind: count for kind, count in counts.items() if count}
    if longest := re.search(r"Latency +\S+ +\S+ +([\d.]+)(us|ms|s|m)", result.text):
        result.longest = float(longest[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[longest[2]]


@contextlib.contextmanager
def ab(
    machine: Container,
    port: int,
    path: str = "/",
    *,
    connections: int = 50,
    scheme: str = "http",
    steady: bool = False,
) -> Iterator[Result]:
    """A connection for each request. -r: a lost one is counted and does not end ab.

    -l lets bodies differ in length, and then a connection closed in order but unanswered counts as done: where all
    bodies of `path` are equal, `steady` finds those too.
    """
    argv = ["ab", "-q", "-r", *([] if steady else ["-l"]), f"-c{connections}", f"-t{MOST_SECONDS}", "-n100000000"]
    result = Result()
    with _running(machine, [*argv, f"{scheme}://127.0.0.1:{port}{path}"], connections, result):
        yield result
    result.requests = _number(r"Complete requests: +(\d+)", result)
    counts = {
        "failed": _number(r"Failed requests: +(\d+)", result),
        "write": _number(r"Write errors: +(\d+)", result, 0),
        "status": _number(r"Non-2xx responses: +(\d+)", result, 0),
    }
    result.failures = {kind: count for kind, count in counts.items() if count}
    result.longest = _number(r"100% +(\d+)", result, 0) / 1000


@contextlib.contextmanager
def probe(machine: Container, port: int, path: str = "/", *, rate: float = 20.0) -> Iterator[Result]:
    """`rate` requests a second, each on a connection of its own, none waiting for the one before."""
    result = Result()
    argv = ["/usr/bin/python3", "-I", str(PROBE), str(port), path, str(rate), str(MOST_SECONDS)]
    with _running(machine, argv, 1, result, "flows\n"):
        yield result
    try:
        said = json.loads(result.text.splitlines()[-1])
    except ValueError as e:
        raise LoadError(f"the probe said:\n{result.text}") from e
    result.requests, result.failures, result.longest = said["requests"], said["failures"], said["longest"]


@contextlib.contextmanager
def _running(
    machine: Container, argv: Sequence[str], connections: int, result: Result, says: str = ""
) -> Iterator[None]:
    """`says`: what it says when it flows."""
    before = _tcp(machine)
    with output.kept() as said:
        process = subprocess.Popen(
            machine.host_argv(argv),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_for_flow(machine, process, argv[0], before, connections, said, says)
            yield
            if process.poll() is not None:
                raise LoadError(f"{argv[0]} ended before the block did:\n{output.read(said)}")
            process.send_signal(signal.SIGINT)
            process.wait(HANG)
        finally:
            process.kill()
            process.wait()
            result.text = output.read(said)


def _wait_for_flow(
    machine: Container,
    process: subprocess.Popen[bytes],
    tool: str,
    before: dict[str, int],
    connections: int,
    said: IO[bytes],
    says: str,
) -> None:
    """Until it says so, and every connection has been opened and answered some, by the kernel's count of this network:
    what others in it do counts as well."""
    end = time.monotonic() + HANG
    while True:
        now = _tcp(machine)
        opened, segments = (now[name] - before[name] for name in ("ActiveOpens", "InSegs"))
        if opened >= connections and segments >= 8 * connections and says in output.read(said):
            return
        if process.poll() is not None or time.monotonic() > end:
            raise LoadError(f"{tool} does not flow ({opened} connections, {segments} segments):\n{output.read(said)}")
        time.sleep(0.02)


def segments(machine: Container) -> int:
    """How many have come in this network so far: some eight for a request on a connection of its own."""
    return _tcp(machine)["InSegs"]


def opened(machine: Container) -> int:
    """How many connections have been begun in this network so far: one for each request of ab and of the probe."""
    return _tcp(machine)["ActiveOpens"]


def refused(machine: Container) -> int:
    """How many connections have come to nothing in this network so far: refused, most of all."""
    return _tcp(machine)["AttemptFails"]


def _tcp(machine: Container) -> dict[str, int]:
    lines = Path(f"/proc/{machine.leader}/net/snmp").read_text().splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("Tcp:"))
    return dict(zip(names, map(int, values), strict=True))


def _number(pattern: str, result: Result, default: int | None = None) -> int:
    if found := re.search(pattern, result.text):
        return int(found[1])
    if default is None:
        raise LoadError(f"no '{pattern}' in:\n{result.text}")
    return default
