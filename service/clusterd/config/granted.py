"""What a file's [sandbox], [limits] and [credentials] ask of the machine: whether it is there, and told in words."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator

from clusterd.config.homes import at_home
from clusterd.config.problem import Problem
from clusterd.config.settings import Settings

_ACL = "system.posix_acl_access"


def lacking(settings: Settings) -> list[Problem]:
    """What is named and is not there, or not its user's. For root, and for the service's user within the service."""
    file = settings.file or settings.name
    root = os.geteuid() == 0
    problems = [p for path in settings.sandbox.write if (p := _unwritable(file, path, settings))]
    for device in settings.sandbox.devices:
        if device.startswith("/") and not os.path.exists(device):
            hint = "" if root else _reapply(settings)
            problems.append(Problem(file, "sandbox.devices", f"'{device}'", "a device of this machine", hint))
    if not root:
        # systemd has read the credentials and known the groups, or the service would not have been started
        return problems
    if settings.user and not _is_account(settings.user):
        hint = f"adduser --system --group {settings.user}, or leave 'user' out for a dynamic user of its own"
        problems.append(Problem(file, "user", f"'{settings.user}'", "an account of this machine", hint))
    if settings.group and settings.user and _gid(settings.group) is None:
        hint = f"addgroup --system {settings.group}, or leave it out"
        problems.append(Problem(file, "group", f"'{settings.group}'", "a group of this machine", hint))
    for name in settings.sandbox.groups:
        if _gid(name) is None:
            hint = f"addgroup --system {name}, or leave it out"
            problems.append(Problem(file, "sandbox.groups", f"'{name}'", "a group of this machine", hint))
    return problems + list(missing_credentials(settings))


def missing_credentials(settings: Settings) -> Iterator[Problem]:
    for name, path in settings.credentials.items():
        if not os.path.isfile(path):
            hint = "without it systemd does not start the service (243/CREDENTIALS)"
            yield Problem(settings.file or settings.name, f"credentials.{name}", f"'{path}'", "a readable file", hint)


def _unwritable(file: str, path: str, settings: Settings) -> Problem | None:
    key, account = "sandbox.write", settings.user or f"cluster-{settings.name}"
    try:
        status = os.stat(path)
    except FileNotFoundError:
        owner = f"-o {settings.user} " if settings.user else ""
        hint = f"install -d {owner}{path}" + ("" if settings.user else f"; {_dynamic(settings)}")
        return Problem(file, key, f"'{path}', which is not there", "an existing directory", hint)
    except OSError as e:
        return Problem(file, key, f"'{path}': {e.strerror}", "a directory that it reaches")
    if os.geteuid() == 0:
        able = _may_write(path, status, settings)
    else:
        able = os.access(path, os.W_OK)
        if not able and os.statvfs(path).f_flag & os.ST_RDONLY:
            return Problem(
                file, key, f"'{path}', still read-only", "a unit that was made of this file", _reapply(settings)
            )
    if able:
        return None
    found = f"'{path}', which {account} may not write ({_owner(status)})"
    hint = f"chown {settings.user} {path}" if settings.user else _dynamic(settings)
    return Problem(file, key, found, "a directory of its user", hint)


def _dynamic(settings: Settings) -> str:
    return (
        "a dynamic user owns no files: keep them in STATE_DIRECTORY (/var/lib/clusterd/"
        f'{settings.name}), which needs no key, or give user = "ACCOUNT" and that account the directory'
    )


def _reapply(settings: Settings) -> str:
    return f"systemctl daemon-reload && systemctl restart cluster@{settings.name}"


def _may_write(path: str, status: os.stat_result, settings: Settings) -> bool:
    """For root, who may write everything: by owner and mode, as far as those tell."""
    if stat.S_ISDIR(status.st_mode) and _ACL in _attributes(path):
        return True  # more than the mode says: it is found out at the start
    mode = status.st_mode
    members = {_gid(name) for name in [*settings.sandbox.groups, *([settings.group] if settings.group else [])]}
    if settings.user:
        try:
            number = settings.user.isdecimal()
            known = pwd.getpwuid(int(settings.user)) if number else pwd.getpwnam(settings.user)
        except KeyError:
            return True  # systemd says so
        if known.pw_uid == status.st_uid:
            return bool(mode & stat.S_IWUSR)
        members |= set(os.getgrouplist(known.pw_name, known.pw_gid))
    if status.st_gid in members:
        return bool(mode & stat.S_IWGRP)
    return bool(mode & stat.S_IWOTH)


def _attributes(path: str) -> list[str]:
    try:
        return os.listxattr(path)
    except OSError:
        return []


def _is_account(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return name.isdecimal()
    return True


def _gid(name: str) -> int | None:
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _owner(status: os.stat_result) -> str:
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return f"{owner}:{group}, mode {stat.S_IMODE(status.st_mode):04o}"


def told(settings: Settings) -> list[str]:
    """What is opened or closed beyond the unit as it is shipped, and why: a line each. No secrets."""
    s, found = settings.sandbox, []
    program = settings.command[0] if settings.command else settings.python or ""
    implied = [("directory", settings.directory), ("command" if settings.command else "python", program)]
    implied += [("a path of write", path) for path in s.write]
    why = next((f"{key} is '{path}'" for key, path in implied if at_home([path])), "")
    if s.home != "auto":
        found.append(f'homes are {s.home}: [sandbox] home = "{s.home}"')
    elif why:
        found.append(f"homes are readable: {why}")
    found += [f"'{path}' is writable: [sandbox] write" for path in s.write]
    found += [f"'{device}' may be opened: [sandbox] devices" for device in s.devices]
    if s.groups:
        found.append(f"it is a member of {', '.join(s.groups)}: [sandbox] groups")
    if s.namespaces:
        found.append("it may make namespaces: [sandbox] namespaces")
    if not s.jit:
        found.append("it may not make code at run time: [sandbox] jit = false")
    if s.network != "full":
        besides = "".join(f", {peer}" for peer in s.network) if isinstance(s.network, tuple) else ""
        found.append(f"it reaches this machine{besides} and nothing else: [sandbox] network")
    return found
