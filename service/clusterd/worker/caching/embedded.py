"""The cache of one machine: a file of SQLite (WAL) in the runtime directory, which is memory.

Nothing is synchronised to a disk: a crash of a process loses nothing that was written, a boot empties it, and its
times are the monotonic clock's. SQLite itself bounds the file (max_page_count), so that counting bytes costs nothing;
where it says that the file is full, what has expired goes, or else what was written longest ago.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from .place import in_zygote
from .store import Busy
from .values import CacheError, counted

T = TypeVar("T")

SIZE = 64 << 20
"""Bytes of the file. It is memory, and counts towards the service's."""
PATIENCE = 5.0
"""How long a write waits for those of others: each takes microseconds, an eviction milliseconds."""

_PAGE = 4096
_SWEEP = 512
"""Writes of a thread after which it removes what has expired."""
_SCHEMA = (
    "DROP TABLE IF EXISTS entry",
    # AUTOINCREMENT: the order of ids stays that of the writes, also when the newest was deleted.
    "CREATE TABLE entry (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE NOT NULL, value BLOB NOT NULL,"
    " expires REAL)",
    "CREATE INDEX expiring ON entry (expires) WHERE expires IS NOT NULL",
)


class _Local(threading.local):
    """A connection per thread, because one would make threads wait for each other; it is closed with its thread."""

    connection: sqlite3.Connection | None = None
    pid: int = 0
    writes: int = 0


class Embedded:
    remote = False

    def __init__(self, directory: str, size: int = SIZE) -> None:
        self.directory, self.size = directory, size
        self._local = _Local()
        self._inherited: list[sqlite3.Connection] = []

    def get(self, key: str, *, patient: bool = True) -> bytes | None:
        def work(db: sqlite3.Connection) -> bytes | None:
            row = db.execute("SELECT value, expires FROM entry WHERE key = ?", (key,)).fetchone()
            if row is None or _over(row[1]):
                return None
            value: bytes = row[0]
            return value

        return self._do(work, patient)

    def set(self, key: str, packed: bytes, ttl: float | None, *, patient: bool = True) -> None:
        self._write(lambda db: _put(db, key, packed, _end(ttl)), patient, len(packed))

    def add(self, key: str, packed: bytes, ttl: float | None, *, patient: bool = True) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            row = db.execute("SELECT expires FROM entry WHERE key = ?", (key,)).fetchone()
            if row is not None and not _over(row[0]):
                return False
            _put(db, key, packed, _end(ttl))
            return True

        return self._write(work, patient, len(packed))

    def delete(self, key: str, *, patient: bool = True) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            row = db.execute("SELECT expires FROM entry WHERE key = ?", (key,)).fetchone()
            db.execute("DELETE FROM entry WHERE key = ?", (key,))
            return row is not None and not _over(row[0])

        return self._write(work, patient)

    def incr(self, key: str, by: int, ttl: float | None, *, patient: bool = True) -> int:
        def work(db: sqlite3.Connection) -> int:
            row = db.execute("SELECT value, expires FROM entry WHERE key = ?", (key,)).fetchone()
            if row is None or _over(row[1]):
                row = (None, _end(ttl))
            number = counted(row[0], by)
            _put(db, key, b"%d" % number, row[1])
            return number

        return self._write(work, patient)

    def claim(self, key: str, turn: int) -> FileClaim:
        return FileClaim(os.path.join(self.directory, "claims"), key, turn)

    def _write(self, work: Callable[[sqlite3.Connection], T], patient: bool, length: int = 0) -> T:
        """`work` in a transaction of its own, after making room where there is none."""

        def transaction(db: sqlite3.Connection) -> T:
            db.execute("BEGIN IMMEDIATE")
            try:
                made = work(db)
                db.execute("COMMIT")
                return made
            except BaseException:
                if db.in_transaction:  # SQLite may have rolled back already
                    db.execute("ROLLBACK")
                raise

        def roomy(db: sqlite3.Connection) -> T:
            if self._local.writes >= _SWEEP:
                self._local.writes = 0
                db.execute("DELETE FROM entry WHERE expires <= ?", (time.monotonic(),))
            self._local.writes += 1
            while True:
                try:
                    return transaction(db)
                except sqlite3.OperationalError as e:
                    if "is full" not in str(e) or not self._make_room(db, length):
                        raise

        return self._do(roomy, patient)

    def _make_room(self, db: sqlite3.Connection, length: int) -> bool:
        """False where that is not what is lacking: the file is not at its bound, or nothing is left to remove."""
        if db.execute("PRAGMA page_count").fetchone()[0] * _PAGE < self.size - 2 * length - 64 * _PAGE:
            return False
        db.execute("BEGIN IMMEDIATE")
        gone = db.execute("DELETE FROM entry WHERE expires <= ?", (time.monotonic(),)).rowcount
        if not gone:
            wanted, last = max(self.size // 16, 2 * length), 0
            for number, size in db.execute("SELECT id, length(value) + 128 FROM entry ORDER BY id"):
                wanted, last = wanted - size, number
                if wanted <= 0:
                    break
            gone = db.execute("DELETE FROM entry WHERE id <= ?", (last,)).rowcount
        db.execute("COMMIT")
        return gone > 0

    def _do(self, work: Callable[[sqlite3.Connection], T], patient: bool) -> T:
        """Raises Busy or CacheError.

        SQLite's own waiting begins with a millisecond, a write takes a fiftieth. Pauses that grow to 10 ms write no
        more and leave one process of four waiting ten times as long; a lock of the kernel's before it, which is fair,
        costs a quarter of all writes and has no time-out.
        """
        end = time.monotonic() + PATIENCE
        pause = 0.00005
        while True:
            try:
                with self._connection() as db:
                    return work(db)
            except sqlite3.OperationalError as e:
                if "locked" not in str(e):
                    raise CacheError(f"the cache in '{self.directory}': {e}") from e
                if not patient:
                    raise Busy from None
                if time.monotonic() > end:
                    why = f"a process has been writing for {PATIENCE:.0f} s, is it stopped?"
                    raise CacheError(f"the cache in '{self.directory}': {why}") from e
            except (sqlite3.DatabaseError, OSError) as e:
                raise CacheError(f"the cache in '{self.directory}': {e}") from e
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 1.5, 0.0005)

    @contextlib.contextmanager
    def _once(self) -> Iterator[sqlite3.Connection]:
        db = self._open()
        try:
            yield db
        finally:
            db.close()

    def _connection(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        # What the import of the application leaves open would be shared by every fork, which SQLite forbids.
        if in_zygote():
            return self._once()
        local = self._local
        if local.connection is None or local.pid != os.getpid():
            if local.connection is not None:
                # A parent's. To close it would touch files that the parent is using, so it is kept for ever.
                self._inherited.append(local.connection)
            local.connection, local.pid = self._open(), os.getpid()
        return contextlib.nullcontext(local.connection)

    def _open(self) -> sqlite3.Connection:
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        path = os.path.join(self.directory, "cache.sqlite")
        db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("journal_mode = WAL", "synchronous = OFF", f"max_page_count = {self.size // _PAGE}"):
                db.execute(f"PRAGMA {pragma}")
            mark = _mark()
            if db.execute("PRAGMA user_version").fetchone()[0] != mark:
                db.execute("BEGIN IMMEDIATE")
                if db.execute("PRAGMA user_version").fetchone()[0] != mark:
                    for statement in (*_SCHEMA, f"PRAGMA user_version = {mark}"):
                        db.execute(statement)
                db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db


class FileClaim:
    """A lock on one byte of a file, chosen by the key. The kernel frees it with the process, however that ends.

    It belongs to the open file, not to the process (F_OFD_SETLK), so that threads exclude each other too. What is
    forked meanwhile has that file as well: to close it is not enough, and who has locked it is to unlock it.
    """

    def __init__(self, path: str, key: str, turn: int) -> None:
        digest = hashlib.blake2b(f"{turn} {key}".encode(), digest_size=8).digest()
        self._byte = int.from_bytes(digest, "big") >> 2
        self._path = path
        self._fd = -1
        self._owner = 0

    def take(self) -> bool:
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._owner = os.getpid()
            self._lock(fcntl.F_WRLCK)
        except BlockingIOError:
            return False
        except OSError as e:
            raise CacheError(f"the cache's '{self._path}': {e.strerror}") from e
        return True

    def release(self) -> None:
        if self._fd >= 0:
            if self._owner == os.getpid():
                with contextlib.suppress(OSError):
                    self._lock(fcntl.F_UNLCK)
            os.close(self._fd)
            self._fd = -1

    def _lock(self, kind: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, self._byte, 1, 0))


def _put(db: sqlite3.Connection, key: str, packed: bytes, expires: float | None) -> None:
    db.execute("INSERT OR REPLACE INTO entry (key, value, expires) VALUES (?, ?, ?)", (key, packed, expires))


def _end(ttl: float | None) -> float | None:
    return None if ttl is None else time.monotonic() + ttl


def _over(expires: float | None) -> bool:
    return expires is not None and expires <= time.monotonic()


def _mark() -> int:
    """Of this boot and these tables: times of another boot's clock, or another release's tables, are worth nothing."""
    with open("/proc/sys/kernel/random/boot_id") as f:
        return zlib.crc32((f.read() + "".join(_SCHEMA)).encode()) >> 1
