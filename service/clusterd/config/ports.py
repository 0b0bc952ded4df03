"""Which ports need a privilege."""

from __future__ import annotations


def first_unprivileged(sysctl: str = "/proc/sys/net/ipv4/ip_unprivileged_port_start") -> int:
    """The lowest port that anybody may listen on; 1024 unless the administrator of the machine has changed it."""
    try:
        with open(sysctl, encoding="ascii") as f:
            return int(f.read())
    except (OSError, ValueError):
        return 1024
