"""What the workers share as a cache of cachelib's: where Flask-Session keeps sessions.

Beside the application as shared.py, and there:

    app.config["SESSION_TYPE"] = "cachelib"
    app.config["SESSION_CACHELIB"] = shared.Cache()
    Session(app)
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from cachelib.base import BaseCache
from flask.json.tag import TaggedJSONSerializer

from clusterd import worker


class Cache(BaseCache):
    """No pickle: JSON with tags, as in Flask's own cookies, so that a tuple, a date or Markup comes back as one."""

    def __init__(self) -> None:
        super().__init__()
        self._json = TaggedJSONSerializer()

    def get(self, key: str) -> Any:
        kept = worker.cache.get(_hashed(key))
        return None if kept is None else self._json.loads(kept)

    def set(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        worker.cache.set(_hashed(key), self._json.dumps(value), self._normalize_timeout(timeout) or None)
        return True

    def delete(self, key: str) -> bool:
        return worker.cache.delete(_hashed(key))


def _hashed(key: str) -> str:
    """The key has the cookie in it: a client may send one of any length, and who reads the cache learns none."""
    return hashlib.sha256(key.encode()).hexdigest()
