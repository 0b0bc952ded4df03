"""Slots: from systemd, from the store, and our own; and strangers on the same port. Real sockets on loopback."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from clusterd.balance.program import program
from clusterd.shell import listeners, procnet, reuseport, sockdiag
from clusterd.shell.listeners import ListenError, Slots, from_fds, from_store, open_for_run, opened_by
from tests.shell.waiting import Spawn, line, queue_length, until


class Address(NamedTuple):
    kind: str = "tcp"
    host: str = "127.0.0.1"
    port: int = 0
    path: str = ""
    mode: int = 0
    user: str | None = None
    group: str | None = None


Opened = list[Slots]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Slots put here are closed at the end."""
    made: Opened = []
    yield made
    for fd in {fd for slots in made for group in slots.groups for fd in group.fds}:
        os.close(fd)


@pytest.fixture
def four(opened: Opened) -> Slots:
    """One address with four slots."""
    opened.append(open_for_run([Address()], 4))
    return opened[-1]


def connect(slots: Slots, n: int) -> list[socket.socket]:
    """`n` clients, each with an address of its own."""
    group = slots.groups[0]
    sources = [f"127.0.1.{i + 1}" for i in range(n)]
    return arrived(group.fds, (group.host, group.port), sources)


def arrived(fds: Sequence[int], address: tuple[str, int], sources: Sequence[str]) -> list[socket.socket]:
    """A client from each source; all of them wait on `fds`, where a busy kernel puts them a moment later."""
    before = sum(map(queue_length, fds))
    clients = [socket.create_connection(address, source_address=(source, 0)) for source in sources]
    until(lambda: sum(map(queue_length, fds)) >= before + len(clients), "every connection to be queued")
    return clients


def accepted(fd: int) -> int:
    """Accept everything that waits."""
    count = 0
    with listeners.borrowed(fd) as sock:
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


# opening


def test_open_tcp(four: Slots) -> None:
    """As many listeners as slots on one port, all non-blocking, not inherited, without Nagle's delay."""
    (group,) = four.groups
    assert four.total == len(group.fds) == 4 and group.kind == "tcp" and group.text == f"127.0.0.1:{group.port}"
    for fd in group.fds:
        assert not os.get_blocking(fd) and not os.get_inheritable(fd) and reuseport.grouped(fd)
        with listeners.borrowed(fd) as sock:
            assert sock.getsockname() == (group.host, group.port)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert four.of(2) == [("tcp", group.fds[2])] and list(four.store()) == [f"slot.0.{i}" for i in range(4)]


def test_wildcard_is_both_families(opened: Opened) -> None:
    """A bare port answers on IPv4 and IPv6, or on IPv4 alone where IPv6 is missing; [::1] is IPv6 only."""
    opened.append(open_for_run([Address(host="::")], 1))
    port = opened[0].groups[0].port
    socket.create_connection(("127.0.0.1", port)).close()
    if opened[0].groups[0].host == "::":
        socket.create_connection(("::1", port)).close()
        opened.append(open_for_run([Address(host="::1")], 1))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", opened[1].groups[0].port))


def test_port_in_use_names_who(python: Spawn) -> None:
    """A port somebody has is refused with that program's name, with reuseport or without."""
    for option in ("0", "1"):
        child = python(
            "import socket, sys; s = socket.socket()\n"
            "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(sys.argv[1]))\n"
            "s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True); sys.stdin.read()",
            option,
            stdin=-1,
        )
        port = int(line(child.stdout))
        with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{port} is in use by .*\(pid {child.pid}\): stop it"):
            open_for_run([Address(port=port)], 2)
        with pytest.raises(ListenError, match=f"pid {child.pid}"):
            open_for_run([Address(host="::", port=port)], 2)
        child.communicate(b"")


def test_no_such_address() -> None:
    """An address no interface has is said to be that."""
    with pytest.raises(ListenError, match=r"no interface of this machine has the address '192\.0\.2\.1'"):
        open_for_run([Address(host="192.0.2.1", port=4711)], 1)


def test_privileged_port(python: Spawn) -> None:
    """A port below 1024 is refused with what can be done, to whoever may not."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    child = python(
        "import os; from tests.shell.test_listeners import Address, open_for_run, ListenError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: open_for_run([Address(port=1)], 1); print('opened', flush=True)\n"
        "except ListenError as e: print(e, flush=True)"
    )
    said = line(child.stdout)
    assert said.startswith("port 1 is privileged: choose one from 1024 up") or said == "opened"


def test_unix_socket(opened: Opened, tmp_path: Path) -> None:
    """A UNIX socket has its mode before anybody can connect; one left by the dead is replaced, at the end it goes."""
    path = tmp_path / "app.sock"
    for mode in (0o600, 0o660):
        slots = open_for_run([Address("unix", "", 0, str(path), mode, None, str(os.getegid()))], 4)
        opened.append(slots)
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == mode and found.st_gid == os.getegid()
        assert slots.total == 1 and slots.of(3) == [("unix", slots.groups[0].fds[0])]
        assert not reuseport.grouped(slots.groups[0].fds[0])
        with pytest.raises(ListenError, match=rf"'{path}' is in use by .*\(pid {os.getpid()}\)"):
            open_for_run([Address("unix", "", 0, str(path))], 1)
        with listeners.borrowed(opened.pop().groups[0].fds[0]) as sock:
            os.close(sock.fileno())  # dead now, and the file is left
        assert path.exists()
    slots.remove_paths()
    assert not path.exists()


def test_unix_path_of_something_else(tmp_path: Path) -> None:
    """A file that is no socket is never removed."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ListenError, match="exists and is no socket"):
        open_for_run([Address("unix", "", 0, str(path))], 1)
    assert path.read_text() == "data"
    with pytest.raises(ListenError, match=r"there is no directory .*: make it first"):
        open_for_run([Address("unix", "", 0, str(tmp_path / "no/dir"))], 1)
    with pytest.raises(ListenError, match="no such account"):
        open_for_run([Address("unix", "", 0, str(tmp_path / "x"), group="no-such-group")], 1)


def test_failure_closes_what_was_opened() -> None:
    """When one address cannot be had none is kept (held by the check for descriptors that are left)."""
    with pytest.raises(ListenError):
        open_for_run([Address(), Address(host="192.0.2.1", port=1)], 3)


# from systemd


def test_order_of_listen_streams(opened: Opened) -> None:
    """Sockets of the socket unit are slots in their order, grouped by address."""
    opened += [open_for_run([Address()], 3), open_for_run([Address(host="::1")], 3)]
    a, b = opened[0].groups[0], opened[1].groups[0]
    given = dict.fromkeys(sorted(a.fds + b.fds), "cluster@hello.socket")
    found = from_fds(given)
    assert [group.text for group in found.groups] == [a.text, b.text]
    assert [group.fds for group in found.groups] == [a.fds, b.fds]


def test_fd_store_keeps_places(four: Slots, opened: Opened) -> None:
    """Descriptors from the fd store take the places in their names, whatever their order; copies of them are closed."""
    group = four.groups[0]
    copies = [os.dup(fd) for fd in group.fds]
    shuffled = [group.fds[i] for i in (2, 0, 3, 1)]
    names = {fd: f"slot.0.{group.fds.index(fd)}" for fd in shuffled} | dict.fromkeys(copies, "cluster@hello.socket")
    found = from_fds(names)
    assert found.groups[0].fds == group.fds
    for copy in copies:
        with pytest.raises(OSError):
            os.fstat(copy)
    assert from_store({**four.store(), "control": 0}).groups == four.groups


def test_new_sockets_join_after_the_stored(four: Slots) -> None:
    """When the store has only some, the unit's others come after them: they were opened later."""
    group = four.groups[0]
    given = {group.fds[0]: "slot.0.0", group.fds[1]: "slot.0.1", group.fds[2]: "x.socket", group.fds[3]: "x.socket"}
    assert from_fds(given).groups[0].fds == group.fds


def test_only_what_systemd_opened(four: Slots) -> None:
    """Of what the fd store has, only listening sockets of whoever opens the unit's are taken; all else is closed."""
    fds = four.groups[0].fds
    given = {fds[0]: "slot.0.0", fds[1]: "slot.0.1", fds[2]: "x.socket"}
    idle, memory = socket.socket().detach(), os.memfd_create("x")
    kept, wrong = opened_by(os.geteuid(), {**given, idle: "slot.0.3", memory: "slot.0.0"})
    assert kept == given and wrong == {"slot.0.3", "slot.0.0"}
    for fd in (idle, memory):
        with pytest.raises(OSError):
            os.fstat(fd)
    other = {os.dup(fd): name for fd, name in given.items()}
    assert opened_by(os.geteuid() + 1, other) == ({}, set(given.values()))


@pytest.mark.parametrize("names", [("slot.0.1", "slot.0.1"), ("slot.0.0", "slot.0.1")])
def test_names_that_contradict_each_other(four: Slots, names: tuple[str, str]) -> None:
    """A name for two sockets, or a socket with two names: no name counts, and no socket is lost."""
    fds = four.groups[0].fds
    again = os.dup(fds[0])
    given = {**dict.fromkeys(fds, "x.socket"), fds[1]: names[0], again: names[1]}
    if names[0] != names[1]:
        given[fds[0]] = "slot.0.2"
    kept, wrong = opened_by(os.geteuid(), given)
    assert wrong >= set(names) and set(kept.values()) == {""}
    assert from_fds(kept).groups[0].fds == fds


def test_nothing_and_nonsense() -> None:
    """No sockets, or only what does not listen, is an error that says what to do."""
    with pytest.raises(ListenError, match="clusterd start NAME"):
        from_fds({})
    with pytest.raises(ListenError, match="needs ListenStream="), socket.socket() as idle:
        from_fds({idle.fileno(): "x"})
    with pytest.raises(ListenError, match="holds no slot"):
        from_store({"control": 3})


def test_listen_fds_of_the_environment(python: Spawn) -> None:
    """LISTEN_FDS of this very process is taken; somebody else's is not."""
    text = (
        "import os, sys, socket\n"
        "ss = [socket.socket() for _ in range(2)]\n"
        "for i, s in enumerate(ss):\n"
        "    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        "    s.bind(ss[0].getsockname() if i else ('127.0.0.1', 0)); s.listen()\n"
        "own = [os.dup2(s.detach(), 100 + i, False) for i, s in enumerate(ss)]\n"
        "[os.dup2(fd, 3 + i, True) for i, fd in enumerate(own)]\n"
        "os.environ.update(LISTEN_FDS='2', LISTEN_FDNAMES='a.socket:a.socket')\n"
        "os.environ['LISTEN_PID'] = str(os.getpid() + int(sys.argv[1]))\n"
        "from clusterd.shell.listeners import from_fds, given, ListenError\n"
        "try: print([g.fds for g in from_fds(given()).groups], flush=True)\n"
        "except ListenError as e: print('none', flush=True)\n"
    )
    assert line(python(text, "0").stdout) == "[(3, 4)]"
    assert line(python(text, "1").stdout) == "none"


def test_shortage(four: Slots) -> None:
    """Fewer slots than the file says, or an address it has no more, is told with the command."""
    ours = Address("tcp", "127.0.0.1", four.groups[0].port)
    assert four.shortage("hello", [ours], 4) is None and four.shortage("hello", [ours], 2) is None
    short = four.shortage("hello", [ours], 16)
    assert (
        short is not None
        and f"4 of the 16 slots of {four.groups[0].text}: " in short
        and "'clusterd start hello'" in short
    )
    beyond = four.shortage("hello", [], 4)
    assert (
        beyond is not None
        and f"still listening on {four.groups[0].text}, " in beyond
        and "'clusterd stop hello'" in beyond
    )


def test_missing(four: Slots) -> None:
    """Addresses of the file that no socket is for are told with the command."""
    ours = Address("tcp", "127.0.0.1", four.groups[0].port)
    other, path = Address("tcp", "::1", ours.port), Address("unix", "", 0, "/run/other.sock")
    assert four.missing("hello", [ours]) is None
    told = four.missing("hello", [ours, other, path])
    assert told is not None and f"no socket for [::1]:{ours.port}, /run/other.sock: run 'clusterd stop hello'" in told


def test_both_ways_to_ask_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """netlink, and where there is none the tables, tell address, port, inode and owner of a listener alike."""
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
    ):
        inodes = {os.fstat(sock.fileno()).st_ino for sock in (four, six)}

        def ours() -> list[procnet.Listener]:
            return sorted((o for o in procnet.listeners() if o.inode in inodes), key=lambda o: o.host)

        asked = ours()
        assert [(o.host, o.port) for o in asked] == [four.getsockname()[:2], six.getsockname()[:2]]

        def refuses() -> list[object]:
            raise OSError(errno.EAFNOSUPPORT, "no netlink here")

        monkeypatch.setattr(procnet.sockdiag, "listening", refuses)
        assert ours() == asked


def test_strangers(four: Slots, opened: Opened) -> None:
    """A listener on the same address, or a narrower one, that is not ours is found; our own and wider ones are not."""
    group = four.groups[0]
    assert four.strangers() == []
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((group.host, group.port))
        other.listen()
        (told,) = four.strangers()
        assert f"(pid {os.getpid()}) listens on {group.text} as well" in told
        own = four.inodes()
        (found,) = procnet.foreign_listeners("0.0.0.0", group.port, own)
        assert found.inode == os.fstat(other.fileno()).st_ino
        assert len(procnet.foreign_listeners("::", group.port, own)) == 1
        assert procnet.foreign_listeners("::1", group.port, own) == []
    assert four.strangers() == []


def test_the_kernel_tells_the_cgroup(four: Slots) -> None:
    """A listener's cgroup is told to everybody: the one it was made in, the same for all of a group."""
    found = [each.cgroup for each in sockdiag.listening() if each.port == four.groups[0].port]
    assert len(found) == 4 and len(set(found)) == 1 and found[0] > 0


# the kernel's side of balancing


@pytest.mark.parametrize("mode", ["random", "hash"])
def test_only_live_slots_get_connections(four: Slots, mode: str) -> None:
    """The kernel runs the program: connections go to live slots only, and to each of them."""
    fds = four.groups[0].fds
    for live in ([1, 3], [2], [0, 1, 2, 3]):
        reuseport.attach(fds[0], program(mode, live))  # type: ignore[arg-type]
        clients = connect(four, 60)
        waiting = [queue_length(fd) for fd in fds]
        found = {i: accepted(fd) for i, fd in enumerate(fds)}
        assert [found[i] for i in range(4)] == waiting and sum(found.values()) == 60
        assert {i for i, n in found.items() if n} == set(live)
        for client in clients:
            client.close()


def test_hash_over_ipv6_and_dual_stack(opened: Opened) -> None:
    """The hash finds the client's address in IPv6 packets too, and in IPv4 packets to a dual-stack socket."""
    opened.append(open_for_run([Address(host="::")], 4))
    slots, group = opened[0], opened[0].groups[0]
    reuseport.attach(group.fds[0], program("hash", [0, 2, 3]))
    for host in ("127.0.0.1", "::1") if group.host == "::" else ("127.0.0.1",):
        sources = [f"127.0.1.{i + 1}" for i in range(60)] if host == "127.0.0.1" else ["::1"] * 60
        clients = arrived(group.fds, (host, group.port), sources)
        found = Counter({i: accepted(fd) for i, fd in enumerate(group.fds)})
        assert found[1] == 0 and found.total() == 60
        assert len(+found) == (3 if host == "127.0.0.1" else 1)  # one client, one slot
        for client in clients:
            client.close()
    assert slots.total == 4


def test_reattaching_loses_nothing(four: Slots) -> None:
    """Programs are replaced all the time while clients connect: every one of 300 connections is in some queue."""
    fds = four.groups[0].fds
    clients = []
    for i in range(300):
        reuseport.attach(fds[i % 4], program("random" if i % 2 else "hash", [i % 4, (i + 1) % 4]))
        clients += connect(four, 1)
    assert sum(accepted(fd) for fd in fds) == 300
    for client in clients:
        client.close()


SO_ATTACH_FILTER = 26
DROP = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))
"""A filter of one instruction: let no packet through."""


def refuses_filter(fd: int) -> bool:
    with listeners.borrowed(fd) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(DROP)))
        except PermissionError:
            return True
    return False


def test_locked_slots_take_no_program(four: Slots) -> None:
    """Whoever holds a slot but the first can neither steer by it nor filter it, and cannot unlock it either; the first
    steers on. A second master that locks them again does no harm."""
    four.lock()
    four.lock()
    fds = four.groups[0].fds
    for fd in fds[1:]:
        with pytest.raises(PermissionError):
            reuseport.attach(fd, program("random", [0]))
        with pytest.raises(PermissionError), listeners.borrowed(fd) as sock:
            sock.setsockopt(socket.SOL_SOCKET, 44, 0)
        assert refuses_filter(fd)
    reuseport.attach(fds[0], program("random", [3]))
    clients = connect(four, 20)
    assert [accepted(fd) for fd in fds] == [0, 0, 0, 20]
    for client in clients:
        client.close()


def test_what_is_never_steered_is_locked_whole(opened: Opened, tmp_path: Path) -> None:
    """A UNIX socket has no program, so that its only slot needs none of us to put one there."""
    opened.append(open_for_run([Address("unix", "", 0, str(tmp_path / "app.sock"))], 4))
    opened[0].lock()
    assert refuses_filter(opened[0].groups[0].fds[0])


def test_largest_program(four: Slots) -> None:
    """The kernel takes the largest program there can be."""
    for mode in ("random", "hash"):
        reuseport.attach(four.groups[0].fds[0], program(mode, range(0, 256, 2)))  # type: ignore[arg-type]


def test_no_group_no_program() -> None:
    """A socket without reuseport cannot be steered, and says so."""
    with socket.socket() as lonely:
        lonely.bind(("127.0.0.1", 0))
        lonely.listen()
        assert not reuseport.grouped(lonely.fileno())
        with pytest.raises(OSError):
            reuseport.attach(lonely.fileno(), program("random", [0]))


def test_slots_in_order_of_listen(opened: Opened) -> None:
    """The program's index is the order of the listen() calls: the constant program reaches exactly that slot."""
    opened.append(open_for_run([Address()], 6))
    slots = opened[0]
    for i, fd in enumerate(slots.groups[0].fds):
        reuseport.attach(fd, program("random", [i]))
        (client,) = connect(slots, 1)
        assert queue_length(fd) == 1 and accepted(fd) == 1
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
