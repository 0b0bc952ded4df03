"""Whether a program has gone past the sockets it was given and listens on some of its own: read from /proc."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterable

from clusterd.shell import procnet
from clusterd.shell.procnet import Listener

_WATCHED = re.compile(r"^tfd:.* ino:([0-9a-f]+)", re.MULTILINE)
"""A line of an epoll descriptor's fdinfo: the inode of what it watches, since Linux 4.13."""
_MOST_PIDS = 64


def listens(pids: Iterable[int], given: Collection[int]) -> tuple[list[Listener], bool]:
    """(TCP listeners the processes made themselves, whether they certainly wait on those and on none of `given`).

    `given` are inodes. Certain where epoll tells: a program that calls accept() or poll() shows nobody on what. Empty
    where the processes may not be looked at.
    """
    held: set[int] = set()
    watched: set[int] = set()
    for pid in list(pids)[:_MOST_PIDS]:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{fd}")
                    if link.startswith("socket:["):
                        held.add(int(link[8:-1]))
                    elif link == "anon_inode:[eventpoll]":
                        with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as info:
                            watched |= {int(inode, 16) for inode in _WATCHED.findall(info.read())}
    own = [each for each in procnet.listeners() if each.inode in held and each.inode not in given] if held else []
    return own, any(each.inode in watched for each in own) and watched.isdisjoint(given)
