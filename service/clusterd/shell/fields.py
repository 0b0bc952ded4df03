"""What stands in a message of another process, taken as what it has to be: the application may have written it."""

from __future__ import annotations

import os

from clusterd.shell import pidfd
from clusterd.worker.wire import Message, WireError

REASON = 2000
TRACEBACK = 1 << 16
"""Characters that are kept of each. The end of a traceback says what was wrong."""

MOST = (1 << 32) - 1


def number(message: Message, key: str, otherwise: int | None = None) -> int:
    """0 or more, of 32 bits: a pid, status, count. Raises WireError, also where it lacks unless `otherwise`."""
    value = message.get(key, otherwise)
    if type(value) is not int or not 0 <= value <= MOST:
        raise WireError(f"'{key}' is {repr(value)[:80]}, expected a number")
    return value


def process(message: Message, fd: int) -> int:
    """The "pid" of the process whose pidfd came along: by the kernel's word, unless it is gone already.

    Raises WireError when `fd` is none, which is then closed.
    """
    try:
        return pidfd.pid_of(fd) or number(message, "pid")
    except (ValueError, WireError) as e:
        os.close(fd)
        raise WireError(str(e)) from e


def words(message: Message, key: str, otherwise: str | None = None, most: int = REASON) -> str:
    """The first `most` characters. Raises WireError, also where it lacks unless `otherwise`."""
    value = message.get(key, otherwise)
    if not isinstance(value, str):
        raise WireError(f"'{key}' is {repr(value)[:80]}, expected a text")
    return value[:most]


def traceback(message: Message) -> str:
    """The last TRACEBACK characters of it, from the beginning of a line; "" without one. Raises WireError."""
    text = words(message, "traceback", "", most=MOST)
    return text if len(text) <= TRACEBACK else text[-TRACEBACK:].partition("\n")[2]


def lines(message: Message, key: str) -> list[str]:
    """A few texts of a line each; none where it lacks. Raises WireError."""
    value = message.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise WireError(f"'{key}' is {repr(value)[:80]}, expected texts")
    return [each[:200] for each in value[:20]]
