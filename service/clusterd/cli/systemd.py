"""systemctl and journalctl, as far as the subcommands need them. Every call but a start or stop is bounded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

from clusterd.config.places import Place

OLDEST = 252
"""The first systemd that the units and the generator are made for, and tried on: Debian 12's."""
PATIENCE = 10.0
"""Seconds for a call that starts and stops nothing."""
JOURNAL_LINES = 15
GENERATED = "/50-clusterd.conf"
"""The generator's drop-in, which nobody edits."""
_LOADING = ("LoadState", "LoadError", "ActiveState", "DropInPaths", "FragmentPath")


def service(name: str) -> str:
    return f"cluster@{name}.service"


def socket(name: str) -> str:
    return f"cluster@{name}.socket"


class Systemd:
    """systemctl and journalctl, of the system's or of this user's systemd.

    `runtime` is the user's XDG_RUNTIME_DIR, by which systemctl finds the user's systemd.
    """

    def __init__(self, runtime: str | None = None) -> None:
        self._options = ["--user"] if runtime else []
        self._environment = {**os.environ, "XDG_RUNTIME_DIR": runtime} if runtime else None

    def systemctl(self, *arguments: str, patience: float | None = PATIENCE) -> tuple[int, str]:
        """Exit status and output of systemctl, with errors if it failed. 127: there is none; 124: not back in time."""
        return self._run("systemctl", *arguments, patience=patience)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit; {} when systemd cannot be asked (it does not run here, say)."""
        status, text = self.systemctl("show", f"--property={','.join(properties)}", "--", unit)
        if status:
            return {}
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def credentials(self, name: str) -> dict[str, str]:
        """LoadCredential= of an instance: name -> path. systemctl does not print it."""
        escaped = "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):02x}" for c in service(name))
        status, text = self._run(
            "busctl", "--json=short", "get-property", "org.freedesktop.systemd1",
            f"/org/freedesktop/systemd1/unit/{escaped}", "org.freedesktop.systemd1.Service", "LoadCredential",
        )  # fmt: skip
        if status:
            return {}
        return {str(each[0]): str(each[1]) for each in json.loads(text)["data"]}

    def problem(self, name: str) -> str:
        """What systemd has to say about an instance that does not answer; '' when nothing."""
        found = self.show(service(name), "ActiveState", "SubState", "StatusText", "Result")
        state = found.get("ActiveState", "")
        if not state or state == "inactive":
            return ""
        text = f"systemd: {state} ({found.get('SubState', '?')})"
        if found.get("Result", "success") != "success":
            text += f", {found['Result']}"
        return f"{text}, {found['StatusText']}" if found.get("StatusText") else text

    def obstacle(self, name: str) -> tuple[str, str] | None:
        """Why systemd cannot start the units of an instance, whatever is in them, and what to type."""
        tool = " ".join(["systemctl", *self._options])
        version = re.match(r"Version=(\d+)", self.systemctl("show", "--property=Version")[1])
        if version and int(version[1]) < OLDEST:
            return f"systemd {version[1]} is too old, {OLDEST} or newer is needed", "Debian 12 has it"
        states = {unit: self.show(unit, *_LOADING) for unit in (service(name), socket(name))}
        for unit, found in states.items():
            if found.get("LoadState") == "masked":
                return f"{unit} is masked", f"{tool} unmask {unit}"
            if found.get("LoadState") in ("bad-setting", "error"):
                why = found.get("LoadError", "").partition(" ")[2].strip('"') or found["LoadState"]
                drop_ins = [path for path in found.get("DropInPaths", "").split() if not path.endswith(GENERATED)]
                written = ", ".join(drop_ins) or found.get("FragmentPath", "")
                return f"systemd cannot use {unit}: {why}", f"look at {written}; systemd-analyze verify {unit}"
        if states[service(name)].get("ActiveState") == "active" != states[socket(name)].get("ActiveState"):
            both = f"{socket(name)} {service(name)}"
            return (
                f"{socket(name)} was stopped and {service(name)} was not: it runs and serves, "
                "but systemd starts a socket only before its service",
                f"{tool} stop {both}, then start it again",
            )
        return None

    def journal(self, name: str, since: float) -> list[str]:
        """The last messages of an instance, none from before `since` (seconds of the wall clock), without times."""
        self._run("journalctl", "--sync")
        status, text = self._run(
            "journalctl",
            "--no-pager",
            "--quiet",
            f"--lines={JOURNAL_LINES}",
            f"--since=@{since:.3f}",
            "--output=cat",
            f"--unit={service(name)}",
        )
        return [] if status else text.splitlines()

    def refuses_calendar(self, text: str) -> bool:
        """Whether it is no time for a timer; False where nobody can tell."""
        return self._run("systemd-analyze", "calendar", text)[0] == 1

    def _run(self, program: str, *arguments: str, patience: float | None = PATIENCE) -> tuple[int, str]:
        if not shutil.which(program):
            return 127, f"{program}: not found (is this a systemd machine?)"
        try:
            done = subprocess.run(
                [program, *self._options, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=patience,
                env=self._environment,
            )
        except subprocess.TimeoutExpired:
            return 124, f"{program} {arguments[0]}: no answer within {patience:g} s"
        # What ssh and systemctl warn of is no part of an answer.
        return done.returncode, (done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip()


def of(place: Place) -> Systemd:
    return Systemd(os.path.dirname(place.runtime) if place.user else None)
