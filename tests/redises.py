"""A Redis of the test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tests.lacking import lacking


class Pair(Protocol):
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


class Server:
    """A redis-server on a UNIX socket and a loopback port, with TLS where it has a pair, that keeps nothing on disk."""

    def __init__(self, directory: Path, pair: Pair | None = None, inside: Sequence[str] = ()) -> None:
        """`inside` is a command that runs it elsewhere, where it listens on all addresses."""
        self.inside = inside
        self.socket = directory / "redis.sock"
        self.pair = pair
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        open_to = ["--bind", "0.0.0.0", "--protected-mode", "no"] if self.inside else ["--bind", "127.0.0.1"]
        options = ["--port", str(self.port), *open_to, "--unixsocket", str(self.socket), "--save", ""]
        if self.pair is not None:
            files = ["--tls-cert-file", str(self.pair.certificate), "--tls-key-file", str(self.pair.key)]
            options += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no", *files]
        self.process = subprocess.Popen([*self.inside, "redis-server", *options], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if b"at " + os.fsencode(self.socket) in line:  # the last of what it says at its start
                return
        raise AssertionError("redis-server ended")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def ask(self, *command: str) -> str:
        """What it answers, of the database of urls["tcp"]."""
        argv = ["redis-cli", "-e", "-s", str(self.socket), "-n", "2", *command]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    @property
    def urls(self) -> dict[str, str]:
        return {"unix": f"unix://{self.socket}?db=1", "tcp": f"redis://127.0.0.1:{self.port}/2"}


@contextlib.contextmanager
def server(pair: Pair | None = None, inside: Sequence[str] = ()) -> Iterator[Server]:
    lacking(None if shutil.which("redis-server") else "no redis-server: apt install redis-server")
    with tempfile.TemporaryDirectory(prefix="clusterd-test-") as directory:
        made = Server(Path(directory), pair, inside)
        made.start()
        try:
            yield made
        finally:
            made.stop()
