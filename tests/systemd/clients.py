"""Clients that stay: a WebSocket, and a request that is answered when the test says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.systemd.harness.instance import Instance

PROGRAM = Path(__file__).with_name("websocket.py")


class Client:
    """A program in the machine's network that says a line for each thing that happens to it. Ended with the block."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def heard(self) -> str:
        """The next line; waits for it. Empty when there will be none."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


class WebSocket(Client):
    """Open when it is made; through whoever listens on `port`, without one straight to the instance."""

    def __init__(self, instance: Instance, path: str = "/ws", *, port: int | None = None) -> None:
        argv = [sys.executable, "-I", str(PROGRAM), str(port or instance.port), path]
        super().__init__(
            subprocess.Popen(
                instance.machine.host_argv(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        assert self.heard() == "open"

    def echoes(self, text: str) -> bool:
        """Whether it is open, and whoever is at the other end answers."""
        self.tell(f"echo {text}")
        return self.heard() == text

    def closed(self) -> tuple[int, float]:
        """Wait until the server closes it: the code, and the time, of the wall clock."""
        self.tell("wait")
        code, at = self.heard().split()
        return int(code), float(at)


class Held(Client):
    """A request in flight for sure: the first part of its answer has come."""

    def __init__(self, instance: Instance, path: str = "/hold") -> None:
        argv = ["curl", "-sSN", "-m", "60", "-w", "\\n%{http_code} %{exitcode}\\n"]
        super().__init__(
            subprocess.Popen(
                instance.machine.host_argv([*argv, f"http://127.0.0.1:{instance.port}{path}"]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        )
        self.pid = int(self.heard())
        """The worker's."""

    def rest(self) -> tuple[str, int]:
        """Wait until it is over: the rest of the answer, and curl's exit status (18: cut)."""
        assert self.process.stdout is not None
        text, _, end = self.process.stdout.read().rstrip("\n").rpartition("\n")
        return text.strip(), int(end.split()[1])
