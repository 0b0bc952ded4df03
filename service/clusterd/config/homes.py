"""Where ProtectHome= of the service unit hides an application. Imported by the generator: see names.py."""

from __future__ import annotations

from collections.abc import Iterable

HOMES = ("/home", "/root", "/run/user")


def at_home(paths: Iterable[str]) -> bool:
    """Whether one of `paths` is below a home, as written: no link is followed, the disk may not be there yet."""
    return any(path == home or path.startswith(home + "/") for path in paths for home in HOMES)
