"""The load generators: wrk (kept connections) and ab (a connection a request), run and read.

Counts are requests; rates are requests per second; latencies are seconds.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    done: int
    failed: int
    seconds: float
    p99: float | None = None
    detail: str = ""

    @property
    def rate(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def availability(self) -> float:
        """Per cent of the requests that were answered with 2xx."""
        total = self.done + self.failed
        return 100.0 * self.done / total if total else 0.0

    def __add__(self, other: Result) -> Result:
        detail = "; ".join(filter(None, (self.detail, other.detail)))
        p99s = [p for p in (self.p99, other.p99) if p is not None]
        return Result(
            self.done + other.done,
            self.failed + other.failed,
            self.seconds + other.seconds,
            max(p99s, default=None),
            detail,
        )


class Wrk:
    """wrk under way: started by the constructor, ended by `finish`, so a load can outlive what is done under it."""

    def __init__(self, url: str, *, connections: int = 64, limit: float = 60) -> None:
        command = ["wrk", "-t1", f"-c{connections}", f"-d{int(limit)}s", "--timeout", "10s", "--latency", url]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(self) -> Result:
        """End it and read what it counted. A wrk that ended by itself is read all the same."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            out, _ = self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        return read_wrk(out)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def wrk(url: str, seconds: int, *, connections: int = 64) -> Result:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency", url]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds + 30, check=True
    )
    return read_wrk(done.stdout)


UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """wrk's durations: '1.20ms', '3.00s', '1.10m'."""
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m|h)", text)
    if not match:
        raise ValueError(f"not one of wrk's durations: {text!r}")
    return float(match[1]) * UNITS[match[2]]


def read_wrk(out: str) -> Result:
    total = re.search(r"(\d+) requests in ([\d.]+\w+),", out)
    if not total:
        raise ValueError(f"cannot read wrk's output:\n{out}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    status = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    p99 = re.search(r"^\s+99%\s+(\S+)", out, re.MULTILINE)
    kinds = dict(zip(("connect", "read", "write", "timeout"), map(int, errors.groups()), strict=True)) if errors else {}
    refused = int(status[1]) if status else 0  # wrk counts these among its requests
    if refused:
        kinds["non-2xx"] = refused
    return Result(
        done=int(total[1]) - refused,
        failed=sum(kinds.values()),
        seconds=duration(total[2]),
        p99=duration(p99[1]) if p99 and p99[1] != "0.00us" else None,
        detail=", ".join(f"{kind} {count}" for kind, count in kinds.items() if count),
    )


class Ab:
    """ab under way; see Wrk. ab gives up after ten refused connections: `gave_up` tells."""

    def __init__(self, url: str, *, connections: int, seconds: float) -> None:
        # -n after -t: -t alone means 50,000 requests. No -l: it takes an end without an answer for one
        command = ["ab", "-q", "-r", "-s", "10", "-c", str(connections), "-t", str(max(1, round(seconds)))]
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [*command, "-n", "10000000", url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._limit = seconds + 40

    def wait(self) -> Result:
        try:
            out, _ = self._process.communicate(timeout=self._limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return read_ab(out, time.monotonic() - self._started)

    def finish(self) -> Result:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        return self.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def ab(url: str, seconds: float, *, connections: int) -> Result:
    """ab for `seconds` altogether: started again when it gives up because nobody listens."""
    end = time.monotonic() + seconds
    result = Result(0, 0, 0.0)
    while (left := end - time.monotonic()) > 0.5:
        result += Ab(url, connections=connections, seconds=left).wait()
    return result


def read_ab(out: str, seconds: float) -> Result:
    done = re.search(r"Complete requests:\s+(\d+)", out)
    if (
        not done
    ):  # it prints no report when it gives up: eleven refused connections, and what it had answered is unknown
        reason = out.strip().splitlines()[-1] if out.strip() else "no output"
        return Result(0, 11, seconds, None, f"ab gave up: {reason}")
    failed = re.search(r"Failed requests:\s+(\d+)", out)
    kinds = re.search(r"\(Connect: (\d+), Receive: (\d+), Length: (\d+), Exceptions: (\d+)\)", out)
    status = re.search(r"Non-2xx responses:\s+(\d+)", out)
    taken = re.search(r"Time taken for tests:\s+([\d.]+)", out)
    p99 = re.search(r"^\s+99%\s+(\d+)", out, re.MULTILINE)
    bad = int(failed[1]) if failed else 0
    if kinds:
        # one broken request counts up to three times (receive, length, exception): the largest kind is the requests
        bad = max(map(int, kinds.groups()))
    non_2xx = int(status[1]) if status else 0
    detail = ", ".join(filter(None, (f"broken {bad}" if bad else "", f"non-2xx {non_2xx}" if non_2xx else "")))
    return Result(
        done=max(0, int(done[1]) - bad - non_2xx),
        failed=bad + non_2xx,
        seconds=float(taken[1]) if taken else seconds,
        p99=int(p99[1]) / 1000 if p99 else None,
        detail=detail,
    )
