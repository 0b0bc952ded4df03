"""From gunicorn's settings to the keys of our file: what is carried over, what is changed, and how."""

from __future__ import annotations

import json
import os
import pwd
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from clusterd.cli.gunicorn.reading import Unread, Value
from clusterd.cli.gunicorn.table import TABLE
from clusterd.config.load import Invalid
from clusterd.config.reader import read

Outcome = Literal["carried over", "changed", "not wanted", "not read"]


@dataclass(frozen=True)
class Note:
    setting: str
    outcome: Outcome
    text: str


@dataclass
class Draft:
    """`values` are gunicorn's; `keys` the file's, with dots; `notes` what became of each of gunicorn's."""

    values: Mapping[str, Value]
    keys: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    came_from: dict[str, str] = field(default_factory=dict)
    """Key of the file -> setting of gunicorn."""

    def get(self, setting: str, default: Any = None) -> Any:
        known = self.values.get(setting)
        return default if known is None else known.value

    def put(self, setting: str, key: str, value: Any, differs: str = "") -> None:
        self.keys[key] = value
        self.came_from[key] = setting
        text = f"{key} = {literal(value)}" + (f": {differs}" if differs else "")
        self.notes.append(Note(setting, "changed" if differs else "carried over", text))

    def drop(self, setting: str, why: str) -> None:
        self.notes.append(Note(setting, "not wanted", why))

    def unread(self, setting: str, why: str) -> None:
        self.notes.append(Note(setting, "not read", why))

    @property
    def worker(self) -> str:
        kind = self.get("worker_class", "sync")
        text = kind if isinstance(kind, str) else "sync"
        if text == "sync" and _int(self.get("threads", 1)) > 1:
            return "gthread"
        return text

    @property
    def asgi(self) -> bool:
        return "uvicorn" in self.worker.lower() or "asgi" in self.worker.lower()


def carry(values: Mapping[str, Value | Unread], directory: str, python: str | None) -> Draft:
    """`directory` is where gunicorn was started, `python` its interpreter, None where that is not known."""
    draft = Draft({name: each for name, each in values.items() if isinstance(each, Value)})
    draft.keys["app"] = ""
    draft.keys["directory"] = directory
    if python:
        draft.keys["python"] = python
    draft.keys["listen"] = "127.0.0.1:8000"
    # first the directory, which relative paths of others begin at
    for name, row in sorted(TABLE.items(), key=lambda item: item[0] != "chdir"):
        known = values.get(name)
        if isinstance(known, Unread):
            draft.unread(name, f"{known.why}: write it by hand" + (f" ({row.why})" if row.why else ""))
        elif known is not None and not any(known.value == each for each in row.silent):
            if row.why:
                draft.drop(name, row.why)
            elif name in _CARRIED:
                _CARRIED[name](draft, known.value)
            if known.how and not row.why and not known.cores:
                draft.notes.append(Note(name, "changed", f"it depends on {', '.join(known.how)}: it is fixed now"))
    _together(draft, values)
    _validate(draft)
    return draft


def _app(draft: Draft, value: Any) -> None:
    text = str(value)
    draft.put("wsgi_app", "app", text if ":" in text else f"{text}:application")


def _bind(draft: Draft, value: Any) -> None:
    each = value if isinstance(value, list) else [part.strip() for part in str(value).split(",") if part.strip()]
    found: list[Any] = []
    differs = ""
    for text in map(str, each):
        text = text.removeprefix("tcp://").removeprefix("http://")
        if "$" in text:
            port = re.sub(r"\$\w+|\$\{\w+\}", "8000", text)
            draft.unread("bind", f"'{text}' has a variable, which no shell fills in here: give its value, '{port}' say")
        elif text.startswith("unix:"):
            path = text.removeprefix("unix:").removeprefix("//")
            if not path.startswith("/"):
                path = os.path.join(draft.keys["directory"], path)
            found.append(path)
            differs = "systemd makes the socket, open to all as gunicorn's; { path, mode, group } narrows it"
        elif text.startswith("fd://"):
            draft.drop("bind", f"'{text}': systemd opens the addresses named in the file; the old socket unit can go")
        elif re.fullmatch(r"[0-9]+", text) or text.startswith(("[", "0.0.0.0:")):
            found.append(text)
        else:
            host, _, port = text.rpartition(":")
            host = host if port.isdecimal() else text
            port = port if port.isdecimal() else "8000"
            host = {"": "0.0.0.0", "localhost": "127.0.0.1"}.get(host, host)
            found.append(f"{host}:{port}")
    if found:
        draft.put("bind", "listen", found[0] if len(found) == 1 else found, differs)


def _workers(draft: Draft, value: Any) -> None:
    if draft.values["workers"].cores:
        draft.put("workers", "workers", "auto", "one per core that the service may use, its CPU quota counted")
    else:
        draft.put("workers", "workers", _int(value))


def _worker_class(draft: Draft, value: Any) -> None:
    kind = draft.worker
    low = kind.lower()
    if "uvicorn" in low:
        draft.put("worker_class", "engine", "uvicorn")
        if "h11" in low:
            draft.put("worker_class", "http.parser", "h11")
            draft.put("worker_class", "http.loop", "asyncio")
    elif low == "asgi":
        draft.drop("worker_class", "an ASGI application is seen by looking at it, and served by uvicorn")
    elif kind in ("sync", "gthread"):
        draft.drop("worker_class", "a WSGI application is seen by looking at it, and served by granian or waitress")
    else:
        draft.drop("worker_class", f"'{kind}': there are no green threads here; requests run in http.threads threads")


def _connections(draft: Draft, value: Any) -> None:
    if draft.worker in ("gthread", "asgi"):
        draft.put("worker_connections", "http.max-connections", _int(value))
    else:
        draft.drop("worker_connections", "its worker class makes no use of it, or one thread a connection is not ours")


def _graceful(draft: Draft, value: Any) -> None:
    draft.put("graceful_timeout", "reload.drain-timeout", f"{_int(value)}s")
    draft.put("graceful_timeout", "stop.drain-timeout", f"{_int(value)}s")


def _keepalive(draft: Draft, value: Any) -> None:
    if draft.worker == "sync":
        draft.drop("keepalive", "its sync workers have none; here connections are kept for http.keep-alive")
    else:
        draft.put("keepalive", "http.keep-alive", f"{_int(value)}s")


def _max_requests(draft: Draft, value: Any) -> None:
    draft.put("max_requests", "recycle.max-requests", _int(value))


def _jitter(draft: Draft, value: Any) -> None:
    if _int(draft.get("max_requests", 0)):
        draft.put("max_requests_jitter", "recycle.max-requests-jitter", _int(value))
    else:
        draft.drop("max_requests_jitter", "without max_requests it means nothing")


def _timeout(draft: Draft, value: Any) -> None:
    if not _int(value):
        draft.put("timeout", "health.watchdog", False)
        return
    differs = (
        "one slow request is left alone: all threads have to be busy and end none, or an event loop to stand still"
    )
    draft.put("timeout", "health.watchdog", f"{_int(value)}s", differs)


def _preload(draft: Draft, value: Any) -> None:
    if value:
        draft.drop("preload_app", "it is so unless the import leaves threads or connections behind (reload.preload)")


def _chdir(draft: Draft, value: Any) -> None:
    path = os.path.normpath(os.path.join(draft.keys["directory"], str(value)))
    draft.put("chdir", "directory", path)


def _env(draft: Draft, value: Any) -> None:
    for each in value if isinstance(value, list) else [value]:
        name, _, text = str(each).partition("=")
        draft.keys[f"env.{name}"] = text
        draft.came_from[f"env.{name}"] = "raw_env"
        # never the value: it may be a password
        draft.notes.append(Note("raw_env", "carried over", f"env.{name}"))


def _account(setting: str) -> Callable[[Draft, Any], None]:
    def put(draft: Draft, value: Any) -> None:
        text = str(value)
        if text in ("0", "root"):
            draft.drop(setting, "an application never runs as root: it has a dynamic user of its own")
            return
        if text.isdecimal() and setting == "user":
            try:
                text = pwd.getpwuid(int(text)).pw_name
            except (KeyError, OverflowError):
                draft.unread(setting, f"no account has the number {text} here")
                return
        draft.put(setting, setting, text)

    return put


def _forwarded(draft: Draft, value: Any) -> None:
    words = value if isinstance(value, list) else [each.strip() for each in str(value).split(",") if each.strip()]
    draft.put("forwarded_allow_ips", "http.forwarded-allow-ips", words)


def _accesslog(draft: Draft, value: Any) -> None:
    if not value:
        return
    if not draft.asgi:
        draft.drop("accesslog", 'waitress writes none; engine = "granian" with log.access = true does')
    else:
        draft.put("accesslog", "log.access", True, "" if value == "-" else "into the journal, in the engine's form")


def _level(draft: Draft, value: Any) -> None:
    level = str(value).lower()
    draft.put("loglevel", "log.level", "error" if level == "critical" else level)


def _pythonpath(draft: Draft, value: Any) -> None:
    draft.put("pythonpath", "env.PYTHONPATH", ":".join(each.strip() for each in str(value).split(",")))


def _threads(draft: Draft, value: Any) -> None:
    if draft.asgi:
        draft.drop("threads", "an ASGI application has no request threads")
    else:
        draft.put("threads", "http.threads", max(1, _int(value)))


def _loop(draft: Draft, value: Any) -> None:
    draft.put("asgi_loop", "http.loop", str(value))


def _websocket(draft: Draft, value: Any) -> None:
    if draft.asgi:
        draft.put("websocket_max_message_size", "http.ws-max-size", str(_int(value)))


def _root_path(draft: Draft, value: Any) -> None:
    if value:
        draft.put("root_path", "http.root-path", str(value).rstrip("/"))


def _pem(setting: str, key: str) -> Callable[[Draft, Any], None]:
    def put(draft: Draft, value: Any) -> None:
        if value:
            path = os.path.join(draft.keys["directory"], str(value))
            draft.put(setting, key, path, "read anew at each reload")
            if not draft.asgi:
                draft.keys["engine"] = "granian"

    return put


_CARRIED: Mapping[str, Callable[[Draft, Any], None]] = {
    "wsgi_app": _app,
    "bind": _bind,
    "workers": _workers,
    "worker_class": _worker_class,
    "threads": _threads,
    "worker_connections": _connections,
    "graceful_timeout": _graceful,
    "keepalive": _keepalive,
    "max_requests": _max_requests,
    "max_requests_jitter": _jitter,
    "timeout": _timeout,
    "preload_app": _preload,
    "chdir": _chdir,
    "raw_env": _env,
    "user": _account("user"),
    "group": _account("group"),
    "forwarded_allow_ips": _forwarded,
    "accesslog": _accesslog,
    "loglevel": _level,
    "pythonpath": _pythonpath,
    "keyfile": _pem("keyfile", "tls.key"),
    "certfile": _pem("certfile", "tls.certificate"),
    "asgi_loop": _loop,
    "websocket_max_message_size": _websocket,
    "root_path": _root_path,
}


def _together(draft: Draft, values: Mapping[str, Value | Unread]) -> None:
    """What only several settings, or the lack of one, say."""
    if "workers" not in values:
        draft.put("workers", "workers", 1, 'gunicorn\'s default; "auto" is one per core')
    if draft.worker == "sync" and "http.threads" not in draft.keys:
        draft.put("threads", "http.threads", 1, "as a sync worker; more, where the application is safe for threads")
    if "tls.certificate" in draft.keys and not draft.get("keyfile") and not isinstance(values.get("keyfile"), Unread):
        draft.put("certfile", "tls.key", draft.keys["tls.certificate"], "gunicorn takes a key from there too")


def _validate(draft: Draft) -> None:
    """Leave out what the file cannot have, and say so: what is written always passes `clusterd check`."""
    for _ in range(len(draft.keys)):
        try:
            read("imported", None, nested(draft.keys))
            return
        except Invalid as e:
            bad = [
                key
                for p in e.problems
                for key in draft.keys
                if p.key == key or p.key.startswith((key + "[", key + "."))
            ]
            for problem in e.problems:
                for key in [each for each in bad if problem.key.startswith(each)]:
                    if draft.keys.pop(key, None) is None:
                        continue
                    setting = draft.came_from.get(key, key)
                    draft.notes = [n for n in draft.notes if n.setting != setting or not n.text.startswith(key)]
                    hint = f"; {problem.hint}" if problem.hint else ""
                    draft.unread(setting, f"found {problem.found}, expected {problem.expected}{hint}")
            if not bad or "app" not in draft.keys or "listen" not in draft.keys:
                return


def nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in keys.items():
        table, dot, name = key.partition(".")
        if dot:
            found.setdefault(table, {})[name] = value
        else:
            found[key] = value
    return found


def text(draft: Draft) -> str:
    """The file, as TOML."""
    tables = nested(draft.keys)
    lines = [f"{key} = {literal(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(f"{_key(key)} = {literal(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def literal(value: Any) -> str:
    """A TOML value. JSON's strings are TOML's, but for DEL."""
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else literal(key)


def _int(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return -1  # which no key takes: it is told as a value that does not fit
