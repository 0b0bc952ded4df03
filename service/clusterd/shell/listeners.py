"""The slots: listening sockets from systemd, from the keeper's store, or opened by ourselves for `clusterd run`.

A slot is known by its place (address A, index I) and named `slot.A.I`; a socket is known by its inode, because systemd
gives the same one twice (socket unit and fd store), in an order of its own.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from clusterd.shell import procnet
from clusterd.shell.reuseport import grouped, lock
from clusterd.shell.sockets import borrowed

BACKLOG = 4096
NAME = re.compile(r"slot\.([0-9]{1,4})\.([0-9]{1,4})")


class ListenError(Exception):
    """Why the sockets cannot be had, and what to do about it."""


class Listen(Protocol):
    """One address to listen on, as config.addresses.Address has it."""

    @property
    def kind(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def mode(self) -> int: ...
    @property
    def user(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...


@dataclass(frozen=True)
class Group:
    """The listeners of one address, by slot. A UNIX socket, or one without reuseport, has one for all slots."""

    kind: str
    host: str
    port: int
    path: str
    fds: tuple[int, ...]

    @property
    def text(self) -> str:
        if self.kind == "unix":
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Slots:
    """Every address, in the order of `listen`."""

    groups: tuple[Group, ...]

    @property
    def total(self) -> int:
        """How many slots there are: the most any address has."""
        return max((len(group.fds) for group in self.groups), default=0)

    def of(self, slot: int) -> list[tuple[str, int]]:
        """What a worker of `slot` listens on: ("tcp" or "unix", fd) for each address."""
        return [(group.kind, group.fds[slot % len(group.fds)]) for group in self.groups]

    def store(self) -> dict[str, int]:
        """By the names of the keeper's store and of systemd's."""
        return {f"slot.{a}.{i}": fd for a, group in enumerate(self.groups) for i, fd in enumerate(group.fds)}

    def inodes(self) -> frozenset[int]:
        return frozenset(os.fstat(fd).st_ino for group in self.groups for fd in group.fds)

    def lock(self) -> None:
        """Keep workers from steering or filtering by their slots; by the first of a group the master steers."""
        for group in self.groups:
            for fd in group.fds[1:] if grouped(group.fds[0]) else group.fds:
                lock(fd)

    def strangers(self) -> list[str]:
        """One line for each listener of somebody else that takes connections meant for ours."""
        own = self.inodes()
        return [
            f"{procnet.who(other.inode) or f'a process of uid {other.uid}'} listens on {other.text} as well, "
            f"and takes connections meant for {group.text}"
            for group in self.groups
            if group.kind == "tcp"
            for other in procnet.foreign_listeners(group.host, group.port, own)
        ]

    def missing(self, name: str, listen: Sequence[Listen], clusterd: str = "clusterd") -> str | None:
        """Addresses of application `name` that no socket is for, and the command that brings them; None: none.

        `clusterd` is what a person types to reach the application.
        """
        lacking = [_text(a) for a in listen if not any(_same(group, a) for group in self.groups)]
        if not lacking:
            return None
        return f"systemd passed no socket for {', '.join(lacking)}: {_again(name, clusterd)}"

    def shortage(self, name: str, listen: Sequence[Listen], slots: int, clusterd: str = "clusterd") -> str | None:
        """Where the sockets are not what the file of application `name` says, though it can be served; None: nowhere.

        `listen` and `slots` are the file's. Too few slots cost balance, and an address too many is open to clients.
        """
        beyond = [group.text for group in self.groups if not any(_same(group, a) for a in listen)]
        if beyond:
            return f"still listening on {', '.join(beyond)}, which the file has no more: {_again(name, clusterd)}"
        short = next((g for g in self.groups if len(g.fds) < slots and grouped(g.fds[0])), None)
        if short is None:
            return None
        return f"systemd passed only {len(short.fds)} of the {slots} slots of {short.text}: {_again(name, clusterd)}"

    def remove_paths(self) -> None:
        """Remove the files of UNIX sockets; for whoever opened them with `open_for_run`, at the end."""
        for group in self.groups:
            if group.path:
                with contextlib.suppress(OSError):
                    os.unlink(group.path)


def taken(listen: Sequence[Listen]) -> str | None:
    """Which address of `listen` somebody listens on already, and who; None: none that can be seen."""
    listening = procnet.listeners()
    for address in listen:
        if others := [o for o in listening if address.kind == "tcp" and o.port == address.port]:
            return _in_use(_text(address), others)
    return None


def given(*, unset_environment: bool = True) -> dict[int, str]:
    """{fd: name} of what this process was given in LISTEN_FDS: the unit's sockets, and what is in its fd store."""
    from systemd import daemon

    return dict(daemon.listen_fds_with_names(unset_environment))


def opened_by(uid: int, given: Mapping[int, str]) -> tuple[dict[int, str], set[str]]:
    """Of {fd: name}, the listening sockets that `uid` has opened; and the names of what else the fd store has.

    Every process of a unit may store descriptors for its next start, an application that was taken over too; but no
    socket of another user's, beyond those it was given. What is not systemd's is closed. Names by which one socket
    would be two slots, or two one, are taken from all of them: the unit's order is then theirs.
    """
    kept = {fd: name for fd, name in given.items() if _listening(fd) and os.fstat(fd).st_uid == uid}
    wrong = {given[fd] for fd in given if fd not in kept}
    for fd in given.keys() - kept.keys():
        os.close(fd)
    slots = {(name, os.fstat(fd).st_ino) for fd, name in kept.items() if NAME.fullmatch(name)}
    if len({name for name, _ in slots}) < len(slots) or len({inode for _, inode in slots}) < len(slots):
        wrong |= {name for name, _ in slots}
        kept = dict.fromkeys(kept, "")
    return kept, wrong


def from_fds(given: Mapping[int, str]) -> Slots:
    """Sort {fd: name} into slots; duplicates are closed.

    From the fd store a slot comes with its name, and keeps its place. The others come in the order of ListenStream=,
    which is the order of their listen() calls and so their index in the reuseport group; their address tells which
    group they belong to, and those that are new there are appended.
    """
    if not given:
        raise ListenError("systemd passed no sockets: 'clusterd start NAME' opens them")
    named: dict[tuple[int, int], int] = {}
    plain: list[int] = []
    seen: set[int] = set()
    for fd, name in sorted(given.items(), key=lambda item: (NAME.fullmatch(item[1]) is None, item[0])):
        inode = os.fstat(fd).st_ino
        if inode in seen:
            os.close(fd)
            continue
        match = NAME.fullmatch(name)
        if match is None and not _listening(fd):
            continue  # something else from the fd store, or from a socket unit written by hand
        seen.add(inode)
        if match is not None:
            named[int(match[1]), int(match[2])] = fd
        else:
            plain.append(fd)
    fds: list[list[int]] = []
    for (address, _), fd in sorted(named.items()):
        while len(fds) <= address:
            fds.append([])
        fds[address].append(fd)
    fds = [group for group in fds if group]
    places = {_address(group[0]): group for group in fds}
    for fd in plain:
        place = _address(fd)
        if place not in places:
            places[place] = []
            fds.append(places[place])
        places[place].append(fd)
    if not fds:
        raise ListenError("systemd passed no listening stream socket: the socket unit needs ListenStream=")
    return _slots(fds)


def from_store(store: Mapping[str, int]) -> Slots:
    """The slots among the descriptors the keeper holds. Raises ListenError when there is none."""
    slots = {name: fd for name, fd in store.items() if NAME.fullmatch(name)}
    if not slots:
        raise ListenError("the keeper holds no slot")
    return from_fds({fd: name for name, fd in slots.items()})


def open_for_run(listen: Sequence[Listen], slots: int) -> Slots:
    """Open `slots` listeners for each TCP address and one for each UNIX address. Raises ListenError."""
    opened: list[list[int]] = []
    try:
        for address in listen:
            opened.append([])
            if address.kind == "unix":
                opened[-1].append(_open_unix(address))
            else:
                _open_tcp(address.host, address.port, slots, opened[-1])
    except BaseException:
        for fd in (fd for group in opened for fd in group):
            os.close(fd)
        raise
    return _slots(opened)


def _open_tcp(host: str, port: int, slots: int, opened: list[int]) -> None:
    if host == procnet.ANY6 and not _has_ipv6():
        host = procnet.ANY4  # as systemd does with a bare port
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # A stranger of our own uid with reuseport would not be an error to the kernel: it would share the connections.
    strangers = procnet.foreign_listeners(host, port, ()) if port else []
    if strangers:
        raise ListenError(_in_use(text, strangers))
    plain, _, scope = host.partition("%")
    for _ in range(slots):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if ":" in host:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != procnet.ANY6))
                sock.bind((plain, port, 0, socket.if_nametoindex(scope) if scope else 0))
            else:
                sock.bind((host, port))
            sock.listen(BACKLOG)
        except OSError as e:
            sock.close()
            raise ListenError(_explain(e, host, port, text)) from e
        port = sock.getsockname()[1]
        opened.append(sock.detach())


def _open_unix(address: Listen) -> int:
    path = address.path
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        # Nobody can connect before listen(), so there is no moment with the wrong mode.
        os.chmod(path, address.mode or 0o666)
        if address.user is not None or address.group is not None:
            os.chown(path, _uid(address.user), _gid(address.group))
        sock.listen(BACKLOG)
    except (OSError, KeyError) as e:
        sock.close()
        if isinstance(e, OSError) and e.errno == errno.EADDRINUSE:
            raise ListenError(f"'{path}' was made by another program just now: stop it, or listen elsewhere") from e
        why = f"there is no such account: {e.args[0]}" if isinstance(e, KeyError) else e.strerror
        if isinstance(e, FileNotFoundError):
            why = f"there is no directory '{os.path.dirname(path)}': make it first"
        raise ListenError(f"the socket '{path}' cannot be opened: {why}") from e
    return sock.detach()


def _clear(path: str) -> None:
    """Remove the socket file a program left that is gone. Raises ListenError when one listens, or it is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as e:
        raise ListenError(f"the socket '{path}' cannot be opened: {e.strerror}") from e
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"'{path}' exists and is no socket: remove it, or listen elsewhere")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a listener whose queue is full would hold us
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError as e:
            raise ListenError(f"'{path}' is in use ({e.strerror}): stop who listens there, or listen elsewhere") from e
        pid = int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
    raise ListenError(f"'{path}' is in use by {procnet.describe_process(pid)}: stop it, or listen elsewhere")


def _explain(error: OSError, host: str, port: int, text: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return _in_use(text, [o for o in procnet.listeners() if o.port == port])
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"port {port} is privileged: choose one from 1024 up, run as root, or use 'systemctl start cluster@NAME', "
            f"where systemd opens the port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"no interface of this machine has the address '{host}' ('ip address' lists those it has; "
            f"a port alone, {port}, is all of them)"
        )
    return f"{text} cannot be listened on: {error.strerror}"


def _in_use(text: str, others: Iterable[procnet.Listener]) -> str:
    by = sorted({procnet.who(o.inode) or f"a process of uid {o.uid}" for o in others})
    return f"{text} is in use" + (f" by {', '.join(by)}" if by else "") + ": stop it, or listen elsewhere"


def _same(group: Group, address: Listen) -> bool:
    if address.kind == "unix":
        return group.path == address.path
    # Without IPv6 systemd opens a bare port for IPv4, as `_open_tcp` does.
    hosts = (address.host, procnet.ANY4) if address.host == procnet.ANY6 else (address.host,)
    return group.port == address.port and group.host in hosts


def _text(address: Listen) -> str:
    return Group(address.kind, address.host, address.port, address.path, ()).text


def _again(name: str, clusterd: str) -> str:
    return f"run '{clusterd} stop {name}' and '{clusterd} start {name}'"


def _slots(fds: Sequence[Sequence[int]]) -> Slots:
    groups = []
    for members in fds:
        kind, host, port, path = _address(members[0])
        for fd in members:
            # O_NONBLOCK belongs to the socket, not to us: workers that share it would block in accept without.
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)
        groups.append(Group(kind, host, port, path, tuple(members)))
    return Slots(tuple(groups))


def _address(fd: int) -> tuple[str, str, int, str]:
    with borrowed(fd) as sock:
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            return "unix", "", 0, name if isinstance(name, str) else "@" + bytes(name[1:]).decode(errors="replace")
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise ListenError(f"descriptor {fd} is a socket of family {sock.family}: expected TCP or UNIX")
    host = name[0]
    if len(name) == 4 and name[3] and "%" not in host:
        host += f"%{socket.if_indextoname(name[3])}"
    return "tcp", host, name[1], ""


def _listening(fd: int) -> bool:
    try:
        with borrowed(fd) as sock:
            return sock.type == socket.SOCK_STREAM and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::", 0))
    except OSError:
        return False
    return True


def _uid(user: str | None) -> int:
    return -1 if user is None else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid


def _gid(group: str | None) -> int:
    return -1 if group is None else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
