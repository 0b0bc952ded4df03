"""Retained values over hosts, decided: what this host's master has, what the Redis has, and what to say to either.

The Redis orders the writes of all hosts, and every host hears all of them in that order, its own too: the last one wins
everywhere. A value published here is the master's at once; what others wrote before it gets there is passed over.
Nothing is asked of the order in which one host's master and the Redis are heard.

"Joined" is the time from a complete reading of the Redis until the connection is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Write:
    """To the Redis, whose echo is awaited."""

    key: str
    raw: str


@dataclass(frozen=True)
class Restore:
    """To the Redis, which seems to have no such key: only if that is so. It is heard like another host's write."""

    key: str
    raw: str


@dataclass(frozen=True)
class Retain:
    """To the master, whose answer to `number` is awaited."""

    key: str
    raw: str
    number: int


@dataclass(frozen=True)
class Synced:
    """To the master: the Redis has what was published with this version."""

    key: str
    version: int


Action = Write | Restore | Retain | Synced


@dataclass
class _Value:
    here: str | None = None
    """What the master has, as far as it has said. All values are JSON."""
    version: int = 0
    """The master's, of `here`."""
    there: str | None = None
    """What the Redis has, as far as it has said."""
    writes: int = 0
    """Ours whose echo has not been heard: until then nothing of others matters."""
    unsent: bool = False
    """`here` is to be written when joined."""
    told: str | None = None
    """What the master was told and has not answered to."""
    unsure: bool = False
    """The master that was told has died over it."""
    refused: str | None = None
    """What the master could not take: it is not told again."""


@dataclass
class Mirror:
    joined: bool = False
    relisting: bool = False
    """Another master says all that it has: what differs from what the last one had was published meanwhile."""
    values: dict[str, _Value] = field(default_factory=dict)
    _numbers: dict[int, str] = field(default_factory=dict)
    _next: int = 1

    # the master says

    def here(self, key: str, raw: str, version: int, *, new: bool) -> Iterator[Action]:
        """The master has this value; `new`: published here, and not known to be in the Redis."""
        value = self._value(key)
        new = new or (self.relisting and not value.unsure and raw != value.here)
        value.here, value.version = raw, version
        value.unsure = False
        if new and (raw != value.there or value.writes or value.told is not None):
            yield from self._write(key, value)
        else:
            if new:
                value.unsent = False
                yield Synced(key, version)
            yield from self._settle(key, value)

    def answered(self, number: int, *, taken: bool) -> Iterator[Action]:
        """To a Retain. A master answers in the order in which it does things, publishing among them."""
        key = self._numbers.pop(number, None)
        if key is None:
            return
        value = self.values[key]
        if taken:
            value.here = value.told
        else:
            value.refused = value.told
        value.told = None
        yield from self._settle(key, value)

    def again(self) -> None:
        """There is another master, which will say all that it has, and then `listed`."""
        self.relisting = True
        for key in self._numbers.values():
            self.values[key].told, self.values[key].unsure = None, True
        self._numbers.clear()

    def listed(self) -> Iterator[Action]:
        self.relisting = False
        for key, value in self.values.items():
            if value.unsure:  # it never had any
                value.unsure = False
                yield from self._settle(key, value)

    # the Redis says

    def join(self, there: Mapping[str, str]) -> Iterator[Action]:
        """All of it, read at one moment; every later write is heard."""
        self.joined = True
        for key in there:
            self._value(key)
        for key, value in self.values.items():
            value.there = there.get(key)
            if value.unsent:
                yield from self._write(key, value)
            else:
                yield from self._settle(key, value)

    def there(self, key: str, raw: str, *, ours: bool) -> Iterator[Action]:
        """One write, of any host."""
        value = self._value(key)
        value.there = raw
        if ours:
            value.writes = max(0, value.writes - 1)
            if not value.writes and value.here == raw:
                yield Synced(key, value.version)
        yield from self._settle(key, value)

    def away(self) -> None:
        """The connection is lost: nobody knows which of our writes were done."""
        self.joined = False
        for value in self.values.values():
            value.unsent = value.unsent or value.writes > 0
            value.writes = 0

    # what follows

    def _value(self, key: str) -> _Value:
        return self.values.setdefault(key, _Value())

    def _write(self, key: str, value: _Value) -> Iterator[Action]:
        value.unsent = not self.joined
        if self.joined and value.here is not None:
            value.writes += 1
            yield Write(key, value.here)

    def _settle(self, key: str, value: _Value) -> Iterator[Action]:
        if not self.joined or value.writes or value.unsent or value.told is not None:
            return
        if value.there is None:
            if value.here is not None:
                yield Restore(key, value.here)
        elif value.there not in (value.here, value.refused):
            value.told = value.there
            number, self._next = self._next, self._next + 1
            self._numbers[number] = key
            yield Retain(key, value.there, number)
