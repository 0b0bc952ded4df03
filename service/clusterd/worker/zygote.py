"""The zygote: imports the application once, then forks workers on request.

One thread, one poll. A fork returns out of the loop in the child (`Zygote.serve` gives back a `Birth`), so that a
worker does not run inside the zygote's frames. Children are watched by pidfd, not by SIGCHLD: signal handlers and
waitpid(-1) would meet those of the application. Zygotes leave by os._exit: exit handlers are the workers' business.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import select
import socket
import sys
import traceback
import warnings
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NoReturn

from . import child, exiting, inspection, process, stdio
from .boot import Boot
from .engines import command
from .memfd import memfd, read_memfd
from .preparing import Prepared, prepare
from .refusal import Refusal, describe, text_of
from .wire import PROTOCOL, Closed, Wire, WireError

Message = dict[str, Any]


@dataclass
class Child:
    """A living child. `worker` is None for a twin; `exec_fd` is the pipe that tells whether its exec failed."""

    pid: int
    pidfd: int
    worker: int | None
    exec_fd: int = -1


@dataclass(frozen=True)
class Birth:
    """What `Zygote.serve` returns in a forked worker: the order that made it, and its descriptors."""

    order: Message
    fds: list[int]
    exec_fd: int = -1


@dataclass
class Zygote:
    wire: Wire
    boot: Boot
    up: Message
    """The answer to "boot", said again to a master that asks again."""
    met: bool = True
    """By journald, in the stream that a twin has of its zygote's."""
    _children: dict[int, Child] = field(default_factory=dict)
    _received: deque[tuple[Message, list[int]]] = field(default_factory=deque)

    def serve(self) -> Birth | None:
        """Answer the master until nobody wants this zygote (None), or until this is a newborn worker."""
        poller = select.poll()
        try:
            while True:
                while self._received:
                    message, fds = self._received.popleft()
                    birth = self._obey(message, fds)
                    if birth is not None:
                        return birth
                    if message.get("op") == "end":
                        return None
                poller = self._poller()
                for fd, _ in poller.poll():
                    self._on_ready(fd)
        except Closed:
            return None
        except WireError as e:
            print(f"zygote: {e}, leaving", file=sys.stderr, flush=True)
            return None

    def _poller(self) -> select.poll:
        # Built anew each time: there are as many turns as there are births and deaths, which is few.
        poller = select.poll()
        poller.register(self.wire, select.POLLIN | (select.POLLOUT if self.wire.wants_write else 0))
        for one in self._children.values():
            poller.register(one.pidfd, select.POLLIN)
            if one.exec_fd >= 0:
                poller.register(one.exec_fd, select.POLLIN)
        return poller

    def _on_ready(self, fd: int) -> None:
        if fd == self.wire.fileno():
            self._received.extend(self.wire.exchange())
            return
        for one in list(self._children.values()):
            if fd == one.exec_fd:
                self._exec_ended(one)
            elif fd == one.pidfd:
                self._reap(one)

    def _obey(self, message: Message, fds: list[int]) -> Birth | None:
        op = message.get("op")
        if op == "fork":
            return self._fork(message, fds)
        if op == "twin":
            self._twin(message, fds)
            return None
        for fd in fds:
            os.close(fd)
        if op == "boot":
            self.wire.send(self.up)
        elif op == "list":
            for one in list(self._children.values()):
                if one.worker is not None:
                    self._announce(one)
            self.wire.send({"event": "listed"})
        return None

    # births

    def _fork(self, message: Message, fds: list[int]) -> Birth | None:
        worker = message.get("worker")
        least = 1 + len(message.get("listeners", ())) + (1 if message.get("bus") else 0)
        if not isinstance(worker, int) or len(fds) < least:
            self._close(fds)
            self.wire.send({"event": "fork-failed", "worker": worker, "reason": "the order to fork is incomplete"})
            return None
        living = next((c for c in self._children.values() if c.worker == worker), None)
        if living is not None:
            self._close(fds)
            self._announce(living)
            return None
        if not self.met:
            stdio.introduce(patience=0.0)
            self.met = True
        reader = writer = -1
        try:
            if self.boot.kind == "command":
                reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            pid = _fork()
        except OSError as e:
            self._close([*fds, *(fd for fd in (reader, writer) if fd >= 0)])
            reason = f"cannot fork worker {worker}: {e.strerror} (limits: TasksMax=, LimitNPROC=, memory)"
            self.wire.send({"event": "fork-failed", "worker": worker, "reason": reason})
            return None
        if pid == 0:
            if reader >= 0:
                os.close(reader)
            self._disown()
            return Birth(message, fds, writer)
        self._close([*fds, writer] if writer >= 0 else fds)
        one = self._adopt(pid, worker, reader)
        if one is not None:
            self._announce(one)
        return None

    def _twin(self, message: Message, fds: list[int]) -> None:
        """In the child this very object becomes the twin's, on the other channel and without children."""
        if len(fds) != 1:
            self._close(fds)
            return
        try:
            pid = _fork()
        except OSError as e:
            self._close(fds)
            print(f"zygote: cannot fork a twin: {e.strerror}, ignoring", file=sys.stderr, flush=True)
            return
        if pid == 0:
            self._disown()
            self.wire = Wire(_channel(fds[0]))
            process.detach()
            _try_join(message.get("cgroup"))
            process.set_title(f"clusterd: {self.boot.name} zygote {self.boot.generation} (twin)", "twin")
            self.up = {**self.up, "pid": os.getpid()}
            self.met = False  # the stream is its elder's for as long as that lives
            return
        self._close(fds)
        one = self._adopt(pid, None, -1)
        if one is not None:
            self.wire.send({"event": "twin", "pid": pid, "token": message.get("token")}, [one.pidfd])

    def _adopt(self, pid: int, worker: int | None, exec_fd: int) -> Child | None:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as e:
            # Without a pidfd the master could never name it safely, and it has not been told to go.
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            self._close([exec_fd] if exec_fd >= 0 else [])
            self.wire.send({"event": "fork-failed", "worker": worker, "reason": f"no pidfd for it: {e.strerror}"})
            return None
        one = self._children[pid] = Child(pid, pidfd, worker, exec_fd)
        return one

    def _announce(self, one: Child) -> None:
        self.wire.send({"event": "forked", "worker": one.worker, "pid": one.pid}, [one.pidfd])

    # deaths

    def _exec_ended(self, one: Child) -> None:
        """The pipe of a `command` child: end of file when its exec succeeded, the reason when not."""
        try:
            text = os.read(one.exec_fd, 4096).decode(errors="replace")
        except BlockingIOError:
            return
        if text:
            self.wire.send({"event": "fork-failed", "worker": one.worker, "reason": text})
        os.close(one.exec_fd)
        one.exec_fd = -1

    def _reap(self, one: Child) -> None:
        try:
            pid, status = os.waitpid(one.pid, os.WNOHANG)
        except ChildProcessError:  # the application ignores SIGCHLD, so the kernel has reaped it: status unknown
            pid, status = one.pid, -1
        if pid == 0:
            return
        if one.exec_fd >= 0:
            self._exec_ended(one)
        if one.exec_fd >= 0:
            os.close(one.exec_fd)  # a child of its own holds the other end
        del self._children[one.pid]
        if one.worker is not None and status >= 0:  # a twin's death is told by its pidfd and its channel
            self.wire.send({"event": "exited", "worker": one.worker, "pid": one.pid, "status": status})
        os.close(one.pidfd)

    # in a newborn child

    def _disown(self) -> None:
        """Close what is the zygote's: its channel, its children's pidfds, descriptors meant for other workers."""
        self.wire.close()
        for one in self._children.values():
            self._close([one.pidfd] + ([one.exec_fd] if one.exec_fd >= 0 else []))
        self._children.clear()
        for _, fds in self._received:
            self._close(fds)
        self._received.clear()

    @staticmethod
    def _close(fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)


def main(script: str, argv: list[str]) -> NoReturn:
    """The program. Never returns: what an interpreter does at exit belongs to the workers."""
    status = 70  # EX_SOFTWARE: a bug of ours
    try:
        status = _main(script, argv)
    except BaseException:
        traceback.print_exc()
    finally:
        stdio.flush()
        os._exit(status)


def _main(script: str, argv: list[str]) -> int:
    process.close_stdin()
    process.forget_service_environment()
    stdio.tell_journal_stream()
    process.quiet_signals()
    if argv[:1] == ["worker"]:
        return child.main_spawned(int(argv[1]))
    if argv[:1] == ["resume"]:
        return _resume(script, int(argv[1]))
    process.detach()
    return _begin(script, int(argv[0]))


def _begin(script: str, fd: int) -> int:
    sock = _channel(fd)
    message = _read_boot(sock)
    if message is None:
        return 0
    wire = Wire(sock)
    boot = Boot.parse(message)
    _try_join(boot.cgroup)
    process.set_oom_score(boot.oom_score)
    process.set_title(f"clusterd: {boot.name} zygote {boot.generation}", "zygote")
    before = inspection.open_fds()
    try:
        prepared = prepare(boot)
        why = inspection.reasons(before) if boot.kind == "app" else []
    except Refusal as e:
        _say_failed(wire, e)
        return 1
    except BaseException as e:  # the engine's own trouble: a broken installation of what it imports, say
        _say_failed(wire, Refusal(f"the engine cannot be loaded: {describe(e)}", text_of(e)))
        return 1
    mode = "exec" if boot.kind == "command" else "fork"
    if boot.kind == "app" and (boot.preload == "never" or (boot.preload == "auto" and why)):
        mode = "spawn"
        if boot.preload == "never":
            why = ["preload = false"]
    up = {
        "event": "up", "pid": os.getpid(), "mode": mode, "why": why, "interface": prepared.interface,
        "engine": prepared.engine_name, "python": platform.python_version(), "bus": True,
        "board": boot.kind == "app", "protocol": PROTOCOL,
    }  # fmt: skip
    if mode == "spawn":
        _leave_application_behind(script, sock, message, up)
    wire.send(up)
    # What exists now is the workers' to share: the collector must not touch its pages in each of them.
    gc.collect()
    exiting.note_files()
    gc.freeze()
    return _serve(script, Zygote(wire, boot, up), prepared)


def _leave_application_behind(script: str, sock: socket.socket, message: Message, up: Message) -> NoReturn:
    """Exec this script anew, without the application and what it has begun; pid and channel stay."""
    process.end(inspection.processes())  # each worker begins its own
    memory = memfd({"boot": message, "up": up, "channel": sock.fileno()})
    os.set_inheritable(memory, True)
    sock.set_inheritable(True)
    stdio.flush()
    process.default_signals()
    os.execv(sys.executable, [sys.executable, *_flags(), script, "resume", str(memory)])


def _resume(script: str, memory: int) -> int:
    state = read_memfd(memory)
    boot = Boot.parse(state["boot"])
    process.set_title(f"clusterd: {boot.name} zygote {boot.generation}", "zygote")
    wire = Wire(_channel(state["channel"]))
    wire.send(state["up"])
    return _serve(script, Zygote(wire, boot, state["up"]), None)


def _serve(script: str, zygote: Zygote, prepared: Prepared | None) -> int:
    birth = zygote.serve()
    if birth is None:
        return 0
    if zygote.boot.kind == "command":
        return command.run(zygote.boot, birth.order, birth.fds, birth.exec_fd)
    if prepared is None:
        return child.spawn(script, _flags(), zygote.boot, birth.order, birth.fds)
    return child.main_forked(zygote.boot, prepared, birth.order, birth.fds)


def _fork() -> int:
    stdio.flush()
    with warnings.catch_warnings():
        # Since 3.12 a fork warns when there are native threads; which of them matter is what inspection.py is for.
        warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
        return os.fork()


def _flags() -> list[str]:
    """The interpreter's own options (-O, -X dev, ...), for those it starts in its turn."""
    import subprocess

    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    return flags


def _channel(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    sock.setblocking(True)
    return sock


def _read_boot(sock: socket.socket) -> Message | None:
    """The first message, and not a byte more: what follows stays in the socket for a zygote that execs itself."""
    data = bytearray()
    while True:
        head = sock.recv(1 << 16, socket.MSG_PEEK)
        if not head:
            return None
        end = head.find(b"\0")
        data += sock.recv(len(head) if end < 0 else end + 1)
        if end >= 0:
            message = json.loads(data[:-1])
            if not isinstance(message, dict) or message.get("op") != "boot":
                raise WireError(f"expected 'boot', got {bytes(data[:80])!r}")
            return message


def _say_failed(wire: Wire, refusal: Refusal) -> None:
    try:
        wire.send({"event": "failed", "reason": refusal.reason, "traceback": refusal.traceback})
    except WireError:
        print(refusal.reason, refusal.traceback, sep="\n", file=sys.stderr)


def _try_join(path: str | None) -> None:
    try:
        process.join_cgroup(path)
    except OSError as e:
        print(f"zygote: cannot join cgroup '{path}': {e.strerror}, ignoring", file=sys.stderr, flush=True)
