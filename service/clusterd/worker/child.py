"""A newborn worker: from the fork to the engine."""

from __future__ import annotations

import atexit
import faulthandler
import functools
import os
import random
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from . import given, logs, preparing, process, runs
from .board import STACKS, Board
from .boot import Boot
from .channel import Channel
from .memfd import memfd, read_memfd
from .refusal import Refusal, describe, text_of

Message = dict[str, Any]


def main_forked(boot: Boot, prepared: preparing.Prepared, order: Message, fds: list[int]) -> int:
    """The worker of a zygote that could be forked. Returns the exit status."""
    channel = _begin(boot, order, fds)
    if channel is None:
        return 0
    return _run_task(boot, channel, order) if "task" in order else _run(boot, prepared, channel, order, fds[2:])


def spawn(script: str, flags: Sequence[str], boot: Boot, order: Message, fds: list[int]) -> int:
    """In the fork of a zygote without the application: exec an interpreter that imports it for this worker alone."""
    memory = memfd({"boot": boot.raw, "order": order, "fds": fds})
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
    process.take_output(fds[1])
    if given.board is not None:
        faulthandler.register(STACKS, file=2, all_threads=True)
    if not channel.wait_for_go():
        return None
    try:
        process.join_cgroup(order.get("cgroup"))
    except OSError as e:
        print(f"cannot join cgroup '{order.get('cgroup')}': {e.strerror}, ignoring", file=sys.stderr)
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
    preparing.configure_logging(boot)
    sockets = process.sockets_from(listeners)
    channel.take_slot = functools.partial(_take_slot, boot, order, sockets)
    given.asynchronous = prepared.interface == "asgi"
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
    _leave(channel)
    return status


def _run_task(boot: Boot, channel: Channel, order: Message) -> int:
    preparing.configure_logging(boot)
    status = runs.run(boot, channel, order)
    _exit_handlers()
    return status


def _take_slot(boot: Boot, order: Message, sockets: list[socket.socket], message: Message, fds: list[int]) -> None:
    """A spare is given its place: output and sockets of a slot. Said again by a new master, it changes nothing."""
    if sockets:
        for fd in fds:
            os.close(fd)
        return
    order = {**order, "slot": message["slot"]}
    os.environ.update(process.environment(boot.name, boot.generation, order))
    process.take_output(fds[0])
    sockets += process.sockets_from(fds[1:])
    logs.identify()
    _set_title(boot, order)


def _fail(channel: Channel, refusal: Refusal) -> int:
    channel.say("failed", reason=refusal.reason, traceback=refusal.traceback)
    _leave(channel)
    return 1


def _leave(channel: Channel) -> None:
    """Exit handlers run, as they would in a program of its own; other threads are not waited for."""
    channel.flush()
    if (messaging := sys.modules.get("clusterd.worker.messaging")) is not None:
        messaging.end()
    _exit_handlers()


def _exit_handlers() -> None:
    try:
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()


def _reseed() -> None:
    """Forks share the state of every generator. The standard library reseeds its own at fork, numpy does not."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
