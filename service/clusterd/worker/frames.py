"""The wire's messages without descriptors: bytes in and out, for who passes them on as they are or reads no socket."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from .wire import LIMIT, WireError

PASSED = 2 * LIMIT
"""Bytes of a message on the bus, as it is passed on: who has said it is written into the longest too."""
DEEPEST = 500
"""Lists and objects in one another, a message's own included. Python's bound counts who calls as well: what is read in
one place could not be written in another."""
_DEEP = f"more than {DEEPEST} lists and objects in one another"
_NESTING = (dict, list, tuple)


class Frames:
    """Takes what was read, gives the messages that are whole, each without its NUL. Empty ones are left out."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Raises WireError when a message grows above the limit."""
        if b"\0" not in data:
            self._data += data
            found = []
        else:
            first, *rest = data.split(b"\0")
            found = [bytes(self._data) + first, *rest[:-1]]
            self._data = bytearray(rest[-1])
        if max(map(len, found), default=0) > self._limit or len(self._data) > self._limit:
            raise WireError(f"message of more than {self._limit} bytes")
        return [frame for frame in found if frame]


def decode(frame: bytes) -> dict[str, Any] | None:
    """The message; None for what `parse` refuses, or is no object."""
    try:
        message = parse(frame)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def parse(data: str | bytes) -> Any:
    """Any JSON that `text` can write again: without NaN and Infinity, numbers that become them, integers of thousands
    of digits, and what is nested too deeply. Raises ValueError."""
    try:
        found = json.loads(data, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError(_DEEP) from None
    opened = data.count("[") + data.count("{") if isinstance(data, str) else data.count(b"[") + data.count(b"{")
    _check_depth(found, opened)
    return found


def text(value: Any) -> str:
    """`value` as compact JSON that can be written in UTF-8. Raises ValueError, TypeError for what JSON has not."""
    try:
        found = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        _check_depth(value, found.count("[") + found.count("{"))
        found.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON has it, UTF-8 has not
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError(_DEEP) from None
    return found


def compact(data: str) -> str | None:
    """This JSON as a message can carry it; None: it is none, or no message can."""
    try:
        return text([parse(data)])[1:-1]  # in a message it is one deeper
    except ValueError:
        return None


def encode(message: dict[str, Any]) -> bytes:
    """With its NUL."""
    return text(message).encode() + b"\0"


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(digits: str) -> float:
    """1e999 is JSON, and would be Infinity."""
    if not math.isfinite(number := float(digits)):
        _refuse(digits[:40])
    return number


def _check_depth(value: Any, opened: int) -> None:
    """Raises ValueError. `opened`: so many lists and objects are in it at most, which mostly settles it."""
    if opened <= DEEPEST:
        return
    level = [value] if isinstance(value, _NESTING) else []
    for _ in range(DEEPEST):
        inner = [outer.values() if isinstance(outer, dict) else outer for outer in level]
        level = [each for values in inner for each in values if isinstance(each, _NESTING)]
        if not level:
            return
    raise ValueError(_DEEP)
