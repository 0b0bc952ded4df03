"""State that the workers of an application share: `worker.cache`."""

from __future__ import annotations

import importlib.util
import os
import sys

from . import place
from .cache import Cache
from .store import Store
from .values import CacheError, CacheValueError


def lacking() -> str | None:
    """Why the cache that the file names cannot be used by this interpreter, for whoever starts the application."""
    try:
        found = place.find()
        if found is not None and place.is_remote(found):
            _remote(found)
    except (place.Unknown, CacheError) as e:
        return str(e)
    return None


def _store() -> Store:
    try:
        found = place.find()
    except place.Unknown as e:
        raise CacheError(str(e)) from None
    if found is not None and place.is_remote(found):
        return _remote(found)
    from .embedded import Embedded

    return Embedded(found or place.temporary())


def _remote(url: str) -> Store:
    """Connects to nothing yet. Raises CacheError."""
    if importlib.util.find_spec("redis") is None:
        from ..engines import install_line

        raise CacheError(f"cache: the package redis is not installed for {sys.executable}: {install_line('redis')}")
    from .redis import Redis

    return Redis(url, f"clusterd:{os.environ.get('CLUSTERD_APP', '')}:")


cache = Cache(_store)
"""That of this application. Outside a cluster it is this process's and its children's."""

__all__ = ["Cache", "CacheError", "CacheValueError", "cache", "lacking"]
