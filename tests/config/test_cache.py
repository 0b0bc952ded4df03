"""The keys `cache` and `bus`: which Redis may stand in the file, and that no password does."""

from __future__ import annotations

import pytest

from clusterd.config.kinds import BUS, CACHE, Wrong


@pytest.mark.parametrize(
    "value",
    [
        "embedded",
        "$REDIS_URL",
        "redis://127.0.0.1:6379/0",
        "redis://[::1]:6379",
        "rediss://cache.example.com/1",
        "unix:///run/redis/redis-server.sock?db=0",
    ],
)
def test_taken(value: str) -> None:
    """The embedded one, URLs of a Redis, and the name of a variable that has one."""
    assert CACHE.parse(value) == value
    if value != "embedded":
        assert BUS.parse(value) == value


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("redis://:secret@host", "a password does not belong into this file"),
        ("unix:///run/r.sock?password=secret", "a password does not belong into this file"),
        ("redis://", 'a Redis is "redis://127.0.0.1:6379/0"'),
        ("redis://host:port", 'a Redis is "redis://127.0.0.1:6379/0"'),
        ("unix://run/r.sock", 'a Redis is "redis://127.0.0.1:6379/0"'),
        ("memcached://host", 'a Redis is "redis://127.0.0.1:6379/0"'),
        ("$lower", 'a Redis is "redis://127.0.0.1:6379/0"'),
        ("", "printable"),
    ],
)
def test_refused(value: str, hint: str) -> None:
    """Anything else is refused with what to write instead, and never repeated: it may be a password."""
    for kind in (CACHE, BUS):
        with pytest.raises(Wrong) as raised:
            kind.parse(value)
        assert hint in str(raised.value)
        assert "secret" not in str(raised.value)
        assert kind.secret
