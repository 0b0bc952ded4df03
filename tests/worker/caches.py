"""The stores that worker.cache stands on, for tests: a directory, and a Redis of the test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from certificates import Pair

from clusterd.worker.caching import Cache
from clusterd.worker.caching.embedded import Embedded
from clusterd.worker.caching.redis import Redis
from tests.lacking import lacking


class Server:
    """A redis-server on a UNIX socket and a loopback port, with TLS where it has a pair, that keeps nothing on disk."""

    def __init__(self, directory: Path, pair: Pair | None = None) -> None:
        self.socket = directory / "redis.sock"
        self.pair = pair
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket), "--save", ""]
        if self.pair is not None:
            files = ["--tls-cert-file", str(self.pair.certificate), "--tls-key-file", str(self.pair.key)]
            options += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no", *files]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.PIPE)
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

    @property
    def urls(self) -> dict[str, str]:
        return {"unix": f"unix://{self.socket}?db=1", "tcp": f"redis://127.0.0.1:{self.port}/2"}


@contextlib.contextmanager
def server(pair: Pair | None = None) -> Iterator[Server]:
    lacking(None if shutil.which("redis-server") else "no redis-server: apt install redis-server")
    with tempfile.TemporaryDirectory(prefix="clusterd-test-") as directory:
        made = Server(Path(directory), pair)
        made.start()
        try:
            yield made
        finally:
            made.stop()


def cache(place: str, prefix: str = "test:") -> Cache:
    """Of a directory or a URL."""
    return Cache(lambda: Embedded(place) if place.startswith("/") else Redis(place, prefix))


def together(count: int, work: Callable[[int], None]) -> list[int]:
    """`work(number)` in as many forked processes, begun at one moment; their wait statuses."""
    begin, go = os.pipe()
    pids = []
    for number in range(count):
        if (pid := os.fork()) == 0:
            status = 1
            try:
                os.close(go)
                os.read(begin, 1)
                work(number)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    os.close(begin)
    os.close(go)
    return [os.waitpid(pid, 0)[1] for pid in pids]
