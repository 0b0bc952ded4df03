"""Whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses, networks, "unix", or "*"."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

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


class Trusted:
    """A set of peers, by the address as the engine has it. None, no address, is a peer of a UNIX socket."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(each) for each in literals(trusted)]
        self._known: dict[object, bool] = {None: everybody(trusted, unix=True)}
        self._all = "*" in trusted

    def __contains__(self, peer: object) -> bool:
        known = self._known.get(peer)
        if known is None:
            known = self._look(str(peer))
            if len(self._known) < MAX_KNOWN:
                self._known[peer] = known
        return known

    def _look(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return self._all
        return self._all or any(address in network for network in self._networks)
