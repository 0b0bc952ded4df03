"""Retained values over hosts: whatever is said late, lost or cut, all hosts end with what the Redis has."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clusterd.bus.mirror import Action, Mirror, Restore, Retain, Synced, Write

HOSTS = range(3)
SHARED = "shared"


@dataclass
class Redis:
    """Orders writes, and tells all who are joined."""

    values: dict[str, str] = field(default_factory=dict)

    def write(self, hosts: list[Host], writer: Host, action: Write | Restore) -> None:
        if isinstance(action, Restore) and action.key in self.values:
            return
        self.values[action.key] = action.raw
        for host in hosts:
            if host.mirror.joined:
                host.heard.append((action.key, action.raw, host is writer and isinstance(action, Write)))


@dataclass
class Host:
    """A master with its table, its bridge, and the two streams between them."""

    table: dict[str, tuple[str, int]] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)
    version: int = 0
    mirror: Mirror = field(default_factory=Mirror)
    said: deque[tuple[str, ...]] = field(default_factory=deque)  # by the master, to the bridge
    told: deque[Action] = field(default_factory=deque)  # by the bridge, to the master
    heard: deque[tuple[str, str, bool]] = field(default_factory=deque)  # from the Redis
    listed: bool = True  # the bridge has been told the whole table: before, it does not join
    last: dict[str, str] = field(default_factory=dict)  # what was published here

    def publish(self, key: str, raw: str) -> None:
        self.last[key] = raw
        self.version += 1
        self.table[key] = (raw, self.version)
        self.dirty.add(key)
        self.said.append(("value", key))

    def say_all(self) -> None:
        self.said.extend(("value", key) for key in self.table)
        self.said.append(("current",))

    def take(self, action: Action) -> None:
        """The master does what its bridge says."""
        if isinstance(action, Retain):
            self.version += 1
            self.table[action.key] = (action.raw, self.version)
            self.dirty.discard(action.key)
            self.said.append(("done", str(action.number)))
        elif isinstance(action, Synced) and self.table[action.key][1] == action.version:
            self.dirty.discard(action.key)


class Hosts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.redis = Redis()
        self.hosts = [Host() for _ in HOSTS]
        self.fault = ""

    def act(self, host: Host, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, (Write, Restore)):
                self.redis.write(self.hosts, host, action)
            else:
                host.told.append(action)

    @rule(number=st.sampled_from(HOSTS), own=st.booleans(), raw=st.sampled_from("abc"))
    def publish(self, number: int, own: bool, raw: str) -> None:
        self.hosts[number].publish(f"of {number}" if own else SHARED, raw)

    @rule(number=st.sampled_from(HOSTS), times=st.integers(1, 4))
    def bridge_reads(self, number: int, times: int) -> None:
        host = self.hosts[number]
        for _ in range(min(times, len(host.said))):
            what, *rest = host.said.popleft()
            if what == "current":
                host.listed = True
                self.act(host, host.mirror.listed())
            elif what == "done":
                self.act(host, host.mirror.answered(int(rest[0]), taken=True))
            else:
                # A slow reader is given the last of each key, and nothing of what was between.
                raw, version = host.table[rest[0]]
                self.act(host, host.mirror.here(rest[0], raw, version, new=rest[0] in host.dirty))

    @rule(number=st.sampled_from(HOSTS), times=st.integers(1, 4))
    def master_reads(self, number: int, times: int) -> None:
        host = self.hosts[number]
        for _ in range(min(times, len(host.told))):
            host.take(host.told.popleft())

    @rule(number=st.sampled_from(HOSTS), times=st.integers(1, 4))
    def redis_is_heard(self, number: int, times: int) -> None:
        host = self.hosts[number]
        for _ in range(min(times, len(host.heard))):
            key, raw, ours = host.heard.popleft()
            self.act(host, host.mirror.there(key, raw, ours=ours))

    @rule(number=st.sampled_from(HOSTS))
    def redis_lost_or_found(self, number: int) -> None:
        host = self.hosts[number]
        if host.mirror.joined:
            host.heard.clear()
            host.mirror.away()
        elif host.listed:
            self.act(host, host.mirror.join(dict(self.redis.values)))

    @rule()
    def redis_forgets(self) -> None:
        """It was started again, empty: everybody has lost the connection."""
        self.redis.values.clear()
        for host in self.hosts:
            host.heard.clear()
            host.mirror.away()

    @rule(number=st.sampled_from(HOSTS))
    def bridge_dies(self, number: int) -> None:
        if self.fault in ("", "bridge"):
            self.fault = "bridge"
            host = self.hosts[number]
            host.mirror, host.listed = Mirror(), False
            for stream in (host.said, host.told, host.heard):
                stream.clear()
            host.say_all()

    @rule(number=st.sampled_from(HOSTS))
    def master_dies(self, number: int) -> None:
        """Its successor has the table, and no idea of what the Redis has. One of the two at a time is what is held."""
        if self.fault in ("", "master"):
            self.fault = "master"
            host = self.hosts[number]
            host.dirty.clear()
            host.said.clear()
            host.told.clear()
            host.mirror.again()
            host.say_all()

    @invariant()
    def what_was_done_is_there(self) -> None:
        """Who publishes has its value at once, until another's arrives."""
        for number, host in enumerate(self.hosts):
            own = f"of {number}"
            if own in host.last:
                assert host.table[own][0] == host.last[own]

    def teardown(self) -> None:
        while any(host.said or host.told or host.heard or not host.mirror.joined for host in self.hosts):
            for number, host in enumerate(self.hosts):
                self.bridge_reads(number, 1)
                self.master_reads(number, 1)
                self.redis_is_heard(number, 1)
                if not host.mirror.joined:
                    self.redis_lost_or_found(number)
        for number, host in enumerate(self.hosts):
            assert {key: raw for key, (raw, _) in host.table.items()} == self.redis.values
            assert not host.dirty
            own = f"of {number}"
            assert self.redis.values.get(own) == host.last.get(own)


TestHosts = Hosts.TestCase
TestHosts.settings = settings(max_examples=300, stateful_step_count=40)


def test_what_the_master_cannot_take_is_told_once() -> None:
    """Its table may be full: it is asked again only when there is something else to take."""
    mirror = Mirror()
    (retain,) = mirror.join({"k": "1"})
    assert isinstance(retain, Retain)
    assert list(mirror.answered(retain.number, taken=False)) == []
    mirror.away()
    assert list(mirror.join({"k": "1"})) == []
    (again,) = mirror.there("k", "2", ours=False)
    assert isinstance(again, Retain) and again.raw == "2"
