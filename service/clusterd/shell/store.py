"""Descriptors by name: what the keeper holds for the masters, and how it goes over the wire."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

CHUNK = 200
"""Descriptors in one message; the kernel takes 253."""
LIMIT = 8192


class Store(dict[str, int]):
    """{name: descriptor}; the descriptors are the store's to close."""

    def apply(self, message: dict[str, Any], fds: list[int]) -> None:
        """Perform {"op": "keep", "name" or "names"} with `fds`, or {"op": "drop", "names"}; closes what is left."""
        names = message.get("names", [message.get("name")])
        if message.get("op") == "drop":
            self.drop(names)
        elif message.get("op") == "keep" and len(names) == len(fds) and len(self) + len(fds) <= LIMIT:
            for name in names:
                self.drop([name])
                self[str(name)] = fds.pop(0)
        for fd in fds:
            os.close(fd)

    def drop(self, names: list[str]) -> None:
        for name in names:
            fd = self.pop(name, None)
            if fd is not None:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def close(self) -> None:
        self.drop(list(self))


def chunks(store: Mapping[str, int]) -> Iterator[tuple[list[str], list[int]]]:
    """(names, descriptors) for one message each."""
    names = list(store)
    for i in range(0, len(names), CHUNK):
        some = names[i : i + CHUNK]
        yield some, [store[name] for name in some]
