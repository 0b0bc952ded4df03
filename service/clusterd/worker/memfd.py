"""Handing JSON to the program one execs, in memory: an environment or an argument would be seen, and is bounded."""

from __future__ import annotations

import json
import os

from .wire import Message


def memfd(content: Message) -> int:
    fd = os.memfd_create("clusterd", os.MFD_CLOEXEC)
    with open(fd, "w", encoding="utf-8", closefd=False) as f:
        json.dump(content, f)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_memfd(fd: int) -> Message:
    with open(fd, encoding="utf-8") as f:
        content: Message = json.load(f)
    return content
