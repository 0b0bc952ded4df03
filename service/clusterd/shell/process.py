"""Starting a program: exactly the descriptors it shall have, a session of its own, and its process descriptor."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterable, Mapping, Sequence

from clusterd.shell.sockets import borrowed
from clusterd.worker import native

_RESET = (signal.SIGPIPE, signal.SIGXFSZ)  # ignored by Python, and an ignored signal stays ignored across exec


def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str | None,
    fds: Sequence[int],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    session: bool = True,
    blocked: Iterable[int] = (),
) -> tuple[int, int]:
    """Run `argv` (a path, or a name looked up in PATH of `env`) and return (pid, pidfd); the child is ours to reap.

    `fds` keep their numbers in the child and are all it gets beside stdio: stdin is /dev/null, stdout and stderr ours,
    unless given. A session of its own keeps the terminal's Ctrl-C from it. `blocked` signals stay pending until the
    program unblocks them (see Signals). Raises OSError with the file that could not be run, or the directory.

    Fork and exec by hand: subprocess reaps its children behind our back, and posix_spawn knows no directory. Safe
    because the callers have one thread.
    """
    report, tell = os.pipe()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) if stdin is None else stdin
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            os.close(report)
            _become(
                argv,
                env,
                cwd,
                fds,
                (null, 1 if stdout is None else stdout, 2 if stderr is None else stderr),
                session,
                blocked,
                tell,
            )
    except OSError as e:
        os.close(report)
        raise OSError(e.errno, e.strerror, argv[0]) from e
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(tell)
        if stdin is None:
            os.close(null)
    with os.fdopen(report, "rb") as reader:
        said = reader.read(4096)
    if said:
        os.waitpid(pid, 0)
        number, _, what = said.decode(errors="replace").partition(" ")
        raise OSError(int(number), os.strerror(int(number)), what)
    return pid, os.pidfd_open(pid)


def _become(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str | None,
    fds: Sequence[int],
    stdio: tuple[int, int, int],
    session: bool,
    blocked: Iterable[int],
    tell: int,
) -> None:
    """The child's part; never returns. The parent learns of a failure through `tell`, which exec closes."""
    what = argv[0]
    try:
        if session:
            os.setsid()
        _handlers_to_default()
        # Copies first: one of the three may be sitting on a number another is moved to.
        copies = [os.dup(fd) for fd in stdio]
        if any(fd <= 2 for fd in fds):
            raise OSError(errno.EINVAL, "descriptors 0 to 2 are stdio")
        for number, fd in enumerate(copies):
            os.dup2(fd, number)
        with contextlib.suppress(OSError), borrowed(2) as sock:
            native.introduce(sock)  # an interpreter that cannot start says why, and is gone at once
        for fd in fds:
            os.set_inheritable(fd, True)
        # Ours are CLOEXEC, but what a shell or a supervisor leaked to us may not be.
        kept = sorted({*fds, tell})
        for low, high in zip([2, *kept], [*kept, os.sysconf("SC_OPEN_MAX")], strict=True):
            os.closerange(low + 1, high)
        if cwd is not None:
            what = cwd
            os.chdir(cwd)
            what = argv[0]
        signal.pthread_sigmask(signal.SIG_SETMASK, set(blocked))
        os.execvpe(argv[0], list(argv), dict(env))
    except OSError as e:
        os.write(tell, f"{e.errno or errno.EIO} {what}".encode())
    except BaseException as e:
        os.write(tell, f"{errno.EINVAL} {what}: {e!r}".encode()[:4000])
    finally:
        os._exit(127)


def _handlers_to_default() -> None:
    """Signals with a Python handler would run it between fork and exec; exec itself resets only caught ones."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        handler = signal.getsignal(number)
        if number in _RESET or callable(handler):
            signal.signal(number, signal.SIG_DFL)
