"""One application on a machine: cluster@NAME, its file, its directory, its port."""

from __future__ import annotations

import json
from typing import Any

from tests.patience import HANG
from tests.systemd.harness.container import Container, ContainerError, Done


class Instance:
    """A name, a port and a directory nobody else has. A context manager: at the end nothing of it is left."""

    def __init__(self, machine: Container, name: str, port: int) -> None:
        self.machine = machine
        self.name = name
        self.port = port
        self.service = f"cluster@{name}.service"
        self.socket = f"cluster@{name}.socket"
        self.directory = f"/srv/{name}"
        self.file = f"/etc/clusterd/{name}.toml"
        self.profile = f"/etc/clusterd/{name}.profile"

    def __enter__(self) -> Instance:
        return self

    def __exit__(self, *_: object) -> None:
        run = self.systemctl
        run("stop", self.socket, self.service, check=False)
        run("disable", "--quiet", self.service, self.socket, check=False)
        left = self.processes()
        paths = [self.file, self.profile, self.directory, f"/etc/systemd/system/{self.service}.d"]
        self.machine.run(["rm", "-rf", "--", *paths])
        run("daemon-reload")
        run("reset-failed", self.service, self.socket, check=False)
        if left:
            raise AssertionError(f"{self.service} was stopped and left processes: {left}")

    def configure(self, text: str, *, reload: bool = True) -> None:
        """Write NAME.toml with '@PORT@', '@NAME@' and '@DIRECTORY@' in `text` replaced, then daemon-reload."""
        for word, value in (("@PORT@", str(self.port)), ("@NAME@", self.name), ("@DIRECTORY@", self.directory)):
            text = text.replace(word, value)
        self.machine.write(self.file, text)
        if reload:
            self.systemctl("daemon-reload")

    def write(self, file: str, text: str) -> None:
        """Write a file of the application."""
        self.machine.write(f"{self.directory}/{file}", text)

    def start(self, *, check: bool = True) -> Done:
        return self._told("start", self.service, check=check)

    def reload(self, *, check: bool = True) -> Done:
        return self._told("reload", self.service, check=check)

    def stop(self, *, check: bool = True) -> Done:
        # In this order: a socket that outlives its service for a moment starts it again for whoever waits.
        return self._told("stop", self.socket, self.service, check=check)

    def _told(self, *arguments: str, check: bool) -> Done:
        """systemctl, with the journal in the failure: systemctl itself gives no reason."""
        try:
            return self.systemctl(*arguments, check=check, timeout=HANG)
        except ContainerError as e:
            raise ContainerError("\n".join([str(e), *self.messages()[-40:]])) from None

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = HANG) -> Done:
        return self.machine.systemctl(*arguments, check=check, timeout=timeout)

    def show(self, property: str) -> str:
        return self.systemctl("show", "-P", property, self.service).stdout.rstrip("\n")

    def clusterd(self, *arguments: str, check: bool = True) -> Done:
        """`clusterd ARGUMENTS NAME`."""
        return self.machine.run(["clusterd", *arguments, self.name], check=check, timeout=HANG)

    def status(self) -> dict[str, Any]:
        """What `clusterd status --json` says."""
        status: dict[str, Any] = json.loads(self.clusterd("status", "--json").stdout)
        return status

    def workers(self) -> dict[int, int]:
        """The pid, as the machine numbers it, of the serving worker of each live slot."""
        return {worker["slot"]: worker["pid"] for worker in self.status()["workers"] if worker["state"] == "serving"}

    def get(self, path: str = "/", *, timeout: float = HANG) -> tuple[int, str]:
        """(status, body) of one request on a connection of its own; status 0 when there was no answer."""
        argv = ["curl", "-s", "-m", f"{timeout}", "-w", "\n%{http_code}", f"http://127.0.0.1:{self.port}{path}"]
        body, _, status = self.machine.run(argv, check=False, timeout=timeout + 5).stdout.rpartition("\n")
        return int(status or 0), body

    def answers(self, count: int) -> list[str]:
        """The bodies, up to any "|", of `count` requests, each on a connection of its own; of one that failed ""."""
        argv = ["curl", "-sf", "-H", "Connection: close", "-m", f"{HANG}", "-w", "|"]
        argv += [f"http://127.0.0.1:{self.port}/"] * count
        return self.machine.run(argv, check=False, timeout=count * HANG).stdout.split("|")[:count]

    def processes(self) -> list[int]:
        """The pids, as the machine numbers them, of everything the service has running."""
        return self.machine.processes(self.service)

    def inodes(self) -> list[int]:
        """The inodes of the listening sockets on its port: the same list means the same accept queues."""
        return self.machine.listeners(self.port)

    def messages(self, after: str | None = None) -> list[str]:
        """The text of its records in the journal, oldest first."""
        return [str(record.get("MESSAGE", "")) for record in self.machine.journal(unit=self.service, after=after)]
