"""What somebody sends who means no good, or has a bug: bytes, values of any type, and valid messages gone wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

TEXT = st.characters()
"""Any character, halves of pairs too: JSON has them, and no encoding does."""
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(TEXT, max_size=40),
    st.sampled_from(["", "\0", "\n", "é\u202e", "\udce9", "\x1b[8m", "x" * 5000]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(TEXT, max_size=8), inner, max_size=4)),
    max_leaves=8,
)
"""Anything JSON has, and what Python's reader takes besides: NaN, infinities, integers without end."""


def messages(fields: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, each right, or anything; and with others."""
    known = st.fixed_dictionaries({}, optional={name: st.one_of(right, VALUES) for name, right in fields.items()})
    return st.builds(lambda a, b: {**b, **a}, known, st.dictionaries(st.text(TEXT, max_size=8), VALUES, max_size=2))


@st.composite
def broken(draw: Callable[[st.SearchStrategy[Any]], Any], valid: st.SearchStrategy[bytes]) -> bytes:
    """Valid bytes of which a piece is missing, doubled, in another place, or something else."""
    data = bytes(draw(valid))
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 20)))
        piece = draw(st.one_of(st.just(b""), st.just(data[begin:end] * 2), st.binary(max_size=12)))
        data = data[:begin] + piece + data[end:]
    return data


def encoded(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\0"


@st.composite
def pieces(draw: Callable[[st.SearchStrategy[Any]], Any], data: bytes) -> list[bytes]:
    """`data` as a stream may deliver it."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if b > a]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
