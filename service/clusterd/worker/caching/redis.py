"""The cache in a Redis (or Valkey), by the application's own `redis` package. Nothing else imports that package; the
bridge, which has the daemon's, takes it and how it is used from here."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .place import NO_GROUP, in_zygote, redacted
from .values import CacheError, not_counted

TIMEOUT = 1.0
"""Of a connection and of an answer: a Redis that is away must cost a request no more than this."""
LEASE = 5.0
"""After this the claim of a process that died is free; one that lives renews it."""

_INCR = """
local there = redis.call('EXISTS', KEYS[1])
local number = redis.call('INCRBY', KEYS[1], ARGV[1])
if there == 0 and ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return tostring(redis.call('GET', KEYS[1]))
"""  # as text: a number of Lua has 53 bits
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


def options(url: str, connect: float, answer: float, **tcp: Any) -> dict[str, Any]:
    """For redis-py: every wait ends, and nothing is tried twice by itself. `tcp` is for a connection over a network."""
    # There redis 4, Debian 12's, does not know the option and needs none.
    more = {} if url.startswith("unix:") else {"socket_connect_timeout": connect, **tcp}
    return {"socket_timeout": answer, "retry": Retry(NoBackoff(), 0), **more}


class Redis:
    remote = True

    def __init__(self, url: str, prefix: str) -> None:
        """`prefix` keeps applications that share a Redis apart."""
        self.name, self._prefix = redacted(url), prefix
        try:
            # A second try would count an incr twice whose answer was lost. The next call connects anew.
            self._client = redis.Redis.from_url(url, **options(url, TIMEOUT, TIMEOUT))
            # An option that it does not know is found out by a connection only; this one goes nowhere.
            pool = self._client.connection_pool
            pool.connection_class(**pool.connection_kwargs)
        except (ValueError, TypeError) as e:
            why = f"{e}" if "..." not in self.name else "in its password / is %2F, # is %23, ? is %3F and @ is %40"
            raise CacheError(f"the cache '{self.name}' is no URL of a Redis: {why}") from None

    def get(self, key: str, *, patient: bool = True) -> bytes | None:
        with self._errors():
            found: bytes | None = self._client.get(self._prefix + key)  # type: ignore[assignment]  # never decoded
            return found

    def set(self, key: str, packed: bytes, ttl: float | None, *, patient: bool = True) -> None:
        with self._errors():
            self._client.set(self._prefix + key, packed, px=_milliseconds(ttl))

    def add(self, key: str, packed: bytes, ttl: float | None, *, patient: bool = True) -> bool:
        with self._errors():
            return bool(self._client.set(self._prefix + key, packed, nx=True, px=_milliseconds(ttl)))

    def delete(self, key: str, *, patient: bool = True) -> bool:
        with self._errors():
            return bool(self._client.delete(self._prefix + key))

    def incr(self, key: str, by: int, ttl: float | None, *, patient: bool = True) -> int:
        with self._errors():
            made = self._client.eval(_INCR, 1, self._prefix + key, str(by), str(_milliseconds(ttl) or ""))
            return int(made)

    def claim(self, key: str, turn: int) -> RedisClaim:
        return RedisClaim(self, f"{self._prefix}claim:{turn}:{key}")

    def take(self, name: str, token: str) -> bool:
        with self._errors():
            return bool(self._client.set(name, token, nx=True, px=_milliseconds(LEASE)))

    def renew(self, name: str, token: str) -> None:
        with self._errors():
            self._client.eval(_RENEW, 1, name, token, str(_milliseconds(LEASE)))

    def release(self, name: str, token: str) -> None:
        with self._errors():
            self._client.eval(RELEASE, 1, name, token)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except redis.ResponseError as e:
            text = str(e)
            if "not an integer or out of range" in text:
                raise not_counted("the value is not an integer of 64 bits") from None
            if "would overflow" in text:
                raise not_counted("the sum has more than 64 bits") from None
            raise CacheError(f"the cache '{self.name}' says: {text}") from e
        except (redis.RedisError, OSError) as e:
            hint = NO_GROUP if "Permission denied" in str(e) else ""
            raise CacheError(f"the cache '{self.name}' does not answer: {e}{hint}") from e
        finally:
            if in_zygote():  # a connection left by the import would prevent that workers are forked from it
                self._client.connection_pool.disconnect()


class RedisClaim:
    """A key with a lease, renewed while this process computes. It is released once, and perhaps while it is being
    taken: a task that is cancelled does not wait for the thread that takes."""

    def __init__(self, store: Redis, name: str) -> None:
        self._store, self._name, self._token = store, name, secrets.token_hex(16)
        self._done = threading.Event()
        self._renewing: threading.Thread | None = None
        self._lock = threading.Lock()

    def take(self) -> bool:
        if not self._store.take(self._name, self._token):
            return False
        with self._lock:
            if not self._done.is_set():
                self._renewing = threading.Thread(target=self._renew, name="cache lease", daemon=True)
                self._renewing.start()
                return True
        self._give_back()
        return False

    def release(self) -> None:
        with self._lock:
            self._done.set()
            renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.join()  # a thread left over from an import would keep workers from being forked
            self._give_back()

    def _give_back(self) -> None:
        with contextlib.suppress(CacheError):  # then it ends by itself
            self._store.release(self._name, self._token)

    def _renew(self) -> None:
        while not self._done.wait(LEASE / 3):
            with contextlib.suppress(CacheError):
                self._store.renew(self._name, self._token)


def _milliseconds(ttl: float | None) -> int | None:
    return None if ttl is None else max(1, round(ttl * 1000))
