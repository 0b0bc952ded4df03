"""The "boot" message: what a zygote is to load, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Http:
    keep_alive: float = 5.0
    forwarded_allow_ips: str = "127.0.0.1"
    root_path: str = ""
    max_connections: int | None = None


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
    health_path: str | None = None
    access_log: bool = False
    log_level: str = "info"
    raw: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, message: dict[str, Any]) -> Boot:
        http, log = message.get("http") or {}, message.get("log") or {}
        plain = Http()
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
            http=Http(
                keep_alive=http.get("keep-alive", plain.keep_alive),
                forwarded_allow_ips=http.get("forwarded-allow-ips", plain.forwarded_allow_ips),
                root_path=http.get("root-path") or "",
                max_connections=http.get("max-connections"),
            ),
            health_path=(message.get("health") or {}).get("path"),
            access_log=bool(log.get("access")),
            log_level=log.get("level") or "info",
            raw=message,
        )
