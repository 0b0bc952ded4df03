"""Who keeps an address that two files name. The generator and the master must decide alike, so both ask here."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from clusterd.config.addresses import Address, overlaps


class Claim(NamedTuple):
    """`address`, wanted by the instance that lost, overlaps `held`, which `holder` has."""

    address: Address
    holder: str
    held: Address


def settle(claims: Mapping[str, Iterable[Address]], serving: Collection[str]) -> dict[str, Claim]:
    """The instances that are refused, each with the first overlap.

    A newcomer must not hurt an application that runs: those in `serving` come first, then the alphabet decides, because
    it gives the same answer at each boot. Not the files' times: an edit of the older file would turn them round.
    """
    held: list[tuple[str, Address]] = []
    refused: dict[str, Claim] = {}
    for name in sorted(claims, key=lambda name: (name not in serving, name)):
        mine = list(claims[name])
        clash = next((Claim(a, holder, b) for a in mine for holder, b in held if overlaps(a, b)), None)
        if clash:
            refused[name] = clash
        else:
            held += [(name, address) for address in mine]
    return refused


def serving(names: Iterable[str], runtime: str) -> set[str]:
    """Those of `names` whose master has its control socket: one that waits for its code to be repaired is open too."""
    return {name for name in names if os.path.lexists(f"{runtime}/{name}/control")}
