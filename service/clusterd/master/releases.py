"""What a generation is made of: settings, resolved directory, environment; and what its zygote said of itself."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clusterd.config.difference import from_json, to_json
from clusterd.config.load import load, load_among
from clusterd.config.places import SYSTEM, Place
from clusterd.config.settings import Settings
from clusterd.core.model import Policy

_SYSTEMD = re.compile(
    r"(LISTEN_(FDS|PID|FDNAMES)|NOTIFY_SOCKET|MAINPID|MANAGERPID|INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_EXEC_PID"
    r"|WATCHDOG_(PID|USEC)|FDSTORE|MEMORY_PRESSURE_(WATCH|WRITE)|CLUSTERD_.*)$"
)
"""What systemd and clusterd tell the daemon about itself, and an application must not take for its own."""


def application_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without what is meant for the daemon."""
    return {k: v for k, v in environment.items() if not _SYSTEMD.match(k)}


@dataclass
class Release:
    """One generation's contents. The environment holds secrets: they go into the memfd and to the zygote only."""

    settings: Settings | None
    environment: dict[str, str]
    directory: str = ""
    attempts: int = 0
    mode: str = ""
    why: list[str] = field(default_factory=list)
    interface: str = ""
    engine: str = ""
    python: str = ""
    bus: bool = False
    """Its zygote, which may be an older clusterd's, hands a worker its bus."""
    board: bool = False
    """It hands a worker its page on the scoreboard."""
    protocol: int = 1
    """Which its zygote speaks."""
    reason: str = ""
    tls: dict[str, str] = field(default_factory=dict, repr=False)
    """Of [tls], the contents; {} without."""

    def resolve(self) -> None:
        """Follow the directory's symbolic links now, so that a deploy flipping one later does not reach this release.

        Raises OSError.
        """
        assert self.settings is not None
        self.directory = os.path.realpath(self.settings.directory, strict=True)

    @property
    def interpreter(self) -> str:
        """The application's python; inside the directory's own link it follows that to the resolved directory."""
        assert self.settings is not None
        given, directory = self.settings.python or sys.executable, self.settings.directory.rstrip("/")
        if self.directory and given.startswith(directory + "/"):
            return self.directory + given[len(directory) :]
        return given

    def variables(self, name: str, generation: int, runtime: Path) -> dict[str, str]:
        """The environment of the zygote, and so of the application; `runtime` is where the embedded cache is."""
        assert self.settings is not None
        return {
            **self.environment,
            **self.settings.env,
            "CLUSTERD_APP": name,
            "CLUSTERD_GENERATION": str(generation),
            "CLUSTERD_CACHE": str(runtime / "cache") if self.settings.cache == "embedded" else self.settings.cache,
        }

    def boot_message(self, name: str, generation: int, cgroup: str | None, oom_score: int) -> dict[str, Any]:
        """docs/architecture.md, "master <-> zygote"."""
        s = self.settings
        assert s is not None
        return {
            "op": "boot",
            "generation": generation,
            "name": name,
            "kind": "command" if s.command else "app",
            "app": s.app,
            "command": list(s.command or ()),
            "directory": self.directory,
            "engine": s.engine,
            "preload": s.reload.preload,
            "cgroup": cgroup,
            "oom-score-adj": oom_score,
            "http": {key.replace("_", "-"): value for key, value in asdict(s.http).items()},
            "tls": {**self.tls, "minimum-version": s.tls.minimum_version} if self.tls else None,
            "health": {"path": s.health.path},
            "watchdog": s.health.watchdog,
            "recycle": {
                "max-requests": s.recycle.max_requests,
                "max-requests-jitter": s.recycle.max_requests_jitter,
            },
            "log": {"access": s.log.access, "level": s.log.level},
            "ready": s.ready,
            "file": s.file,
            "tasks": {name: task.call for name, task in s.task.items()},
        }

    def to_json(self) -> dict[str, Any]:
        return {
            **{k: v for k, v in asdict(self).items() if k != "settings"},
            "settings": to_json(self.settings) if self.settings else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Release:
        return cls(**{**value, "settings": from_json(value["settings"]) if value["settings"] else None})


class Source:
    """Where settings come from: the file as it is when asked, or for `clusterd run APP` what was given once.

    `options` are the keys of `given` that were given beside a file, and win over it: "workers", "tls.key"; or "name".
    """

    def __init__(
        self, file: str | None, given: Settings | None = None, options: Sequence[str] = (), place: Place = SYSTEM
    ) -> None:
        self.file = file
        self.place = place
        self.given = given
        self.options = options

    def load(self, profile: str | None = None) -> Settings:
        """Raises Invalid. `profile` None: the chosen one, or that of `clusterd run`."""
        if profile is None and self.given is not None:
            profile = self.given.profile
        if self.file is None:
            assert self.given is not None, "without a file there are settings from the start"
            return self.given
        if self.given is None:
            return load_among(self.file, place=self.place, profile=profile)
        # nobody runs the file's neighbours in the foreground: whether an address is taken is the kernel's to say
        settings = load(self.file, self.place, profile, self.over(self.given))
        return replace(settings, name=self.given.name) if "name" in self.options else settings

    def over(self, given: Settings) -> dict[str, Any]:
        """The options as keys of the file."""
        found: dict[str, Any] = {}
        for option in self.options:
            if option.startswith("tls"):
                tls = {"certificate": given.tls.certificate, "key": given.tls.key}
                # "tls", as a clusterd before this one has written it down, is both
                of_option = {key: value for key, value in tls.items() if f"tls.{key}".startswith(option)}
                found["tls"] = {**found.get("tls", {}), **of_option}
            elif option == "listen":
                found["listen"] = [address.text() for address in given.listen]
            elif option != "name":
                found[option] = getattr(given, option)
        return found


def policy(settings: Settings | None, slots: int) -> Policy:
    """The core's part of the settings. `slots` is how many there are, whatever the file says."""
    if settings is None:
        return Policy(slots=slots)
    r = settings.reload
    return Policy(
        workers=settings.workers,
        slots=slots,
        surge=r.surge,
        soak=r.soak,
        watch=r.watch,
        ready_timeout=r.ready_timeout,
        drain_timeout=r.drain_timeout,
        linger=min(r.linger, r.drain_timeout),
        stop_timeout=settings.stop.drain_timeout,
        delay=settings.restart.delay,
        max_delay=settings.restart.max_delay,
        spares=settings.restart.spares,
        max_generations=r.max_generations,
        waits=settings.unavailable == "wait",
        max_age=settings.recycle.max_age,
        fresh_slots=bool(settings.command),
    )
