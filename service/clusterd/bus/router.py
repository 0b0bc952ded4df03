"""Who hears what: messages in, queues of their readers filled. docs/architecture.md, "The bus".

A message is parsed once and passed on as the bytes it came in, with its sender written before the rest: nothing is
encoded again for each reader, and nothing grows on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clusterd.bus.queue import Queue
from clusterd.bus.retained import Full, Table, Write
from clusterd.worker import frames, topics

Message = dict[str, Any]

BRIDGE = 0
"""The member that carries what is said to other hosts and back: no worker has this number."""


class Broken(Exception):
    """The sender does not keep to the protocol. The text says how."""


@dataclass
class Member:
    """A worker with a bus. `seen` is the version up to which it has been given the retained values."""

    id: int
    queue: Queue = field(default_factory=Queue)
    topics: set[str] = field(default_factory=set)
    values: bool = False
    behind: bool = False
    """Values have changed that it will be given when it has read what waits."""
    owed: bool = False
    """It has asked for the values and is told when it has them all."""
    seen: int = 0


@dataclass(frozen=True)
class Said:
    """For those outside who listen. `data` as JSON."""

    topic: str
    data: Any
    sender: int | None
    to: int | None
    host: str | None = None
    """Of another host than this."""


class Router:
    def __init__(self, table: Table) -> None:
        self.table = table
        self.members: dict[int, Member] = {}
        self.dirty: set[str] = set()
        """Keys published here, which other hosts are not known to have."""
        self.touched: set[int] = set()
        """Members to whom something may be written now; whoever writes empties it."""
        self.slow: list[int] = []
        """Members that begin to lose messages: to be told, and emptied."""
        self.writes: list[Write] = []
        """Of the retained values: to be written before anything is sent."""
        self.said: list[Said] = []
        self.states: list[Message] = []
        """What the bridge says of itself."""
        self._asked: dict[tuple[int, int], int] = {}  # (who asks, its number) -> who is to answer
        self._ops: dict[object, Callable[[Member, Message, bytes], None]] = {
            "on": self._on, "off": self._off, "values": self._values, "broadcast": self._broadcast,
            "send": self._send, "request": self._request, "answer": self._answer, "forget": self._forget,
            "publish": self._publish,
        }  # fmt: skip
        self._ops_of_bridge: dict[object, Callable[[Member, Message, bytes], None]] = {
            "values": self._values, "say": self._say, "retain": self._publish, "synced": self._synced,
            "state": self._state, "lease": self._state,
        }  # fmt: skip

    # members

    def join(self, worker: int) -> Member:
        member = self.members[worker] = Member(worker)
        return member

    def leave(self, worker: int) -> None:
        """It is gone, or its bus is: whoever waits for its answer is told."""
        if self.members.pop(worker, None) is None:
            return
        for (asker, number), asked in list(self._asked.items()):
            if asker == worker:
                del self._asked[asker, number]
            elif asked == worker:
                del self._asked[asker, number]
                self._fail(self.members[asker], number, "gone", f"worker {worker} left before it answered")

    def tell(self, worker: int, message: bytes) -> None:
        """Whatever waits for it already."""
        self._must(self.members[worker], message)

    # what they say

    def take(self, sender: int, frame: bytes) -> None:
        """Raises Broken, having changed nothing."""
        message = frames.decode(frame)
        if message is None:
            raise Broken(f"not a JSON object: {frame[:80]!r}")
        ops = self._ops if sender != BRIDGE else self._ops_of_bridge
        act = ops.get(op) if isinstance(op := message.get("op"), str) else None
        if act is None:
            raise Broken(f"op {op!r}: expected one of {', '.join(map(str, ops))}")
        if "from" in message:
            raise Broken("a message may not have a key 'from': the master writes it")
        act(self.members[sender], message, frame)

    def outside(self, topic: str, data: str, to: int | None) -> int:
        """From nobody in the cluster, `data` being JSON: how many hear it."""
        key = frames.text(topic)
        frame = f'"op":"broadcast","topic":{key},"data":{data}}}'
        if to is not None:
            frame = f'"op":"send","to":{to},"topic":{key},"data":{data}}}'
        passed = f'{{"from":null,{frame}'.encode() + b"\0"
        hear = [m for m in self.members.values() if topic in m.topics and to in (None, m.id)]
        for member in hear:
            self._offer(member, passed)
        if to is None:
            self._across(passed)
        return len(hear)

    def retain(self, key: str, raw: str, *, across: bool = False) -> None:
        """`raw`, which is JSON, is the last value of `key` now. `across`: it is another host's, and the bridge has told
        it. Raises Full."""
        self.writes += self.table.publish(key, raw)
        if across:
            self.dirty.discard(key)
        else:
            self.dirty.add(key)
        for other in self.members.values():
            if other.values and not other.behind and not (across and other.id == BRIDGE):
                self._change_for(other, self._change(key, other))

    def _on(self, member: Member, message: Message, frame: bytes) -> None:
        topic = _name(message.get("topic"))
        if topic not in member.topics and len(member.topics) >= topics.MAX_TOPICS:
            raise Broken(f"it listens to {topics.MAX_TOPICS} topics already, which is the most")
        member.topics.add(topic)

    def _off(self, member: Member, message: Message, frame: bytes) -> None:
        member.topics.discard(_name(message.get("topic")))

    def _values(self, member: Member, message: Message, frame: bytes) -> None:
        member.values = member.behind = member.owed = True
        member.seen = 0
        self.touched.add(member.id)

    def _broadcast(self, member: Member, message: Message, frame: bytes) -> None:
        topic = _topic(message)
        passed = _signed(member.id, frame)
        self._spread(topic, passed, member)
        self._across(passed)
        self.said.append(Said(topic, message["data"], member.id, None))

    def _spread(self, topic: str, passed: bytes, by: Member) -> None:
        """To all who listen, but not to whom it is from."""
        for other in self.members.values():
            if topic in other.topics and other is not by:
                self._offer(other, passed)

    def _send(self, member: Member, message: Message, frame: bytes) -> None:
        topic, to = _topic(message), _integer(message, "to")
        other = self.members.get(to)
        if other is not None and topic in other.topics:
            self._offer(other, _signed(member.id, frame))
        self.said.append(Said(topic, message["data"], member.id, to))

    def _request(self, member: Member, message: Message, frame: bytes) -> None:
        topic, to, number = _topic(message), _integer(message, "to"), _integer(message, "number")
        other = self.members.get(to)
        passed = _signed(member.id, frame)
        if other is None or other.queue.closed:
            self._fail(member, number, "gone", f"there is no worker {to} with messages")
        elif topic not in other.topics:
            self._fail(member, number, "unheard", f"worker {to} has no handler for '{topic}'")
        elif not other.queue.room(len(passed)):
            self._fail(member, number, "busy", f"worker {to} does not read: {other.queue.size} bytes wait for it")
        elif sum(asker == member.id for asker, _ in self._asked) >= topics.MAX_REQUESTS:
            self._fail(member, number, "busy", f"{topics.MAX_REQUESTS} requests wait for an answer, which is the most")
        else:
            self._asked[member.id, number] = to
            self._offer(other, passed)

    def _answer(self, member: Member, message: Message, frame: bytes) -> None:
        to, number = _integer(message, "to"), _integer(message, "number")
        if ("data" in message) == isinstance(message.get("error"), str):
            raise Broken("an answer has 'data', or 'error' with a text")
        # Asked of somebody else: not its to answer. Not known: asked while another master was there.
        if self._asked.get((to, number), member.id) == member.id and to in self.members:
            self._asked.pop((to, number), None)
            self._offer(self.members[to], _signed(member.id, frame))

    def _forget(self, member: Member, message: Message, frame: bytes) -> None:
        self._asked.pop((member.id, _integer(message, "number")), None)

    def _publish(self, member: Member, message: Message, frame: bytes) -> None:
        """A worker's value; or, retained by the bridge, another host's."""
        number = _integer(message, "number")
        key = _name(message.get("key"), "key")
        if "value" not in message:
            raise Broken(f"a {message['op']} has 'value'")
        try:
            self.retain(key, frames.text(message["value"]), across=member.id == BRIDGE)
        except Full as e:
            self._fail(member, number, "refused", str(e))
            return
        if member.behind and member.id != BRIDGE:  # the bridge brought it
            self._catch_up(member)
        done = frames.encode({"event": "done", "number": number, "version": self.table.version})
        self._must(member, done)

    # what the bridge says

    def _across(self, passed: bytes) -> None:
        """To other hosts as well, if there is a way."""
        if (bridge := self.members.get(BRIDGE)) is not None:
            self._offer(bridge, passed)

    def _say(self, member: Member, message: Message, frame: bytes) -> None:
        """A broadcast of another host's."""
        topic, host = _topic(message), _name(message.get("host"), "host")
        data = message["data"]
        text = f'{{"from":null,"host":{frames.text(host)},"op":"broadcast","topic":{frames.text(topic)},"data":'
        passed = (text + frames.text(data) + "}").encode() + b"\0"
        self._spread(topic, passed, member)
        self.said.append(Said(topic, data, None, None, host))

    def _synced(self, member: Member, message: Message, frame: bytes) -> None:
        """The others have what was published with this version."""
        key, version = _name(message.get("key"), "key"), _integer(message, "version")
        if key in self.table.values and self.table.values[key].version == version:
            self.dirty.discard(key)

    def _state(self, member: Member, message: Message, frame: bytes) -> None:
        self.states.append(message)

    # what they are given

    def next(self, worker: int) -> bytes | None:
        """What to write to it next, with its NUL; None: nothing waits."""
        member = self.members[worker]
        found = member.queue.take()
        if found is None and member.behind:
            self._catch_up(member)
            found = member.queue.take()
        if isinstance(found, int):
            return frames.encode({"event": "lost", "count": found})
        return found

    def _catch_up(self, member: Member) -> None:
        """Everything it has not seen, at once: it has read all else, or publishes, and is not heard before it has read.
        The table is bounded."""
        newer = [(v.version, key) for key, v in self.table.values.items() if v.version > member.seen]
        for _, key in sorted(newer):
            member.queue.put(self._change(key, member))
        if member.owed:
            member.queue.put(frames.encode({"event": "current", "version": self.table.version}))
        member.seen, member.behind, member.owed = self.table.version, False, False

    def _change(self, key: str, member: Member) -> bytes:
        value = self.table.values[key]
        new = f'"new":{"true" if key in self.dirty else "false"},' if member.id == BRIDGE else ""
        head = f'{{"event":"value",{new}"version":{value.version},"key":{frames.text(key)},"value":{value.raw}}}'
        return head.encode() + b"\0"

    def _change_for(self, member: Member, change: bytes) -> None:
        if member.queue.room(len(change)):
            member.queue.put(change)
            member.seen = self.table.version
        else:
            member.behind = True
        self.touched.add(member.id)

    def _offer(self, member: Member, message: bytes) -> None:
        if member.queue.offer(message):
            self.slow.append(member.id)
        self.touched.add(member.id)

    def _must(self, member: Member, message: bytes) -> None:
        """The answer to something of its own: as many as it has asked for, each small."""
        member.queue.put(message)
        self.touched.add(member.id)

    def _fail(self, member: Member, number: int, error: str, text: str) -> None:
        self._must(member, frames.encode({"event": "failed", "number": number, "error": error, "text": text}))


def _signed(sender: int, frame: bytes) -> bytes:
    return b'{"from":%d,' % sender + frame[frame.index(b"{") + 1 :] + b"\0"


def _name(name: object, what: str = "topic") -> str:
    if (why := topics.wrong(name, what)) is not None:
        raise Broken(why)
    assert isinstance(name, str)
    return name


def _topic(message: Message) -> str:
    if "data" not in message:
        raise Broken("a message has 'data'")
    return _name(message.get("topic"))


def _integer(message: Message, key: str) -> int:
    value = message.get(key)
    if type(value) is not int or not 0 <= value <= topics.MAX_NUMBER:
        raise Broken(f"'{key}': expected a number of 0 to {topics.MAX_NUMBER}, found {str(value)[:40]!r}")
    return value
