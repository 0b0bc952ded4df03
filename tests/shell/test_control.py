"""The control socket with real peers: rights, order, bounds, and the protocol as Varlink has it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from clusterd.shell import control
from clusterd.shell.control import Peer
from clusterd.shell.interface import MAX_REQUEST, Rights
from tests.shell.control_peers import Caller, Server
from tests.shell.waiting import Spawn, line

MOST = control.MAX_CLIENTS[Rights.CHANGE]


def test_anybody_may_connect(server: Server) -> None:
    """The socket's mode lets everybody in; credentials decide what they may."""
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o666


def test_call_progress_reply(server: Server, caller: Caller) -> None:
    """A call with more is told its progress, each reply but the last continues."""
    caller.send("Reload", parameters={"environment": {"A": "1"}, "overlay": None}, more=True)
    call = server.call()
    assert (call.method, call.parameters) == ("Reload", {"environment": {"A": "1"}, "overlay": None})
    call.progress(progress={"phase": "preparing"})
    call.reply(receipt={"number": 1})
    call.reply(receipt={"number": 2})
    assert caller.reply() == {"parameters": {"progress": {"phase": "preparing"}}, "continues": True}
    assert caller.reply() == {"parameters": {"receipt": {"number": 1}}}
    caller.send("Status")
    server.call().error("Busy", text="later")
    assert caller.reply() == {"error": "io.clusterd.Busy", "parameters": {"text": "later"}}


def test_without_more_no_progress(server: Server, caller: Caller) -> None:
    """A caller that did not ask for more gets one reply; one that wants none gets none."""
    caller.send("Reload")
    caller.send("Reload", oneway=True)
    caller.send("Status")
    first, second, third = server.call(), server.call(), server.call()
    first.progress(progress={})
    third.reply(n=3)
    second.reply(n=2)
    first.reply(n=1)
    assert [caller.reply()["parameters"]["n"], caller.reply()["parameters"]["n"]] == [1, 3]


def test_replies_in_order_of_calls(server: Server, caller: Caller) -> None:
    """A later call answered earlier waits for its turn, and a reload under way holds nothing else of the master up."""
    for _ in range(3):
        caller.send("Status", more=True)
    calls = [server.call() for _ in range(3)]
    calls[2].reply(n=2)
    calls[1].progress(n="1a")
    calls[0].progress(n="0a")
    assert caller.reply()["parameters"]["n"] == "0a"
    calls[0].reply(n=0)
    calls[1].reply(n=1)
    assert [caller.reply()["parameters"]["n"] for _ in range(4)] == [0, "1a", 1, 2]


@pytest.mark.parametrize(
    ("method", "parameters", "error", "detail"),
    [
        ("io.clusterd.Fly", {}, "org.varlink.service.MethodNotFound", {"method": "io.clusterd.Fly"}),
        ("io.other.Fly", {}, "org.varlink.service.InterfaceNotFound", {"interface": "io.other"}),
        ("Fly", {}, "org.varlink.service.MethodNotFound", {"method": "io.clusterd.Fly"}),
        ("Status", {"x": 1}, "org.varlink.service.InvalidParameter", {"parameter": "x"}),
        ("Reload", {"overlay": {"a": 1}}, "org.varlink.service.InvalidParameter", {"parameter": "overlay"}),
        ("Changes", {"profile": {}}, "org.varlink.service.InvalidParameter", {"parameter": "profile"}),
        ("Try", {"overlay": "x"}, "org.varlink.service.InvalidParameter", {"parameter": "overlay"}),
        ("Reload", {"environment": []}, "org.varlink.service.InvalidParameter", {"parameter": "environment"}),
        ("org.varlink.service.Fly", {}, "org.varlink.service.MethodNotFound", {"method": "org.varlink.service.Fly"}),
    ],
)
def test_wrong_calls(
    server: Server, caller: Caller, method: str, parameters: Any, error: str, detail: dict[str, str]
) -> None:
    """What is wrong is told by Varlink's own errors, naming it, and never reaches the master."""
    caller.send(method, parameters=parameters)
    assert caller.reply() == {"error": error, "parameters": detail}
    assert server.calls == []


@pytest.mark.parametrize(
    "data",
    [b"hello\0", b"[]\0", b"{}\0", b'{"method": 1}\0', b'{"method": "x.Y", "parameters": [1]}\0', b'{"fds": 3}\0'],
)
def test_protocol_breakers_are_cut_off(server: Server, caller: Caller, data: bytes) -> None:
    """Who does not speak Varlink is hung up on; others are served as before."""
    caller.sock.send(data)
    assert caller.hung_up()
    with contextlib.closing(Caller(server).wire) as wire:
        wire.send({"method": "io.clusterd.Status"})
        assert server.call().method == "Status"


def test_descriptors_are_not_taken(server: Server, caller: Caller) -> None:
    """A client cannot fill the master's table of open files, not even with half a message."""
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(caller.sock, [b'{"method"'], [0, 1, 2])
    assert caller.hung_up()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_request_is_bounded(server: Server, caller: Caller) -> None:
    """A request without an end is cut off at its limit."""
    junk = b'{"method": "' + b"x" * 65536
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 2 * MAX_REQUEST:
            try:
                sent += caller.sock.send(junk)
            except BlockingIOError:
                server.step()
    assert caller.hung_up() and sent <= 2 * MAX_REQUEST


def test_replies_are_bounded(server: Server, caller: Caller) -> None:
    """A client that does not read is cut off before it costs the master more than its share; the call goes nowhere."""
    caller.send("Reload", more=True)
    call = server.call()
    for _ in range(200):
        call.progress(text="x" * 65536)
    assert call.client.closed and server.control.clients == set()
    call.reply(receipt={})


def test_slow_reader_gets_everything(server: Server, caller: Caller) -> None:
    """Replies that do not fit the socket's buffer are kept and sent on."""
    caller.send("Status", more=True)
    call = server.call()
    for n in range(40):
        call.progress(n=n, text="x" * 65536)
    call.reply(n=40)
    assert [caller.reply()["parameters"]["n"] for _ in range(41)] == list(range(41))


def test_calls_at_once_are_bounded(server: Server, caller: Caller) -> None:
    """So many unanswered calls and no more."""
    for _ in range(control.MAX_CALLS + 1):
        caller.send("Status")
    assert caller.hung_up()


def test_calls_a_second_are_bounded(server: Server, caller: Caller) -> None:
    """Who calls faster is heard again once the second is over, and loses no call; others are answered meanwhile."""
    count = 3 * control.RATE[Rights.CHANGE]
    for _ in range(count):
        caller.send("org.varlink.service.GetInfo")
    server.until(lambda: any(client.slowed_until is not None for client in server.control.clients))
    (client,) = server.control.clients
    other = Caller(server)
    other.send("org.varlink.service.GetInfo")
    assert other.reply()["parameters"]["product"] == "clusterd"
    caller.send("org.varlink.service.GetInfo")
    now = 0.0
    while len(caller.got) < count + 1:
        if client.slowed_until is not None:
            now = client.slowed_until
            assert server.control.deadline() == now
            server.control.expire(now)
        server.step(now)
        caller.receive()
    assert now >= count / control.RATE[Rights.CHANGE] - 1.1
    other.wire.close()


def test_clients_are_bounded(server: Server) -> None:
    """One client too many is hung up on; when one leaves another may come."""
    callers = [Caller(server) for _ in range(MOST)]
    server.until(lambda: len(server.control.clients) == MOST)
    extra = Caller(server)
    assert extra.hung_up()
    callers[0].wire.close()
    server.until(lambda: len(server.control.clients) == MOST - 1)
    late = Caller(server)
    late.send("Status")
    server.call().reply(status={})
    assert late.reply() == {"parameters": {"status": {}}}
    for each in [*callers, extra, late]:
        each.wire.close()


def test_idle_clients_leave(server: Server, caller: Caller) -> None:
    """Who asks nothing for long is hung up on; who waits for an answer is not."""
    other = Caller(server)
    other.send("Reload")
    call = server.call()
    server.until(lambda: len(server.control.clients) == 2)
    assert server.control.deadline() == control.IDLE
    server.control.expire(control.IDLE - 1)
    assert len(server.control.clients) == 2
    server.control.expire(control.IDLE)
    assert server.control.clients == {call.client} and server.control.deadline() is None
    assert caller.hung_up()
    other.wire.close()


def test_client_that_dies(server: Server) -> None:
    """The reloading client may die: its call goes on, and answers to it are no error."""
    caller = Caller(server)
    caller.send("Reload", more=True)
    call = server.call()
    caller.wire.close()
    server.until(lambda: call.client.closed)
    call.progress(progress={})
    call.reply(receipt={})


# rights


def test_rights() -> None:
    """Root and the service's user change, the group reads by its main or another membership, others nothing."""

    def rights(uid: int, gid: int, *groups: int) -> Rights:
        return Peer(1, uid, gid, frozenset(groups)).rights(990, 900)

    assert rights(0, 0) is Rights.CHANGE and rights(990, 5) is Rights.CHANGE
    assert rights(7, 900) is Rights.READ and rights(7, 5, 6, 900) is Rights.READ
    assert rights(7, 5, 6) is Rights.NONE
    assert Peer(1, 7, 7, frozenset()).rights(990, None) is Rights.NONE


def test_credentials_are_the_kernels(server: Server, python: Spawn) -> None:
    """The peer's user and all its groups are known; without rights it may ask who answers, and nothing else."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    for directory in Path(server.path).parents:
        if directory.stat().st_uid == os.geteuid() and directory.name.startswith(("pytest-", "popen-", "test_")):
            directory.chmod(0o755)
    child = python(
        "import os, sys; from clusterd.shell.client import call, VarlinkError\n"
        "os.setgroups([4242, 4243]); os.setgid(4241); os.setuid(65534)\n"
        "print(next(call(sys.argv[1], 'org.varlink.service.GetInfo'))['product'], flush=True)\n"
        "for method in ('Status', 'Reload'):\n"
        "    try: next(call(sys.argv[1], method))\n"
        "    except VarlinkError as e: print(e.name, e.parameters['text'], flush=True)",
        server.path,
    )
    seen: list[Peer] = []
    real, control.peer_of = control.peer_of, lambda sock: seen.append(real(sock)) or seen[-1]  # type: ignore[func-returns-value]
    try:
        server.until(lambda: child.poll() is not None)
    finally:
        control.peer_of = real
    assert [line(child.stdout) for _ in range(3)] == [
        "clusterd",
        "NotAllowed Status is for the group clusterd",
        "NotAllowed Reload is for root and the service's user",
    ]
    assert seen[0].uid == 65534 and seen[0].gid == 4241 and seen[0].groups >= {4242, 4243}
    assert server.calls == []


def test_strangers_cannot_keep_others_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients without rights have few places of their own, so that the administrator always gets in."""
    monkeypatch.setattr(Peer, "rights", lambda self, uid, readers: Rights.NONE)
    strangers = [Caller(server) for _ in range(control.MAX_CLIENTS[Rights.NONE] + 3)]
    server.until(lambda: len(server.control.clients) == control.MAX_CLIENTS[Rights.NONE])
    assert strangers[-1].hung_up()
    monkeypatch.setattr(Peer, "rights", lambda self, uid, readers: Rights.CHANGE)
    root = Caller(server)
    root.send("Status")
    assert server.call().method == "Status"
    for each in [*strangers, root]:
        each.wire.close()
