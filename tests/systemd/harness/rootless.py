"""An ordinary user of a machine, with a systemd of its own, and that user's applications."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.patience import HANG
from tests.systemd.harness.container import Container, Done
from tests.systemd.harness.instance import Instance


class User:
    """A user with lingering. A context manager: at the end neither a process nor a file of theirs is left."""

    def __init__(self, machine: Container, name: str) -> None:
        self.machine = machine
        self.name = name
        self.home = f"/home/{name}"
        self.uid = 0

    def __enter__(self) -> User:
        self.machine.run(["useradd", "--create-home", self.name])
        self.uid = int(self.machine.run(["id", "-u", self.name]).stdout)
        # By the machine's systemd: logind asks which unit a caller is in, and what the tests start is in none.
        self.machine.run(["systemd-run", "-q", "--wait", "loginctl", "enable-linger", self.name])
        self.machine.wait_for("the user's systemd", self.has_systemd)
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.run(["systemd-run", "-q", "--wait", "loginctl", "disable-linger", self.name], check=False)
        self.machine.systemctl("stop", f"user@{self.uid}.service", check=False)
        self.machine.run(["userdel", "--force", "--remove", self.name], check=False)

    def has_systemd(self) -> bool:
        return self.run(["systemctl", "--user", "is-active", "default.target"], check=False).returncode == 0

    def run(self, argv: Sequence[str], *, check: bool = True, timeout: float = 60.0, session: bool = True) -> Done:
        """Run a command as the user; with `session` in an environment as a login makes it, else as sudo does."""
        variables = [f"HOME={self.home}", *([f"XDG_RUNTIME_DIR=/run/user/{self.uid}"] if session else [])]
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--init-groups", "env", "-C", self.home]
        return self.machine.run([*become, *variables, *argv], check=check, timeout=timeout)


class Own(Instance):
    """An application of a user's own: `systemctl --user`, `clusterd --user`, files in the home."""

    def __init__(self, user: User, name: str, port: int) -> None:
        super().__init__(user.machine, name, port)
        self.user = user
        self.directory = f"{user.home}/{name}"
        self.file = f"{user.home}/.config/clusterd/{name}.toml"

    def __enter__(self) -> Own:
        # theirs, before root writes files into them: systemd makes directories of its own in .config
        self.user.run(["mkdir", "-p", self.directory, f"{self.user.home}/.config/clusterd"])
        return self

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = 60.0) -> Done:
        return self.user.run(["systemctl", "--user", "--no-pager", *arguments], check=check, timeout=timeout)

    def clusterd(self, *arguments: str, check: bool = True, session: bool = True) -> Done:
        argv = ["clusterd", "--user", *arguments, self.name]
        return self.user.run(argv, check=check, timeout=HANG, session=session)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.clusterd("status", "--json").stdout)
        return status

    def manager(self) -> str:
        """The pid of the user's systemd."""
        return self.machine.show(f"user@{self.user.uid}.service", "MainPID")

    def processes(self) -> list[int]:
        group = self.show("ControlGroup")
        script = 'find "/sys/fs/cgroup$1" -name cgroup.procs -exec cat {} + 2>/dev/null || :'
        return sorted(map(int, self.machine.run(["sh", "-c", script, "sh", group]).stdout.split())) if group else []

    def messages(self, after: str | None = None) -> list[str]:
        argv = ["journalctl", "--user", "-q", "--no-pager", "-o", "cat", "-u", f"cluster@{self.name}"]
        self.machine.run(["journalctl", "--sync"])
        return self.user.run([*argv, *(["--after-cursor", after] if after else [])]).stdout.splitlines()
