"""The "boot" message: what a zygote is to load, and how."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from typing import Any, Literal


@dataclass(frozen=True)
class Http:
    """The file's [http], with its defaults; None: as the engine has it. Times in seconds, sizes in bytes."""

    keep_alive: float = 5.0
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1", "::1", "unix")
    """Addresses, networks, "unix"; or "*" alone."""
    root_path: str = ""
    max_connections: int | None = None
    max_header_size: int | None = None
    max_body_size: int | None = None
    threads: int | None = None
    parser: str = "auto"
    loop: str = "auto"
    version: str = "auto"
    ws: str = "auto"
    ws_max_size: int = 16 << 20
    ws_ping_interval: float = 20.0
    """0: never."""
    ws_ping_timeout: float = 20.0
    """0: for ever."""
    server_header: bool = True
    date_header: bool = True

    @classmethod
    def parse(cls, message: dict[str, Any]) -> Http:
        """Of a message that may be another release's: a missing key has its default, one too many is left out."""
        made = {f.name: message[key] for f in fields(cls) if (key := _key(f.name)) in message}
        if "forwarded_allow_ips" in made:
            made["forwarded_allow_ips"] = tuple(made["forwarded_allow_ips"])
        return cls(**made)

    def asked(self) -> dict[str, Any]:
        """What differs from the defaults, by the file's keys."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        return {f"http.{_key(name)}": value for name, (value, default) in values.items() if value != default}


@dataclass(frozen=True)
class Tls:
    """The contents of the files: PEM. Secret: kept in memory only."""

    certificate: str
    key: str = field(repr=False)
    minimum_version: str = "1.2"


def _key(name: str) -> str:
    return name.replace("_", "-")


@dataclass(frozen=True)
class Boot:
    """docs/architecture.md, "master <-> zygote": the defaults here are for tests and hand-written masters."""

    generation: int
    kind: Literal["app", "command"]
    name: str
    directory: str
    app: str = ""
    command: tuple[str, ...] = ()
    engine: str = "auto"
    preload: Literal["auto", "force", "never"] = "auto"
    cgroup: str | None = None
    oom_score: int | None = None
    http: Http = field(default_factory=Http)
    tls: Tls | None = None
    health_path: str | None = None
    watchdog: float | None = None
    max_requests: int | None = None
    max_requests_jitter: int = 0
    access_log: bool = False
    log_level: str = "info"
    file: str = ""
    tasks: dict[str, str] = field(default_factory=dict)
    """What each calls."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, message: dict[str, Any]) -> Boot:
        log, tls, recycle = message.get("log") or {}, message.get("tls"), message.get("recycle") or {}
        return cls(
            generation=message["generation"],
            kind=message["kind"],
            name=message.get("name") or "app",
            directory=message["directory"],
            app=message.get("app") or "",
            command=tuple(message.get("command") or ()),
            engine=message.get("engine") or "auto",
            preload=message.get("preload") or "auto",
            cgroup=message.get("cgroup"),
            oom_score=message.get("oom-score-adj"),
            http=Http.parse(message.get("http") or {}),
            tls=Tls(tls["certificate"], tls["key"], tls.get("minimum-version") or "1.2") if tls else None,
            health_path=(message.get("health") or {}).get("path"),
            watchdog=message.get("watchdog"),
            max_requests=recycle.get("max-requests"),
            max_requests_jitter=recycle.get("max-requests-jitter") or 0,
            access_log=bool(log.get("access")),
            log_level=log.get("level") or "info",
            file=message.get("file") or "",
            tasks=message.get("tasks") or {},
            raw=message,
        )

    def request_limit(self) -> int | None:
        """How many requests this worker serves: workers that began together are not to go together."""
        return None if self.max_requests is None else self.max_requests + random.randint(0, self.max_requests_jitter)

    def asked(self) -> dict[str, Any]:
        """What is asked of an engine beyond the defaults, for abilities.py."""
        found = self.http.asked()
        if self.access_log:
            found["log.access"] = True
        if self.tls is not None:
            found["tls"] = True
        return found
