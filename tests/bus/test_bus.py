"""The bus's decisions: what is retained through any death of the master, and what a slow reader misses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.bus.queue import Queue
from clusterd.bus.retained import Full, Table

HALF = 700
KEYS = ("a", "b", "ü", "d")


def table() -> Table:
    return Table(HALF, keys=len(KEYS))


def current(found: Table) -> dict[str, tuple[int, str]]:
    return {key: (value.version, value.raw) for key, value in found.values.items()}


def restored(memory: bytes) -> Table:
    found = table()
    found.restore(memory)
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.text('x"\\é', max_size=60)), min_size=1, max_size=40), st.data())
def test_death_at_any_byte(published: list[tuple[str, str]], data: st.DataObject) -> None:
    """A master killed at any byte of its writes leaves the values before the publish or those after it."""
    memory = bytearray(2 * HALF)
    live = table()
    for key, raw in published:
        before = current(live)
        writes = live.publish(key, raw)
        cut = data.draw(st.integers(0, sum(len(piece) for _, piece in writes)))
        torn, left = bytearray(memory), cut
        for at, piece in writes:
            memory[at : at + len(piece)] = piece
            torn[at : at + min(left, len(piece))] = piece[:left]
            left = max(0, left - len(piece))
        assert current(restored(bytes(torn))) in (before, current(live))
        assert len(memory) == 2 * HALF
        if data.draw(st.booleans()):
            again = restored(bytes(torn))
            live, memory = again, torn  # the successor goes on from what was left
        else:
            assert current(restored(bytes(memory))) == current(live)


def test_death_at_every_byte() -> None:
    """As above at every byte, where records of one length leave old ones exactly where the present ones end."""
    memory = bytearray(2 * HALF)
    live = table()
    for n in range(80):
        before = current(live)
        writes = live.publish("abd"[n % 3], f"{n:020d}")
        torn = bytearray(memory)
        for at, piece in writes:
            for i, byte in enumerate(piece):
                assert current(restored(bytes(torn))) in (before, current(live))
                torn[at + i] = byte
        memory = torn
        assert current(restored(bytes(memory))) == current(live)


def test_bounds_change_nothing() -> None:
    """A publish beyond a bound is an error that names it, and nothing has changed."""
    live = table()
    live.publish("a", "1")
    before = current(live)
    for key, raw, text in (("a", "x" * HALF, "at most"), ("", "1", "1 to 128"), ("k" * 129, "1", "1 to 128")):
        with pytest.raises(Full, match=text):
            live.publish(key, raw)
    for key in "bcd":
        live.publish(key, "1")
    with pytest.raises(Full, match="4 keys"):
        live.publish("e", "1")
    assert {k: v for k, v in current(live).items() if k == "a"} == before


def test_a_slow_reader_learns_what_it_missed() -> None:
    """The newest is dropped where a queue is full; the reader is told how many, where they were, the journal once."""
    queue = Queue(limit=10)
    assert [queue.offer(m) for m in (b"12345", b"12345", b"x", b"y")] == [False, False, True, False]
    assert queue.take() == b"12345"
    assert [queue.offer(m) for m in (b"z", b"123456")] == [False, False]
    assert [queue.take() for _ in range(5)] == [b"12345", 2, b"z", 1, None]
    assert (queue.size, queue.lost) == (0, 3)
    assert [queue.offer(m) for m in (b"123456", b"123456")] == [False, True], "the next time is another episode"
