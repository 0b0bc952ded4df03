"""Values with a unit in them, in systemd's grammar. Imported by the generator: see names.py."""

from __future__ import annotations

import re

# systemd.time(7), without months and years: nobody means them in a time-out
UNITS = {
    **dict.fromkeys(("ms", "msec"), 0.001),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_TERM = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) *([a-z]+) *")
_STEPS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1))


def duration(text: str) -> float:
    """Seconds of "5s", "1min 30s", "250ms". Raises ValueError; a number without a unit is one, except "0"."""
    if text == "0":
        return 0.0
    total, position = 0.0, 0
    while match := _TERM.match(text, position):
        if match[2] not in UNITS:
            raise ValueError(f"'{match[2]}' is no unit of time: ms, s, min, h and d are")
        total += float(match[1]) * UNITS[match[2]]
        position = match.end()
    if not position or position != len(text):
        raise ValueError('write a number and its unit, such as "30s", "250ms" or "1min 30s"')
    return total


def duration_text(seconds: float) -> str:
    """`seconds` as `duration` reads it, to the millisecond: 90.0 is "1min 30s"."""
    rest, words = round(seconds * 1000), []
    for unit, size in _STEPS:
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count}{unit}")
    return " ".join(words) or "0s"


def size(text: str) -> int:
    """Bytes of "512M", "1.5G", "65536"; a unit is a power of 1024, as in systemd. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)([KMGT]?)", text)
    if not match:
        raise ValueError('write a number and its unit, K, M, G or T, such as "512M"')
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


def percent(text: str, most: int) -> float:
    """The number of "150%". Raises ValueError unless it is above 0 and at most `most`."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,2})?)%", text)
    if not match or not 0 < float(match[1]) <= most:
        raise ValueError(f'write a share from "1%" to "{most}%"')
    return float(match[1])
