"""Why a file or directory that the configuration names is of no use: said so that it can be put right."""

from __future__ import annotations

import grp
import os
import pwd
import stat

TMP = "the service has a /tmp and a /var/tmp of its own (PrivateTmp=) and does not see this one: move it, to /srv say"


def in_tmp(path: str) -> bool:
    """Whether `path`, as written, is where PrivateTmp= of the service unit hides it."""
    return f"{path}/".startswith(("/tmp/", "/var/tmp/"))


def unlike_directory(path: str) -> str:
    """What is in the place of a directory; "" where nothing is."""
    return "that is a file: name the directory it is in" if os.path.isfile(path) else ""


def unlike_program(path: str) -> str:
    """What keeps `path` from being executed, and what to do; "" where that cannot be seen."""
    if os.path.islink(path) and not os.path.exists(path):
        where = os.path.dirname(os.path.dirname(path))
        venv = f": 'python3 -m venv --clear {where}', then install its packages" if _is_venv(where) else ""
        return f"it is a link to '{os.path.realpath(path)}', which is not there{venv}"
    if os.path.isdir(path):
        if _is_venv(path):
            return f"that is the virtual environment: its interpreter is '{path}/bin/python'"
        return "that is a directory: name the program in it"
    if not os.path.isfile(path):
        return ""
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return "its file system is mounted noexec: nothing on it can be executed"
    return f"its mode does not let user {os.geteuid()} execute it ({owner(path)}): chmod +x"


def owner(path: str) -> str:
    """Owner, group and mode of what is there."""
    status = os.stat(path)
    try:
        user = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return f"{user}:{group}, mode {stat.S_IMODE(status.st_mode):04o}"


def _is_venv(path: str) -> bool:
    return os.path.isfile(f"{path}/pyvenv.cfg")
