"""A zygote over a real channel: births, deaths, the twin, and the ends nobody announces."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from harness import HELD, Client, Peer, Worker, signal_pidfd

from tests.descriptors import links
from tests.patience import HANG


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
    client.sock.settimeout(HANG)
    worker.serve()
    status, _, body = client.read()
    assert (status, body) == (200, "hello from worker 1, slot 2, generation 3\n")
    client.close()


def test_drain_answers_in_flight_then_closes(start, application, slots):
    """What is in flight is answered, and what comes on kept connections, with Connection: close; then it leaves."""
    master = start()
    master.up()
    (slot,) = slots(1)
    worker = master.serving([slot])
    busy, kept, idle = (Client(slot.getsockname()) for _ in range(3))
    assert kept.get()[0] == idle.get()[0] == 200
    busy.ask(HELD)
    assert kept.get("/pid")[2] == f"{worker.pid}\n"
    worker.drain(linger=30)
    worker.peer.expect("draining")
    status, headers, _ = kept.get()
    assert (status, headers["connection"]) == (200, "close")
    assert kept.ended()
    worker.drain(linger=0.2)
    assert idle.ended()
    (application / "go").touch()
    status, headers, body = busy.read()
    assert (status, headers["connection"], body) == (200, "close", "slept 0 s\n")
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
    client.ask("/sleep?seconds=1")
    other = Client(slot.getsockname())
    other.get()
    worker.peer.wire.sock.shutdown(2)
    assert client.read()[2] == "slept 1 s\n"
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
    assert master.process.wait(HANG) == 0
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
    assert master.process.wait(HANG) == 0


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


def test_an_application_that_ignores_its_children(start, application, slots):
    """With SIGCHLD ignored the kernel reaps: how a worker died is then unknown to the zygote, which goes on."""
    (application / "deaf.py").write_text(
        "import signal\nfrom hello import app\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    )
    master = start()
    master.up(app="deaf:app")
    first = master.serving(slots(1))
    signal_pidfd(first.pidfd)
    assert first.gone()
    (slot,) = slots(1)
    master.serving([slot])
    client = Client(slot.getsockname())
    assert client.get()[0] == 200
    client.close()


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


def test_a_worker_has_its_own_descriptors_only(start, slots):
    """Orders that came together: no worker holds a listener, a channel or a pidfd that is another's."""
    master = start()
    master.up()
    made = slots(6)
    before = master.fork([made[5]])  # so that the zygote holds a pidfd
    ends = [(socket.socketpair(), os.pipe()) for _ in range(5)]
    signal_pid = os.pidfd_open(master.process.pid)
    signal_pidfd(signal_pid, signal.SIGSTOP)  # all the orders are in the socket when it looks
    for number, ((_, theirs), (_, writer)) in enumerate(ends):
        order = {"op": "fork", "worker": 100 + number, "slot": number, "slots": 5, "listeners": ["tcp"]}
        master.peer.send(order, [theirs.fileno(), writer, made[number].fileno()])
    signal_pidfd(signal_pid, signal.SIGCONT)
    os.close(signal_pid)
    for (ours, theirs), (reader, writer) in ends:
        theirs.close()
        os.close(writer)
        message, fds = master.peer.next()
        assert message["event"] == "forked"
        worker = Worker(message["worker"], 0, Peer(ours), reader)
        worker.pid, worker.pidfd = message["pid"], fds[0]
        master.workers.append(worker)
    inodes = {os.fstat(sock.fileno()).st_ino for sock in made}
    for number, worker in enumerate(master.workers[1:]):
        worker.go()
        held = links(worker.pid)
        theirs = {inode for inode in inodes if f"socket:[{inode}]" in held}
        assert theirs == {os.fstat(made[number].fileno()).st_ino}
        assert not [link for link in held if "pidfd" in link]
    assert before.peer.wire.sock.fileno() >= 0


def test_what_a_worker_is_to_others(start, slots):
    """Seen with ps: which worker it is; easier to kill than its zygote; out of the reach of the terminal's Ctrl-C."""
    master = start()
    master.up()
    worker = master.fork(slots(1), slot=2)
    worker.go()

    def read(pid: int, name: str) -> str:
        return Path(f"/proc/{pid}/{name}").read_text().rstrip("\0\n")

    assert read(worker.pid, "cmdline").startswith("clusterd: hello worker 1 slot 2")
    assert read(worker.pid, "comm") == "worker-1"
    assert read(master.process.pid, "cmdline").startswith("clusterd: hello zygote 3")
    assert (read(worker.pid, "oom_score_adj"), read(master.process.pid, "oom_score_adj")) == ("200", "100")
    assert os.getpgid(worker.pid) == worker.pid != os.getpgid(master.process.pid) == master.process.pid
    assert os.readlink(f"/proc/{worker.pid}/fd/0") == "/dev/null"


def test_an_application_knows_its_worker(start, application, slots):
    """`from clusterd import worker` works in an application, whose own modules come first."""
    (application / "mine.py").write_text(
        "import sys, os, hello\nfrom clusterd import worker as w\n"
        "imported = (w.id, w.app, sys.path[0], sys.argv, 'LISTEN_FDS' in os.environ)\n"
        "async def app(scope, receive, send):\n"
        "    await hello.respond(send, 200, repr((imported, w.id, w.slot, w.slots, w.generation, w.app)))\n"
    )
    (application / "worker.py").write_text("raise RuntimeError('not this one')\n")
    master = start(env={"LISTEN_FDS": "3"})
    master.up(app="mine:app")
    (slot,) = slots(1)
    master.serving([slot], slot=3)
    client = Client(slot.getsockname())
    imported = (None, "hello", str(application), [""], False)
    assert client.get()[2] == repr((imported, 1, 3, 4, 3, "hello"))
    client.close()
