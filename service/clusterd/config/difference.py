"""The difference between two configurations, and what each change takes to come into effect; and Settings as JSON.

Values of variables are never in it: it is printed by `clusterd check` and stands in the journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from clusterd.config.addresses import Address
from clusterd.config.homes import at_home
from clusterd.config.kinds import size_text
from clusterd.config.places import SYSTEM, Place
from clusterd.config.settings import EACH, TABLE, TYPES, Applies, Settings, Task, key_of
from clusterd.config.values import duration_text

_HOW: Mapping[Applies, str] = {
    "reload": "{systemctl} reload cluster@{name}",
    "daemon-reload": "{systemctl} daemon-reload && {systemctl} reload cluster@{name}",
    "restart": "{systemctl} daemon-reload && {systemctl} restart cluster@{name}",
    "socket restart": "{clusterd} stop {name} && {clusterd} start {name}",
}


_SIZES = ("recycle.max-memory", "http.max-header-size", "http.max-body-size", "http.ws-max-size")


@dataclass(frozen=True)
class Change:
    """`old` and `new` as text; for a variable "set", "changed" or "absent"."""

    key: str
    old: str
    new: str
    applies: Applies

    @property
    def text(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def difference(old: Settings, new: Settings, place: Place = SYSTEM) -> list[Change]:
    """What turns `old` into `new`, in the order of the manual. `file` and `name` are no settings."""
    changes: list[Change] = []
    for key, row in TABLE.items():
        if key.partition(".")[0] in EACH:
            continue
        before, after = _get(old, key), _get(new, key)
        if key == "env":
            changes += _variables(before, after)
        elif key == "credentials":
            changes += [
                Change(f"{key}.{name}", before.get(name, "none"), after.get(name, "none"), row.applies)
                for name in sorted(before.keys() | after.keys())
                if before.get(name) != after.get(name)
            ]
        elif before != after:
            applies = row.applies
            moved = not place.user and at_home(_paths(old)) != at_home(_paths(new))
            if key in ("directory", "python", "command") and moved:
                applies = "restart"  # ProtectHome= of the unit changes with it
            text = _size if key in _SIZES else _text
            changes.append(Change(key, text(before), text(after), applies))
    for name in sorted(old.task.keys() | new.task.keys()):
        changes += _of_task(f"task.{name}", old.task.get(name), new.task.get(name))
    return changes


def _of_task(key: str, old: Task | None, new: Task | None) -> list[Change]:
    """One that comes or goes is one change."""
    if old is None or new is None:
        timed = any(each is not None and each.calendar for each in (old, new))
        applies: Applies = "daemon-reload" if timed else "reload"
        before, after = ("none" if each is None else each.call for each in (old, new))
        return [Change(key, before, after, applies)]
    timed = bool(old.calendar or new.calendar)
    return [
        Change(
            f"{key}.{key_of(f)}",
            _text(getattr(old, f.name)),
            _text(getattr(new, f.name)),
            "daemon-reload" if timed and f.name in ("calendar", "jitter") else "reload",
        )
        for f in fields(Task)
        if getattr(old, f.name) != getattr(new, f.name)
    ]


def needing(changes: Sequence[Change], *applies: Applies) -> list[Change]:
    """Those that take one of `applies`; without any, those that a reload does not do."""
    return [c for c in changes if c.applies in (applies or ("restart", "socket restart"))]


def how(name: str, changes: Sequence[Change], place: Place = SYSTEM) -> str:
    """The one command that brings all of `changes` into effect, "" for none."""
    for applies in ("socket restart", "restart", "daemon-reload", "reload"):
        if any(c.applies == applies for c in changes):
            return _HOW[applies].format(name=name, systemctl=place.tool("systemctl"), clusterd=place.tool("clusterd"))
    return ""


def to_json(settings: Settings) -> dict[str, Any]:
    """A JSON object. It holds the variables: for the master's own memory, not to be shown."""
    made = asdict(settings)
    made["listen"] = [address._asdict() for address in settings.listen]
    made["command"] = list(settings.command) if settings.command else None
    return made


def from_json(made: Mapping[str, Any]) -> Settings:
    """The Settings of `to_json`, of any release: a missing key has its default, one too many is left out."""
    known = {f.name for f in fields(Settings)}
    values = {key: value for key, value in made.items() if key in known}
    for table, cls in TYPES.items():
        names = {f.name for f in fields(cls)}
        found = made.get(table, {}).items()
        values[table] = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in found if k in names})
    values["listen"] = tuple(
        Address(**{k: v for k, v in each.items() if k in Address._fields}) for each in made.get("listen", ())
    )
    values["command"] = tuple(made["command"]) if made.get("command") else None
    names = {f.name for f in fields(Task)}
    values["task"] = {
        name: Task(**{k: v for k, v in each.items() if k in names}) for name, each in made.get("task", {}).items()
    }
    return Settings(**values)


def _paths(settings: Settings) -> list[str]:
    return [settings.directory, settings.python or "", *(settings.command or ())[:1]]


def _get(settings: Settings, key: str) -> Any:
    at: Any = settings
    for part in key.split("."):
        at = getattr(at, part.replace("-", "_"))
    return at


def _variables(old: Mapping[str, str], new: Mapping[str, str]) -> list[Change]:
    return [
        Change(f"env.{name}", "set" if name in old else "absent", _after(name, old, new), "reload")
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _after(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    return "absent" if name not in new else "changed" if name in old else "set"


def _size(value: Any) -> str:
    return "none" if value is None else size_text(value)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return duration_text(value)
    if isinstance(value, tuple):
        return (
            "none"
            if not value
            else " ".join(_address(each) if isinstance(each, Address) else str(each) for each in value)
        )
    return str(value)


def _address(address: Address) -> str:
    if address.kind == "tcp":
        return address.text()
    owner = f" {address.user or 'root'}:{address.group or 'root'}" if address.user or address.group else ""
    return f"{address.path} ({address.mode:04o}{owner})"
