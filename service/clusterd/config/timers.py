"""The units that systemd runs a task by, at the times of its calendar. Imported by the generator: see names.py.

The grammar of the times is systemd's alone: what is no such time at all is refused here, the rest systemd reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from clusterd.config.names import is_task
from clusterd.config.values import duration, duration_text

MAX_CALENDAR = 200
_ALLOWED = "[A-Za-z0-9_ .,:*/~+-]+"
_CRON = r"@[a-z]+|([0-9*/,-]+ +){4}([0-9*/,-]+|[A-Za-z]{3}(-[A-Za-z]{3})?)"
_TIMES = re.compile("[0-9*]|minutely|hourly|daily|weekly|monthly|quarterly|yearly|annually|mon|tue|wed|thu|fri|sat|sun")

_TIMER = """\
# Made of {file} by clusterd-generator.
[Unit]
Description=Task {task} of {app}
Documentation=man:cluster.toml(5)
SourcePath={source}
PartOf=cluster@{app}.service
After=cluster@{app}.service

[Timer]
OnCalendar={calendar}
RandomizedDelaySec={jitter}
AccuracySec=1s
Persistent=yes
"""

_SERVICE = """\
# Made of {file} by clusterd-generator.
[Unit]
Description=Task {task} of {app}
Documentation=man:cluster.toml(5)
SourcePath={source}
After=cluster@{app}.service
# The calendar says how often, and nothing else.
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/bin/clusterd {user}task {app} run {task} --wait
# The task has a timeout of its own, which the master keeps.
TimeoutStartSec=infinity
# The application was stopped before it, or meanwhile, or another host runs it: no failure of the task's.
SuccessExitStatus=4 7 8
{account}"""

_CONFINED = """\
# It asks the master over its socket, and does nothing else: the task itself is a process of cluster@{app}.service.
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateNetwork=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
UMask=0077
"""


def calendar(text: str) -> str:
    """`text` as it may stand in OnCalendar=. Raises ValueError for what is no time of systemd's."""
    if re.fullmatch(_CRON, text.strip()):
        raise ValueError('that is cron\'s grammar: systemd\'s has "Mon..Fri 04:00", "*-*-1 00:00", "hourly"')
    if re.fullmatch(r"[0-9.]+ *[a-z]+", text.strip()):
        raise ValueError(f"that is a span of time{_every(text.strip())}")
    if len(text) > MAX_CALENDAR or not re.fullmatch(_ALLOWED, text) or not _TIMES.search(text.lower()):
        raise ValueError('"Mon..Fri 04:00" for example; "systemd-analyze calendar" tells whether systemd takes it')
    return text.strip()


def _every(text: str) -> str:
    try:
        duration(text)
    except ValueError:
        return ""
    return f': every = "{text}"'


def unit(app: str, task: str) -> str:
    """The name of its units, without what kind they are. The colon keeps two applications' names apart."""
    return f"cluster-task@{app}:{task}"


def units(
    app: str, file: str, table: Mapping[str, Any], account: str | None, user: bool
) -> tuple[dict[str, str], list[str]]:
    """(contents by the unit's name, what was left out and why) of the tasks of `table` that have a calendar.

    `account` is the file's `user`; None: the dynamic one. `user`: it is for a user's own systemd.
    """
    made: dict[str, str] = {}
    ignored: list[str] = []
    tasks = table.get("task", {})
    for task, keys in tasks.items() if isinstance(tasks, dict) and "app" in table else ():
        if not is_task(task) or not isinstance(keys, dict) or "calendar" not in keys:
            continue  # not systemd's; what is wrong is the master's to refuse
        try:
            values = {
                "calendar": calendar(_string(keys["calendar"])),
                "jitter": duration_text(duration(_string(keys.get("jitter", "0")))),
            }
        except ValueError as e:
            ignored.append(f"task.{task} gets no timer: {e}")
            continue
        who = f"User={account or f'cluster-{app}'}\nDynamicUser={'no' if account else 'yes'}\n{_CONFINED}"
        values |= {"file": file, "source": file.replace("%", "%%"), "app": app, "task": task}
        values |= {"user": "--user ", "account": ""} if user else {"user": "", "account": who.format(app=app)}
        made[f"{unit(app, task)}.timer"] = _TIMER.format(**values)
        made[f"{unit(app, task)}.service"] = _SERVICE.format(**values)
    return made, ignored


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a string was expected")
    return value
