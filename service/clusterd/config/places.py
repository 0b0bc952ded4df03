"""Where the applications of a systemd are: the system's, or those of one user's manager (`systemctl --user`).

Imported by the generator: see names.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from clusterd.config.addresses import PATH_MAX
from clusterd.config.names import is_name

MAX_RUNTIME = PATH_MAX - len("/notify/4294967295")
"""Bytes of a runtime directory's path, in which each worker of a command has a socket by its number."""
MAX_RUNTIME_APP = PATH_MAX - len("/control")
"""The same where there are none of these."""


class Place(NamedTuple):
    """`configuration` has a NAME.toml an application, `runtime` a directory NAME for each that runs."""

    configuration: str = "/etc/clusterd"
    runtime: str = "/run/clusterd"
    user: bool = False
    home: str = ""
    """With `user`: below it an application is looked for unless its file says where."""

    def file(self, name: str) -> str:
        return f"{self.configuration}/{name}.toml"

    @property
    def forbidden(self) -> int:
        """Permission bits that a file there may not have. A user's own group is nobody else, where umask is 002."""
        return 0o002 if self.user else 0o022

    @property
    def generated(self) -> str:
        """Where systemd has what the generator wrote."""
        return f"{self.runtime.rpartition('/')[0]}/systemd/generator"

    def owns(self, path: str) -> bool:
        """Whether `path`, which has no '..', is in a directory there, where its application does as it likes, or is the
        place of one: beside them is root's."""
        below = path.removeprefix(f"{self.runtime}/")
        return path == self.runtime or (below != path and ("/" in below or is_name(below)))

    def tool(self, program: str) -> str:
        """`program`, one of systemctl, journalctl and clusterd, as a person types it for an application of here."""
        return f"{program} --user" if self.user else program


SYSTEM = Place()


def of_user(environment: Mapping[str, str], uid: int) -> Place:
    """Those of the user whose `environment` that is.

    By the XDG base directory specification, a relative path counting as none. /run/user/UID is where pam_systemd makes
    XDG_RUNTIME_DIR; sudo, su and cron leave it unset.
    """
    home = _absolute(environment.get("HOME")) or "/"
    configuration = _absolute(environment.get("XDG_CONFIG_HOME")) or f"{home.rstrip('/')}/.config"
    runtime = _absolute(environment.get("XDG_RUNTIME_DIR")) or f"/run/user/{uid}"
    return Place(f"{configuration}/clusterd", f"{runtime}/clusterd", True, home)


def _absolute(path: str | None) -> str:
    return path.rstrip("/") or "/" if path and path.startswith("/") else ""
