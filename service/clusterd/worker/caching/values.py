"""What a cache takes: its keys, values and times, their bounds, and the one form both stores keep a value in.

A value is kept as its JSON, or as a zero byte and the bytes themselves: no JSON begins so, and an integer's JSON is
what Redis counts with. No pickle: whoever can write to a cache must not be able to run code in its readers.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_KEY = 512
"""Bytes of a key in UTF-8. memcached has 250, and people put URLs into keys."""
MAX_VALUE = 1 << 20
"""Bytes of a value as it is kept. As memcached's: what is larger belongs into a file or a database."""
MAX_TTL = 10 * 365 * 86400.0
INTEGERS = range(-(1 << 63), 1 << 63)
"""What can be counted to: Redis's integers."""

_INTEGER = re.compile(rb"-?[0-9]{1,19}")
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|min|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class CacheError(Exception):
    """The cache cannot answer now: Redis is away, the disk is full. An application goes on without, or fails."""


class CacheValueError(CacheError, ValueError):
    """A key, value or time it does not take, or an incr of what is no integer: a mistake in the program."""


def check_key(key: str) -> str:
    if not isinstance(key, str):
        raise CacheValueError(f"a key is a str, not {type(key).__name__}")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as e:
        raise CacheValueError(f"the key {key!r} has no UTF-8: {e.reason}") from None
    if not 1 <= size <= MAX_KEY:
        raise CacheValueError(f"a key has 1 to {MAX_KEY} bytes, this one {size}: hash what is longer")
    return key


def seconds(time: float | str | None) -> float | None:
    """10, 0.5, "10s", "5min": seconds from 1 ms to ten years. None: for ever."""
    if time is None:
        return None
    found = math.nan
    if isinstance(time, str):
        if match := _TIME.fullmatch(time):
            found = float(match[1]) * _UNITS[match[2]]
    elif isinstance(time, (int, float)) and not isinstance(time, bool):
        found = float(time)
    if not 0.001 <= found <= MAX_TTL:
        raise CacheValueError(
            f"a time is 0.001 to {MAX_TTL:.0f} seconds, or text such as '10s' or '5min', not {time!r}"
        )
    return found


def amount(by: int) -> int:
    if isinstance(by, bool) or not isinstance(by, int) or by not in INTEGERS:
        raise CacheValueError(f"by is an integer of 64 bits, not {by!r}")
    return by


def pack(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        packed = b"\0" + bytes(value)
    else:
        try:
            packed = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as e:
            raise CacheValueError(f"a value is JSON or bytes: {e}") from None
    if len(packed) > MAX_VALUE:
        raise CacheValueError(f"a value has {MAX_VALUE} bytes at most, this one {len(packed)}")
    return packed


def unpack(packed: bytes) -> Any:
    return packed[1:] if packed[:1] == b"\0" else json.loads(packed)


def counted(packed: bytes | None, by: int) -> int:
    """What an incr makes of `packed`, where the store cannot count itself."""
    if packed is None:
        return by
    if not _INTEGER.fullmatch(packed) or (number := int(packed)) not in INTEGERS:
        raise not_counted("the value is not an integer of 64 bits")
    if number + by not in INTEGERS:
        raise not_counted("the sum has more than 64 bits")
    return number + by


def not_counted(why: str) -> CacheValueError:
    return CacheValueError(f"incr: {why}")
