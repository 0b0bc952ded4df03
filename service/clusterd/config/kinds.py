"""What a setting's value may be: a Kind checks a value of the file and gives it the form the program uses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from clusterd.config import addresses, confinement, shapes, timers
from clusterd.config.names import account_hint, is_account, is_loadable, is_root
from clusterd.config.values import duration, duration_text
from clusterd.worker import reference, topics

MAX_LISTEN = 16
_VARIABLE = re.compile(r"\$[A-Z_][A-Z0-9_]{0,63}")
MAX_ARGUMENTS = 256
MAX_ENVIRONMENT = 1000
MAX_TRUSTED = 256
MAX_TEXT = 4096
MAX_BITS = 256
"""Of a number that is shown as it is: str() of one with thousands of digits is a ValueError."""
MAX_SHOWN = 80
MAX_VARIABLE = 128 << 10
"""Bytes of one variable: MAX_ARG_STRLEN of Linux, beyond which execve() fails."""


class Wrong(Exception):
    """The value is not of the kind. `hint` says what to do, if anything; `key` is appended to the setting's key.

    `found` and `expected` stand for those of the whole value. `parts`: a Wrong each, where a value has several.
    """

    def __init__(self, hint: str = "", *, key: str = "", found: str = "", expected: str = "") -> None:
        super().__init__(hint)
        self.hint, self.key, self.found, self.expected = hint, key, found, expected
        self.parts: list[Wrong] = []

    @classmethod
    def each(cls, parts: list[Wrong]) -> Wrong:
        whole = cls()
        whole.parts = parts
        return whole


@dataclass(frozen=True)
class Kind:
    """`expected` is a noun phrase for messages and the manual; `parse` raises Wrong.

    `schema` says in JSON Schema what an editor can check of it: it takes all that `parse` takes, and maybe more.
    """

    expected: str
    parse: Callable[[Any], Any]
    secret: bool = False
    schema: Mapping[str, Any] = field(default_factory=dict, kw_only=True)


def _text(value: Any, hint: str = "") -> str:
    if not isinstance(value, str):
        raise Wrong(hint)
    if not value or len(value) > MAX_TEXT or not value.isprintable():
        raise Wrong(f"it has 1 to {MAX_TEXT} printable characters")
    return value


def _such_as(words: str, text: str, parse: Callable[[Any], Any]) -> str:
    """`words`, and behind them what is to be written instead: only where that is a value."""
    try:
        parse(text)
    except Wrong:
        return words
    return f'{words}: "{text}"'


def number(low: int, high: int, *words: str) -> Kind:
    """A whole number, or one of `words`."""

    def parse(value: Any) -> int | str:
        if isinstance(value, str) and value in words:
            return value
        if isinstance(value, str) and re.fullmatch("[1-9][0-9]{0,15}", value) and low <= int(value) <= high:
            raise Wrong("a number stands without quotes")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Wrong
        return value

    expected = " or ".join([*(f'"{w}"' for w in words), f"a whole number from {low} to {high}"])
    return Kind(expected, parse, schema=shapes.number(low, high, *words))


def choice(*words: str) -> Kind:
    def parse(value: Any) -> str:
        if value not in words or not isinstance(value, str):
            raise Wrong
        return value

    return Kind(one_of(words), parse, schema=shapes.choice(*words))


def one_of(words: tuple[str, ...]) -> str:
    quoted = [f'"{w}"' for w in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def seconds(low: float, high: float) -> Kind:
    """A time with its unit, as float seconds."""

    def parse(value: Any) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise Wrong(_such_as("a time has its unit", f"{show(value)}s", parse))
        if not isinstance(value, str):
            raise Wrong
        try:
            found = duration(value)
        except ValueError as e:
            raise Wrong(str(e)) from e
        if not low <= found <= high:
            raise Wrong
        return found

    return Kind(f"a time from {duration_text(low)} to {duration_text(high)}", parse, schema=shapes.TIME)


def or_never(kind: Kind) -> Kind:
    """What `kind` takes, or false, which is None."""

    def parse(value: Any) -> Any:
        return None if value is False else kind.parse(value)

    return Kind(f"{kind.expected}, or false", parse, schema={"anyOf": [{"enum": [False]}, kind.schema]})


def size(low: int, high: int) -> Kind:
    """A number of bytes, as "64K"."""

    def parse(value: Any) -> int:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise Wrong(_such_as("a size stands in quotes, with K, M or G for a unit, or as bytes", show(value), parse))
        match = re.fullmatch("([0-9]{1,15})([KMGT]?)", value) if isinstance(value, str) else None
        if not match:
            raise Wrong('write a number and its unit, such as "64K" or "16M"')
        found = int(match[1]) << 10 * " KMGT".index(match[2] or " ")
        if not low <= found <= high:
            raise Wrong
        return found

    return Kind(f"a size from {size_text(low)} to {size_text(high)}", parse, schema=shapes.SIZE)


def size_text(size: int) -> str:
    """`size` as the file has it: 65536 is "64K"."""
    for unit in " KMGT":
        if size % 1024 or not size or unit == "T":
            return f"{size}{unit.strip()}"
        size >>= 10
    return str(size)


def _trusted(value: Any) -> tuple[str, ...]:
    values = [each.strip() for each in value.split(",")] if isinstance(value, str) else value
    if not isinstance(values, list) or len(values) > MAX_TRUSTED:
        raise Wrong(f"at most {MAX_TRUSTED} of them" if isinstance(values, list) else "")
    found: list[str] = []
    for index, each in enumerate(values):
        try:
            found.append(_peer(each))
        except ValueError as e:
            key = f"[{index}]" if isinstance(value, list) else ""
            raise Wrong(str(e), key=key, found=show(each), expected=TRUSTED_EACH) from None
    if "*" in found and len(found) > 1:
        raise Wrong('"*" is everybody already: leave the others out')
    return tuple(found)


def _peer(value: Any) -> str:
    """Raises ValueError, which says what to do."""
    import ipaddress  # only here: most files need it not, and it is slow

    if value in ("*", "unix"):
        return str(value)
    if not isinstance(value, str):
        raise ValueError("each is a string")
    try:
        return str(ipaddress.ip_network(value) if "/" in value else ipaddress.ip_address(value))
    except ValueError as e:
        if "has host bits set" in str(e):
            raise ValueError(f'the network it is in is "{ipaddress.ip_network(value, strict=False)}"') from None
        if value.startswith("/"):
            raise ValueError('whoever may connect to a UNIX socket is "unix"') from None
        raise ValueError("names are not looked up: give the address") from None


def _pem(value: Any) -> str:
    text = _text(value)
    if "/" in text:
        path = _path(text)
        if not is_loadable(path):
            raise Wrong("systemd, which reads it, takes ASCII without spaces, colons, quotes and backslashes")
        return path
    if not re.fullmatch("[A-Za-z0-9_.-]{1,255}", text) or text in (".", ".."):
        raise Wrong("a credential's name has letters, digits, '_', '-' and '.'")
    return text


def _path(value: Any) -> str:
    text = _text(value)
    if not text.startswith("/"):
        raise Wrong("it begins with '/': nothing here has a directory that it could be relative to")
    if "/../" in text + "/":
        raise Wrong("leave out the '..'")
    return re.sub("/+", "/", text.replace("/./", "/")).rstrip("/") or "/"


def _environment_file(value: Any) -> str:
    path = _path(value)
    if re.search(r"[*?\[\]\\\s]", path):
        raise Wrong("systemd, which reads it, takes a pattern too: no spaces, backslashes, '*', '?' and '['")
    return path


def _app(value: Any) -> str:
    text = _text(value)
    try:
        reference.parse(text)
    except ValueError as e:
        raise Wrong(str(e)) from e
    return text


def _call(value: Any) -> str:
    text = _app(value)
    if text.endswith(")"):
        raise Wrong("it is called each time it is due: write the name of the function alone")
    return text


def _calendar(value: Any) -> str:
    text = _text(value)
    try:
        return timers.calendar(text)
    except ValueError as e:
        raise Wrong(str(e)) from e


def _topic(value: Any) -> str:
    if (why := topics.wrong(value, "key")) is not None:
        raise Wrong(why.partition(": ")[2])
    return str(value)


def _command(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        words = ", ".join(json.dumps(word) for word in value.split())
        such = f": [{words}]" if words and len(words) <= MAX_SHOWN else ""
        raise Wrong(f"no shell reads it, so every word stands for itself{such}")
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ARGUMENTS:
        raise Wrong
    for word in value:
        if not isinstance(word, str) or "\0" in word or len(word) > MAX_TEXT:
            raise Wrong("every word is a string")
    if not value[0]:
        raise Wrong("the first word is the program")
    return tuple(value)


def _listen(value: Any) -> tuple[addresses.Address, ...]:
    values = value if isinstance(value, list) else [value]
    if not 1 <= len(values) <= MAX_LISTEN:
        raise Wrong(f"give 1 to {MAX_LISTEN} of them")
    found: list[addresses.Address] = []
    wrong: list[Wrong] = []
    for index, each in enumerate(values):
        key = f"[{index}]" if isinstance(value, list) else ""
        try:
            address = addresses.parse(each)
        except ValueError as e:
            wrong.append(Wrong(str(e), key=key, found=show(each), expected="an address"))
            continue
        other = next((o for o in found if addresses.overlaps(address, o)), None)
        if other:
            hint = f"it overlaps '{other.text()}': leave one of them out"
            wrong.append(Wrong(hint, key=key, found=show(each), expected="an address of its own"))
        found.append(address)
    if wrong:
        raise Wrong.each(wrong)
    if len({(a.mode, a.user, a.group) for a in found if a.kind == "unix"}) > 1:
        raise Wrong("a systemd unit has one SocketMode=: give all UNIX sockets the same mode, user and group")
    return tuple(found)


def _user(value: Any) -> str:
    name = _account(value)
    if is_root(name):
        raise Wrong("an application never runs as root: leave 'user' out for a dynamic user of its own")
    return name


def _account(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        raise Wrong("a number stands in quotes here" if is_account(show(value)) else "")
    if not isinstance(value, str) or not is_account(value):
        raise Wrong(account_hint(value))
    return value


def _ready(value: Any) -> str | float:
    if value == "notify":
        return "notify"
    if not isinstance(value, str) or not value.startswith("after "):
        raise Wrong
    return float(seconds(0, 3600).parse(value.removeprefix("after ")))


def _url_path(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("/[!-~]{0,1023}", value):
        raise Wrong("it begins with '/' and is ASCII without spaces")
    return value


def _cache(value: Any) -> str:
    return value if value == "embedded" else _redis("cache", value)


def _bus(value: Any) -> str:
    return _redis("bus", value)


def _redis(key: str, value: Any) -> str:
    """What is wrong is not repeated: it may hold a password."""
    text = _text(value)
    if _VARIABLE.fullmatch(text):
        return text
    try:
        parts = urlsplit(text)
        port_is_one = parts.port is None or parts.port > 0
    except ValueError:
        raise Wrong('a Redis is "redis://127.0.0.1:6379/0" or "unix:///run/redis/redis-server.sock?db=0"') from None
    if parts.password or "password" in parts.query:
        raise Wrong(
            f'a password does not belong into this file: put the URL into environment-file, and {key} = "$REDIS_URL"'
        )
    place = (
        parts.path.startswith("/") and not parts.hostname if parts.scheme == "unix" else parts.hostname and port_is_one
    )
    if parts.scheme not in ("redis", "rediss", "unix") or not place or not text.isascii() or " " in text:
        raise Wrong('a Redis is "redis://127.0.0.1:6379/0" or "unix:///run/redis/redis-server.sock?db=0"')
    return text


def _root_path(value: Any) -> str:
    path = _url_path(value)
    if path.endswith("/"):
        raise Wrong("it does not end in '/'")
    return path


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong("without quotes" if value in ("true", "false") else "")
    return value


def _preload(value: Any) -> str:
    if value is False:
        return "never"
    if value != "force":
        raise Wrong("leave it out to let clusterd look")
    return "force"


def is_variable(name: str) -> bool:
    return re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,254}", name) is not None


def reserved(name: str) -> bool:
    """Whether a variable of that name is part of how systemd or clusterd speaks to the worker."""
    return name.startswith(("CLUSTERD_", "LISTEN_", "WATCHDOG_")) or name in ("NOTIFY_SOCKET", "MAINPID")


def _environment(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Wrong("write it as a table: [env]")
    if len(value) > MAX_ENVIRONMENT:
        raise Wrong(f"at most {MAX_ENVIRONMENT} variables")
    wrong = [each for name, text in value.items() if (each := _variable(name, text))]
    if wrong:
        raise Wrong.each(wrong)
    return dict(value)


def _variable(name: str, text: Any) -> Wrong | None:
    # never `found` as it is: it may be a password
    key = f".{name}"
    if not is_variable(name):
        return Wrong(key=key, found="that name", expected="letters, digits and '_'")
    if reserved(name):
        return Wrong(key=key, found="a name that clusterd or systemd sets itself", expected="another name")
    if not isinstance(text, str):
        return Wrong("put the value in quotes", key=key, found=type_name(text), expected="a string")
    if "\0" in text or len(text.encode()) + len(name) + 2 > MAX_VARIABLE:
        return Wrong(key=key, found="a NUL or too many bytes", expected=f"at most {MAX_VARIABLE} bytes, none of them 0")
    return None


def type_name(value: Any) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


def show(value: Any, depth: int = 8) -> str:
    """A value as the file has it, shortened, on one line; of what is nested, so many levels."""
    if isinstance(value, (dict, list)) and not depth:
        text = "..."  # a key with dots makes tables below tables that no parser recurses for
    elif isinstance(value, dict):
        each = ", ".join(f"{k} = {show(v, depth - 1)}" for k, v in list(value.items())[:8])
        text = f"{{ {each} }}" if value else "{}"
    elif isinstance(value, list):
        each = ", ".join(show(v, depth - 1) for v in value[:8])
        text = f"[{each}" + (", ...]" if len(value) > 8 else "]")
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        text = f"an integer of {value.bit_length()} bits"
    elif isinstance(value, (str, bool)):
        text = json.dumps(value, ensure_ascii=not str(value).isprintable())
    else:
        text = str(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


TRUSTED_EACH = 'an IP address, a network, "unix" or "*"'
TRUSTED = Kind(f"a list of strings, each {TRUSTED_EACH}", _trusted, schema=shapes.words_or_one(MAX_TRUSTED))
PEM = Kind("an absolute path, or the name of a credential", _pem, schema=shapes.text("^(/.*|[A-Za-z0-9_.-]{1,255})$"))
PATH = Kind("an absolute path", _path, schema=shapes.text("^/", MAX_TEXT))
ENVIRONMENT_FILE = Kind("an absolute path", _environment_file, schema=shapes.text(r"^/[^*?\[\]\\\s]*$", MAX_TEXT))
APP = Kind('"MODULE:OBJECT" or "MODULE:FACTORY()"', _app, schema=shapes.text(shapes.APP, MAX_TEXT))
CALL = Kind('"MODULE:FUNCTION"', _call, schema=shapes.text(shapes.APP, MAX_TEXT))
CALENDAR = Kind('a time such as "Mon..Fri 04:00"', _calendar, schema=shapes.text("", timers.MAX_CALENDAR))
TOPIC = Kind(f"a text of 1 to {topics.MAX_TOPIC} bytes", _topic, schema=shapes.text("", topics.MAX_TOPIC))
COMMAND = Kind(
    "a list of strings, the program and its arguments", _command, schema=shapes.words(MAX_ARGUMENTS, MAX_TEXT)
)
LISTEN = Kind("an address or a list of addresses", _listen, schema=shapes.one_or_several(shapes.ADDRESS, MAX_LISTEN))
USER = Kind("the name of an account", _user, schema=shapes.account("root", "0"))
GROUP = Kind("the name of a group", _account, schema=shapes.account())
READY = Kind('"notify" or "after TIME"', _ready, schema=shapes.READY)
URL_PATH = Kind('a path such as "/healthz"', _url_path, schema=shapes.text("^/[!-~]{0,1023}$"))
_REDIS = r"\$[A-Z_][A-Z0-9_]{0,63}|(rediss?|unix)://[!-~]{1,1000}"
"""What `_redis` takes, as far as a pattern can say it."""
CACHE = Kind(
    '"embedded", the URL of a Redis, or "$NAME"',
    _cache,
    secret=True,
    schema=shapes.text(f"^(embedded|{_REDIS})$"),
)
BUS = Kind(
    'the URL of a Redis, or "$NAME"',
    _bus,
    secret=True,
    schema=shapes.text(f"^({_REDIS})$"),
)
ROOT_PATH = Kind('a path such as "/api"', _root_path, schema=shapes.text("^/[!-~]{0,1022}[!-.0-~]$"))
SWITCH = Kind("true or false", _switch, schema={"type": "boolean"})
PRELOAD = Kind('"force" or false', _preload, schema={"enum": ["force", False]})
ENVIRONMENT = Kind("a table of strings", _environment, secret=True, schema=shapes.variables(MAX_ENVIRONMENT))


def confined(expected: str, parse: Callable[[Any], Any], schema: Mapping[str, Any]) -> Kind:
    """A value that the generator makes directives of: one grammar for both."""

    def checked(value: Any) -> Any:
        try:
            return parse(value)
        except ValueError as e:
            raise Wrong(str(e)) from e

    return Kind(expected, checked, schema=schema)


WRITE = confined("a list of absolute paths", confinement.paths, shapes.several("^/"))
HOME = confined(one_of(confinement.HOME), confinement.home, shapes.choice(*confinement.HOME))
DEVICES = confined(
    'a list such as ["/dev/dri/renderD128"]', confinement.devices, shapes.several("^(/dev/|char-|block-)")
)
NETWORK = confined('"full", "local" or a list of addresses', confinement.network, shapes.NETWORK)
GROUPS = confined("a list of groups", confinement.groups, shapes.several(""))
MEMORY = confined('a size such as "512M" or "50%"', confinement.memory, shapes.MEMORY)
CPU = confined('a share such as "200%"', confinement.cpu, shapes.PERCENT)
CREDENTIALS = confined("a table of absolute paths", confinement.credentials, shapes.CREDENTIALS)
