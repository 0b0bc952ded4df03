"""The bridge: carries broadcasts and retained values to the other hosts of an application, by a Redis, and back.

A process of its own beside the master, which imports no Redis client and waits for no network. It is a member of the
bus (docs/architecture.md, "The bridge"); what becomes of a value is decided in clusterd.bus.mirror. One loop: it waits
for the master and the Redis, and for a moment of the Redis's, at most TIMEOUT, where it asks or writes.

In the Redis, where N is the application's name, "clusterd:{N}:bus" is a hash of the retained values as JSON, and a
channel of what is said:

    {"by": id, "host", "topic", "data"}      a broadcast
    {"by": id, "key", "value"}               a value was written; by "" where it was missing and has been restored
    {"by": id, "mark": n}                    somebody has read the hash; whatever comes after it is newer

"clusterd:{N}:lease" is who runs the tasks. "clusterd:{N}:bus:trial" is there for a second when somebody joins.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import secrets
import select
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from clusterd.bus.mirror import Action, Mirror, Restore, Retain, Synced, Write
from clusterd.bus.retained import MAX_KEYS, MAX_TOTAL
from clusterd.worker import topics
from clusterd.worker.caching.place import NO_GROUP, Unknown, redacted, resolve
from clusterd.worker.frames import PASSED, Frames, compact, decode, encode, text
from clusterd.worker.wire import LIMIT, WireError

PIECE = 1 << 16
CONNECT, TIMEOUT = 1.0, 5.0
"""Seconds for a connection; for a write or an answer, which may have 16 MiB."""
FIRST, GROWTH, LONGEST = 0.2, 1.5, 5.0
"""Seconds until the Redis is tried again."""
LONGEST_SAID = LIMIT + PIECE
"""Bytes of a message in the Redis. Written again it may be longer than it was: 1e15 becomes 1000000000000000.0."""
TURN = 0.01
"""Seconds for what the Redis says, until the master and the lease have theirs: it may never have nothing to say."""
MAX_UNREAD = 32 << 20
"""Bytes that may wait for the master. Until it has read, the Redis is not listened to, and ends the connection."""
MOST_KEYS = 16 * MAX_KEYS
"""Keys in the Redis: the hosts may have different ones, but who has so many is no application of ours."""
LEASE, SAFE, RENEW = 30.0, 20.0, 5.0
"""Seconds of the lease on the application's tasks; how long the master relies on it, which leaves it time to end a run;
until it is renewed, or asked for again."""
ALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}
"""Seconds, seconds and times: the kernel finds out that the other machine is gone, and nothing has to ask."""

_WRITE = "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) redis.call('PUBLISH', KEYS[1], ARGV[3])"
_RESTORE = "if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 1 then redis.call('PUBLISH', KEYS[1], ARGV[3]) end"
_LEASE = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
_READ = """
local count = redis.call('HLEN', KEYS[1])
if count > tonumber(ARGV[2]) then return redis.error_reply('it has ' .. count .. ' keys in ' .. KEYS[1]) end
redis.call('SET', KEYS[2], ARGV[1], 'PX', 1000)
redis.call('PUBLISH', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
"""
"""It writes too: a Redis that is full, or a replica, would be joined, refuse the first value and be joined again."""


class Away(Exception):
    """The Redis cannot be used now. The text says why."""


class Remote:
    """The Redis, once connected. Every method raises Away."""

    def __init__(self, url: str, application: str) -> None:
        """Blocks for a few TIMEOUTs at most. `values`: all that it has now; `next` gives everything newer."""
        try:
            importlib.invalidate_caches()
            self._adapter: Any = importlib.import_module("clusterd.worker.caching.redis")
        except ImportError:
            raise Away("the daemon's Python has no package redis: apt install python3-redis") from None
        self._errors = (OSError, self._adapter.redis.RedisError)
        self._name, self._lease = (f"clusterd:{{{application}}}:{kind}" for kind in ("bus", "lease"))
        self._by, self._marked, self._mark = secrets.token_hex(8), False, secrets.token_hex(8)
        try:
            with self._asked():
                found = self._connect(url)
        except (ValueError, TypeError):
            raise Away("the URL is not one of a Redis") from None
        pairs = ((_text(key), _text(value)) for key, value in zip(found[::2], found[1::2], strict=True))
        self.values = {key: raw for key, raw in pairs if compact(raw) is not None and _is_value(key, raw)}

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except self._errors as e:
            raise Away(_why(e)) from None

    def _connect(self, url: str) -> list[bytes]:
        """Keys and values in turn. Not tried twice by itself: what was said in between would be missed."""
        alive = {getattr(socket, name): value for name, value in ALIVE.items()}
        tcp = {"socket_keepalive": True, "socket_keepalive_options": alive}
        options = self._adapter.options(url, CONNECT, TIMEOUT, **tcp)
        self._client = self._adapter.redis.Redis.from_url(url, **options)
        self._heard = self._client.pubsub()
        self._heard.subscribe(self._name)
        # On another connection: the reading must come after the Redis has begun to tell us what is newer.
        end = time.monotonic() + TIMEOUT
        while (said := self._heard.get_message(timeout=TIMEOUT)) is None or said["type"] != "subscribe":
            if time.monotonic() > end:
                raise Away("it does not answer")
        mark = text({"by": self._by, "mark": self._mark})
        found: list[bytes] = self._client.eval(_READ, 2, self._name, f"{self._name}:trial", mark, str(MOST_KEYS))
        return found

    def fileno(self) -> int:
        number: int = self._heard.connection._sock.fileno()
        return number

    def say(self, broadcasts: Sequence[Mapping[str, Any]], values: Iterable[Write | Restore]) -> None:
        """All at once."""
        with self._asked():
            pipe = self._client.pipeline(transaction=False)
            for broadcast in broadcasts:
                said = text({"by": self._by, **broadcast}).encode()
                if len(said) <= LONGEST_SAID:
                    pipe.publish(self._name, said)
            for value in values:
                by, script = (self._by, _WRITE) if isinstance(value, Write) else ("", _RESTORE)
                told = f'{{"by":{text(by)},"key":{text(value.key)},"value":{value.raw}}}'
                pipe.eval(script, 1, self._name, value.key, value.raw, told)
            pipe.execute()

    def lease(self, holder: str) -> str:
        """Take the lease on the tasks, or renew it; returns who holds it now."""
        with self._asked():
            return _text(self._client.eval(_LEASE, 1, self._lease, holder, str(round(LEASE * 1000))))

    def release(self, holder: str) -> None:
        with self._asked():
            self._client.eval(self._adapter.RELEASE, 1, self._lease, holder)

    def waits(self) -> bool:
        """Whether there is something for `next`. The descriptor alone does not tell: redis-py reads ahead."""
        with self._asked():
            found: bool = self._heard.connection.can_read(timeout=0)
            return found

    def next(self) -> tuple[dict[str, Any], bool] | None:
        """What waits, and whether it is ours; None: it is no message since `values`. Blocks only for the rest of what
        has begun, at most TIMEOUT where nothing of it comes."""
        with self._asked():
            # Not 0: redis-py 8 gives up the connection where the rest of a message is still on its way.
            said = self._heard.get_message(timeout=TIMEOUT)
        if said is None or said["type"] != "message" or len(said["data"]) > LONGEST_SAID:
            return None
        message = decode(said["data"])
        if message is None:
            return None
        if message.get("mark") == self._mark:
            self._marked = True
        if not self._marked or "mark" in message:
            return None
        return message, message.get("by") == self._by

    def close(self) -> None:
        for each in (self._heard, self._client):
            with contextlib.suppress(*self._errors):
                each.close()


class Bridge:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.host = socket.gethostname()[:64]
        self.mirror = Mirror()
        self.remote: Remote | None = None
        self.place = self.url = self.application = ""
        self.problem: str | None = None
        """Why there is no Redis, as the master knows it; "" when there is; None: it knows nothing yet."""
        self._frames = Frames(PASSED)
        self._out = bytearray()
        self._listed = False
        self._more = False
        """The Redis has been left before it had nothing more to say."""
        self._holder = ""
        """Us, in the lease: another bridge of this service's is the same."""
        self._lease_due: float | None = None
        self._lease: dict[str, Any] | None = None
        """What the master was told of it last. Another master needs it most when the Redis cannot be asked."""
        self._joined = 0.0
        self._due: float | None = None
        self._delay = FIRST

    def run(self) -> None:
        """Returns when the master has closed its end."""
        self.sock.setblocking(False)
        while True:
            ready = self._wait()
            if self.sock.fileno() in ready and not self._hear_master():
                return
            if self.remote is not None and self.remote.fileno() in ready:
                self._hear_remote()
            if self._due is not None and time.monotonic() >= self._due:
                self._join()
            if self._lease_due is not None and time.monotonic() >= self._lease_due:
                self._renew()
            self._write()

    def _wait(self) -> set[int]:
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLIN | (select.POLLOUT if self._out else 0))
        more: set[int] = set()
        if self.remote is not None and len(self._out) < MAX_UNREAD:
            poll.register(self.remote.fileno(), select.POLLIN)
            if self._more:
                more.add(self.remote.fileno())
        due = min((due for due in (self._due, self._lease_due) if due is not None), default=None)
        timeout = None if due is None else max(0.0, due - time.monotonic()) * 1000
        return more | {fd for fd, _ in poll.poll(0 if more else timeout)}

    # the master

    def _hear_master(self) -> bool:
        try:
            data = self.sock.recv(PIECE)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        broadcasts: list[dict[str, Any]] = []
        actions: list[Action] = []
        try:
            frames = self._frames.feed(data)
        except WireError:
            return False
        for frame in frames:
            # One that is no JSON: what a master that died had half written.
            if (message := decode(frame)) is not None:
                self._take(message, broadcasts, actions)
        self._act(actions, broadcasts)
        return bool(data)

    def _take(self, message: dict[str, Any], broadcasts: list[dict[str, Any]], actions: list[Action]) -> None:
        match message:
            case {"op": "broadcast", "topic": topic, "data": data}:
                broadcasts.append({"host": self.host, "topic": topic, "data": data})
            case {"event": "value", "key": key, "value": value, "version": version, "new": new}:
                actions += self.mirror.here(key, text(value), version, new=new)
            case {"event": "done", "number": number}:
                actions += self.mirror.answered(number, taken=True)
            case {"event": "failed", "number": number}:
                actions += self.mirror.answered(number, taken=False)
            case {"event": "current"}:
                actions += self.mirror.listed()
                if not self._listed:
                    self._listed, self._due = True, time.monotonic()
            case {"event": "again"}:
                self.mirror.again()
                self._say({"op": "values"})
                self._report()
                if self._lease is not None:
                    self._say(self._lease)
            case {"event": "lease", "wanted": True}:
                self._lease_due = time.monotonic()
            case {"event": "lease"}:
                self._release()
            case {"event": "bridge", "place": place, "url": url, "application": application, "id": own}:
                self.place, self.url, self.application = place, url or "", application
                self._holder = f"{own} {self.host}"
                self._say({"op": "values"})

    def _say(self, message: dict[str, Any]) -> None:
        self._out += encode(message)

    def _write(self) -> None:
        try:
            while self._out:
                sent = self.sock.send(memoryview(self._out)[:PIECE], socket.MSG_NOSIGNAL)
                del self._out[:sent]
        except OSError:
            return  # full, or gone, which is read

    # the Redis

    def _join(self) -> None:
        self._due = None
        try:
            self.remote = Remote(resolve("bus", self.place, self.url or None), self.application)
        except (Away, Unknown) as e:
            self._lose(str(e))
            return
        self._joined = time.monotonic()
        self._tell("")
        if self._lease_due is not None:
            self._lease_due = time.monotonic()
        self._act(list(self.mirror.join(self.remote.values)), [])

    def _hear_remote(self) -> None:
        assert self.remote is not None
        actions: list[Action] = []
        end = time.monotonic() + TURN
        try:
            while waits := self.remote.waits():
                if (found := self.remote.next()) is not None:
                    self._take_remote(*found, actions)
                if time.monotonic() >= end or len(self._out) >= MAX_UNREAD:
                    break
            self._more = waits
        except Away as e:
            self._lose(str(e))
        self._act(actions, [])

    def _take_remote(self, message: dict[str, Any], ours: bool, actions: list[Action]) -> None:
        match message:
            case {"key": key, "value": value} if _is_value(key, raw := text(value)):
                actions += self.mirror.there(key, raw, ours=ours)
            case {"topic": topic, "data": data, "host": host} if (
                not ours and topics.wrong(topic) is None and topics.wrong(host, "host") is None
            ):
                said = encode({"op": "say", "host": host, "topic": topic, "data": data})
                if len(said) <= PASSED:
                    self._out += said

    def _act(self, actions: list[Action], broadcasts: list[dict[str, Any]]) -> None:
        writes = [action for action in actions if isinstance(action, (Write, Restore))]
        for action in actions:
            match action:
                case Retain(key, raw, number):
                    self._out += f'{{"op":"retain","number":{number},"key":{text(key)},"value":{raw}}}\0'.encode()
                case Synced(key, version):
                    self._say({"op": "synced", "key": key, "version": version})
        if self.remote is not None and (writes or broadcasts):
            try:
                self.remote.say(broadcasts, writes)
            except Away as e:
                self._lose(str(e))

    def _renew(self) -> None:
        """Where there is no Redis, the lease ends by itself."""
        now = time.monotonic()
        self._lease_due = now + RENEW * random.uniform(0.9, 1.1)
        if self.remote is None:
            return
        try:
            holder = self.remote.lease(self._holder)
        except Away as e:
            self._lose(str(e))
            return
        held = holder == self._holder
        host = holder.partition(" ")[2][:64]
        self._lease = {"op": "lease", "held": held, "host": host, "until": now + SAFE}
        self._say(self._lease)

    def _release(self) -> None:
        asked, self._lease_due, self._lease = self._lease_due is not None, None, None
        if asked and self.remote is not None:
            try:
                self.remote.release(self._holder)
            except Away as e:
                self._lose(str(e))

    def _lose(self, why: str) -> None:
        if self.remote is not None:
            self.remote.close()
            self.remote, self._more = None, False
            if time.monotonic() - self._joined > LONGEST:  # one that comes and goes is not tried, nor told of, faster
                self._delay = FIRST
        self.mirror.away()
        self._due = time.monotonic() + self._delay * random.uniform(0.9, 1.1)
        self._delay = min(LONGEST, self._delay * GROWTH)
        self._tell(why or "no reason given")

    def _tell(self, problem: str) -> None:
        """Once, not at each attempt."""
        known, self.problem = self.problem, problem
        if known is None or bool(known) != bool(problem):
            self._report()

    def _report(self) -> None:
        if self.problem is not None:
            name = self.place if self.place.startswith("$") else redacted(self.place)
            self._say({"op": "state", "place": self.place, "name": name, "problem": self.problem[:500]})


def _why(error: BaseException) -> str:
    """What it says, and where the unit is what keeps us from it, the key that lets us."""
    said = str(error)
    if "Permission denied" in said:
        return said + NO_GROUP
    if "Operation not permitted" in said:
        return f"{said} (may the service reach that address? [sandbox] network)"
    return said


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _is_value(key: str, raw: str) -> bool:
    """Whether this JSON is one that a master could have said: what is not would break the channel to ours, at each
    attempt."""
    return len(raw.encode()) <= MAX_TOTAL and topics.wrong(key, "key") is None


def main(arguments: Sequence[str]) -> int:
    """`clusterd bridge FD`, started by a master. Returns the exit status."""
    match list(arguments):
        case [number] if number.isdigit():
            os.set_inheritable(int(number), False)
            Bridge(socket.socket(fileno=int(number))).run()
            return 0
    print("clusterd: 'clusterd bridge FD' is what a master runs where the file has a bus", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
