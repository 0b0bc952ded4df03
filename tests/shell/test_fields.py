"""What is taken of another process's message: numbers, texts of a bounded length, and whose pidfd it is."""

from __future__ import annotations

import os

import pytest

from clusterd.shell import fields
from clusterd.worker.wire import WireError


@pytest.mark.parametrize("value", [None, -1, 1 << 32, 1.0, True, "1", [1]], ids=repr)
def test_numbers(value: object) -> None:
    """0 to 2^32 - 1, and nothing that only looks like it."""
    with pytest.raises(WireError, match=r"'pid' is .*, expected a number"):
        fields.number({"pid": value}, "pid")
    assert fields.number({"pid": 7}, "pid") == 7 and fields.number({}, "pid", 0) == 0


def test_words_are_cut() -> None:
    """A reason keeps its beginning, a traceback its end from a whole line on; what is no text breaks the channel."""
    assert fields.words({"reason": "x" * 5000}, "reason") == "x" * fields.REASON
    long = "first\n" + "x" * fields.TRACEBACK + "\nValueError: why"
    assert fields.traceback({"traceback": long}) == "ValueError: why"
    assert fields.traceback({}) == ""
    for wrong in (None, 1, ["x"]):
        with pytest.raises(WireError, match=r"'reason' is .*, expected a text"):
            fields.words({"reason": wrong}, "reason")
    assert fields.lines({"why": ["a", "b" * 900]}, "why") == ["a", "b" * 200] and fields.lines({}, "why") == []
    with pytest.raises(WireError, match=r"'why' is .*, expected texts"):
        fields.lines({"why": ["a", 1]}, "why")


def test_words_are_printable() -> None:
    """No terminal obeys them, and they can be encoded: an application's error may have any character in it."""
    said = "file 'caf\udce9'\x1b]0;pwned\x07\n\tа é 漢 🙂 \u202ehidden\x7f\0\x9b"
    shown = r"file 'caf\udce9'\x1b]0;pwned\x07" + "\n\tа é 漢 🙂 " + r"\u202ehidden\x7f\x00\x9b"
    assert fields.words({"reason": said}, "reason") == shown == fields.traceback({"traceback": said})
    assert fields.lines({"why": [said]}, "why") == [shown]
    assert shown.encode() and fields.printable(shown) == shown


def test_a_process_is_whom_the_kernel_says() -> None:
    """Whatever pid the message has: the pidfd's own; a descriptor that is none is closed, and breaks the channel."""
    mine = os.pidfd_open(os.getpid())
    assert fields.process({"pid": 1}, mine) == os.getpid()
    os.close(mine)
    other = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(WireError, match="is not a pidfd"):
        fields.process({"pid": 1}, other)
    with pytest.raises(OSError):
        os.fstat(other)
