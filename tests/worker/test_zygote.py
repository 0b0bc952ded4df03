"""A zygote over a real channel: births, deaths, the twin, and the ends nobody announces."""

from __future__ import annotations

import os
import signal

from harness import Client, signal_pidfd


def test_a_worker_accepts_only_when_told_to_serve(start, slots):
    """A worker that is ready has never seen a request; from "serve" on it answers what has been queued."""
    master = start()
    up = master.up()
    assert (up["mode"], up["why"], up["interface"]) == ("fork", [], "asgi")
    assert up["engine"].startswith("uvicorn ")
    (slot,) = slots(1)
    worker = master.fork([slot], slot=2)
    client = Client(slot.getsockname())
    client.ask("/")
    assert worker.go()["seconds"] >= 0
    client.sock.settimeout(0.1)
    try:
        client.sock.recv(1)
        raise AssertionError("answered before it was told to serve")
    except TimeoutError:
        pass
    client.sock.settimeout(10)
    worker.serve()
    status, _, body = client.read()
    assert (status, body) == (200, "hello from worker 1, slot 2, generation 3\n")
    client.close()


def test_drain_answers_in_flight_then_closes(start, slots):
    """What is in flight is answered, and what comes on kept connections, with Connection: close; then it leaves."""
    master = start()
    master.up()
    (slot,) = slots(1)
    worker = master.serving([slot])
    busy, kept, idle = (Client(slot.getsockname()) for _ in range(3))
    assert kept.get()[0] == idle.get()[0] == 200
    busy.ask("/sleep?seconds=0.5")
    assert kept.get("/pid")[2] == f"{worker.pid}\n"
    worker.drain(linger=0.3)
    worker.peer.expect("draining")
    status, headers, _ = kept.get()
    assert (status, headers["connection"]) == (200, "close")
    assert kept.ended()
    assert idle.ended()
    status, headers, body = busy.read()
    assert (status, headers["connection"], body) == (200, "close", "slept 0.5 s\n")
    report = worker.peer.expect("drained")
    assert (report["requests"], report["closed"], report["cut"], report["websockets"]) == (5, 1, 0, 0)
    assert worker.gone()
    assert master.exited(worker) == 0
    for client in (busy, kept, idle):
        client.close()


def test_orders_may_be_repeated(start, slots):
    """A new master says again what it finds written: no order does anything twice."""
    master = start()
    up = master.up()
    master.peer.send({"op": "boot"})
    assert master.peer.expect("up") == up
    (slot,) = slots(1)
    worker = master.fork([slot])
    again = {"op": "fork", "worker": worker.number, "slot": 0, "listeners": []}
    master.peer.send(again, [slot.fileno(), slot.fileno()])
    assert master.peer.expect("forked")["pid"] == worker.pid
    worker.peer.send({"op": "go"})
    worker.peer.send({"op": "go"})
    worker.peer.expect("ready")
    worker.peer.send({"op": "state"})
    worker.peer.expect("ready")
    worker.serve()
    worker.peer.send({"op": "serve"})
    worker.peer.send({"op": "state"})
    worker.peer.expect("serving")
    master.peer.send({"op": "list"})
    assert master.peer.expect("forked")["worker"] == worker.number
    master.peer.expect("listed")
    worker.drain()
    worker.drain()
    worker.drained()


def test_end_of_file_on_the_channel_drains(start, slots):
    """A worker nobody wants any more finishes what it has and leaves with status 0."""
    master = start()
    master.up()
    (slot,) = slots(1)
    worker = master.serving([slot])
    client = Client(slot.getsockname())
    client.ask("/sleep?seconds=0.3")
    other = Client(slot.getsockname())
    other.get()
    worker.peer.wire.sock.shutdown(2)
    assert client.read()[2] == "slept 0.3 s\n"
    assert worker.gone()
    assert master.exited(worker) == 0
    client.close()
    other.close()


def test_end_of_file_before_go_leaves(start, slots):
    """A worker whose master went away before it knew the worker never begins."""
    master = start()
    master.up()
    worker = master.fork(slots(1))
    worker.peer.wire.sock.shutdown(2)
    assert worker.gone()
    assert master.exited(worker) == 0


def test_zygote_leaves_when_nobody_wants_it(start, slots):
    """End of file ends the zygote with status 0; its workers live on."""
    master = start()
    master.up()
    (slot,) = slots(1)
    worker = master.serving([slot])
    master.peer.wire.sock.shutdown(2)
    assert master.process.wait(10) == 0
    client = Client(slot.getsockname())
    assert client.get()[0] == 200
    client.close()
    worker.drain()
    worker.drained()


def test_end(start):
    """ "end" ends it, also directly after other orders."""
    master = start()
    master.up()
    master.peer.send({"op": "list"})
    master.peer.send({"op": "end"})
    master.peer.expect("listed")
    assert master.process.wait(10) == 0


def test_the_twin_takes_over(start, slots):
    """A SIGKILLed zygote costs nothing: its twin forks from the same imported state, its workers serve on."""
    master = start()
    master.up()
    first, second = slots(2)
    old = master.serving([first])
    peer, pid, _ = master.twin()
    assert pid not in (old.pid, master.process.pid)
    master.process.kill()
    master.process.wait()
    assert master.peer.at_end()
    (master.directory / "hello.py").write_text("raise RuntimeError('half-copied')")
    master.zygote = peer
    peer.send({"op": "list"})
    peer.expect("listed")
    new = master.serving([second], slot=1)
    assert old.pid != new.pid
    third, _, _ = master.twin()
    third.send({"op": "boot"})
    assert third.expect("up")["mode"] == "fork"
    os.kill(new.pid, signal.SIGKILL)
    assert master.exited(new) == signal.SIGKILL


def test_a_killed_worker_is_reported(start, slots):
    """The status is the one waitpid gives."""
    master = start()
    master.up()
    worker = master.serving(slots(1))
    signal_pidfd(worker.pidfd)
    assert master.exited(worker) == 9


def test_sigterm_from_anybody_drains(start, slots):
    """SIGTERM to a worker is a drain, SIGINT and SIGHUP of a terminal are nothing."""
    master = start()
    master.up()
    worker = master.serving(slots(1))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal_pidfd(worker.pidfd, number)
    worker.drained()
    assert master.exited(worker) == 0


def test_a_drain_before_serve(start, slots):
    """A worker that was never told to serve drains at once."""
    master = start()
    master.up()
    worker = master.fork(slots(1))
    worker.go()
    worker.drain(linger=5)
    assert worker.drained()["requests"] == 0
