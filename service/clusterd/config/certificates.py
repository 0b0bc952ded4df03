"""Where the contents of [tls] come from. They are secret: in the master's memfd and its zygotes, and nowhere else.

A key is mostly root's alone. systemd reads it at a start (LoadCredential=, made by the generator), and cannot do so at
a reload: `clusterd reload` as root, which ExecReload= is for an application with [tls], reads it and hands it over.
Where others than root may write the environment of ExecReload=, that is not run as root: see generator.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from clusterd.config.files import NoFile, exposed, read_bounded
from clusterd.config.problem import Invalid, Problem
from clusterd.config.settings import Settings

MAX_PEM = 256 << 10
"""Bytes of each file; a chain of certificates has a fiftieth of it."""
PARTS = ("certificate", "key")
CREDENTIAL = "clusterd-tls-{}"
"""What the generator has systemd load a path as; its contents are "-" when there was no file."""

Contents = Mapping[str, str]
"""Each of PARTS -> PEM."""


def read(settings: Settings, before: tuple[Settings, Contents] | None = None) -> dict[str, str]:
    """The contents of [tls], {} without; `before` is the newest that is known. Raises Invalid.

    Always certificate and key of one time: a renewed certificate does not go with the key before it.
    """
    if not settings.tls.certificate:
        return {}
    found: dict[str, str] = {}
    closed: list[Problem] = []
    for part in PARTS:
        try:
            found[part] = read_part(settings, part)
        except PermissionError as e:
            hint = "'clusterd reload' as root reads it anew, and so does a restart" if settings.file else ""
            problem = _problem(settings, part, f"'{name_of(settings, part)}': {e.strerror}", "a readable file", hint)
            closed.append(problem)
    if not closed:
        return found
    if before is not None and all(name_of(before[0], part) == name_of(settings, part) for part in PARTS):
        return dict(before[1])
    found = {part: _credential(CREDENTIAL.format(part)) for part in PARTS}
    if all("-----BEGIN" in text for text in found.values()):
        return found
    raise Invalid(closed)


def read_part(settings: Settings, part: str) -> str:
    """The contents of the file or credential that `settings` names. Raises PermissionError, Invalid."""
    name = name_of(settings, part)
    if "/" not in name:
        text = _credential(name)
        if not text:
            hint = "give the service one: LoadCredential=, see systemd.exec(5); or name a path"
            raise Invalid([_problem(settings, part, f"'{name}'", "a credential that the service has", hint)])
        return text
    try:
        return read_bounded(name, MAX_PEM).decode(errors="replace")
    except PermissionError:
        raise
    except NoFile as e:
        raise Invalid([_problem(settings, part, f"'{name}': {e}", "a file in PEM")]) from None
    except OSError as e:
        raise Invalid([_problem(settings, part, f"'{name}': {e.strerror}", "a readable file")]) from None


def unread(settings: Settings) -> list[Problem]:
    """Why ExecReload=, as the generator makes it, does not read [tls] as root, as far as who asks can see that."""
    if not settings.tls.certificate or not settings.environment_file:
        return []
    try:
        found = exposed(settings.environment_file)
    except OSError:
        return []  # what is missing is told of elsewhere
    hint = (
        "so 'systemctl reload' does not run as root, and serves no new certificate that only root can read: "
        f"'clusterd reload {settings.name}' as root does; or make it root's alone, then systemctl daemon-reload"
    )
    expected = "with [tls], a file that only root may change"
    return [Problem(settings.file or settings.name, "environment-file", found, expected, hint)] if found else []


def name_of(settings: Settings, part: str) -> str:
    return str(settings.tls.certificate if part == "certificate" else settings.tls.key)


def _credential(name: str) -> str:
    try:
        return read_bounded(f"{os.environ['CREDENTIALS_DIRECTORY']}/{name}", MAX_PEM).decode(errors="replace")
    except (KeyError, OSError, NoFile):
        return ""


def _problem(settings: Settings, part: str, found: str, expected: str, hint: str = "") -> Problem:
    return Problem(settings.file or settings.name, f"tls.{part}", found, expected, hint)
