"""The master's side of the usher, with real processes: started, told what to do, started again."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from clusterd.config.places import SYSTEM
from clusterd.core.model import Mode
from clusterd.master import program, ushering
from clusterd.master.keeping import Keeping
from clusterd.master.leaving import Leaving
from clusterd.master.ledger import Ledger
from clusterd.master.ushering import Ushering
from clusterd.shell import pidfd
from clusterd.shell.listeners import Slots, open_for_run
from clusterd.shell.poll import Poll
from clusterd.worker.wire import Wire
from tests.patience import HANG
from tests.shell.test_listeners import Address
from tests.shell.ushering import REQUEST, rest, steer
from tests.shell.waiting import readable


class Journal:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def record(self, _message: object, text: str, *_: object) -> None:
        self.texts.append(text)


class Master:
    """What of the master's loop the usher has to do with, and a keeper's end."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        ours, self.keeper = socket.socketpair()
        Wire(self.keeper).send({"event": "stored", "start": 1})
        self.poll: Poll[Any] = Poll()
        self.keeping = Keeping(ours, self.poll)
        self.journal = Journal()
        self.leaving = Leaving()
        context: Any = SimpleNamespace(
            keeping=self.keeping,
            journal=self.journal,
            poll=self.poll,
            slots=slots,
            leaving=self.leaving,
            foreground=True,
            place=SYSTEM,
        )
        self.ushering = Ushering(context, Ledger({}))

    def ushers(self) -> set[str]:
        return {name for name in self.keeping.fds if name.startswith("usher")}

    def succeed(self) -> Master:
        """The next master, which has the same in its store."""
        successor = Master(self.slots)
        for name in self.ushers():
            successor.keeping.keep(name, os.dup(self.keeping.fds[name]))
        self.ushering._detach()
        self.ushering._unwatch()
        self.keeping.drop(*self.ushers())
        self.close()
        successor.ushering.adopt()
        return successor

    def turn(self) -> None:
        """One round of the loop."""
        deadline = self.ushering.deadline()
        for (kind, _), _ in self.poll.wait(HANG if deadline is None else deadline - time.monotonic()):
            match kind:
                case "slot":
                    self.ushering.on_waiting()
                case "usher.channel":
                    self.ushering.on_channel()
                case "usher.pidfd":
                    self.ushering.on_gone()
        self.leaving.reap()
        self.ushering.tick()

    def close(self) -> None:
        self.ushering.stop()
        assert not self.ushers()
        while self.leaving._fds:
            self.leaving.reap()
        self.keeping.drop(*self.keeping.fds)
        self.poll.close()
        self.keeping.wire.close()
        self.keeper.close()


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = open_for_run([Address()], 2)
    yield made
    for fd in made.groups[0].fds:
        os.close(fd)


@pytest.fixture
def master(slots: Slots) -> Iterator[Master]:
    made = Master(slots)
    yield made
    made.close()


class Relayed:
    """A client whose request an usher has passed on: slot 0 is served, and by us."""

    def __init__(self, master: Master, slots: Slots) -> None:
        listener = socket.socket(fileno=os.dup(slots.groups[0].fds[0]))
        listener.settimeout(HANG)
        steer(slots, 1)
        self.client = ask(slots)
        steer(slots, 0)
        master.ushering.order(Mode.RELAY, (1,))
        while master.ushering.wire is None:
            master.turn()
        with listener:
            self.server, _ = listener.accept()
        self.server.settimeout(HANG)
        assert self.server.recv(len(REQUEST), socket.MSG_WAITALL) == REQUEST
        self.server.sendall(b"half of ")
        assert self.client.recv(100) == b"half of "
        self.pidfd = os.dup(master.keeping.fds["usher.pidfd"])

    def close(self) -> None:
        self.client.close()
        self.server.close()
        os.close(self.pidfd)


@pytest.fixture
def many() -> Iterator[Slots]:
    """Two addresses with 256 slots each."""
    made = open_for_run([Address(), Address()], 256)
    yield made
    for group in made.groups:
        for fd in group.fds:
            os.close(fd)


def ask(slots: Slots, group: int = 0) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", slots.groups[group].port), HANG)
    sock.sendall(REQUEST)
    return sock


def test_more_listeners_than_one_message_carries(many: Slots) -> None:
    """With as many as there may be, connections to the last slot of the last address are answered too."""
    master = Master(many)
    steer(many, 255, group=1)
    master.ushering.order(Mode.REFUSE, tuple(range(256)))
    master.ushering.on_waiting()
    with ask(many, group=1) as sock:
        assert rest(sock).startswith(b"HTTP/1.1 503 ")
    master.close()


def test_a_start_that_fails_is_tried_again(master: Master, slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits is answered once the machine has room for a process again; the reason is told in words."""
    left = [errno.EAGAIN, errno.ENOMEM]
    start = ushering.start_helper

    def sometimes(name: str) -> tuple[int, int]:
        if left:
            number = left.pop(0)
            raise OSError(number, os.strerror(number))
        return start(name)

    monkeypatch.setattr(ushering, "start_helper", sometimes)
    master.ushering.order(Mode.REFUSE, (0, 1))
    with ask(slots) as sock:
        while master.ushering.wire is None:
            master.turn()
        assert rest(sock).startswith(b"HTTP/1.1 503 ")
    first, second, _ = master.journal.texts
    assert first.startswith("the usher cannot be started: Resource temporarily unavailable; ")
    assert second.startswith("the usher cannot be started: Cannot allocate memory; ")


def test_ushers_that_die_at_once_follow_each_other_slowly(
    master: Master, slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a clusterd that is half installed, while a connection waits: each comes after a longer time."""
    monkeypatch.setattr(program, "program", lambda *_: [sys.executable, "-S", "-c", "raise SystemExit(3)"])
    master.ushering.order(Mode.REFUSE, (0, 1))
    begun: list[float] = []
    with ask(slots):
        while len(begun) < 4:
            master.turn()
            if master.ushering.wire is not None and master.ushering._started not in begun:
                begun.append(master.ushering._started)
    apart = [after - before for before, after in itertools.pairwise(begun)]
    assert all(gap >= ushering.FIRST * ushering.GROWTH**n for n, gap in enumerate(apart)), apart
    assert "the usher exited with status 3; " in "\n".join(master.journal.texts)


def test_an_usher_that_has_lived_is_followed_soon(master: Master, slots: Slots) -> None:
    """What became of those before it is forgotten."""
    master.ushering._delay = ushering.LONGEST
    master.ushering.order(Mode.REFUSE, (0, 1))
    with ask(slots):
        while master.ushering.wire is None:
            master.turn()
        master.ushering._started -= ushering.LONGEST
        pidfd.send(master.keeping.fds["usher.pidfd"], signal.SIGKILL)
        while master.ushering.wire is not None:
            master.turn()
    due = master.ushering.deadline()
    assert due is not None and due - time.monotonic() <= ushering.FIRST


def test_nothing_is_due_while_no_usher_is_wanted(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    """A master at rest has no timer for it; what is wanted again later waits as long as it was to."""
    master.ushering._failed("the usher failed")
    assert master.ushering.deadline() is None
    master.ushering.order(Mode.REFUSE, (0, 1))
    assert master.ushering.deadline() is not None and not master.ushering._watched
    while master.ushering.deadline() is not None:
        master.turn()
    assert master.ushering._watched


def test_an_usher_of_the_master_before_finishes(master: Master, slots: Slots) -> None:
    """A new master costs no client its connection, however long that lasts; the usher leaves with the last of them."""
    relayed = Relayed(master, slots)
    successor = master.succeed()
    assert successor.ushers() == {"usher-1.channel", "usher-1.pidfd"}
    another = successor.succeed()
    assert another.ushers() == {"usher-1.channel", "usher-1.pidfd"}
    relayed.server.sendall(b"an answer")
    relayed.server.close()
    assert rest(relayed.client) == b"an answer"
    relayed.client.close()
    while another.ushers():
        another.turn()
    relayed.close()
    another.close()


def test_a_stop_leaves_no_usher_behind(master: Master, slots: Slots) -> None:
    """Neither one that an earlier master had told to finish; and who had half an answer sees that it is half."""
    relayed = Relayed(master, slots)
    successor = master.succeed()
    successor.ushering.stop()
    assert readable(relayed.pidfd)
    with pytest.raises(ConnectionResetError):
        rest(relayed.client)
    relayed.close()
    successor.close()


def test_an_usher_that_reads_nothing_is_not_forgotten(master: Master, slots: Slots) -> None:
    """It hangs, with more orders than its socket takes: it ends when it goes on, though it may never be told to."""
    relayed = Relayed(master, slots)
    pidfd.send(relayed.pidfd, signal.SIGSTOP)
    relayed.server.close()
    relayed.client.close()
    wire = master.ushering.wire
    assert wire is not None
    while not wire.wants_write:
        master.ushering.order(Mode.RELAY, (1,))
    master.ushering._dismiss()
    pidfd.send(relayed.pidfd, signal.SIGCONT)
    while master.ushers():
        master.turn()
    relayed.close()
