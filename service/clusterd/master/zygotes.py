"""The zygotes and their twins: started, spoken to, promoted, ended."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clusterd.core.events import TwinGone, TwinUp, ZygoteGone, ZygoteUnborn, ZygoteUp
from clusterd.core.model import Boot, Generation, Twin
from clusterd.master import hints
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.releases import Release, policy
from clusterd.shell import fields, pidfd, poll, process
from clusterd.shell.watched import Watched
from clusterd.worker.wire import Message, Wire, WireError


@dataclass
class Zygote:
    """One process that forks, or its understudy: both speak the same."""

    generation: int
    wire: Wire
    pidfd: int | None = None
    pid: int | None = None
    reason: str = ""
    token: str = ""
    """Which order for a twin it answers: the answer to a dead master's must not be taken for it."""
    dead_since: float | None = None
    """Its cause is waited for."""


Hook = Callable[[int, Message, list[int]], None]


class Zygotes:
    """`zygote-G` and `twin-G` in the keeper's store, and what they say.

    `forked` is called with what a zygote says of its children (forked, fork-failed, exited, listed).
    """

    def __init__(self, context: Context, ledger: Ledger, forked: Hook) -> None:
        self.context = context
        self.ledger = ledger
        self.forked = forked
        self.zygotes: dict[int, Zygote] = {}
        self.twins: dict[int, Zygote] = {}
        self._tokens = itertools.count()

    # orders

    def boot(self, generation: int, release: Release) -> None:
        """Start the zygote. Raises OSError when it cannot be started."""
        c = self.context
        ours, theirs = socket.socketpair()
        output = c.streams.open(f"zygote-{generation}", f"{c.name}/zygote")
        try:
            # A command's zygote imports no application: the daemon's own interpreter will do.
            python = sys.executable if release.settings and release.settings.command else release.interpreter
            argv = [python, "-B", str(c.library / "clusterd_zygote.py"), str(theirs.fileno())]
            pid, fd = process.start(
                argv,
                release.variables(c.name, generation, c.runtime),
                release.directory,
                [theirs.fileno()],
                stdout=output,
                stderr=output,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        c.keeping.keep(f"zygote-{generation}.pidfd", fd)
        zygote = self._take_on(generation, "zygote", ours.detach(), fd)
        zygote.pid = pid
        self._say_boot(zygote)

    def fork(self, generation: int, order: Message, fds: Sequence[int]) -> bool:
        """Ask for a worker; False when there is no zygote to ask, or it is `dead`."""
        zygote = self.zygotes.get(generation)
        return zygote is not None and zygote.dead_since is None and self._say(zygote, order, fds)

    def dead(self, generation: int) -> bool:
        """Whether the zygote is dead, and will be told to be in a moment: then there is another, or will be."""
        zygote = self.zygotes.get(generation)
        return zygote is not None and zygote.dead_since is not None

    def make_twin(self, generation: int) -> None:
        zygote = self.zygotes.get(generation)
        if zygote is None:
            self.context.events.append(TwinGone(generation))
            return
        if zygote.dead_since is not None:
            return  # what becomes of the generation is decided when that is told
        self._end_one("twin", generation)
        ours, theirs = socket.socketpair()
        twin = self._take_on(generation, "twin", ours.detach(), None)
        twin.token = f"{self.context.keeping.starts}.{next(self._tokens)}"
        order = {"op": "twin", "cgroup": self.context.cgroups.path(f"twin-{generation}"), "token": twin.token}
        self._say(zygote, order, [theirs.fileno()])
        theirs.close()

    def promote(self, generation: int) -> None:
        """The zygote is dead: its twin answers from now on."""
        keeping = self.context.keeping
        twin = self.twins.pop(generation, None)
        if twin is None:
            self.context.events.append(ZygoteGone(generation, "the zygote and its twin are gone"))
            return
        kinds = [kind for kind in ("channel", "pidfd") if f"twin-{generation}.{kind}" in keeping.fds]
        keeping.rename({f"twin-{generation}.{kind}": f"zygote-{generation}.{kind}" for kind in kinds})
        for kind in kinds:
            fd = keeping.fds[f"zygote-{generation}.{kind}"]
            self.context.poll.unregister(fd)
            self.context.poll.register(fd, poll.READ, (f"zygote.{kind}", generation))
        self.zygotes[generation] = twin

    def end(self, generation: int) -> None:
        """Kill both: they hold nothing that needs a farewell, and one that hangs in an import would not hear it."""
        for kind in ("zygote", "twin"):
            self._end_one(kind, generation)
            self.context.cgroups.kill(f"{kind}-{generation}")
            self.context.cgroups.remove(f"{kind}-{generation}")
        self.context.streams.end(f"zygote-{generation}")

    def kill(self, generation: int) -> None:
        """One that hangs: its end is told as any other, and its twin takes over."""
        zygote = self.zygotes.get(generation)
        if zygote is not None and zygote.pidfd is not None and zygote.dead_since is None:
            zygote.reason = zygote.reason or "the zygote did not fork when it was told to: killed"
            pidfd.send(zygote.pidfd, signal.SIGKILL)

    def _end_one(self, kind: str, generation: int) -> None:
        zygote = (self.zygotes if kind == "zygote" else self.twins).pop(generation, None)
        if zygote is not None:
            if zygote.pidfd is not None:
                pidfd.send(zygote.pidfd, signal.SIGKILL)
                self.context.leaving.add(zygote.pidfd)
            self._let_go(zygote, kind)

    def ask_again(self, generation: int) -> None:
        """A new master asks what its predecessor may have heard and not written down."""
        zygote = self.zygotes.get(generation)
        if zygote is not None:
            # Whole, because the dead master may not have come to say it at all.
            self._say_boot(zygote)
            self._say(zygote, {"op": "list"})

    def adopt(self) -> None:
        """Take over what is in the store, and see to what was decided and not carried out."""
        keeping, generations = self.context.keeping, self.ledger.cluster.generations
        for kind in ("zygote", "twin"):
            channels, pidfds = keeping.numbered(kind, "channel"), keeping.numbered(kind, "pidfd")
            for generation in pidfds.keys() - channels.keys():  # it lost its channel with the master, and leaves
                keeping.drop(f"{kind}-{generation}.pidfd")
            for generation, channel in channels.items():
                zygote = self._take_on(generation, kind, channel, pidfds.get(generation), kept=True)
                zygote.pid = pidfd.pid_of(zygote.pidfd) if zygote.pidfd is not None else None
        for generation in {*self.zygotes, *self.twins}:
            g = generations.get(generation)
            if g is None or g.ended or g.boot is Boot.LOST:
                self.end(generation)
        for generation, twin in list(self.twins.items()):
            elder = self.zygotes.get(generation)
            if twin.pidfd is None or elder is not None and elder.pid == twin.pid:
                # Not known by a pidfd yet, or promoted with its old names not dropped yet.
                del self.twins[generation]
                self._let_go(twin, "twin")
        for g in generations.values():
            if g.boot is not Boot.LOST and not g.ended:
                self._reconcile(g)

    def _reconcile(self, g: Generation) -> None:
        """Tell the core what of generation `g` is not as it thinks."""
        events, number = self.context.events, g.number
        if g.boot is Boot.BOOTING:
            if number not in self.zygotes:
                events.append(ZygoteUnborn(number))
            return
        if number not in self.zygotes and number in self.twins and g.twin is not Twin.UP:
            self.promote(number)
        if number not in self.twins:
            events.append(TwinGone(number))
        elif g.twin is Twin.ASKED:
            events.append(TwinUp(number))
        elif g.twin is Twin.NONE:
            self._end_one("twin", number)
        if number not in self.zygotes:
            events.append(ZygoteGone(number, "the zygote is gone (nobody saw how: the master died too)"))

    # what they say

    def on_channel(self, kind: str, generation: int) -> None:
        group = self.zygotes if kind == "zygote" else self.twins
        zygote = group.get(generation)
        if zygote is None:
            return
        try:
            for message, fds in zygote.wire.exchange():
                self._heard(zygote, kind, message, fds)
        except WireError as e:
            self.context.poll.unregister(zygote.wire.fileno())
            zygote.reason = zygote.reason or (f"the zygote's channel: {e}" if zygote.pidfd is None else "")
            if zygote.pidfd is None:
                self.on_gone(kind, generation)
            else:
                pidfd.send(zygote.pidfd, signal.SIGKILL)  # a zygote that cannot be spoken to is none

    def on_gone(self, kind: str, generation: int) -> None:
        """Its pidfd says that it is dead. How it died may be known in a moment: to the keeper, if that is its parent,
        as of a twin that was promoted and of whoever has outlived a master."""
        group = self.zygotes if kind == "zygote" else self.twins
        zygote = group.get(generation)
        if zygote is None or (zygote.pidfd is not None and pidfd.alive(zygote.pidfd)):
            return  # the next one of that generation, if it is alive
        with contextlib.suppress(WireError):  # last words
            while poll.readable(zygote.wire.fileno()):
                for message, fds in zygote.wire.receive():
                    self._heard(zygote, kind, message, fds)
        keeping, status = self.context.keeping, None
        if zygote.pidfd is not None:
            self.context.poll.unregister(zygote.pidfd)
            status = keeping.status_of(zygote.pidfd, zygote.pid)
        zygote.dead_since = zygote.dead_since or time.monotonic()
        clear = kind == "twin" or zygote.reason or status is not None  # nobody is told how a twin died
        if not clear and keeping.may_tell(zygote.pid, zygote.dead_since):
            return
        group.pop(generation, None)
        reason = zygote.reason
        if not reason:
            release = self.ledger.releases.get(generation)
            known = self.ledger.cluster.generations.get(generation)
            at = " while it imported the application" if known is not None and known.boot is Boot.BOOTING else ""
            told = f"the zygote ended{at}: {pidfd.describe(status)}"
            reason = hints.explained(told, "", release.settings if release else None, self.context)
        self._let_go(zygote, kind)
        if kind == "zygote":  # a twin's is not only his: the zygote may be one that was promoted, and stayed there
            self.context.cgroups.kill(f"{kind}-{generation}")
        self.context.cgroups.remove(f"{kind}-{generation}")
        events = self.context.events
        events.append(ZygoteGone(generation, reason) if kind == "zygote" else TwinGone(generation))

    def tick(self) -> None:
        """See `deadlines`, and whether the keeper has said how one died."""
        for zygote in list(self.zygotes.values()):
            if zygote.dead_since is not None:
                self.on_gone("zygote", zygote.generation)

    def deadlines(self) -> list[float]:
        dead = (zygote.dead_since for zygote in self.zygotes.values())
        return [since + pidfd.STATUS_GRACE for since in dead if since is not None]

    def _heard(self, zygote: Zygote, kind: str, message: Message, fds: list[int]) -> None:
        generation, event = zygote.generation, message.get("event")
        release = self.ledger.releases.get(generation)
        if event in ("up", "failed"):
            for fd in fds:
                os.close(fd)
        if event == "up" and release is not None:
            release.mode, release.why = fields.words(message, "mode"), fields.lines(message, "why")
            release.interface = fields.words(message, "interface", "")
            release.engine = fields.words(message, "engine", "")
            release.python = fields.words(message, "python", "")
            release.bus, release.board = message.get("bus") is True, message.get("board") is True
            release.protocol = fields.number(message, "protocol", 1)
            born = policy(release.settings, self.context.slots.total)
            self.context.events.append(ZygoteUp(generation, twinned=release.mode == "fork", policy=born))
        elif event == "failed" and release is not None:
            release.reason = fields.traceback(message)
            told = fields.words(message, "reason", "failed without a reason")
            zygote.reason = hints.explained(told, release.reason, release.settings, self.context)
        elif event == "twin" and len(fds) == 1:
            twin = self.twins.get(generation)
            expected = twin is not None and twin.pidfd is None and kind == "zygote"
            if twin is None or not expected or message.get("token", twin.token) != twin.token:
                os.close(fds[0])
                return
            twin.pid, twin.pidfd = fields.process(message, fds[0]), fds[0]
            self.context.keeping.keep(f"twin-{generation}.pidfd", fds[0])
            self.context.poll.register(fds[0], poll.READ, ("twin.pidfd", generation))
            self.context.events.append(TwinUp(generation))
        else:
            self.forked(generation, message, fds)

    # descriptors

    def _take_on(self, generation: int, kind: str, channel: int, fd: int | None, *, kept: bool = False) -> Zygote:
        os.set_inheritable(channel, False)
        if not kept:
            self.context.keeping.keep(f"{kind}-{generation}.channel", channel)
        sock = socket.socket(fileno=channel)
        sock.setblocking(False)
        zygote = Zygote(generation, Watched(sock, self.context.poll), fd)
        (self.zygotes if kind == "zygote" else self.twins)[generation] = zygote
        self.context.poll.register(channel, poll.READ, (f"{kind}.channel", generation))
        if fd is not None:
            self.context.poll.register(fd, poll.READ, (f"{kind}.pidfd", generation))
        return zygote

    def _let_go(self, zygote: Zygote, kind: str) -> None:
        self.context.poll.unregister(zygote.wire.fileno())
        zygote.wire.detach()  # the store owns the descriptor
        if zygote.pidfd is not None:
            self.context.poll.unregister(zygote.pidfd)
        self.context.keeping.drop(f"{kind}-{zygote.generation}.channel", f"{kind}-{zygote.generation}.pidfd")

    def _say_boot(self, zygote: Zygote) -> bool:
        generation, c = zygote.generation, self.context
        cgroup = c.cgroups.path(f"zygote-{generation}")
        release = self.ledger.releases[generation]
        return self._say(zygote, release.boot_message(c.name, generation, cgroup, c.zygote_oom_score))

    def _say(self, zygote: Zygote, message: dict[str, Any], fds: Sequence[int] = ()) -> bool:
        try:
            zygote.wire.send(message, fds)
        except WireError:
            return False  # its death is on its way through the pidfd
        return True
