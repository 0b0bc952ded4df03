"""Where the cache is: what the master put into the environment."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from urllib.parse import urlsplit

VARIABLE = "CLUSTERD_CACHE"
SCHEMES = ("redis://", "rediss://", "unix://")
MAX_URL = 4096
"""Characters of a URL in a credential."""

NO_GROUP = " (is the service in the socket's group? [sandbox] groups)"
"""What to think of where a UNIX socket may not be opened."""


class Unknown(Exception):
    """The environment does not say it, though it should; the text is for people."""


def is_remote(place: str) -> bool:
    return place.startswith(SCHEMES)


def find() -> str | None:
    """A directory, a Redis's URL (secret), or None outside a cluster. Raises Unknown."""
    given = os.environ.get(VARIABLE)
    if not given or given.startswith("/") or is_remote(given):
        return given or None
    return resolve("cache", given, os.environ.get(given.removeprefix("$")))


def resolve(key: str, given: str, variable: str | None) -> str:
    """The URL (secret) of what the file has under `key`: it stands there, or "$NAME" is a variable, with this value,
    or a credential. Raises Unknown."""
    if is_remote(given):
        return given
    name = given.removeprefix("$")
    found = variable or _credential(key, name)
    if is_remote(found):
        return found
    state = "is not one" if found else "is not set"
    raise Unknown(
        f'{key} = "{given}" is the URL in the variable {name}, which {state}: give it in environment-file, or as a '
        f"credential of that name"
    )


def redacted(url: str) -> str:
    """Without user, password and options. Nothing is left where it cannot be told which part is the password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://..."
    if "@" in url.replace(parts.netloc, ""):
        return f"{parts.scheme}://..."
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _credential(key: str, name: str) -> str:
    """Its contents, without the newline of an editor; "" where there is none."""
    if not (directory := os.environ.get("CREDENTIALS_DIRECTORY")):
        return ""
    try:
        with open(os.path.join(directory, name)) as f:
            return f.read(MAX_URL).strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as e:  # ValueError: no UTF-8
        why = e.strerror if isinstance(e, OSError) else "it is no text"
        raise Unknown(f'{key} = "${name}": the credential {name} cannot be read: {why}') from None


def in_zygote() -> bool:
    """Whether the application is being imported once for workers that do not exist yet."""
    return VARIABLE in os.environ and "CLUSTERD_WORKER" not in os.environ


def temporary() -> str:
    """For a program outside a cluster: a directory that goes with this process, and is its children's too."""
    made, owner = tempfile.mkdtemp(prefix="clusterd-cache-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(made, ignore_errors=True)

    atexit.register(remove)
    return made
