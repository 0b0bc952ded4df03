"""What the workers share as a store of starsessions': sessions of Starlette and FastAPI that are kept on the server.

Beside the application as shared.py, and there:

    app.add_middleware(SessionAutoloadMiddleware)
    app.add_middleware(SessionMiddleware, store=shared.Store(), lifetime=86400)
"""

from __future__ import annotations

import hashlib
import secrets

from starsessions import SessionStore

from clusterd import worker

DAY = 86400
"""Seconds that a session is kept whose cookie lasts as long as the browser runs (lifetime=0)."""


class Store(SessionStore):
    """Keeps what starsessions makes of a session, which is JSON, as bytes."""

    async def read(self, session_id: str, lifetime: int) -> bytes:
        kept: bytes = await worker.cache.aget(_hashed(session_id), b"")
        return kept

    async def write(self, session_id: str, data: bytes, lifetime: int, ttl: int) -> str:
        if not await self.read(session_id, lifetime):
            session_id = secrets.token_urlsafe(32)  # a new session's: never one that a client made up
        await worker.cache.aset(_hashed(session_id), data, max(1, ttl) if lifetime else DAY)
        return session_id

    async def remove(self, session_id: str) -> None:
        await worker.cache.adelete(_hashed(session_id))


def _hashed(session_id: str) -> str:
    """A client may send a cookie of any length, and who reads the cache learns none that is valid."""
    return "session:" + hashlib.sha256(session_id.encode()).hexdigest()
