"""[tls] at a reload: root reads the files, which the service's user may not, and hands their contents over."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from clusterd.cli import files
from clusterd.cli.instances import Instance
from clusterd.cli.systemd import Systemd
from clusterd.config import certificates
from clusterd.config.load import Invalid, load
from clusterd.config.problem import Problem
from clusterd.config.settings import Settings


def handed(instance: Instance, profile: str | None = None) -> dict[str, Any]:
    """The parameter "tls" of Reload and Try, {} where the master reads for itself. Raises CommandError."""
    if instance.place.user or os.geteuid() != 0 or instance.file is None:
        return {}
    try:
        settings = load(instance.file, profile=profile)
    except Invalid:
        return {}  # the master refuses, and says why
    if not settings.tls.certificate:
        return {}
    located = _located(settings)
    if located is None:
        return {}
    try:
        return {"tls": {part: certificates.read_part(located, part) for part in certificates.PARTS}}
    except Invalid as e:
        raise files.invalid(instance.file, e.problems) from None
    except OSError as e:
        problem = Problem(str(instance.file), "tls", f"'{e.filename}': {e.strerror}", "a readable file")
        raise files.invalid(instance.file, [problem]) from None


def examine(settings: Settings) -> tuple[list[Problem], list[Problem]]:
    """What is wrong with the files of [tls], and what should be known of them; nothing where they cannot be read."""
    file = settings.file or settings.name
    located = _located(settings) if settings.tls.certificate else None
    if located is None:
        return [], []
    from clusterd.worker import tls  # late: it brings OpenSSL

    try:
        contents = {part: certificates.read_part(located, part) for part in certificates.PARTS}
    except Invalid as e:
        return e.problems, []
    except OSError:
        return [], []
    made = tls.Tls(**contents)
    if reason := tls.problem(made):
        key, _, found = reason.partition(": ")
        return [Problem(file, key, found, "a certificate and its key, in PEM")], []
    text = tls.warning(made)
    return [], [Problem(file, "tls.certificate", text, "one that is valid")] if text else []


def _located(settings: Settings) -> Settings | None:
    """With paths in place of credentials' names; None when one has no file of its own: it is renewed by a restart."""
    sources: dict[str, str] | None = None
    paths: dict[str, Any] = {}
    for part in certificates.PARTS:
        name = certificates.name_of(settings, part)
        if "/" not in name:
            sources = Systemd().credentials(settings.name) if sources is None else sources
            name = sources.get(name, "")
        if not name.startswith("/"):
            return None
        paths[part] = name
    return replace(settings, tls=replace(settings.tls, **paths))
