"""The clock on the wall jumps while everything runs."""

from __future__ import annotations

import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lacking import lacking
from tests.patience import HANG
from tests.run.foreground import Foreground

CLOCK = """
import time


def tick():
    with open("ticks", "a") as f:
        f.write("x")


async def app(scope, receive, send, inner=app):
    if scope["type"] == "http" and scope["path"] == "/clock":
        body = str(time.time()).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
    else:
        await inner(scope, receive, send)
"""
TABLES = """
[health]
watchdog = "60s"
[recycle]
max-age = "30m"
[restart]
delay = "200ms"
[task.tick]
call = "hello:tick"
every = "1s"
"""
JUMPS = ["+3600", "-3600", "+0"]
"""Seconds beside the true time, one after the other."""


class Jumping(Foreground):
    def deploy(self, greeting: str, extra: str = "") -> None:
        super().deploy(greeting, CLOCK + extra)

    def configure(self) -> Path:
        file = super().configure()
        file.write_text(file.read_text() + TABLES)
        return file

    def jump(self, seconds: str) -> None:
        (self.directory / "clock.new").write_text(f"{seconds}\n")
        (self.directory / "clock.new").rename(self.directory / "clock")

    def ahead(self) -> float:
        """By how much a worker's clock is ahead of ours."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/clock", timeout=HANG) as answer:
            return float(answer.read()) - time.time()

    def ticks(self) -> int:
        return len((self.directory / "ticks").read_text()) if (self.directory / "ticks").exists() else 0


@pytest.fixture
def run() -> Iterator[Jumping]:
    program = shutil.which("faketime")
    if program is None:
        lacking("no faketime")
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    with Jumping(workers=2) as made:
        made.jump("+0")
        made.environment = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(made.directory / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        yield made


@pytest.mark.proof
def test_an_hour_in_either_direction(run: Jumping) -> None:
    """No worker dies, hangs or is too old for it, no task runs early or is left out, a worker that is killed is
    followed, a reload is done, and what status says of the past stays true."""
    run.start()
    for number, seconds in enumerate(JUMPS):
        before, since, ticks = run.pids(), time.monotonic(), run.ticks()
        run.jump(seconds)
        assert abs(run.ahead() - float(seconds)) < 60
        run.wait_for("two more runs", lambda n=ticks: run.ticks() >= n + 2)  # type: ignore[misc]
        assert run.ticks() - ticks <= time.monotonic() - since + 2
        assert run.pids() == before and "hangs" not in run.said() and "is to be replaced" not in run.said()
        os.kill(before[0], signal.SIGKILL)
        run.wait_for("its successor", lambda pid=before[0]: run.at_rest(gone=pid))  # type: ignore[misc]
        ends = next(w for w in run.status()["workers"] if w["slot"] == 0)
        assert ends["restarts"] == number + 1
        assert abs(time.time() + float(seconds) - ends["last_end_at"]) < 60
        assert run.clusterd("reload").returncode == 0
        run.wait_for("the old to be gone", run.at_rest)
    died = [line for line in run.said().splitlines() if " died" in line]
    assert len(died) == len(JUMPS), died
