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
    except place.Unknown as e:
        return str(e)
    if found is None or not place.is_remote(found) or importlib.util.find_spec("redis") is not None:
        return None
    from ..engines import install_line

    return f"cache: the package redis is not installed for {sys.executable}: {install_line('redis')}"


def _store() -> Store:
    if (why := lacking()) is not None:
        raise CacheError(why)
    found = place.find()
    if found is not None and place.is_remote(found):
        from .redis import Redis

        return Redis(found, f"clusterd:{os.environ.get('CLUSTERD_APP', '')}:")
    from .embedded import Embedded

    return Embedded(found or place.temporary())


cache = Cache(_store)
"""That of this application. Outside a cluster it is this process's and its children's."""

__all__ = ["Cache", "CacheError", "CacheValueError", "cache", "lacking"]
