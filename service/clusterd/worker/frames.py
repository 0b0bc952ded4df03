"""The wire's messages without descriptors: bytes in and out, for who passes them on as they are or reads no socket."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from .wire import LIMIT, WireError

PASSED = 2 * LIMIT
"""Bytes of a message on the bus, as it is passed on: who has said it is written into the longest too."""


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
    """The message; None for what is not a JSON object (NaN and Infinity are not JSON)."""
    try:
        message = parse(frame)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def parse(data: str | bytes) -> Any:
    """Any JSON. Raises ValueError."""
    try:
        return json.loads(data, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def text(value: Any) -> str:
    """`value` as compact JSON that can be written in UTF-8. Raises ValueError, TypeError for what JSON has not."""
    try:
        found = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        found.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON has it, UTF-8 has not
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return found


def encode(message: dict[str, Any]) -> bytes:
    """With its NUL."""
    return text(message).encode() + b"\0"


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
