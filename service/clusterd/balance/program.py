"""Live slots in, a program for the kernel out: classic BPF that picks the slot of each new connection. Pure.

The kernel runs it on the first packet of a connection and takes its result as an index into the reuseport group, whose
order is that of the listen() calls, so the index is the slot. An index outside the group would make the kernel fall
back to its own hash over every slot, dead ones included: the program never returns one.

Instructions and addresses: Linux, Documentation/networking/filter.rst; the packet is seen from the network header on
(SKF_NET_OFF), because the kernel has moved the data past the TCP header by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

MAX_SLOTS = 256
"""Slots a group may have here; 256 dead-or-alive alternating need 4 * 128 instructions, the kernel takes 4,096."""

Mode = Literal["random", "hash"]
MODES: tuple[Mode, ...] = ("random", "hash")


class Instruction(NamedTuple):
    """struct sock_filter: what to do, where to jump if true and if false (instructions to skip), and a constant."""

    code: int
    jt: int
    jf: int
    k: int


# Codes, by the kernel's names (linux/bpf_common.h): class | size or operation | mode or source.
LD_W_ABS, LD_B_ABS = 0x20, 0x30
ST, LDX_MEM, TAX = 0x02, 0x61, 0x07
MUL_K, AND_K, RSH_K, MOD_K, ADD_K, XOR_K, XOR_X = 0x24, 0x54, 0x74, 0x94, 0x04, 0xA4, 0xAC
JA, JEQ_K, JGE_K = 0x05, 0x15, 0x35
RET_K, RET_A = 0x06, 0x16

RANDOM = 0xFFFFF000 + 56
"""SKF_AD_OFF + SKF_AD_RANDOM: a load from here is a fresh random number."""
NET = 0xFFF00000
"""SKF_NET_OFF: the first byte of the IP header."""

_GOLDEN = 0x9E3779B1  # Knuth's multiplicative hashing, the prime next to 2**32 / phi


def program(mode: Mode, live: Sequence[int]) -> list[Instruction]:
    """The program that spreads connections over the slots in `live`.

    "random": evenly by chance. "hash": by the client's address, so that the same client is always given the same
    slot while `live` is the same. Nobody live: everything to slot 0, where the usher answers.
    Raises ValueError for an unknown mode or a slot outside 0 to MAX_SLOTS - 1.
    """
    slots = sorted(set(live))
    if slots and not 0 <= slots[0] <= slots[-1] < MAX_SLOTS:
        raise ValueError(f"slots {slots[0]} to {slots[-1]}: expected 0 to {MAX_SLOTS - 1}")
    if mode not in MODES:
        raise ValueError(f"balance '{mode}': expected {' or '.join(MODES)}")
    if len(slots) < 2:
        return [Instruction(RET_K, 0, 0, slots[0] if slots else 0)]
    number = [Instruction(LD_W_ABS, 0, 0, RANDOM)] if mode == "random" else list(_CLIENT_HASH)
    return [*number, Instruction(MOD_K, 0, 0, len(slots)), *_nth(slots)]


def _nth(slots: Sequence[int]) -> Iterable[Instruction]:
    """A is a position among the live slots; return the slot there. One comparison for each unbroken run of slots.

    A run's slots are position + offset, and the offset is never negative as the slots are sorted and distinct.
    """
    position = 0
    for first, length in _runs(slots):
        end = position + length
        if end < len(slots):
            yield Instruction(JGE_K, 2, 0, end)
        yield Instruction(ADD_K, 0, 0, first - position)
        yield Instruction(RET_A, 0, 0, 0)
        position = end


def _runs(slots: Sequence[int]) -> Iterable[tuple[int, int]]:
    """(first, length) of each unbroken run in the sorted `slots`."""
    first = previous = slots[0]
    for slot in slots[1:]:
        if slot != previous + 1:
            yield first, previous - first + 1
            first = slot
        previous = slot
    yield first, previous - first + 1


def _mix(bits: int) -> Iterable[Instruction]:
    """A *= golden; A ^= A >> bits. Without the shift the low bits, which modulo looks at, would not see the high."""
    yield Instruction(MUL_K, 0, 0, _GOLDEN)
    yield Instruction(TAX, 0, 0, 0)
    yield Instruction(RSH_K, 0, 0, bits)
    yield Instruction(XOR_X, 0, 0, 0)


def _client_hash() -> Iterable[Instruction]:
    """A = hash of the client's address, for both versions of IP. Uses M[0].

    Not of its port: the next connection of the same client would then go elsewhere, as with "random".
    """
    # Four 32-bit words of an IPv6 address, folded one after the other (h = mix(h ^ word)), at 8, 12, 16, 20.
    six: list[Instruction] = [Instruction(LD_W_ABS, 0, 0, NET + 8), *_mix(15)]
    for offset in (12, 16, 20):
        six += [
            Instruction(ST, 0, 0, 0),
            Instruction(LD_W_ABS, 0, 0, NET + offset),
            Instruction(LDX_MEM, 0, 0, 0),
            Instruction(XOR_X, 0, 0, 0),
            *_mix(15),
        ]
    four = [Instruction(LD_W_ABS, 0, 0, NET + 12), *_mix(15)]
    yield Instruction(LD_B_ABS, 0, 0, NET)
    yield Instruction(RSH_K, 0, 0, 4)
    yield Instruction(JEQ_K, 0, len(four) + 1, 4)
    yield from four
    yield Instruction(JA, 0, 0, len(six))
    yield from six
    yield from _mix(13)


_CLIENT_HASH = tuple(_client_hash())
