"""The keeper: holds what must outlive a master, starts one, and starts another when it dies.

It knows nothing of workers and applications. A master that starts gets every descriptor in the store, the sockets among
them; so no queue is lost when a master crashes, and a new version of clusterd is a master that was started again.
When the keeper dies the master starts another (`start_successor`) and hands it the same.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from clusterd.shell import messages, pidfd, process, subreaper
from clusterd.shell.cgroup import Cgroups
from clusterd.shell.journal import Journal
from clusterd.shell.memory import State
from clusterd.shell.messages import Message
from clusterd.shell.notify import Notifier
from clusterd.shell.poll import READ, WRITE, Poll
from clusterd.shell.signals import ORDERS, Signals
from clusterd.shell.store import Store, chunks
from clusterd.worker.wire import PROTOCOL, Closed, Wire, WireError

CHANNEL = "CLUSTERD_KEEPER"
"""Environment variable of the master: the number of its descriptor for the wire to the keeper."""
QUICK, DELAY, MAX_DELAY = 0.2, 0.1, 5.0
"""Masters that die within QUICK seconds of their first word, from the second in a row on, are followed after a growing
delay. Of their first word, since until then their interpreter starts: on a busy machine that alone takes longer."""
ATTEMPTS, WITHIN = 5, 10.0
"""More deaths than ATTEMPTS in WITHIN seconds before any master was ready end the start: somebody waits for it."""
LAST = 3
"""Masters in a row that die so quickly, once the keeper is to stop, before it leaves without one."""
HANG = 15.0
"""Seconds without a heartbeat after which a master is killed."""
LOOKS = 5
"""Looks at the same heartbeat in HANG seconds. Counted, not timed: a machine that slept must not cost a master."""
GRACE = 10.0
"""Seconds a master may take to exit once it has said bye, or has closed its wire."""
_REMEMBERED = 1024


def keep(launch: Sequence[str], store: dict[str, int], *, foreground: bool, app: str = "", hang: float = HANG) -> int:
    """Run masters (`launch` is the command) until one says bye; returns its status, 1 when none ever became ready.

    `store` is {name: descriptor}, the keeper's from now on. `foreground`: the master gets a session of its own, so that
    the terminal's Ctrl-C comes here alone and is passed on once. `app` names the application in the journal.
    """
    return _Keeper(launch, store, foreground=foreground, app=app, hang=hang).run()


def start_successor(
    argv: Sequence[str], launch: Sequence[str], store: Mapping[str, int], *, app: str, foreground: bool, start: int
) -> tuple[int, int, Wire]:
    """For a master whose keeper died: start another and hand it copies of `store`. Returns (pid, pidfd, wire).

    `argv` is the command `clusterd keeper`; `start` is the number the last "stored" gave. Raises OSError, WireError.
    """
    ours, theirs = socket.socketpair()
    try:
        pid, fd = process.start(
            [*argv, "--succeed", str(theirs.fileno())], os.environ, None, [theirs.fileno()], blocked=ORDERS
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    # Blocking while the store goes over, so that nothing has to be kept open until it is flushed; 5 s bound it.
    ours.settimeout(5.0)
    wire = Wire(ours)
    me = os.pidfd_open(os.getpid())
    try:
        for names, fds in chunks(store):
            wire.send({"op": "keep", "names": names}, fds)
        message = {"op": "succeed", "pid": os.getpid(), "launch": list(launch), "app": app, "start": start}
        wire.send({**message, "foreground": foreground}, [me])
    except BaseException:
        pidfd.send(fd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, fd, os.WEXITED)
        os.close(fd)
        wire.close()
        raise
    finally:
        os.close(me)
    ours.setblocking(False)
    return pid, fd, wire


def main(arguments: Sequence[str]) -> int:
    """`clusterd keeper --succeed FD`, started by a master. Returns the exit status."""
    match list(arguments):
        case ["--succeed", number] if number.isdigit():
            return _succeed(int(number))
    print("clusterd: 'clusterd keeper --succeed FD' is what a master runs when its keeper is gone", file=sys.stderr)
    return 2


def _succeed(fd: int) -> int:
    os.set_inheritable(fd, False)
    wire = Wire(socket.socket(fileno=fd))
    wire.sock.settimeout(GRACE)
    store, keeper = Store(), None
    try:
        while keeper is None:
            for message, fds in wire.receive():
                if keeper is not None:  # the master goes on at once: what it said next may have come along
                    keeper.hear(message, fds)
                elif message.get("op") == "succeed" and len(fds) == 1:
                    wire.sock.setblocking(False)
                    keeper = _Keeper(message["launch"], store, foreground=message["foreground"], app=message["app"])
                    keeper.adopt(_Master(message["pid"], fds[0], wire, time.monotonic()), message["start"])
                else:
                    store.apply(message, fds)
    except (WireError, KeyError) as e:
        print(f"clusterd: the master did not hand over what it holds: {e}", file=sys.stderr)
        return 1
    return keeper.run()


class _Master:
    """One master, alive or just dead."""

    def __init__(self, pid: int, fd: int, wire: Wire, born: float) -> None:
        self.pid = pid
        self.pidfd = fd
        self.wire: Wire | None = wire
        self.born = born
        self.spoke: float | None = None
        """When it first said something."""
        self.beat: float | None = None
        self.looks = 0
        self.bye: int | None = None
        self.kill_at: float | None = None


class _Keeper:
    def __init__(
        self, launch: Sequence[str], store: dict[str, int], *, foreground: bool, app: str, hang: float = HANG
    ) -> None:
        self.launch = list(launch)
        self.store = store if isinstance(store, Store) else Store(store)
        self.foreground = foreground
        self.interval = hang / LOOKS
        self.journal = Journal(app, native=False if foreground else None)
        self.notifier = Notifier()
        self.poll: Poll[str] = Poll()
        self.master: _Master | None = None
        self.reaped: dict[int, int] = {}
        self.starts = 0
        self.ready = False
        self.deaths: list[float] = []
        self.quick = 0
        self.start_at = 0.0
        self.look_at = 0.0
        self.owed: set[int] = set()
        self.terminal = foreground and _has_terminal()

    def adopt(self, master: _Master, starts: int) -> None:
        """Go on with a running master, as the successor of another keeper."""
        master.spoke = master.born
        self.starts = starts
        self.ready = True
        self._watch(master)

    def run(self) -> int:
        subreaper.become()
        Cgroups.find().enter("keeper")
        wanted = {*ORDERS, signal.SIGCHLD}
        if self.foreground and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            wanted.discard(signal.SIGHUP)  # nohup
        signals = Signals(wanted)
        self.poll.register(signals.fileno(), READ, "signals")
        self.journal.watch(self.poll, "journal")
        try:
            while True:
                now = time.monotonic()
                if self.master is None and now >= self.start_at:
                    self._start(now)
                for key, _ in self.poll.wait(self._deadline(now) - now):
                    if key == "signals":
                        for number in signals.read():
                            self._signal(number)
                    elif key == "wire":
                        self._wire()
                    elif key == "journal":
                        self.journal.flush()
                self._reap()
                status = self._after(time.monotonic())
                if status is not None:
                    return status
        finally:
            self.journal.close()
            signals.close()
            self.poll.close()
            self.store.close()

    def _deadline(self, now: float) -> float:
        if self.master is None:
            return self.start_at
        return min(self.look_at, now + 60.0 if self.master.kill_at is None else self.master.kill_at)

    def _start(self, now: float) -> None:
        """Start a master and hand it everything."""
        self.starts += 1
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        # LISTEN_* and WATCHDOG_PID were meant for the process systemd started.
        env = {k: v for k, v in os.environ.items() if not k.startswith("LISTEN_") and k != "WATCHDOG_PID"}
        env[CHANNEL] = str(theirs.fileno())
        try:
            pid, fd = process.start(self.launch, env, None, [theirs.fileno()], session=self.foreground, blocked=ORDERS)
        except OSError as e:
            ours.close()
            self._died(0.0, 0.0, f"a master could not be started: {e}")
            return
        finally:
            theirs.close()
        self.notifier.main_pid(pid)
        master = _Master(pid, fd, Wire(ours), now)
        self._watch(master)
        for names, fds in chunks(self.store):
            self._send({"event": "store", "names": names}, fds)
        reaped = [[pid, status] for pid, status in self.reaped.items()]
        self._send({"event": "stored", "start": self.starts, "reaped": reaped, "protocol": PROTOCOL})
        for number in sorted(self.owed):
            pidfd.send(fd, number)
        self.owed &= {signal.SIGTERM}

    def _watch(self, master: _Master) -> None:
        self.master = master
        self.look_at = time.monotonic() + self.interval
        assert master.wire is not None
        self.poll.register(master.pidfd, READ, "pidfd")
        self.poll.register(master.wire.fileno(), READ, "wire")

    def _signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if number == signal.SIGHUP and self.terminal and not _has_terminal():
            number = signal.SIGTERM  # not "reload": the terminal was closed
        if number in (signal.SIGTERM, signal.SIGINT):
            # Told to each later master too, in case this one dies before it could say bye.
            self.owed.add(signal.SIGTERM)
        if self.master is not None:
            pidfd.send(self.master.pidfd, number)
        elif number != signal.SIGINT:
            self.owed.add(number)
        self.start_at = 0.0

    def _send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        master = self.master
        if master is None or master.wire is None:
            return
        try:
            master.wire.send(message, fds)
        except Closed:
            pass  # it is gone: what it said last is still to be read, and ends with that
        except WireError:
            self._cut(master)
            return
        self.poll.modify(master.wire.fileno(), READ | WRITE if master.wire.wants_write else READ)

    def _wire(self) -> None:
        master = self.master
        if master is None or master.wire is None:
            return
        try:
            heard = master.wire.exchange()
            self.poll.modify(master.wire.fileno(), READ | WRITE if master.wire.wants_write else READ)
            for message, fds in heard:
                self.hear(message, fds)
        except WireError:
            self._cut(master)

    def hear(self, message: dict[str, Any], fds: list[int]) -> None:
        """Take in one message of the master's."""
        master = self.master
        assert master is not None
        master.spoke = master.spoke or time.monotonic()
        match message.get("op"):
            case "bye":
                master.bye = int(message.get("status", 0))
                # From here on systemd is to look at us, its own child: our exit status is the service's.
                self.notifier.main_pid(os.getpid())
                master.kill_at = time.monotonic() + GRACE
            case "ready":
                self.ready = True
            case _:
                self.store.apply(message, fds)

    def _cut(self, master: _Master) -> None:
        """A master without a wire can no longer be told or tell anything: it exits, or is made to."""
        if master.wire is not None:
            self.poll.unregister(master.wire.fileno())
            master.wire.close()
            master.wire = None
        if master.kill_at is None:
            master.kill_at = time.monotonic() + 1.0

    def _reap(self) -> None:
        for pid, status in subreaper.reap():
            self.reaped.pop(pid, None)
            self.reaped[pid] = status
            if self.master is None or pid != self.master.pid:
                self._send({"event": "reaped", "pid": pid, "status": status})
        while len(self.reaped) > _REMEMBERED:
            del self.reaped[next(iter(self.reaped))]

    def _after(self, now: float) -> int | None:
        """What the passing of time or the master's end asks for; the exit status when all is over."""
        master = self.master
        if master is None:
            return 1 if self._hopeless(now) else None
        if not pidfd.alive(master.pidfd):
            return self._ended(master, now)
        if master.kill_at is not None and now >= master.kill_at:
            self._kill(master, "does not leave" if master.bye is not None else "lost its connection to the keeper")
        elif now >= self.look_at:
            self._look(master, now)
        return None

    def _look(self, master: _Master, now: float) -> None:
        self.look_at = now + self.interval
        beat = None
        if "state" in self.store:
            with contextlib.suppress(ValueError):
                beat = State(self.store["state"]).last_beat()
        master.looks = master.looks + 1 if beat == master.beat else 0
        master.beat = beat
        if master.looks >= LOOKS:
            self._kill(master, f"has not moved for {self.interval * LOOKS:g} s")

    def _kill(self, master: _Master, why: str) -> None:
        self.journal.record(messages.MASTER_DIED, f"master {master.pid} {why}: killing it", pid=master.pid)
        master.kill_at = None
        master.looks = 0
        pidfd.send(master.pidfd, signal.SIGKILL)

    def _ended(self, master: _Master, now: float) -> int | None:
        self._reap()
        while self.master is master and master.wire is not None and _readable(master.wire):
            self._wire()  # what it said last: the bye, above all
        status = self.reaped.pop(master.pid, None)
        if status is None:
            status = pidfd.status(master.pidfd)
        self.poll.unregister(master.pidfd)
        os.close(master.pidfd)
        if master.wire is not None:
            self.poll.unregister(master.wire.fileno())
            master.wire.close()
        self.master = None
        if master.bye is not None:
            return master.bye
        left = status == 0  # told to, for an upgrade
        text = f"master {master.pid} {'left' if left else pidfd.describe(status)}"
        worked = 0.0 if master.spoke is None else now - master.spoke
        self._died(now - master.born, worked, text, messages.MASTER_LEFT if left else messages.MASTER_DIED)
        return 1 if self._hopeless(now) else None

    def _died(self, lived: float, worked: float, text: str, message: Message = messages.MASTER_DIED) -> None:
        now = time.monotonic()
        self.quick = self.quick + 1 if worked < QUICK else 0
        self.ready = self.ready or lived > WITHIN
        self.deaths = [*(t for t in self.deaths if now - t < WITHIN), now]
        delay = min(DELAY * 2 ** (self.quick - 2), MAX_DELAY) if self.quick > 1 else 0.0
        self.start_at = now + delay
        if delay:
            # Or systemd, which knows no main process then, would stop the unit without telling anyone.
            self.notifier.main_pid(os.getpid())
        if self.ready:
            # Nobody else does while no master lives, and who serves must not end because of that.
            self.notifier.watchdog()
        then = "giving up" if self._hopeless(now) else "starting another" + (f" in {delay:g} s" if delay else "")
        self.journal.record(message, f"{text}: {then}")

    def _hopeless(self, now: float) -> bool:
        if signal.SIGTERM in self.owed and self.quick > LAST:
            return True  # no master lives long enough to be told
        return not self.ready and len([t for t in self.deaths if now - t < WITHIN]) > ATTEMPTS


def _readable(wire: Wire) -> bool:
    poll = select.poll()
    poll.register(wire.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
