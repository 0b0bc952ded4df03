"""Addresses to listen on, in the grammar of systemd's ListenStream=. Imported by the generator: see names.py.

A NamedTuple, not a dataclass: importing `dataclasses` alone takes as long as Python takes to start.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from clusterd.config.names import account_hint, is_account

ANY4, ANY6 = "0.0.0.0", "::"
PATH_MAX = 107
"""Bytes a UNIX socket's path may have: sockaddr_un.sun_path has 108, one of them the NUL."""

_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?!$)|$)){4}")
_SCHEME = re.compile("(?:http|https|tcp)://")
_KEYS = ("address", "path", "mode", "user", "group")


class Address(NamedTuple):
    """One address. `host` and `port` are set for "tcp" only, `path`, `mode`, `user` and `group` for "unix" only.

    `host` is in its canonical form; "::" is every address of both families (the socket unit has BindIPv6Only=both).
    A link-local host carries its interface: "fe80::1%eth0".
    """

    kind: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""
    mode: int = 0
    user: str | None = None
    group: str | None = None

    def text(self) -> str:
        """As people read it, and as `parse` takes it."""
        if self.kind == "unix":
            return self.path
        if ":" not in self.host:
            return f"{self.host}:{self.port}"
        host, _, scope = self.host.partition("%")
        return f"[{host}]:{self.port}" + (f"%{scope}" if scope else "")

    def stream(self) -> str:
        """What follows ListenStream=."""
        if self.host == ANY6:
            return str(self.port)  # so that systemd falls back to IPv4 on a kernel without IPv6
        return self.text().replace("%", "%%")  # a single one begins a specifier


def parse(value: object) -> Address:
    """An Address of a value from the file: "8000", 8000, "127.0.0.1:8000", "[::1]:8001", "/run/x.sock" or a table.

    Raises ValueError, whose text says what to do.
    """
    if isinstance(value, dict):
        return _table(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return Address("tcp", ANY6, _bounded(value))
    if not isinstance(value, str):
        raise ValueError('an address is a string such as "8000", or a table { path = "/run/x.sock", mode = "0660" }')
    if value.startswith("/"):
        return Address("unix", path=_path(value), mode=0o666)
    if value.startswith("unix:"):
        better = re.sub("^/+", "/", value.removeprefix("unix:"))
        raise _such_as("a UNIX socket is written as its absolute path alone", better if better[:1] == "/" else "")
    if match := _SCHEME.match(value):
        rest = value[match.end() :].rstrip("/")
        raise _such_as(f'an address has no "{match[0]}"', "" if _SCHEME.match(rest) else rest)
    if value.startswith("@"):
        raise ValueError("an abstract socket has no permissions, so anybody could connect: give it a path under /run")
    if value.isascii() and value.isdecimal():
        return Address("tcp", ANY6, _number(value))
    if value.startswith("["):
        return _ipv6(value)
    host, colon, port = value.rpartition(":")
    if colon and _IPV4.fullmatch(host):
        return Address("tcp", host, _number(port))
    if colon and ":" in host:
        raise _such_as(
            "an IPv6 address stands in brackets, its port behind them", f"[{host}]:{port}", f"[{value}]:8000"
        )
    if host == "localhost":
        raise _such_as("names are not looked up", f"127.0.0.1:{port}")
    if colon and host:
        raise ValueError("a host is given by its IP address: names are not looked up")
    raise ValueError('write a port ("8000"), "ADDRESS:PORT", "[IPV6]:PORT" or the absolute path of a UNIX socket')


def _such_as(words: str, *better: str) -> ValueError:
    """`words`, and behind them the first of `better` that is an address, if one is."""
    for each in better:
        try:
            parse(each)
        except ValueError:
            continue
        return ValueError(f'{words}: "{each}"')
    return ValueError(words)


def overlaps(a: Address, b: Address) -> bool:
    """Whether the two would take each other's connections. Symmetric; an address overlaps itself."""
    if a.kind != b.kind:
        return False
    if a.kind == "unix":
        return a.path == b.path
    if a.port != b.port:
        return False
    if a.host == b.host or ANY6 in (a.host, b.host):
        return True
    return ANY4 in (a.host, b.host) and ":" not in a.host + b.host


def _number(text: str) -> int:
    return _bounded(int(text) if re.fullmatch("[1-9][0-9]{0,4}", text) else 0)


def _bounded(port: int) -> int:
    if not 1 <= port <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return port


def _ipv6(text: str) -> Address:
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\]:([0-9]+)(?:%([A-Za-z0-9_.-]{1,15}))?", text)
    import ipaddress  # only here: most files need it not, and it is slow

    try:
        host = ipaddress.IPv6Address(match[1] if match else "")
    except ValueError:
        match = None
    if not match:
        raise ValueError('an IPv6 address is written "[::1]:8001", a link-local one "[fe80::1]:8001%eth0"')
    port = _number(match[2])
    if host.ipv4_mapped:
        raise ValueError(f'write it as IPv4: "{host.ipv4_mapped}:{match[2]}"')
    if host.is_link_local and not match[3]:
        raise ValueError(f'a link-local address needs its interface: "[{host}]:{match[2]}%eth0"')
    if match[3] and not host.is_link_local:
        raise ValueError(f'only a link-local address has an interface: "[{host}]:{match[2]}"')
    return Address("tcp", f"{host}%{match[3]}" if match[3] else str(host), port)


def _path(text: str) -> str:
    if not re.fullmatch(r"/[!-\[\]-~]*", text):
        raise ValueError("the path of a socket is printable ASCII without spaces and backslashes")
    if len(text) > PATH_MAX:
        raise ValueError(f"the path of a socket has at most {PATH_MAX} bytes, this one {len(text)}")
    if text.endswith("/") or "//" in text or "/../" in text + "/" or "/./" in text + "/":
        raise ValueError("the path of a socket ends in its name and has no '//', '.' or '..' in it")
    # the one symbolic link every Debian has; systemd says so too. Two names of one socket must compare equal.
    return text.removeprefix("/var") if text.startswith("/var/run/") else text


def _table(table: dict[Any, Any]) -> Address:
    unknown = [key for key in table if key not in _KEYS]
    if unknown:
        raise ValueError(f"'{unknown[0]}' is no key of an address: {', '.join(_KEYS)} are")
    if ("address" in table) == ("path" in table):
        raise ValueError("an address table has either 'path' or 'address'")
    if "address" in table:
        if len(table) > 1:
            raise ValueError("mode, user and group belong to a UNIX socket: give its 'path'")
        if isinstance(table["address"], dict):
            raise ValueError('an address is a string such as "8000"')
        return parse(table["address"])
    path, user, group = table["path"], table.get("user"), table.get("group")
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError("'path' is the absolute path of a UNIX socket")
    for key, account in (("user", user), ("group", group)):
        if account is not None and not (isinstance(account, str) and is_account(account)):
            raise ValueError(f"'{key}' is the name of an account or its number in quotes: {account_hint(account)}")
    mode = table.get("mode", "0660" if group else "0666")
    if not isinstance(mode, str) or not re.fullmatch("0?[0-7]{3}", mode):
        raise ValueError("'mode' is an octal number in quotes, such as \"0660\"")
    return Address("unix", path=_path(path), mode=int(mode, 8), user=user, group=group)
