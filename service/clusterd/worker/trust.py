"""Whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses, networks, "unix", or "*"."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Sequence

MAX_KNOWN = 4096
"""Peers whose answer is remembered: networks take microseconds to ask, and proxies are few."""


def everybody(trusted: Sequence[str], unix: bool) -> bool:
    """Whether every peer of a UNIX socket is, or every peer of a TCP one."""
    return "*" in trusted or (unix and "unix" in trusted)


def literals(trusted: Sequence[str]) -> list[str]:
    """The addresses and networks, and again as a socket of both families shows the IPv4 ones: ::ffff:10.0.0.1."""
    found = []
    for each in trusted:
        if each in ("*", "unix"):
            continue
        found.append(each)
        if "." in each and ":" not in each:
            address, slash, length = each.partition("/")
            found.append(f"::ffff:{address}" + (f"/{96 + int(length)}" if slash else ""))
    return found


def believing(trusted: Sequence[str]) -> Callable[[str | None], bool]:
    """Whether a peer is believed, by the address as the engine has it. One without an address is of a UNIX socket.

    Nothing of ours runs for a peer that has been asked for before: remembering is the interpreter's own work.
    """
    networks = [ipaddress.ip_network(each) for each in literals(trusted)]
    unix = everybody(trusted, unix=True)
    everyone = "*" in trusted

    @functools.lru_cache(MAX_KNOWN)
    def believed(peer: str | None) -> bool:
        if not peer or everyone:
            return unix
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in networks)

    return believed
