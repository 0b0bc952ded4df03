"""A master reduced to its dealings with the keeper: tells on stdout what it sees, one JSON object a line.

    fake_master.py crash       exit 1 at once
                   bye N       say bye with N at once
                   flaky N     crash N times, then serve
                   serve       until SIGTERM or SIGINT
                   deaf        serve without a heartbeat
                   early       serve, but take signals only when one is pending

SIGUSR1 makes a child that waits, SIGUSR2 keeps three descriptors, SIGTERM and SIGINT end it: bye 7. All are told.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time

from clusterd.keeper import QUICK, start_successor
from clusterd.shell.memory import State
from clusterd.shell.signals import Signals
from clusterd.worker.wire import Closed, Wire

KEEPER = [sys.executable, "-c", "import sys; from clusterd.keeper import main; sys.exit(main(sys.argv[1:]))"]


def tell(**what: object) -> None:
    os.write(1, json.dumps({"pid": os.getpid(), **what}).encode() + b"\n")


def main(mode: str, argument: str = "0") -> int:
    wire = Wire(socket.socket(fileno=int(os.environ["CLUSTERD_KEEPER"])))
    store: dict[str, int] = {}
    start = 0
    while not start:
        for message, fds in wire.receive():
            store |= dict(zip(message.get("names", []), fds, strict=True))
            if message["event"] == "stored":
                start, reaped = message["start"], message["reaped"]
    wire.sock.setblocking(False)
    note = os.pread(store["note"], 100, 0).decode() if "note" in store else None
    inodes = {name: os.fstat(fd).st_ino for name, fd in store.items() if name.startswith("slot.")}
    environment = sorted(name for name in os.environ if name.startswith(("LISTEN_", "WATCHDOG_")))
    session = os.getsid(0) == os.getpid()
    tell(start=start, note=note, reaped=reaped, slots=inodes, environment=environment, session=session)
    if mode == "flaky" and start <= int(argument):
        time.sleep(1.1 * QUICK)  # as if its interpreter took its time to start
        return 1
    if mode == "crash":
        return 1
    if mode == "bye":
        wire.send({"op": "bye", "status": int(argument)})
        return 0
    if note is None:
        store["note"] = os.memfd_create("note")
        os.write(store["note"], b"from master %d" % start)
        wire.send({"op": "keep", "name": "note"}, [store["note"]])
        store["dropped"] = os.open("/dev/null", os.O_RDONLY)
        wire.send({"op": "keep", "name": "dropped"}, [store["dropped"]])
        wire.send({"op": "drop", "names": ["dropped", "unknown"]})
        del store["dropped"]
    state = State(store["state"]) if "state" in store else State.create()
    store["state"] = state.fd
    state.beat(time.monotonic())
    wire.send({"op": "keep", "name": "state"}, [state.fd])
    wire.send({"op": "ready"})
    if mode == "early":
        tell(early=True)
        while not signal.sigpending():
            time.sleep(0.005)
    signals = Signals([signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
    tell(ready=True)
    while True:
        ready, _, _ = select.select([signals, wire], [], [], 0.05)
        if mode != "deaf":
            state.beat(time.monotonic())
        if signals in ready:
            for number in signals.read():
                if number == signal.SIGUSR2:
                    for one in range(3):
                        wire.send({"op": "keep", "name": f"slot.8.{one}"}, [store["note"]])
                tell(signal=signal.Signals(number).name)
                if number in (signal.SIGTERM, signal.SIGINT):
                    wire.send({"op": "bye", "status": 7})
                    return 0
                if number == signal.SIGUSR1 and os.fork() == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    tell(child=os.getpid())  # not before a signal can end it
                    signal.pause()
        if wire in ready:
            try:
                for message, _ in wire.receive():
                    tell(**{**message, "about": message.get("pid")})
            except Closed:
                wire.close()
                if argument != "succeed":
                    return 1  # the test is over and its keeper killed: another one would outlive it
                launch = [sys.executable, *sys.argv]
                pid, fd, wire = start_successor(KEEPER, launch, store, app="test", foreground=False, start=start)
                os.close(fd)
                wire.send({"op": "keep", "name": "slot.9.9"}, [store["note"]])
                tell(successor=pid)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
