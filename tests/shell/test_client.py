"""The blocking client of the control socket."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd.shell import client, control
from clusterd.shell.control import Call
from clusterd.worker.wire import WireError
from tests.shell.control_peers import Server

Answer = Callable[[Call], None]


@contextlib.contextmanager
def answering(server: Server, answer: Answer) -> Iterator[None]:
    """A master in another thread that answers every call so."""
    end = threading.Event()

    def loop() -> None:
        while not end.is_set():
            server.step()
            while server.calls:
                answer(server.calls.pop(0))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    """More connect at once than the socket's queue takes: who finds it full waits, for as long as it said."""
    path = str(tmp_path / "control")
    with control.listen(path) as listener, contextlib.ExitStack() as stack:
        listener.listen(2)
        for _ in range(3):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        with pytest.raises(TimeoutError, match="nobody has taken the connection within"):
            list(client.call(path, "Status", connect_timeout=0.1))
        failed: list[BaseException] = []

        def ask() -> None:
            try:
                list(client.call(path, "Status", connect_timeout=60))
            except WireError as e:
                failed.append(e)

        thread = threading.Thread(target=ask)
        thread.start()
        listener.setblocking(True)
        for _ in range(4):
            listener.accept()[0].close()
        thread.join()
        assert [str(e) for e in failed] != []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory away")
def test_a_link_to_another_is_not_followed(tmp_path: Path) -> None:
    """Whoever owns a runtime directory can put a link to another service's socket there: root asks only who owns it."""
    directory = tmp_path / "hello"
    directory.mkdir()
    with control.listen(str(tmp_path / "control")) as listener:
        (directory / "control").symlink_to(tmp_path / "control")
        path = str(directory / "control")
        os.chown(directory, 4711, -1)
        os.chown(path, 4711, -1, follow_symlinks=False)
        with pytest.raises(client.Stranger, match="who listens there is user 0, and it belongs to user 4711"):
            list(client.call(path, "Reload"))
        listener.setblocking(True)
        with listener.accept()[0] as said:
            assert said.recv(1) == b"", "it has been told nothing"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory away")
def test_a_directory_of_another(server: Server) -> None:
    """Who listens where somebody else owns the directory, as in a container's volume, is asked; by a link of one's own
    too."""
    link = Path(f"{server.path}.link")
    link.symlink_to(server.path)
    os.chown(Path(server.path).parent, 4711, -1)
    with answering(server, lambda call: call.reply(status={})):
        for path in (server.path, str(link)):
            assert list(client.call(path, "Status")) == [{"status": {}}]


def test_client(server: Server) -> None:
    """The client yields each reply, and raises the service's errors with their parameters."""

    def answer(call: Call) -> None:
        if call.method == "Status":
            call.reply(status={"name": "hello"})
        elif call.method == "Rollback":
            call.error("Refused", reason="there is none")
        else:
            call.progress(n=1)
            call.progress(n=2)
            call.reply(n=3)

    with answering(server, answer):
        assert list(client.call(server.path, "Status")) == [{"status": {"name": "hello"}}]
        assert [r["n"] for r in client.call(server.path, "Reload", {"overlay": {"A": "b"}}, True)] == [1, 2, 3]
        with pytest.raises(client.VarlinkError, match=r"Refused\(reason='there is none'\)") as caught:
            list(client.call(server.path, "Rollback"))
        assert caught.value.name == "Refused" and caught.value.parameters == {"reason": "there is none"}


def test_client_without_master(server: Server, tmp_path: Path) -> None:
    """Nobody there, no answer in time, and a master that dies in the middle are three different errors."""
    with pytest.raises(FileNotFoundError):
        list(client.call(tmp_path / "none", "Status"))
    with pytest.raises(TimeoutError):
        list(client.call(server.path, "Status", timeout=0.05))
    with pytest.raises(TimeoutError):  # nor is it read
        list(client.call(server.path, "Send", {"data": "x" * (1 << 20)}, connect_timeout=0.05))
    with answering(server, lambda call: call.client.close()), pytest.raises(WireError):
        list(client.call(server.path, "Status"))
