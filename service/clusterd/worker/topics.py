"""What messages may be: names, sizes, numbers. Checked where they are sent, and again by the master."""

from __future__ import annotations

from .wire import LIMIT

MAX_TOPIC = 128
"""Bytes in UTF-8 of a topic, or of the key of a retained value."""
MAX_TOPICS = 1024
"""Topics one worker may listen to."""
MAX_DATA = LIMIT - 4096
"""Bytes of a message's data as JSON: the rest of the 16 MiB is for what goes around it."""
MAX_REQUESTS = 1024
"""Unanswered requests of one worker."""
MAX_NUMBER = (1 << 53) - 1
"""What every language's JSON counts to."""


def wrong(name: object, what: str = "topic") -> str | None:
    """Why `name` cannot be a topic, for a person; None: it can. Control characters would spoil logs and lines."""
    if not isinstance(name, str):
        return f"{what}: expected a string, found {type(name).__name__}"
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MAX_TOPIC:
        return f"{what} '{name[:40]}': expected 1 to {MAX_TOPIC} bytes, found {size}"
    if not name.isprintable():
        return f"{what} {name[:40]!r}: expected printable characters only"
    return None
