"""A master that makes room for one of the files now on disk: once nothing is under way, and only to one that can."""

from __future__ import annotations

import os
import signal
import time
from typing import NoReturn

from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.program import environment, failure, program
from clusterd.master.rehearsal import COMMAND
from clusterd.shell import messages, pidfd, poll, process
from clusterd.shell.control import Call

PATIENCE = 30.0
"""Seconds the new files may take to say that they could take over."""


class Upgrading:
    def __init__(self, context: Context, ledger: Ledger) -> None:
        self.context = context
        self.ledger = ledger
        self._wanted = False
        self._callers: list[Call] = []
        self._child: tuple[int, int] | None = None
        """Its pidfd, and the memfd it writes to."""
        self._until = 0.0
        self._fits = False
        """The rehearsal has just gone well."""

    def ask(self, call: Call | None) -> None:
        """None: by a signal; then the journal alone is told."""
        self._wanted = True
        if call is not None:
            self._callers.append(call)

    def advance(self) -> None:
        """A rollout under way is waited for, a keeper that lacks, and a stop, which is the end of it anyway.

        Called when all that has been heard is dealt with: it may be the end of this master.
        """
        cluster, keeping = self.ledger.cluster, self.context.keeping
        told = not keeping.lost and not keeping.wire.wants_write and not self.context.events
        may = told and not cluster.stopping and cluster.rollout is None
        if self._fits:
            self._fits, self._wanted = False, True  # what has begun meanwhile may change what it was tried with
            if may:
                self._leave()
        if self._wanted and self._child is None and may:
            self._wanted = False
            self._rehearse()

    def deadline(self) -> float | None:
        return self._until if self._child is not None else None

    def tick(self) -> None:
        if self._child is not None and time.monotonic() >= self._until:
            pidfd.send(self._child[0], signal.SIGKILL)
            self._until = time.monotonic() + PATIENCE

    def on_gone(self) -> None:
        """The rehearsal is over."""
        assert self._child is not None
        child, output = self._child
        self._child = None
        status = pidfd.status(child)
        self.context.poll.unregister(child)
        os.close(child)
        said = os.pread(output, 1 << 16, 0).decode(errors="replace").strip().splitlines()
        os.close(output)
        if status == 0:
            self._fits = True
        elif not self.ledger.cluster.stopping:
            self._refuse(said[-1][:500] if said else f"it {pidfd.describe(status)}")

    def close(self) -> None:
        for call in self._callers:
            call.error("Stopping")
        self._callers.clear()

    def _rehearse(self) -> None:
        keeping = self.context.keeping
        output = os.memfd_create("rehearsal", os.MFD_CLOEXEC)
        try:
            argv = program("master", COMMAND, str(keeping.state.fd))
            _, child = process.start(argv, environment(), "/", [keeping.state.fd], stdout=output, stderr=output)
        except OSError as e:
            os.close(output)
            self._refuse(f"it cannot be started: {failure(e)}")
            return
        self._child, self._until = (child, output), time.monotonic() + PATIENCE
        self.context.poll.register(child, poll.READ, ("rehearsal.pidfd", 0))

    def _leave(self) -> NoReturn:
        self.context.journal.record(
            messages.MASTER_LEFT, f"master {os.getpid()} makes room for another, of the files now on disk"
        )
        self.context.journal.close()
        os._exit(0)

    def _refuse(self, why: str) -> None:
        reason = f"the clusterd now on disk cannot take over: {why}"
        self.context.journal.record(messages.UPGRADE_REFUSED, f"{reason}; this master stays")
        for call in self._callers:
            call.error("Refused", reason=reason, detail="")
        self._callers.clear()
