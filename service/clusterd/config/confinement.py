"""What [sandbox], [limits] and [credentials] make of the service's unit. Imported by the generator: see names.py.

A value that no directive can be made of raises ValueError, whose text says what to write; config/kinds.py says the same
to who writes the file. In the drop-in it is left out and told, so that it never keeps a unit from loading: the
application keeps its sockets, and what the unit itself closes stays closed. The master refuses the file besides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clusterd.config.homes import at_home
from clusterd.config.names import account_hint, is_account
from clusterd.config.values import percent, size

MAX_PATHS = 64
MAX_CREDENTIALS = 64
HOMES = {"hidden": "yes", "read-only": "read-only", "writable": "no"}
"""[sandbox] home as ProtectHome= has it; "auto" leaves it to what the file implies."""
OWN = ("/dev", "/proc", "/sys", "/tmp", "/var/tmp")
"""What the unit gives the service of its own, or closes by other directives than ReadWritePaths=."""
MIN_MEMORY = 32 << 20
MIN_TASKS, MAX_TASKS = 16, 4_194_304
MIN_NOFILE, MAX_NOFILE = 1024, 1_048_576
"""The kernel's fs.nr_open; a process asks for more in vain, and a unit that does is not started."""

HOME = ("auto", *HOMES)

# Compiled when they are first used: most files have none of these tables, and the generator is in a hurry.
_ADDRESS = r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)(?:/[0-9]{1,3})?"
_DEVICE = r"/dev/[A-Za-z0-9_./+:-]{1,200}|(?:char|block)-[A-Za-z0-9_*-]{1,60}"
_JIT = r"(?:node|nodejs|deno|bun|java|dotnet|julia|luajit|pypy)[0-9.]*"
_CREDENTIAL = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"


def path(value: Any) -> str:
    """An absolute path as a unit can have it, without what systemd would read as more than one word."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("a path is absolute: it begins with '/'")
    if len(value) > 1024 or not value.isprintable() or re.search(r"[\s\"'\\:*?\[\]]", value):
        raise ValueError("systemd reads the path: no spaces, quotes, backslashes, ':', '*', '?' and '['")
    if re.search(r"/\.\.?(/|$)", value):
        raise ValueError("leave out the '.' and '..'")
    return re.sub("/+", "/", value).rstrip("/") or "/"


def writable(value: Any) -> str:
    found = path(value)
    if found == "/":
        raise ValueError("that is the whole machine: name the directories that it writes")
    for own in OWN:
        if found == own or found.startswith(own + "/"):
            what = "of its own, and writable" if "tmp" in own else "made by the unit"
            raise ValueError(f"{own} is {what}: name a directory elsewhere")
    return found


def device(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(_DEVICE, value) or ".." in value:
        raise ValueError('a device is "/dev/dri/renderD128", or all of a driver: "char-drm"')
    return value


def peer(value: Any) -> str:
    """An IP address or a prefix. What the kernel could not take is systemd's to leave out, which closes more."""
    if not isinstance(value, str) or not re.fullmatch(_ADDRESS, value):
        raise ValueError('an address or a prefix, such as "10.0.0.0/8" or "2001:db8::5": names are not looked up')
    host, _, bits = value.partition("/")
    most = 128 if ":" in host else 32
    if bits and int(bits) > most or ":" not in host and any(int(part) > 255 for part in host.split(".")):
        raise ValueError(f"numbers of an address are at most 255, its prefix at most {most}")
    return value


def network(value: Any) -> str | tuple[str, ...]:
    """A list is of what may be reached besides this machine."""
    if value in ("full", "local") and isinstance(value, str):
        return value
    return _each(value, peer, '"full", "local" or a list of addresses')


def home(value: Any) -> str:
    if not isinstance(value, str) or value not in HOME:
        raise ValueError('"auto", "hidden", "read-only" or "writable"')
    return value


def paths(value: Any) -> tuple[str, ...]:
    return _each(value, writable, "a list of paths")


def devices(value: Any) -> tuple[str, ...]:
    return _each(value, device, "a list of devices")


def groups(value: Any) -> tuple[str, ...]:
    return _each(value, _group, "a list of groups")


def switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false, without quotes")
    return value


def memory(value: Any) -> str:
    if isinstance(value, str) and value.endswith("%"):
        percent(value, 100)
        return value
    if not isinstance(value, str):
        raise ValueError('write "512M", "2G" or "50%"')
    if size(value) < MIN_MEMORY:
        raise ValueError("at least 32M: master and keeper need as much")
    return value


def cpu(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError('write "200%", which is two cores')
    percent(value, 100_000)
    return value


def tasks(value: Any) -> int:
    return _whole(value, MIN_TASKS, MAX_TASKS)


def nofile(value: Any) -> int:
    return _whole(value, MIN_NOFILE, MAX_NOFILE)


def credentials(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_CREDENTIALS:
        raise ValueError(f"a table of at most {MAX_CREDENTIALS} names, each with a path")
    for name in value:
        if not re.fullmatch(_CREDENTIAL, name):
            raise ValueError("a name is of letters, digits, '_', '-' and '.', and does not begin with '.' or '-'")
    return {name: path(each) for name, each in value.items()}


def is_encrypted(file: str) -> bool:
    """By where systemd-creds(1) puts what it has encrypted, and what it calls it."""
    return file.endswith(".cred") or "/credstore.encrypted/" in file


def makes_code(command: Sequence[str]) -> bool:
    """Whether it is known to make code at run time, and so not to start, or to die later, without [sandbox] jit."""
    name = command[0].rpartition("/")[2] if command else ""
    return re.fullmatch(_JIT, name) is not None and "--jitless" not in command


def _each(value: Any, one: Callable[[Any], str], expected: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_PATHS:
        raise ValueError(f"{expected}, at most {MAX_PATHS} of them")
    return tuple(one(each) for each in value)


def _group(value: Any) -> str:
    if not isinstance(value, str) or not is_account(value):
        raise ValueError(f"a group is a name, or a number in quotes: {account_hint(value)}")
    return value


def _whole(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"a whole number from {low} to {high}, without quotes")
    return value


def directives(
    table: Mapping[str, Any], implied: list[str], reachable: list[str], user: bool
) -> tuple[list[str], list[str]]:
    """The lines of [Service], and a complaint for each value that there is no line for.

    `implied`: paths that the application needs, of which one below a home opens homes for reading. `reachable`: its own
    addresses, which the usher connects to. `user`: for a user's systemd, which has no mount namespaces.
    """
    made, wrong = _Values(table), []
    lines: list[str] = []
    if not user:
        lines += _sandbox(made, implied, reachable)
    for key, directive, parse in _LIMITS:
        value = made.get("limits", key, parse)
        lines += [f"{directive}={value}"] if value is not None else []
    for name, file in (made.whole("credentials", credentials) or {}).items():
        kind = "LoadCredentialEncrypted" if is_encrypted(file) else "LoadCredential"
        lines.append(f"{kind}={name}:{_escaped(file)}")
    wrong += made.wrong
    return lines, wrong


def _sandbox(made: _Values, implied: list[str], reachable: list[str]) -> list[str]:
    lines = []
    opened = made.get("sandbox", "write", paths) or ()
    homes = made.get("sandbox", "home", home) or "auto"
    if homes != "auto":
        lines.append(f"ProtectHome={HOMES[homes]}")
    elif at_home([*implied, *opened]):
        # readable, and still not writable: the master would report an application that is not there
        lines.append("ProtectHome=read-only")
    # "-": one that is missing is the master's to tell, which can say which
    lines += [f"ReadWritePaths=-{_escaped(each)}" for each in opened]
    if made.get("sandbox", "jit", switch) is False:
        lines.append("MemoryDenyWriteExecute=yes")
    if made.get("sandbox", "namespaces", switch):
        # What a browser's sandbox does in its user namespace. Outside of one chroot() still takes a capability, and
        # capset() can only give up.
        lines += ["RestrictNamespaces=no", "SystemCallFilter=capset chroot"]
    if allowed := made.get("sandbox", "devices", devices):
        lines += ["PrivateDevices=no", *(f"DeviceAllow={each} rw" for each in allowed)]
    peers = made.get("sandbox", "network", network)
    if peers not in (None, "full"):
        named = () if peers == "local" else peers
        lines += ["IPAddressDeny=any", f"IPAddressAllow={' '.join(['localhost', *reachable, *named])}"]
    if members := made.get("sandbox", "groups", groups):
        lines.append(f"SupplementaryGroups={' '.join(members)}")
    return lines


_LIMITS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("memory", "MemoryMax", memory),
    ("tasks", "TasksMax", tasks),
    ("cpu", "CPUQuota", cpu),
    ("nofile", "LimitNOFILE", nofile),
)


class _Values:
    """The tables' values as they are parsed; what cannot be is in `wrong`."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table
        self.wrong: list[str] = []

    def get(self, name: str, key: str, parse: Callable[[Any], Any]) -> Any:
        part = self.table.get(name)
        if not isinstance(part, dict) or key not in part:
            return None
        return self._parse(f"{name}.{key}", part[key], parse)

    def whole(self, name: str, parse: Callable[[Any], Any]) -> Any:
        return self._parse(name, self.table[name], parse) if name in self.table else None

    def _parse(self, key: str, value: Any, parse: Callable[[Any], Any]) -> Any:
        try:
            return parse(value)
        except ValueError as e:
            self.wrong.append(f"'{key}' has no effect on the unit: {e}")
            return None


def _escaped(file: str) -> str:
    return file.replace("%", "%%")
