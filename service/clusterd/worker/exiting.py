"""The end of a worker as any program of Python ends: threads, exit handlers, files.

It leaves by os._exit (zygote.py), which sees to none of them.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import io
import os
import stat
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from . import channel, stdio

if TYPE_CHECKING:
    import asyncio

CANCELLED = 2.0
"""Seconds for tasks that are cancelled at the end."""

_begun = threading.Lock()
_imported: list[weakref.ref[Any]] = []
"""Files that were open when the collector was told to leave alone what is there: it does not name them any more."""


def note_files() -> None:
    """In the zygote, before that. Whatever they hold is written now, once, instead of by each worker."""
    _try(lambda: _imported.extend(weakref.ref(file) for file in _files()))
    _try(_write_out)


def leave_import() -> None:
    """In a worker that was forked: what the import made, temporary directories and processes, is not its to end."""
    for made in list(weakref.finalize._registry.values()):  # type: ignore[attr-defined]  # Python's own
        made.atexit = False
    if (processes := sys.modules.get("multiprocessing.process")) is not None:
        processes._children.clear()


def run(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, int], cuts: Callable[[], bool]) -> int:
    """As asyncio.run() ends, which programs are written for: what is left of the application's tasks is cancelled, and
    with it the threads that they wait for. The loop stays open, for threads of an engine that still speak to it.

    Not where it `cuts` requests off: the loop has no further turn, in which they would be answered, with an error.
    """
    try:
        return loop.run_until_complete(main)
    finally:
        if not cuts():
            _try(lambda: loop.run_until_complete(_cancel()))


async def _cancel() -> None:
    import asyncio  # late: a program that is no application of asyncio's need not have it

    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=CANCELLED)


def finish() -> None:
    """In the order of an interpreter's own end; `bound`, and the master's patience with a drain, bound it."""
    # concurrent.futures ends its pools where threads are waited for. multiprocessing's exit handler would wait for
    # their processes, which nobody would have told.
    _try(threading._shutdown)  # type: ignore[attr-defined]  # Python's own
    _begun.acquire()
    _wind_up()


def bound(status: int, wait: Callable[[], None]) -> None:
    """End this process when `wait` returns, if it is still there: without the threads that hold it, but with all else
    that belongs to an end."""
    threading.Thread(target=_bound, args=(status, wait), name="clusterd-end", daemon=True).start()


def _bound(status: int, wait: Callable[[], None]) -> None:
    wait()
    # In case that hangs, too, and there is no master to end it.
    threading.Thread(target=_cut, args=(status,), name="clusterd-cut", daemon=True).start()
    if _begun.acquire(blocking=False):
        _wind_up()
        stdio.flush()
        os._exit(status)


def _cut(status: int) -> None:
    time.sleep(channel.ORPHAN_TIMEOUT)
    stdio.flush()
    os._exit(status)


def _wind_up() -> None:
    """Once: whoever begins it holds `_begun` from then on."""
    _try(atexit._run_exitfuncs)
    _try(_write_out)
    if (messaging := sys.modules.get("clusterd.worker.messaging")) is not None:
        _try(messaging.end)  # what was said meanwhile too


def _try(step: Callable[[], object]) -> None:
    try:
        step()
    except BaseException:
        traceback.print_exc()


def _write_out() -> None:
    for file in (*_files(), *(file for ref in _imported if (file := ref()) is not None)):
        try:
            file.flush()
        except Exception:
            pass  # a full disk; closed before; what the application has put below it may raise anything


def _files() -> list[Any]:
    """Python's file objects that may hold something unwritten, text first: it is written to what is below it."""
    fds = _open_for_writing()
    if not fds:
        return []  # the search takes 0.1 s for a million objects
    text, binary, both = io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom
    # By type alone: isinstance() asks proxies, which then do things.
    found = [o for o in gc.get_objects() if (kind := type(o)) is text or kind is binary or kind is both]
    return sorted((file for file in found if _fileno(file) in fds), key=lambda file: type(file) is not text)


def _open_for_writing() -> set[int]:
    """Regular files alone: what else there is may block, and is hardly ever left unflushed."""
    found = set()
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE:
                found.add(fd)
        except OSError:
            pass  # the one listdir itself used
    return found


def _fileno(file: Any) -> int:
    try:
        return int(file.fileno())
    except Exception:
        return -1  # closed, or none of the system's: an AttributeError, where that is below a text
