"""What each engine can do of the file's keys, and what it does in a way of its own: one table.

Read by the daemon, which refuses a key where `engine` names the server; by the zygote, which has found out what
engine = "auto" stands for and which version there is; and by the manual. Standard library only, no import of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Asked = Mapping[str, Any]
"""Key of the file -> value, of the keys that ask for something else than their default."""
Version = tuple[int, ...]


def _always(value: Any, asked: Asked) -> bool:
    return True


@dataclass(frozen=True)
class Note:
    """It does it, differently."""

    text: str


@dataclass(frozen=True)
class Cannot:
    """It cannot, when `when(value, asked)`; or could not `before` that version, which only the zygote knows."""

    why: str
    instead: str
    when: Callable[[Any, Asked], bool] = _always
    before: Version | None = None
    part: str = ""
    """For the manual, after "but not": what is meant; "" for the whole key."""


@dataclass(frozen=True)
class Objection:
    key: str
    why: str
    instead: str


def _equals(word: object) -> Callable[[Any, Asked], bool]:
    return lambda value, asked: bool(value == word)


def _networks(value: Any, asked: Asked) -> bool:
    return any("/" in str(each) for each in value)


def _wsproto(value: Any, asked: Asked) -> bool:
    return asked.get("http.ws") == "wsproto"


_OTHERS = 'engine = "{}", which has it'
_ASYNC = Cannot(
    "an ASGI application has no request threads, it makes its own",
    "leave it out; a framework's pool for blocking functions is set in the application",
)
_NO_WEBSOCKETS = Cannot("WSGI has no WebSockets", "leave it out, or make it an ASGI application")
_NO_LOOP = Cannot("it has no event loop of asyncio", "leave it out")
_BODY = Cannot(
    "it passes a body on to the application as it comes, and counts nothing",
    "a limit in the application, or in a proxy in front (nginx: client_max_body_size)",
)
_PARSER = Cannot("it has one HTTP parser only, its own", "leave it out")

LIMITS: Mapping[str, Mapping[str, tuple[Note | Cannot, ...]]] = {
    "http.keep-alive": {
        "waitress": (Note("in whole seconds, rounded up"),),
        "granian": (Note("the time until the next request's headers have all come; HTTP/1 only"),),
    },
    "http.forwarded-allow-ips": {
        "uvicorn": (
            Cannot(
                "networks are known to uvicorn 0.31 and newer",
                "the proxies' addresses, one by one, or a newer uvicorn",
                when=_networks,
                before=(0, 31),
                part="networks",
            ),
        ),
        "waitress": (Note("believes the last address of X-Forwarded-For alone, however many proxies are trusted"),),
    },
    "http.root-path": {},
    "http.max-connections": {
        "uvicorn": (Note("answers 503 above it, and counts requests under way besides"),),
        "waitress": (Note("stops accepting: further ones wait in the slot's queue"),),
        "granian": (Note("stops accepting: further ones wait in the slot's queue"),),
    },
    "http.max-header-size": {
        "uvicorn": (
            Note("what arrives in one piece passes"),
            Cannot(
                "its fast parser, httptools, has no limit to set",
                'parser = "h11", which has one',
                when=lambda value, asked: asked.get("http.parser") != "h11",
                part='with another parser than "h11"',
            ),
            Cannot("it is known to uvicorn 0.18 and newer", "a newer uvicorn", before=(0, 18), part="older ones"),
        ),
        "granian": (
            Cannot("its buffer has 8K at least", '"8K" or more', lambda value, _: value < 8192, part='less than "8K"'),
        ),
    },
    "http.max-body-size": {
        "uvicorn": (_BODY,),
        "waitress": (Note("answers 413 above it; 1 GB unless set"),),
        "granian": (_BODY,),
    },
    "http.threads": {
        "uvicorn": (_ASYNC,),
        "waitress": (Note("4 unless set"),),
        "granian": (Note("for WSGI; 4 unless set"),),
    },
    "http.parser": {"waitress": (_PARSER,), "granian": (_PARSER,)},
    "http.loop": {"waitress": (_NO_LOOP,), "granian": (Note("for ASGI"),)},
    "http.version": {
        "uvicorn": (Cannot("it speaks HTTP/1.1", _OTHERS.format("granian"), when=_equals("2"), part='"2"'),),
        "waitress": (Cannot("it speaks HTTP/1.1", _OTHERS.format("granian"), when=_equals("2"), part='"2"'),),
    },
    "http.ws": {
        "waitress": (
            Cannot(_NO_WEBSOCKETS.why, _NO_WEBSOCKETS.instead, lambda value, _: value != "none", part="WebSockets"),
        ),
        "granian": (
            Note("for ASGI"),
            Cannot(
                "it has WebSockets of its own",
                '"auto" or "none"',
                when=lambda value, asked: value not in ("auto", "none"),
                part='"websockets", "wsproto"',
            ),
        ),
    },
    **{
        key: {
            "uvicorn": (
                Cannot(
                    "its wsproto has that in uvicorn 0.47 and newer only",
                    'ws = "websockets"',
                    when=_wsproto,
                    before=(0, 47),
                    part='with ws = "wsproto"',
                ),
            ),
            "waitress": (_NO_WEBSOCKETS,),
            "granian": (Cannot("its WebSockets have no such setting", _OTHERS.format("uvicorn")),),
        }
        for key in ("http.ws-max-size", "http.ws-ping-interval", "http.ws-ping-timeout")
    },
    "http.server-header": {
        "granian": (Cannot("it has no switch for that header", "take it out in a proxy in front"),),
    },
    "http.date-header": {
        "waitress": (Cannot("it sends Date with every answer", "leave it out"),),
        "granian": (Cannot("it sends Date with every answer", "leave it out"),),
    },
    "log.access": {
        "waitress": (
            Cannot(
                "it writes no access log",
                "let the application log requests (paste.translogger, for one), or the proxy in front",
            ),
        ),
    },
    "tls": {
        "waitress": (Cannot("it speaks plain HTTP only", 'engine = "granian", or a proxy in front that ends TLS'),),
    },
}
"""Key -> engine -> what there is to say. An engine that is not named does it, as the key's text has it."""


def version_of(name: str) -> Version:
    """(0, 32, 0) of "uvicorn 0.32.0"."""
    numbers = []
    for part in name.rpartition(" ")[2].split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits) if digits else 0)
    return tuple(numbers)


def objections(engine: str, asked: Asked, version: Version | None = None) -> list[Objection]:
    """What of `asked` the engine cannot do; without a version, what no version of it can."""
    found = []
    for key, value in asked.items():
        for limit in LIMITS.get(key, {}).get(engine, ()):
            if isinstance(limit, Note) or not limit.when(value, asked):
                continue
            if limit.before is None or (version is not None and version < limit.before):
                found.append(Objection(key, limit.why, limit.instead))
                break
    return found


def in_words(key: str, engine: str) -> str:
    """What there is to say, for the manual."""
    limits = LIMITS[key].get(engine, ())
    refused = [limit for limit in limits if isinstance(limit, Cannot)]
    if any(not limit.part for limit in refused):
        return f"no: {refused[0].why}"
    said = [limit.text for limit in limits if isinstance(limit, Note)]
    said += [f"but not {limit.part}: {limit.why}" for limit in refused]
    return f"yes; {'; '.join(said)}" if said else "yes"


def able(engines: Iterable[str], key: str, asked: Asked) -> list[str]:
    """Those of `engines` that can do `key` as it is asked for."""
    return [engine for engine in engines if not any(each.key == key for each in objections(engine, asked))]
