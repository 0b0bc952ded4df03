"""What the workers share as a cache of Django's: sessions, and values that are JSON.

Beside settings.py as shared.py, and there:

    CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        "shared": {"BACKEND": "mysite.shared.Cache"},
    }
    SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    SESSION_CACHE_ALIAS = "shared"
"""

from __future__ import annotations

from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from clusterd import worker


class Cache(BaseCache):
    """No pickle: an object that is not JSON, such as a page of cache_page, is refused with a ValueError."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return worker.cache.get(self.make_key(key, version=version), default)

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        ttl = self._ttl(timeout)
        if ttl is not None and ttl <= 0:
            self.delete(key, version)
        else:
            worker.cache.set(self.make_key(key, version=version), value, ttl)

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        ttl = self._ttl(timeout)
        if ttl is not None and ttl <= 0:
            return not self.has_key(key, version)
        return worker.cache.add(self.make_key(key, version=version), value, ttl)

    def delete(self, key: str, version: int | None = None) -> bool:
        return worker.cache.delete(self.make_key(key, version=version))

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        if not self.has_key(key, version):
            raise ValueError(f"Key '{key}' not found")
        return worker.cache.incr(self.make_key(key, version=version), delta)

    def _ttl(self, timeout: Any) -> float | None:
        """Seconds, 0 or less for what is over already, None for ever."""
        ttl: float | None = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        return ttl
