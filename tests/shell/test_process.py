"""pidfd, process, signals, poll, subreaper: against real processes."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.shell import pidfd, process
from clusterd.shell.poll import READ, WRITE, Poll
from clusterd.shell.signals import Signals
from tests.records import journal_stream
from tests.shell.waiting import Spawn, line, readable

WAIT = "import signal; signal.pause()"


def start(text: str, *arguments: str, fds: tuple[int, ...] = (), **options: object) -> tuple[int, int]:
    env = {"PATH": os.environ["PATH"]}
    return process.start([sys.executable, "-c", text, *arguments], env, None, fds, **options)  # type: ignore[arg-type]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def output(text: str, pipe: tuple[int, int], *arguments: str, **options: object) -> bytes:
    """What a program writes to stdout, after it has exited 0."""
    _, fd = start(text, *arguments, stdout=pipe[1], **options)  # type: ignore[arg-type]
    assert readable(fd)
    assert pidfd.status(fd) == 0
    os.close(fd)
    return os.read(pipe[0], 4096)


def test_journald_meets_who_is_started(tmp_path: Path) -> None:
    """The stream that it is given for stderr begins with an empty line, before anything that the program says."""
    with journal_stream(tmp_path) as (stream, journald):
        _, fd = start("import sys; sys.exit('I cannot start')", stderr=stream.fileno())
        stream.close()
        with journald.makefile() as said:
            assert said.read() == "\nI cannot start\n"
    assert readable(fd) and pidfd.status(fd) == 1 << 8
    os.close(fd)


def test_no_more_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told what could not be started, and nothing is left open for the next try."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match=r"Resource temporarily unavailable: '.*python"):
            start(WAIT)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os; os._exit(3)", "exited with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 64)", "killed by SIGRTMAX"),
    ],
)
def test_status_of_our_child(text: str, said: str) -> None:
    """Our child's end is told exactly, and it is reaped by asking."""
    pid, fd = start(text)
    assert readable(fd)
    status = pidfd.status(fd)
    assert pidfd.describe(status) == said
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)
    os.close(fd)


def test_status_of_a_strangers_child(python: Spawn) -> None:
    """The end of a process that is not our child is known from the kernel, where it tells (6.15), else it is None."""
    child = python(
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'input(); exit(5)'], stdin=subprocess.PIPE)\n"
        "print(p.pid, flush=True); input()\n"
        "p.stdin.write(b'x\\n'); p.stdin.close(); p.wait(); print('reaped', flush=True)",
        stdin=-1,
    )
    fd = pidfd.open(int(line(child.stdout)))
    assert pidfd.alive(fd) and pidfd.status(fd) is None
    assert child.stdin is not None
    child.stdin.write(b"go\n")
    child.stdin.flush()
    assert line(child.stdout) == "reaped"
    assert not pidfd.alive(fd) and pidfd.pid_of(fd) is None
    major, minor = (int(n) for n in os.uname().release.split(".")[:2])
    expected = 5 << 8 if (major, minor) >= (6, 15) else None
    assert pidfd.status(fd) == expected
    os.close(fd)


def test_running_and_gone() -> None:
    """A process that runs is alive and has its pid; one that is gone takes no signal, and that is no error."""
    pid, fd = start(WAIT)
    assert pidfd.alive(fd) and pidfd.pid_of(fd) == pid and pidfd.status(fd) is None
    assert pidfd.send(fd, signal.SIGKILL)
    assert readable(fd) and not pidfd.alive(fd)
    assert pidfd.describe(pidfd.status(fd)) == "killed by SIGKILL"
    assert not pidfd.send(fd, signal.SIGKILL)
    assert pidfd.pid_of(fd) is None
    os.close(fd)


def test_describe_unknown_and_core() -> None:
    """What nobody knows is said so; a core dump is named."""
    assert pidfd.describe(None) == "gone (status unknown)"
    assert pidfd.describe(signal.SIGSEGV | 0x80) == "killed by SIGSEGV (core dumped)"


def test_pid_of_something_else(pipe: tuple[int, int]) -> None:
    """A descriptor that is no pidfd is an error, not a pid."""
    with pytest.raises(ValueError, match="not a pidfd"):
        pidfd.pid_of(pipe[0])


def test_only_the_given_descriptors(pipe: tuple[int, int]) -> None:
    """The program has stdio and what it was given, under the same numbers, and nothing else."""
    a, b = socket.socketpair()
    text = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"
    said = output(text, pipe, fds=(a.fileno(),))
    assert said.decode().strip() == str([0, 1, 2, 3, a.fileno()])  # 3: the directory itself, while it is read
    a.close()
    b.close()


def test_session_directory_and_stdin(pipe: tuple[int, int], tmp_path: Path) -> None:
    """The program leads a session of its own, in the directory asked for, and reads end of file from stdin."""
    text = "import os, sys; print(os.getsid(0) == os.getpid(), os.getcwd(), repr(sys.stdin.read()))"
    _, fd = process.start([sys.executable, "-c", text], {}, str(tmp_path), [], stdout=pipe[1])
    assert readable(fd) and pidfd.status(fd) == 0
    os.close(fd)
    assert os.read(pipe[0], 4096).decode().strip() == f"True {tmp_path} ''"


def test_signals_are_at_their_default(pipe: tuple[int, int]) -> None:
    """What Python or the master does with signals is not inherited; those asked for are blocked, and only those."""
    text = "print([l for l in open('/proc/self/status') if l.startswith(('SigBlk', 'SigIgn'))])"
    signals = Signals([signal.SIGTERM])
    said = output(text, pipe, blocked=[signal.SIGTERM])
    signals.close()
    blocked, ignored = (int(field, 16) for field in re.findall(r"\\t([0-9a-f]{16})", said.decode()))
    # Python itself ignores SIGPIPE (13) and SIGXFSZ (25) again; 32 and 33 are glibc's own, and GNU make ignores them.
    assert blocked == 1 << 14 and ignored & ~(0b11 << 31) == 1 << 12 | 1 << 24


@pytest.mark.parametrize(
    ("argv", "cwd", "named"), [("/no/such/python", None, "/no/such/python"), (None, "/no/dir", "/no/dir")]
)
def test_what_cannot_be_run_is_named(argv: str | None, cwd: str | None, named: str) -> None:
    """A missing program or directory is an OSError with its name, at once, and no child is left."""
    with pytest.raises(FileNotFoundError) as caught:
        process.start([argv or sys.executable], {}, cwd, [])
    assert caught.value.filename == named
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_signals_are_events() -> None:
    """A wanted signal makes the descriptor readable and is read once; closing puts the handlers back."""
    before = signal.getsignal(signal.SIGUSR2)
    signals = Signals([signal.SIGUSR1, signal.SIGUSR2])
    assert signals.read() == []
    os.kill(os.getpid(), signal.SIGUSR2)
    assert readable(signals.fileno()) and signals.read() == [signal.SIGUSR2] and signals.read() == []
    signals.close()
    assert signal.getsignal(signal.SIGUSR2) is before


def test_signals_blocked_before_are_not_lost() -> None:
    """A signal that came while it was blocked is delivered when Signals is made: a master misses no early stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        # Not to the process: a test runner may have threads that do not block it.
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        signals = Signals([signal.SIGUSR1])
        assert readable(signals.fileno()) and signals.read() == [signal.SIGUSR1]
        signals.close()
        assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def test_poll_gives_keys() -> None:
    """What is ready comes back under the caller's key, with its events; what is not is silent."""
    a, b = socket.socketpair()
    poll: Poll[str] = Poll()
    poll.register(a.fileno(), READ, "a")
    assert poll.wait(0) == []
    b.send(b"x")
    assert poll.wait(None) == [("a", READ)]
    poll.modify(a.fileno(), WRITE)
    assert poll.wait(-1.0) == [("a", WRITE)]
    with pytest.raises(ValueError, match="watched already, as 'a'"):
        poll.register(a.fileno(), READ, "again")
    poll.unregister(a.fileno())
    poll.unregister(a.fileno())
    assert poll.wait(0) == [] and len(poll) == 0
    poll.close()
    a.close()
    b.close()
