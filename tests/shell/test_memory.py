"""The memfd `state`: whole at every instant, whoever dies when."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.shell.memory import LIMIT, State
from tests.shell.waiting import Spawn, line


@pytest.fixture
def state() -> Iterator[State]:
    made = State.create()
    yield made
    os.close(made.fd)


def test_empty(state: State) -> None:
    """A new memfd holds nothing and has never beaten; so does another view of it."""
    assert state.read() is None and state.last_beat() is None
    assert State(state.fd).read() is None


@given(st.lists(st.binary(max_size=20_000), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_last_write_is_read(state: State, values: list[bytes]) -> None:
    """What was written last is read, by the writer and by whoever takes the memfd over; growing and shrinking."""
    for value in values:
        state.write(value)
        assert state.read() == value and State(state.fd).read() == value
    state.beat(12.5)
    assert state.last_beat() == 12.5 and state.read() == values[-1]


def test_torn_write_leaves_the_one_before(state: State) -> None:
    """Whatever bytes of the newest copy or of its descriptor are damaged, the copy before is read."""
    rng = random.Random(1)
    for _ in range(200):
        older, newer = rng.randbytes(rng.randrange(1, 9000)), rng.randbytes(rng.randrange(1, 9000))
        state.write(older)
        before = os.pread(state.fd, 1 << 20, 0)
        state.write(newer)
        after = os.pread(state.fd, 1 << 20, 0)
        current = state._current()
        assert current is not None
        mine = [*range(4096), *range(current[2], current[2] + current[3])]  # not the padding of the last page
        changed = [i for i in mine if i >= len(before) or before[i] != after[i]]
        torn = bytearray(after)
        at = rng.choice(changed)
        torn[at] ^= 0x55
        os.pwrite(state.fd, torn, 0)
        assert State(state.fd).read() == older
        os.pwrite(state.fd, after, 0)
        assert State(state.fd).read() == newer


def test_writer_killed_anywhere(state: State, python: Spawn) -> None:
    """A writer is SIGKILLed anywhere, 25 times over: a whole value is left, never older than one it announced."""
    text = """
import sys
from clusterd.shell.memory import State
state, n = State(int(sys.argv[1])), int(sys.argv[2])
while True:
    n += 1
    state.write((b"%d " % n) * (n * 7919 % 20000 + 1))
    if n % 10 == 0: print(n, flush=True)
"""
    n, rng = 0, random.Random(2)
    for _ in range(25):
        child = python(text, str(state.fd), str(n), pass_fds=[state.fd])
        for _ in range(rng.randrange(1, 6)):
            n = int(line(child.stdout))
        child.send_signal(signal.SIGKILL)
        child.wait()
        data = State(state.fd).read()
        assert data is not None
        found = int(data.split(b" ", 1)[0])
        assert found >= n and data == (b"%d " % found) * (found * 7919 % 20000 + 1)
        n = found


def test_bounds(state: State) -> None:
    """Too much is refused and changes nothing; another file is not taken for the state."""
    state.write(b"kept")
    with pytest.raises(ValueError, match="at most"):
        state.write(bytes(LIMIT + 1))
    assert state.read() == b"kept"
    other = os.memfd_create("other")
    os.write(other, b"something" * 1000)
    with pytest.raises(ValueError, match="not the memfd 'state'"):
        State(other)
    os.close(other)
