"""Hosts as far as the network and their names go: namespaces, each with a cable to a middle one."""

from __future__ import annotations

import os
import shutil
import subprocess

from tests.lacking import lacking


class Network:
    """A context manager that leaves no namespace behind. Host number i, from 1, reaches the middle as 10.77.i.1."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self._names = [f"clusterd-test-{os.getpid()}-{host}" for host in ("middle", *hosts)]

    def __enter__(self) -> Network:
        lacking(None if os.geteuid() == 0 and shutil.which("ip") else "needs ip(8), as root")
        for name in self._names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        middle, *others = self._names
        for i, name in enumerate(others, 1):
            _ip("-n", middle, "link", "add", f"to-{i}", "type", "veth", "peer", "name", "middle", "netns", name)
            for where, link, address in ((middle, f"to-{i}", f"10.77.{i}.1"), (name, "middle", f"10.77.{i}.2")):
                _ip("-n", where, "address", "add", f"{address}/24", "dev", link)
                _ip("-n", where, "link", "set", link, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            _ip("netns", "del", name)

    def inside(self, host: str | None) -> list[str]:
        """What runs a program on that host, under its name; None: in the middle. The process is the program's."""
        index = 0 if host is None else 1 + self.hosts.index(host)
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', host or "middle"]
        return ["ip", "netns", "exec", self._names[index], *named]

    def cable(self, host: str, state: str) -> None:
        """ "down" pulls it: neither end is told anything."""
        _ip("-n", self._names[0], "link", "set", f"to-{1 + self.hosts.index(host)}", state)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)
