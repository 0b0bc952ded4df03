"""What stands in a message of another process, taken as what it has to be: the application may have written it."""

from __future__ import annotations

import os
import re
from typing import Any

from clusterd.shell import pidfd
from clusterd.worker.wire import Message, WireError

REASON = 2000
TRACEBACK = 1 << 16
"""Characters that are kept of each. The end of a traceback says what was wrong."""

MOST = (1 << 32) - 1

_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What steers a terminal, changes the direction of what follows, or is half a character and cannot be encoded."""


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


def printable(text: str) -> str:
    """`text` as it may be shown to a person, in lines: what is not fit for that as its escape, "\\x1b"."""
    return _UNFIT.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(value: Any) -> Any:
    """`value`, of JSON, with every text in it printable."""
    match value:
        case str():
            return printable(value)
        case list():
            return [shown(each) for each in value]
        case dict():
            return {printable(key): shown(each) for key, each in value.items()}
    return value


def words(message: Message, key: str, otherwise: str | None = None, most: int = REASON) -> str:
    """The first `most` characters, printable. Raises WireError, also where it lacks unless `otherwise`."""
    value = message.get(key, otherwise)
    if not isinstance(value, str):
        raise WireError(f"'{key}' is {repr(value)[:80]}, expected a text")
    return printable(value[:most])


def traceback(message: Message) -> str:
    """The last TRACEBACK characters of it, from the beginning of a line; "" without one. Raises WireError."""
    text = words(message, "traceback", "", most=MOST)
    return text if len(text) <= TRACEBACK else text[-TRACEBACK:].partition("\n")[2]


def lines(message: Message, key: str) -> list[str]:
    """A few texts of a line each; none where it lacks. Raises WireError."""
    value = message.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise WireError(f"'{key}' is {repr(value)[:80]}, expected texts")
    return [printable(each[:200]) for each in value[:20]]
