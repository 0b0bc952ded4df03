"""A network of their own for tests of this host, so that two processes can run some at once: nobody else takes their
free ports, or counts in the kernel's counters."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import subprocess
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
DIRECTORIES = ("tests/run/", "tests/worker/")
"""Whose tests have one."""

_libc = ctypes.CDLL(None, use_errno=True)
_machines = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@functools.cache
def can_be_own() -> bool:
    """Whether there is a network to be had: root has one, where a container's engine lets it."""
    argv = ["unshare", "--net", "ip", "link", "set", "lo", "up"]
    with contextlib.suppress(OSError):
        return subprocess.run(argv, capture_output=True).returncode == 0
    return False


def directory_of(nodeid: str) -> str:
    """Which of the directories that test is in; "": it has the machine's network."""
    return next((each for each in DIRECTORIES if nodeid.startswith(each) and can_be_own()), "")


@contextlib.contextmanager
def own() -> Iterator[None]:
    """The calling thread, and what it starts, is meanwhile alone in a network that has a loopback."""
    _call(_libc.unshare, CLONE_NEWNET)
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        _enter(_machines)


def own_if_can_be() -> contextlib.AbstractContextManager[None]:
    """`own` where there is one to be had; else the machine's, with whose ports others have to do."""
    return own() if can_be_own() else contextlib.nullcontext()


@contextlib.contextmanager
def outside() -> Iterator[None]:
    """The calling thread, and what it starts, is meanwhile in the machine's network: to install something."""
    if not can_be_own():
        yield
        return
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(_machines)
        yield
    finally:
        _enter(here)
        os.close(here)


def _enter(network: int) -> None:
    _call(_libc.setns, network, CLONE_NEWNET)


def _call(function: ctypes._NamedFuncPointer, *arguments: int) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
