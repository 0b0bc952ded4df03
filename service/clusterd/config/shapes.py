"""What the kinds of values look like in JSON Schema, as far as an editor can check them.

Draft 7, and of it what editors of TOML are known to use: `definitions`, no `$defs`. Patterns are of the part that
Python, JavaScript and Rust read alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterd.config.names import ACCOUNT
from clusterd.config.values import UNITS

Schema = Mapping[str, Any]

_TERM = rf"[0-9]{{1,12}}(\.[0-9]{{1,6}})? *({'|'.join(UNITS)})"
_DURATION = rf"(0|{_TERM}( *{_TERM})* *)"

_PART = r"[^\s:./()-]+"
# what follows the colon may be a call with literals: Python's own grammar, which the parser asks
APP = rf"^{_PART}(\.{_PART})*:\S.*$"

_PORT = "[1-9][0-9]{0,4}"
_IPV4 = r"[0-9]{1,3}(\.[0-9]{1,3}){3}"
_IPV6 = r"\[[0-9A-Fa-f:.]+\]"
_SOCKET = r"/[!-\[\]-~]*"


def text(pattern: str, longest: int = 0) -> Schema:
    limits: dict[str, Any] = {"type": "string", "minLength": 1}
    if longest:
        limits["maxLength"] = longest
    return limits | ({"pattern": pattern} if pattern else {})


def number(low: int, high: int, *words: str) -> Schema:
    whole = {"type": "integer", "minimum": low, "maximum": high}
    return {"anyOf": [{"enum": list(words)}, whole]} if words else whole


def choice(*words: str) -> Schema:
    return {"enum": list(words)}


def words(most: int, longest: int) -> Schema:
    return {"type": "array", "minItems": 1, "maxItems": most, "items": {"type": "string", "maxLength": longest}}


def words_or_one(most: int) -> Schema:
    one = {"type": "string"}
    return {"anyOf": [one, {"type": "array", "maxItems": most, "items": one}]}


def one_or_several(one: Schema, most: int) -> Schema:
    return {"anyOf": [one, {"type": "array", "minItems": 1, "maxItems": most, "items": one}]}


def account(*refused: str) -> Schema:
    shape = text(f"^({ACCOUNT}|0|[1-9][0-9]{{0,9}})$")
    return {**shape, "not": {"enum": list(refused)}} if refused else shape


def variables(most: int) -> Schema:
    reserved = "^((CLUSTERD_|LISTEN_|WATCHDOG_).*|NOTIFY_SOCKET|MAINPID)$"
    names = {"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,254}$", "not": {"pattern": reserved}}
    return {
        "type": "object",
        "maxProperties": most,
        "propertyNames": names,
        "additionalProperties": {"type": "string"},
    }


def several(pattern: str) -> Schema:
    return {"type": "array", "items": text(pattern)}


_PERCENT = r"[0-9]{1,6}(\.[0-9]{1,2})?%"
PERCENT: Schema = text(f"^{_PERCENT}$")
MEMORY: Schema = text(rf"^({_PERCENT}|[0-9]{{1,15}}(\.[0-9]{{1,3}})?[KMGT]?)$")
DEVICE = "^(/dev/|char-|block-)"
NETWORK: Schema = {"anyOf": [choice("full", "local"), several("")]}
CREDENTIALS: Schema = {
    "type": "object",
    "propertyNames": {"pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"},
    "additionalProperties": text("^/"),
}
SIZE: Schema = text("^[0-9]{1,15}[KMGT]?$")
TIME: Schema = text(f"^{_DURATION}$")
READY: Schema = {"anyOf": [{"enum": ["notify"]}, text(f"^after {_DURATION}$")]}

_WRITTEN = text(rf"^({_PORT}|{_IPV4}:{_PORT}|{_IPV6}:{_PORT}(%[A-Za-z0-9_.-]{{1,15}})?|{_SOCKET})$")
_NUMBER = number(1, 65535)
ADDRESS: Schema = {
    "anyOf": [
        _WRITTEN,
        _NUMBER,
        {
            "type": "object",
            "properties": {
                "path": text(f"^{_SOCKET}$"),
                "mode": text("^0?[0-7]{3}$"),
                "user": account(),
                "group": account(),
            },
            "required": ["path"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"address": {"anyOf": [_WRITTEN, _NUMBER]}},
            "required": ["address"],
            "additionalProperties": False,
        },
    ]
}
