"""Profiles: [profile.NAME] lays its keys over the file's. Imported by the generator: see names.py.

Which one is used is the administrator's choice and stands beside the file, in NAME.profile: in /etc, because the
generator needs it before any other file system is there, and because it is configuration like the file itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from clusterd.config.files import read_bounded
from clusterd.config.names import NAME, is_name

__all__ = ["FIXED", "NAME", "NONE", "beside", "choose", "chosen", "is_profile", "laid", "laid_over"]

NONE = "none"
"""What stands for the file without a profile, and so can be no profile's name."""

FIXED = ("listen", "slots", "profile")
"""Keys no profile has: the sockets are the application's own, whatever it is run as, and outlive every change of it."""

_MAX_CHOICE = 100
_MODE = 0o644


def is_profile(text: str) -> bool:
    return is_name(text) and text != NONE


def laid_over(table: Mapping[str, Any], profile: str) -> dict[str, Any]:
    """`table` with the keys of its [profile.NAME] in place: table by table, key by key. "" or unknown: without any."""
    plain = {key: value for key, value in table.items() if key != "profile"}
    every = table.get("profile")
    over = every.get(profile) if isinstance(every, dict) else None
    if not isinstance(over, dict):
        return plain
    return laid(plain, {key: value for key, value in over.items() if key not in FIXED})


def laid(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`table` with the keys of `over` in place: table by table, key by key."""
    return {**table, **{key: _over(table.get(key), value, 2 if key == "task" else 1) for key, value in over.items()}}


def _over(below: Any, value: Any, depth: int) -> Any:
    """`value`, with what `below` has besides: as many tables deep."""
    if not depth or not isinstance(below, dict) or not isinstance(value, dict):
        return value
    return {**below, **{key: _over(below.get(key), each, depth - 1) for key, each in value.items()}}


def beside(file: str) -> str:
    """Where the choice for `file` is."""
    return file.removesuffix(".toml") + ".profile"


def chosen(file: str) -> str:
    """The profile chosen for `file`, "" for none. Raises OSError, ValueError; the name is not checked."""
    try:
        found = read_bounded(beside(file), _MAX_CHOICE).decode().strip()
    except FileNotFoundError:
        return ""
    return "" if found == NONE else found  # written by hand: --profile none removes the file


def choose(file: str, profile: str) -> None:
    """Remember `profile` for `file`; "" forgets. Whole or not at all, also when the power fails. Raises OSError."""
    path = beside(file)
    if not profile:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass  # it was so already
        return
    new = f"{path}.new"
    with open(new, "w", encoding="ascii") as f:
        f.write(f"{profile}\n")
        f.flush()
        os.fchmod(f.fileno(), _MODE)
        os.fsync(f.fileno())
    os.replace(new, path)
