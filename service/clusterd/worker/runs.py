"""A process that is one run of a task: the function is called, what it returned is told, and that is all of it."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from . import frames, given, loading, topics
from .boot import Boot
from .channel import Channel
from .refusal import Refusal, describe, place, text_of

SHOWN = 200
"""Characters of a result that is not JSON and need not be."""
MAX_REASON = 500
MAX_TRACEBACK = 64 << 10


class Leash(Channel):
    """Its end of the channel. What is said is said again to a new master, until one has written it down."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel.take_wire())
        self.dismissed = threading.Event()
        self._writing = threading.Lock()

    def watch(self) -> None:
        """In a thread: hear the master while the function runs. Nobody there any more: the run is to end."""
        while self._read():
            pass
        if not self.dismissed.is_set():
            self.dismissed.set()
            os.kill(os.getpid(), signal.SIGTERM)

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        super()._take(message, fds)
        if message.get("op") == "dismiss":
            self.dismissed.set()

    def _send(self, message: dict[str, Any]) -> None:
        # The first NUL ends what a master that died has read the half of.
        data = b"\0" + frames.encode(message)
        with self._writing:
            try:
                self._wire.sock.sendall(data)
            except OSError:
                pass  # reading finds the same


def check(boot: Boot) -> None:
    """That every task's function is there, and can be called without arguments. Raises Refusal."""
    for name, call in boot.tasks.items():
        try:
            _callable(call, boot.directory)
        except Refusal as e:
            raise Refusal(f'{boot.file or boot.name}: task.{name}.call = "{call}": {e.reason}', e.traceback) from e


def run(boot: Boot, channel: Channel, order: dict[str, Any]) -> int:
    """Returns the exit status."""
    task, leash = order["task"], Leash(channel)
    if (messaging := sys.modules.get("clusterd.worker.messaging")) is not None:
        messaging.speak_only()
    given.imported.set()
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=leash.watch, name="clusterd-task", daemon=True).start()
    try:
        found = _call(_callable(task["call"], boot.directory))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # too late: it is done
        said = _done(found, task["name"], published=bool(task.get("publish")))
    except Refusal as e:
        said = _failed(e.reason, e.traceback)
    except _Ended:
        said = _failed("it was told to end", "")
    except SystemExit as e:
        said = _failed(f"it called exit({e.code!r})", text_of(e)) if e.code else _done(None, task["name"], False)
    except BaseException as e:
        where = place(e, boot.directory)
        said = _failed(f"{describe(e)} ({where})" if where else describe(e), text_of(e))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if (messaging := sys.modules.get("clusterd.worker.messaging")) is not None:
        messaging.end()  # first what it has said to others
    leash.say(**said)
    leash.dismissed.wait()
    return 0 if said["event"] == "done" else 1


class _Ended(SystemExit):
    """SIGTERM: as sys.exit() would, so that `finally` has its turn, in coroutines too."""


def _end(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Ended(128 + number)


def _call(function: Callable[[], Any]) -> Any:
    found = function()
    if not inspect.isawaitable(found):
        return found
    import asyncio

    async def awaited() -> Any:
        return await found

    return asyncio.run(awaited())


def _callable(call: str, directory: str) -> Callable[[], Any]:
    """Raises Refusal."""
    found = loading.load(loading.parse(call), directory)
    if not callable(found):
        raise Refusal(f"{type(found).__name__} found, expected a function")
    try:
        inspect.signature(found).bind()
    except TypeError:
        raise Refusal(f"'{call}' wants arguments, and a task is called without any") from None
    except ValueError:
        pass  # one of C's, which does not tell
    function: Callable[[], Any] = found
    return function


def _done(found: Any, name: str, published: bool) -> dict[str, Any]:
    """What it returned; where nobody is given it, it need not be JSON."""
    try:
        size = len(frames.text([found]).encode()) - 2  # as deep as it is in a message
        wrong = f"{size} bytes of JSON, expected at most {topics.MAX_DATA}" if size > topics.MAX_DATA else ""
    except (TypeError, ValueError) as e:
        wrong = f"found {type(found).__name__}, expected what JSON has ({e})"
    if not wrong:
        return {"event": "done", "result": found}
    if not published:
        return {"event": "done", "result": repr(found)[:SHOWN]}
    return _failed(f"what task '{name}' returned cannot be published: {wrong}", "")


def _failed(reason: str, traceback: str) -> dict[str, Any]:
    return {"event": "failed", "reason": reason[:MAX_REASON], "traceback": traceback[-MAX_TRACEBACK:]}
