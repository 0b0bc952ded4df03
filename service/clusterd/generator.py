#!/usr/bin/python3 -IS
"""The systemd generator: from NAME.toml to the drop-ins of cluster@NAME.service and cluster@NAME.socket.

    clusterd-generator NORMAL EARLY LATE [CONFIGURATION [RUNTIME]]

systemd passes the first three (systemd.generator(7)); the others are for tests. A user's systemd (SYSTEMD_SCOPE=user)
runs it too, for the files of that user. It runs at boot before anything else,
and at each daemon-reload of anybody, with everything waiting: so no site-packages, no dataclasses, no look-up of users
or hosts, and of clusterd only the small modules that say so.

It does not judge the file: an unknown key or a wrong time-out is the master's to refuse, at a reload, with the old
configuration still serving. A value of [sandbox], [limits] or [credentials] that no directive can be made of is left
out, and told. Only what a drop-in cannot be made without costs a file its drop-ins; then systemd closes the sockets
of the unit at this daemon-reload, and the service goes on with those it has in its file descriptor store.
One bad file never costs another file its drop-ins.
"""

from __future__ import annotations

import os
import sys
import tomllib
from typing import Any

if __name__ == "__main__":
    # -I leaves the script's directory out of sys.path. Installed, this is a link into /usr/share/clusterd.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    sys.dont_write_bytecode = True

from clusterd.config import profiles, timers
from clusterd.config.addresses import ANY4, ANY6, Address, parse
from clusterd.config.claims import serving, settle
from clusterd.config.confinement import directives
from clusterd.config.cores import MAX_SLOTS, default_slots
from clusterd.config.files import exposed, read_own
from clusterd.config.names import account_hint, is_account, is_loadable, is_name, is_root
from clusterd.config.places import SYSTEM, Place, of_user
from clusterd.config.values import duration, duration_text

JOURNAL = "/run/systemd/journal/socket"
MAX_FILE = 256 << 10
STOP_DRAIN = 5.0
STOP_MARGIN = 10.0
"""Seconds between the end of the drain and systemd's SIGKILL: for the master to kill what is left, and to say so."""
_FILE_MODE = 0o644


def main(arguments: list[str]) -> int:
    normal = arguments[0] if arguments else "/tmp"
    place = of_user(os.environ, os.getuid()) if os.environ.get("SYSTEMD_SCOPE") == "user" else SYSTEM
    tell = log
    if arguments[3:]:
        place, tell = place._replace(configuration=arguments[3], runtime=[*arguments[4:], place.runtime][0]), complain
    apps: dict[str, tuple[list[Address], str, str]] = {}
    tasks: dict[str, dict[str, str]] = {}
    for name in names(place.configuration):
        file = place.file(name)
        try:
            table = profiles.laid_over(read(file, place), chosen(file))
            listen = addresses(table, place)
            of_service, ignored = service(file, table, listen, place)
            tasks[name], untimed = timers.units(name, file, table, account(table, "user"), place.user)
            of_service = wanting(of_service, sorted(unit for unit in tasks[name] if unit.endswith(".timer")))
            apps[name] = listen, socket(file, table, listen, place), of_service
            for why in ignored + untimed:
                tell(f"{file}: {why}, ignoring")
        except (OSError, ValueError, RecursionError) as e:
            tell(unserved(file, e))
    refused = settle({name: app[0] for name, app in apps.items()}, serving(apps, place.runtime))
    for name, claim in refused.items():
        text = f"'{claim.address.text()}' overlaps '{claim.held.text()}' of {place.file(claim.holder)}"
        tell(unserved(place.file(name), text))
    for name, (_, of_socket, of_service) in apps.items():
        if name not in refused:
            try:
                write(normal, f"cluster@{name}.socket", of_socket)
                write(normal, f"cluster@{name}.service", of_service)
                for unit, content in tasks[name].items():
                    put(f"{normal}/{unit}", content)
            except (OSError, ValueError) as e:
                tell(unserved(place.file(name), e))
    return 0


def unserved(file: str, why: object) -> str:
    return f"{file}: {why}; it gets no socket, ignoring"


def complain(text: str) -> None:
    print(f"clusterd-generator: {on_one_line(text)}", file=sys.stderr)


def on_one_line(text: str) -> str:
    return text.replace("\n", " ")


def log(text: str) -> None:
    """To the journal: systemd connects a generator's standard error to /dev/null (seen on 252 and 257).

    At boot, when there is no journal yet, to the kernel's log, as systemd.generator(7) says. Never blocks: PID 1 waits.
    """
    from socket import AF_UNIX, SOCK_DGRAM
    from socket import socket as make

    complain(text)
    text = on_one_line(text)
    try:
        with make(AF_UNIX, SOCK_DGRAM) as journal:
            journal.setblocking(False)
            record = f"PRIORITY=3\nSYSLOG_IDENTIFIER=clusterd-generator\nMESSAGE={text}\n"
            journal.sendto(record.encode(errors="replace"), JOURNAL)
    except OSError:
        try:
            fd = os.open("/dev/kmsg", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(fd, f"<3>clusterd-generator: {text}".encode(errors="replace")[:900])
            os.close(fd)
        except OSError:
            pass  # a container has none


def names(directory: str) -> list[str]:
    """Instances that have a file, in the order of the alphabet: two runs over the same files do the same."""
    try:
        files = os.listdir(directory)
    except OSError:
        return []  # removed, not purged
    found = [file.removesuffix(".toml") for file in files if file.endswith(".toml")]
    return sorted(filter(is_name, found))


def read(file: str, place: Place) -> dict[str, Any]:
    return tomllib.loads(read_own(file, MAX_FILE, place.forbidden).decode())


def chosen(file: str) -> str:
    try:
        return profiles.chosen(file)
    except (OSError, ValueError):
        return ""  # the master refuses it, with the reason


def addresses(table: dict[str, Any], place: Place) -> list[Address]:
    value = table.get("listen")
    found = [parse(each) for each in (value if isinstance(value, list) else [value])] if value is not None else []
    if not found:
        raise ValueError("no 'listen'")
    for address in found:
        # not the master's alone to refuse: root would open it where the application may put links
        if address.kind == "unix" and place.owns(address.path):
            why = f"below '{place.runtime}', whose directories are removed when their application stops"
            raise ValueError(f"'{address.path}' is {why}")
    return found


def socket(file: str, table: dict[str, Any], listen: list[Address], place: Place) -> str:
    """The socket's drop-in. The order of the lines is the order of the slots in the kernel's reuseport group."""
    slots = table.get("slots", default_slots())
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= MAX_SLOTS:
        raise ValueError(f"'slots' is a number from 1 to {MAX_SLOTS}")
    lines = []
    for address in listen:
        # SO_REUSEPORT does nothing for UNIX sockets: all workers share one
        lines += [f"ListenStream={address.stream()}"] * (slots if address.kind == "tcp" else 1)
    owners = {(a.mode, a.user, a.group) for a in listen if a.kind == "unix"}
    if len(owners) > 1:
        raise ValueError("UNIX sockets of different mode, user or group")
    for mode, user, group in owners:
        lines.append(f"SocketMode={mode:04o}")
        if not place.user:  # the master refuses them there
            lines += [f"SocketUser={user}"] if user else []
            lines += [f"SocketGroup={group}"] if group else []
    return drop_in(file, "Socket", lines)


def service(file: str, table: dict[str, Any], listen: list[Address], place: Place) -> tuple[str, list[str]]:
    """The service's drop-in, what systemd itself must know of the file; and what of it was left out, and why."""
    lines = []
    user, group = account(table, "user"), account(table, "group")
    if user and not place.user:  # the master refuses them there
        lines += [f"User={user}", "DynamicUser=no"]
    if group and not place.user:
        lines.append(f"Group={group}")
    if "environment-file" in table:
        path = text(table, "environment-file")
        if not path.startswith("/") or any(c in path for c in "*?[]\\ \t\n"):
            raise ValueError("'environment-file' is an absolute path without spaces, '*', '?', '[' and backslashes")
        # "-": a file that is missing is the master's to tell, which can say why; systemd would only fail to start it
        lines.append(f"EnvironmentFile=-{path.replace('%', '%%')}")
    command = table.get("command")
    program = command[0] if isinstance(command, list) and command else ""
    paths = [table.get("directory", ""), table.get("python", ""), program]
    own = [a.host.partition("%")[0] for a in listen if a.kind == "tcp" and a.host not in (ANY4, ANY6)]
    confining, ignored = directives(table, [path for path in paths if isinstance(path, str)], own, place.user)
    lines += confining
    if not place.user:  # what a user may read, that user's master may
        of_tls, untold = certificates(table)
        lines += of_tls
        ignored += untold
    lines.append(f"TimeoutStopSec={duration_text(stop_drain(table) + STOP_MARGIN)}")
    return drop_in(file, "Service", lines), ignored


def certificates(table: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Have [tls] read as root, whose alone it may be: by systemd at a start, by our own client at a reload.

    The lines, and what was left out of them, and why.
    """
    tls = table.get("tls", {})
    if not isinstance(tls, dict) or not tls.get("certificate"):
        return [], []
    lines = []
    for part in ("certificate", "key"):
        path = tls.get(part)
        if isinstance(path, str) and is_loadable(path):
            name = f"clusterd-tls-{part}"
            # without a default systemd would only fail to start it; the master can say what is missing
            lines += [f"LoadCredential={name}:{path.replace('%', '%%')}", f"SetCredential={name}:-"]
    if why := unsafe_for_root(table):
        return lines, [f"[tls] is not read as root by 'systemctl reload': {why}"]
    return [*lines, "ExecReload=", "ExecReload=+/usr/bin/clusterd reload %i"], []


def unsafe_for_root(table: dict[str, Any]) -> str:
    """Why the environment of ExecReload= is not fit for root, "" if it is.

    systemd gives EnvironmentFile= to it as well, and LD_PRELOAD is only one of the variables that make a program run
    what another user wrote. UnsetEnvironment= would have to know all of them, and would take them from the workers.
    """
    path = table.get("environment-file")
    if path is None:
        return ""
    try:
        return exposed(path)
    except OSError as e:
        # not there yet, maybe, at boot: whose it will be cannot be known
        return f"'{path}': {e.strerror}"


def stop_drain(table: dict[str, Any]) -> float:
    stop = table.get("stop", {})
    value = stop.get("drain-timeout") if isinstance(stop, dict) else None
    try:
        return duration(value) if isinstance(value, str) else STOP_DRAIN
    except ValueError:
        return STOP_DRAIN  # the master refuses it, with the reason


def account(table: dict[str, Any], key: str) -> str | None:
    if key not in table:
        return None
    name = text(table, key)
    if not is_account(name):
        raise ValueError(f"'{key}' is the name of an account: {account_hint(name)}")
    if key == "user" and is_root(name):
        raise ValueError("'user' is never root")
    return name


def text(table: dict[str, Any], key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"'{key}' is a string")
    return value


def drop_in(file: str, section: str, lines: list[str]) -> str:
    source = file.replace("%", "%%")
    return "\n".join(
        [f"# Made of {file} by clusterd-generator.", "[Unit]", f"SourcePath={source}", "", f"[{section}]", *lines, ""]
    )


def wanting(content: str, units: list[str]) -> str:
    """`content` of a drop-in whose unit has `units` started with it, and those that come to be while it runs."""
    upholds = f"Upholds={' '.join(units)}\n"
    return content.replace("\n\n[", f"\n{upholds}\n[", 1) if units else content


def write(normal: str, unit: str, content: str) -> None:
    directory = f"{normal}/{unit}.d"
    os.makedirs(directory, exist_ok=True)
    put(f"{directory}/50-clusterd.conf", content)


def put(path: str, content: str) -> None:
    # systemd reads UTF-8 whatever the locale; a path of ours may have bytes that are none, and they stay
    with open(path, "x", encoding="utf-8", errors="surrogateescape") as f:
        os.fchmod(f.fileno(), _FILE_MODE)
        f.write(content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
