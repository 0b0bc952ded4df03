"""The server side of RUNTIME/control: Varlink, bounded, never waiting, with peer credentials for rights."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from clusterd import __version__
from clusterd.shell.interface import MAX_REQUEST, METHODS, NAME, SERVICE, SERVICE_TEXT, TEXT, TEXTS, Rights
from clusterd.shell.poll import READ, WRITE, Poll
from clusterd.worker.wire import Message, Wire, WireError

GROUP = "clusterd"
MAX_REPLIES = 4 << 20
"""Bytes of replies a client may leave unread; one that leaves more is cut off."""
MAX_CLIENTS = {Rights.CHANGE: 64, Rights.READ: 32, Rights.NONE: 8}
"""At once, by what they may do: those who may less must not be able to keep the others out."""
MAX_CALLS = 16
"""Unanswered calls of one client."""
RATE = {Rights.CHANGE: 100, Rights.READ: 10, Rights.NONE: 10}
"""Calls of one client that are taken in a second. Those above it wait in its socket: it is slowed down, not refused."""
IDLE = 60.0
"""Seconds a client may stay without a call."""

_SO_PEERGROUPS = 59
_BACKLOG = 64
_CHUNK = 256
"""Bytes of one client that are looked at before it is another's turn: half a dozen calls at most."""


def listen(path: str) -> socket.socket:
    """A new control socket at `path`, in place of one left there. Anybody may connect: credentials decide."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, 0o666)
        sock.listen(_BACKLOG)
    except OSError as e:
        sock.close()
        raise OSError(e.errno, e.strerror, path) from e
    sock.setblocking(False)
    return sock


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]

    def rights(self, uid: int, readers: int | None) -> Rights:
        """Root and `uid`, the service's own, change things; members of group `readers` read."""
        if self.uid in (0, uid):
            return Rights.CHANGE
        if readers is not None and readers in {self.gid, *self.groups}:
            return Rights.READ
        return Rights.NONE


def peer_of(sock: socket.socket) -> Peer:
    """The credentials of the process at the other end, at the time it connected; or listened, as its client sees it."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    # Python's getsockopt() gives 1,024 bytes at most, 256 groups; a peer in more fails (ERANGE) and counts as in none.
    groups: tuple[int, ...] = ()
    with contextlib.suppress(OSError):
        data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
        groups = struct.unpack(f"{len(data) // 4}I", data)
    return Peer(pid, uid, gid, frozenset(groups))


class _Plain(Wire):
    """Takes no descriptors: a client could otherwise fill the master's table of open files."""

    def receive(self) -> list[tuple[Message, list[int]]]:
        received = super().receive()
        if self._fds or any(fds for _, fds in received):
            for fd in (fd for _, fds in received for fd in fds):
                os.close(fd)
            raise WireError("descriptors are not taken here")
        return received


class Control:
    """Register nothing yourself: it keeps `poll` up to date, with itself and each Client as keys.

    On an event whose key is the Control call `accept`; on one whose key is a Client, `read` (or let `handle` do it).
    """

    def __init__(self, sock: socket.socket, poll: Poll[Any], *, uid: int | None = None) -> None:
        """`sock` from `listen` or the keeper's store; `uid` is the service's user, by default our own."""
        self.sock = sock
        sock.setblocking(False)
        self.poll = poll
        self.uid = os.geteuid() if uid is None else uid
        self.clients: set[Client] = set()
        poll.register(sock.fileno(), READ, self)

    def accept(self, now: float) -> Client | None:
        """The next client; None when there is none, or one too many (which is then hung up on)."""
        try:
            sock, _ = self.sock.accept()
        except OSError:  # none, gone again, or no descriptor left: the next event tries again
            return None
        sock.setblocking(False)
        try:
            rights = peer_of(sock).rights(self.uid, _gid(GROUP))
        except OSError:
            sock.close()
            return None
        if sum(1 for client in self.clients if client.rights is rights) >= MAX_CLIENTS[rights]:
            sock.close()
            return None
        client = Client(self, sock, rights, now)
        self.clients.add(client)
        self.poll.register(sock.fileno(), READ, client)
        return client

    def expire(self, now: float) -> None:
        """Hang up on clients that have waited IDLE seconds without a call; hear again who had called too fast."""
        for client in [c for c in self.clients if not c.calls and now - c.since >= IDLE]:
            client.close()
        for client in [c for c in self.clients if c.slowed_until is not None and now >= c.slowed_until]:
            client.slowed_until = None
            client.watch()

    def deadline(self) -> float | None:
        """When `expire` has something to do, monotonic; None: never."""
        times = [c.since + IDLE for c in self.clients if not c.calls]
        times += [c.slowed_until for c in self.clients if c.slowed_until is not None]
        return min(times, default=None)

    def close(self) -> None:
        """Hang up on everybody; what clients have not read by now they may still read."""
        for client in list(self.clients):
            client.close()
        self.poll.unregister(self.sock.fileno())
        self.sock.close()


@dataclass(eq=False)
class Call:
    """One call of a method of io.clusterd, allowed and with parameters of the right types. Answer it exactly once."""

    client: Client
    method: str
    parameters: dict[str, Any]
    more: bool
    oneway: bool = False
    done: bool = False
    waiting: deque[Message] = field(default_factory=deque)

    def progress(self, **parameters: Any) -> None:
        """A reply before the last; only for a caller that asked for more."""
        if self.more and not self.done:
            self._say({"parameters": parameters, "continues": True})

    def reply(self, **parameters: Any) -> None:
        self._end({"parameters": parameters})

    def error(self, name: str, **parameters: Any) -> None:
        """`name` is one of the interface's errors, "Refused"; a full name is taken as it is."""
        self._end({"error": name if "." in name else f"{NAME}.{name}", "parameters": parameters})

    def _end(self, message: Message) -> None:
        if not self.done:
            self.done = True
            self._say(message)

    def _say(self, message: Message) -> None:
        if not self.oneway:
            self.waiting.append(message)
        self.client.advance()


class Client:
    """One connection. Replies go out in the order of the calls, whichever is answered first, as Varlink wants it."""

    def __init__(self, control: Control, sock: socket.socket, rights: Rights, now: float) -> None:
        self.control = control
        self.rights = rights
        self.since = now
        self.calls: deque[Call] = deque()
        self.closed = False
        self.slowed_until: float | None = None
        """When its calls are taken again."""
        self._paid = now
        """The time for which what it has called is enough, at RATE."""
        self._wire = _Plain(sock, limit=MAX_REQUEST, max_backlog=MAX_REPLIES, chunk=_CHUNK)

    def fileno(self) -> int:
        return self._wire.fileno()

    @property
    def unread(self) -> int:
        """Bytes of replies that wait until it reads."""
        return self._wire.waiting

    def handle(self, events: int, now: float) -> list[Call]:
        """On an event: write what waits, and the calls that have come for the master to answer."""
        if self.closed:
            return []
        if events & WRITE:
            self.advance()
        return self.read(now) if events & ~WRITE else []

    def read(self, now: float) -> list[Call]:
        """The calls that have come. Those that are wrong, not allowed, or the service's own are answered here.

        A client that breaks the protocol or hangs up is closed; its calls go on, and answers to them go nowhere.
        """
        calls: list[Call] = []
        if self.closed:
            return calls
        try:
            for message, _ in self._wire.receive():
                self.since = now
                self._paid = max(self._paid, now) + 1 / RATE[self.rights]
                call = self._call(message)
                if not call.done:
                    calls.append(call)
        except WireError:
            self.close()
        if self._paid - now > 1 and not self.closed:
            self.slowed_until = self._paid - 1
            self.watch()
        return calls

    def advance(self) -> None:
        """Hand the wire every reply whose turn it is."""
        if self.closed:
            return
        try:
            self._wire.flush()
            while self.calls:
                call = self.calls[0]
                while call.waiting:
                    self._wire.send(call.waiting.popleft())
                if not call.done:
                    break
                self.calls.popleft()
        except WireError:
            self.close()
            return
        self.watch()

    def watch(self) -> None:
        """Wait for what it may do now. Who has answers to read is not heard before: they would pile up."""
        if self._wire.wants_write:
            events = WRITE
        else:
            events = READ if self.slowed_until is None else 0
        self.control.poll.modify(self.fileno(), events)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.control.poll.unregister(self.fileno())
        self.control.clients.discard(self)
        self._wire.close()

    def _call(self, message: Message) -> Call:
        if len(self.calls) >= MAX_CALLS:
            raise WireError(f"more than {MAX_CALLS} calls at once")
        full, parameters = message.get("method"), message.get("parameters") or {}
        if not isinstance(full, str) or not isinstance(parameters, dict):
            raise WireError("not a Varlink call: it needs 'method', and 'parameters' as an object")
        interface, _, method = full.rpartition(".")
        call = Call(self, method, parameters, message.get("more") is True, message.get("oneway") is True)
        self.calls.append(call)
        if interface == SERVICE:
            _service(call)
        elif interface != NAME:
            call.error(f"{SERVICE}.InterfaceNotFound", interface=interface)
        elif method not in METHODS:
            call.error(f"{SERVICE}.MethodNotFound", method=full)
        elif self.rights < METHODS[method].rights:
            who = "root and the service's user" if METHODS[method].rights is Rights.CHANGE else f"the group {GROUP}"
            call.error("NotAllowed", text=f"{method} is for {who}")
        elif (wrong := _wrong(METHODS[method].parameters, parameters)) is not None:
            call.error(f"{SERVICE}.InvalidParameter", parameter=wrong)
        return call


def _wrong(allowed: tuple[str, ...], parameters: dict[str, Any]) -> str | None:
    """The first parameter that is unknown, or neither a string nor an object of strings, as it should be."""
    for name, value in parameters.items():
        if name not in allowed:
            return name
        if value is None or (name in TEXTS and isinstance(value, str)):
            continue
        if name in TEXTS or not (isinstance(value, dict) and all(isinstance(v, str) for v in value.values())):
            return name
    return None


def _service(call: Call) -> None:
    match call.method:
        case "GetInfo":
            call.reply(
                vendor="clusterd",
                product="clusterd",
                version=__version__,
                url="man:clusterd(8)",
                interfaces=[SERVICE, NAME],
            )
        case "GetInterfaceDescription":
            name = call.parameters.get("interface")
            texts = {NAME: TEXT, SERVICE: SERVICE_TEXT}
            if name in texts:
                call.reply(description=texts[name])
            elif isinstance(name, str):
                call.error(f"{SERVICE}.InterfaceNotFound", interface=name)
            else:
                call.error(f"{SERVICE}.InvalidParameter", parameter="interface")
        case _:
            call.error(f"{SERVICE}.MethodNotFound", method=f"{SERVICE}.{call.method}")


def _gid(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, OSError):
        return None
