"""A newborn worker: from the fork to the engine."""

from __future__ import annotations

import faulthandler
import functools
import os
import random
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from . import exiting, given, logs, preparing, process, runs, stdio
from .board import STACKS, Board
from .boot import Boot
from .channel import ORPHAN_TIMEOUT, Channel
from .memfd import memfd, read_memfd
from .refusal import Refusal, describe, text_of

Message = dict[str, Any]

LAST_WORDS = 4.0
"""Seconds for the end of a task's run; a second later the master kills it."""


def main_forked(boot: Boot, prepared: preparing.Prepared, order: Message, fds: list[int]) -> int:
    """The worker of a zygote that could be forked. Returns the exit status."""
    exiting.leave_import()
    channel = _begin(boot, order, fds)
    if channel is None:
        return 0
    return _run_task(boot, channel, order) if "task" in order else _run(boot, prepared, channel, order, fds[2:])


def spawn(script: str, flags: Sequence[str], boot: Boot, order: Message, fds: list[int]) -> int:
    """In the fork of a zygote without the application: exec an interpreter that imports it for this worker alone."""
    memory = memfd({"boot": boot.raw, "order": order, "fds": fds})
    # Already now: what an interpreter says that cannot start is of this worker, and it is gone at once.
    stdio.take(os.dup(fds[1]))
    stdio.introduce(patience=0.0)
    for fd in (memory, *fds):
        os.set_inheritable(fd, True)
    process.default_signals()
    os.execv(sys.executable, [sys.executable, *flags, script, "worker", str(memory)])


def main_spawned(memory: int) -> int:
    state = read_memfd(memory)
    boot = Boot.parse(state["boot"])
    fds: list[int] = state["fds"]
    for fd in fds:
        os.set_inheritable(fd, False)
    channel = _begin(boot, state["order"], fds)
    if channel is None:
        return 0
    given.imported.clear()  # until it is known how it hears messages, as where it is forked from the import
    try:
        channel.awaits("the application's import")
        prepared = preparing.prepare(boot)
    except Refusal as e:
        return _fail(channel, e)
    order = state["order"]
    return _run_task(boot, channel, order) if "task" in order else _run(boot, prepared, channel, order, fds[2:])


def _begin(boot: Boot, order: Message, fds: list[int]) -> Channel | None:
    """Take what is this worker's and wait for the master to know it. None when the master is gone instead."""
    process.detach()
    _set_title(boot, order)
    process.set_oom_score(order.get("oom-score-adj"))
    channel = Channel(socket.socket(fileno=fds[0]))
    if order.get("board"):
        given.board = Board(fds.pop())
    if order.get("bus"):
        given.bus = fds.pop()
    stdio.take(fds[1])
    if given.board is not None:
        faulthandler.register(STACKS, file=2, all_threads=True)
    if not channel.wait_for_go():
        return None
    try:
        process.join_cgroup(order.get("cgroup"))
    except OSError as e:
        print(f"cannot join cgroup '{order.get('cgroup')}': {e.strerror}, ignoring", file=sys.stderr)
    stdio.introduce()
    os.environ.update(process.environment(boot.name, boot.generation, order))
    _reseed()
    return channel


def _set_title(boot: Boot, order: Message) -> None:
    worker, slot = order["worker"], order.get("slot")
    if (named := order.get("task")) is not None:
        process.set_title(f"clusterd: {boot.name} task {named['name']} generation {boot.generation}", f"task-{worker}")
        return
    place = "spare" if slot is None else f"slot {slot}"
    process.set_title(f"clusterd: {boot.name} worker {worker} {place} generation {boot.generation}", f"worker-{worker}")


def _run(boot: Boot, prepared: preparing.Prepared, channel: Channel, order: Message, listeners: list[int]) -> int:
    assert prepared.engine is not None
    process.keep_signals()
    preparing.configure_logging(boot)
    sockets = process.sockets_from(listeners)
    channel.take_slot = functools.partial(_take_slot, boot, order, sockets)
    given.asynchronous = prepared.interface == "asgi"
    given.imported.set()
    try:
        if (messaging := sys.modules.get("clusterd.worker.messaging")) is not None:
            channel.awaits("the retained values")
            messaging.begin()
        status = prepared.engine.run(sockets, channel)
    except Refusal as e:
        return _fail(channel, e)
    except SystemExit as e:
        # The application called exit() where the engine could not know; say which status it asked for.
        return _fail(channel, Refusal(f"the application called exit({e.code!r})", text_of(e)))
    except BaseException as e:
        return _fail(channel, Refusal(f"the worker failed: {describe(e)}", traceback.format_exc()))
    _leave(channel, status)
    return status


def _run_task(boot: Boot, channel: Channel, order: Message) -> int:
    process.keep_signals()
    preparing.configure_logging(boot)
    status = runs.run(boot, channel, order)
    exiting.bound(status, functools.partial(time.sleep, LAST_WORDS))
    exiting.finish()
    return status


def _take_slot(boot: Boot, order: Message, sockets: list[socket.socket], message: Message, fds: list[int]) -> None:
    """A spare is given its place: output and sockets of a slot. Said again by a new master, it changes nothing."""
    if sockets:
        for fd in fds:
            os.close(fd)
        return
    order = {**order, "slot": message["slot"]}
    os.environ.update(process.environment(boot.name, boot.generation, order))
    stdio.take(fds[0])
    stdio.introduce(patience=0.0)
    sockets += process.sockets_from(fds[1:])
    logs.identify()
    _set_title(boot, order)


def _fail(channel: Channel, refusal: Refusal) -> int:
    channel.say("failed", reason=refusal.reason, traceback=refusal.traceback)
    _leave(channel, 1)
    return 1


def _leave(channel: Channel, status: int) -> None:
    channel.flush()
    # Who has failed is not drained, and not waited for either.
    exiting.bound(status, functools.partial(time.sleep, ORPHAN_TIMEOUT) if status else channel.wait_for_end)
    exiting.finish()


def _reseed() -> None:
    """Forks share the state of every generator. The standard library reseeds its own at fork, numpy does not."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
