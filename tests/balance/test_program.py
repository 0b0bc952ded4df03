"""The steering program, checked by running it: an interpreter of classic BPF on packets made here."""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.balance.program import MAX_SLOTS, MODES, NET, RANDOM, Instruction, Mode, program
from clusterd.balance.table import Table

WORD = 0xFFFFFFFF
KERNEL_LIMIT = 4096  # BPF_MAXINSNS

slot_sets = st.sets(st.integers(0, MAX_SLOTS - 1), max_size=MAX_SLOTS)
modes = st.sampled_from(MODES)


def packet4(host: str, port: int, options: int = 0) -> bytes:
    """The IPv4 header with `options` words of options, and the ports."""
    head = bytearray(20 + 4 * options)
    head[0] = 0x40 | (5 + options)
    head[12:16] = ipaddress.IPv4Address(host).packed
    return bytes(head) + struct.pack(">HH", port, 8000)


def packet6(host: str, port: int) -> bytes:
    head = bytearray(40)
    head[0] = 0x60
    head[8:24] = ipaddress.IPv6Address(host).packed
    return bytes(head) + struct.pack(">HH", port, 8000)


def run(code: Sequence[Instruction], packet: bytes, chance: Callable[[], int]) -> int:
    """Run the program as the kernel would: 32-bit unsigned arithmetic, forward jumps only. Returns its result."""
    a = x = pc = 0
    memory = [0] * 16

    def load(k: int, size: int) -> int:
        offset = k - NET
        assert offset >= 0 and offset + size <= len(packet), "the kernel would end the program with 0 here"
        return int.from_bytes(packet[offset : offset + size], "big")

    while True:
        op, jt, jf, k = code[pc]
        pc += 1
        match op:
            case 0x20:
                a = chance() & WORD if k == RANDOM else load(k, 4)
            case 0x30:
                a = load(k, 1)
            case 0x61:
                x = memory[k]
            case 0x02:
                memory[k] = a
            case 0x07:
                x = a
            case 0x04:
                a = (a + k) & WORD
            case 0x24:
                a = (a * k) & WORD
            case 0x74:
                a >>= k
            case 0x94:
                a %= k
            case 0xAC:
                a ^= x
            case 0x05:
                pc += k
            case 0x15:
                pc += jt if a == k else jf
            case 0x35:
                pc += jt if a >= k else jf
            case 0x06:
                return k
            case 0x16:
                return a
            case _:
                raise AssertionError(f"instruction {pc - 1}: unknown code {op:#x}")


@given(modes, slot_sets.filter(bool), st.integers(0, WORD), st.integers(0, WORD), st.integers(0, 65535))
def test_only_live(mode: Mode, live: set[int], chance: int, host: int, port: int) -> None:
    """Whatever the dice and the client, the result is a live slot."""
    packet = packet4(str(ipaddress.IPv4Address(host)), port)
    assert run(program(mode, sorted(live)), packet, lambda: chance) in live


@given(slot_sets.filter(bool))
def test_every_live_slot_is_reached(live: set[int]) -> None:
    """Consecutive random numbers visit each live slot once: the spread is exactly even."""
    code = program("random", sorted(live))
    found = Counter(run(code, b"", lambda n=n: n) for n in range(len(live) if len(live) > 1 else 1))
    assert found == Counter(live)


@given(slot_sets)
@pytest.mark.parametrize("mode", MODES)
def test_the_kernel_would_take_it(mode: Mode, live: set[int]) -> None:
    """Few enough instructions, and jumps that fit their eight bits and stay inside."""
    code = program(mode, sorted(live))
    assert 1 <= len(code) <= KERNEL_LIMIT
    for at, (op, jt, jf, k) in enumerate(code):
        assert 0 <= jt <= 255 and 0 <= jf <= 255 and 0 <= k <= WORD
        if op & 7 == 5:  # jumps
            assert at + 1 + (k if op == 5 else max(jt, jf)) < len(code)
    assert code[-1].code in (0x06, 0x16)


def test_hash_is_even() -> None:
    """Clients are spread over the slots within 20 %, though their addresses differ in a few bits only."""
    live = [0, 1, 2, 5, 6, 9]
    code = program("hash", live)
    n = 6000
    hosts4 = Counter(run(code, packet4(f"10.1.{i >> 8}.{i & 255}", 40000), lambda: 0) for i in range(n))
    hosts6 = Counter(run(code, packet6(f"2001:db8:0:{i:x}::1", 40000), lambda: 0) for i in range(n))
    for found in (hosts4, hosts6):
        assert set(found) == set(live)
        assert max(abs(count - n / 6) for count in found.values()) < 0.2 * n / 6


@given(st.integers(0, WORD), st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 10))
def test_hash_sees_the_client_only(host: int, port: int, other: int, options: int) -> None:
    """The same client is given the same slot, whatever its port, and whether its packet has IP options or not."""
    four, six = str(ipaddress.IPv4Address(host)), str(ipaddress.IPv6Address(host << 64))
    code = program("hash", range(7))
    assert run(code, packet4(four, port), lambda: 0) == run(code, packet4(four, other, options), lambda: 1)
    assert run(code, packet6(six, port), lambda: 0) == run(code, packet6(six, other), lambda: 1)


def test_nobody_live_goes_to_slot_0() -> None:
    """With no live slot there is one queue for the usher to look after, not all of them."""
    for mode in MODES:
        assert run(program(mode, []), b"", lambda: 5) == 0


@pytest.mark.parametrize("live", [[-1], [MAX_SLOTS], [0, 300]])
def test_slots_are_bounded(live: list[int]) -> None:
    """A slot the kernel's index cannot have is refused, naming the bound."""
    with pytest.raises(ValueError, match="expected 0 to 255"):
        program("random", live)


def test_mode_is_checked() -> None:
    """An unknown mode names the known ones."""
    with pytest.raises(ValueError, match="random or hash"):
        program("fair", [0, 1])  # type: ignore[arg-type]


def test_table() -> None:
    """Equal tables need no new program; slots that are not live are the usher's; nonsense is refused."""
    table = Table("random", 4, (0, 2))
    assert table == Table("random", 4, (0, 2))
    assert table.program() == program("random", [0, 2])
    for live in ((2, 0), (0, 0), (4,)):
        with pytest.raises(ValueError, match="within 0 to 3"):
            Table("random", 4, live)
