"""The one wire: NUL-terminated JSON objects over an AF_UNIX stream, with file descriptors beside them.

Control clients, workers, zygotes and the keeper all speak it, so that one reader is bounded and tested once. A stream,
because datagrams and seqpackets end at 212,992 bytes. Standard library only: it runs in the application's interpreter.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

OLDEST, PROTOCOL = 1, 1
"""Of what keeper, masters, zygotes and workers of one instance say and leave to each other: the version spoken here,
and the oldest that is still understood. The first is raised when an older clusterd would misunderstand, the second when
something old is no longer taken: then a running instance has to be restarted, which `clusterd upgrade` finds out."""

LIMIT = 16 << 20
"""Bytes one message may have, its NUL not counted."""

MAX_FDS = 253
"""SCM_MAX_FD: what one sendmsg() may carry."""

GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
"""What writing to a peer that is not there any more fails with."""

Message = dict[str, Any]


class WireError(Exception):
    """The peer broke the protocol; the connection is of no further use."""


class Closed(WireError):
    """The peer is gone (end of file, or a reset)."""


class Wire:
    """One end of a connection. Works on blocking and on non-blocking sockets.

    A message that carries descriptors names their number under "fds" (added by `send`, taken off by `receive`): a
    stream may deliver the descriptors with an earlier byte than the message's last, never with a later message's.
    """

    def __init__(
        self, sock: socket.socket, *, limit: int = LIMIT, max_backlog: int = 2 * LIMIT, chunk: int = 1 << 16
    ) -> None:
        """`chunk` is how many bytes one `receive` takes at most."""
        self.sock = sock
        self.limit = limit
        self.max_backlog = max_backlog
        self.chunk = chunk
        self._in = bytearray()
        self._scanned = 0
        self._fds: deque[int] = deque()
        self._out: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._own: deque[int] = deque()  # of the descriptors in `_out`, those that are our copies, in the same order
        self._out_size = 0

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait for the peer to read: poll for POLLOUT and call `flush`."""
        return bool(self._out)

    @property
    def waiting(self) -> int:
        """How many bytes wait."""
        return self._out_size

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Queue `message` and write what the socket takes. The descriptors may be closed when this returns.

        Raises Closed when the peer is gone, WireError when the message is too large or the peer has not read
        `max_backlog` bytes (a slow reader must not grow the sender without bound).
        """
        if "fds" in message:
            raise WireError("a message may not have a key 'fds', the wire has one")
        if len(fds) > MAX_FDS:
            raise WireError(f"{len(fds)} descriptors in one message, at most {MAX_FDS}")
        data = json.dumps({**message, "fds": len(fds)} if fds else message, separators=(",", ":")).encode() + b"\0"
        if len(data) - 1 > self.limit:
            raise WireError(f"message of {len(data) - 1} bytes, at most {self.limit}")
        if self._out_size + len(data) > self.max_backlog:
            raise WireError(f"peer has left {self._out_size} bytes unread")
        self._out.append((memoryview(data), tuple(fds)))
        self._out_size += len(data)
        self.flush()
        if fds and self._out and self._out[-1][1]:
            self._out[-1] = (self._out[-1][0], self._copies(fds))

    def flush(self) -> None:
        """Write what the socket takes. Raises Closed when the peer is gone, WireError when it cannot be written for
        another reason: too many descriptors under way, no memory."""
        while self._out:
            data, fds = self._out[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                sent = self.sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as e:
                # Nobody will have it, and the descriptors of the last message are still the caller's, to close.
                self._drop_unsent()
                raise (Closed if e.errno in GONE else WireError)(str(e)) from e
            self._out_size -= sent
            for _ in range(min(len(fds), len(self._own))):
                os.close(self._own.popleft())
            if sent == len(data):
                self._out.popleft()
            else:
                self._out[0] = (data[sent:], ())  # the descriptors went with the first byte

    def exchange(self) -> list[tuple[Message, list[int]]]:
        """Write what waits and take what has come, as `receive` does: who polls calls it on any event.

        What a peer has said before it went is there to be read when nothing can be written to it any more.
        """
        with contextlib.suppress(Closed):
            self.flush()
        return self.receive()

    def receive(self) -> list[tuple[Message, list[int]]]:
        """One read's worth of messages, each with its descriptors (CLOEXEC, now the caller's to close).

        On a blocking socket it waits for the first byte, and may return an empty list for part of a message.
        Raises Closed at end of file, WireError on anything that is not the protocol.
        """
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(
                self.chunk, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as e:
            raise Closed(str(e)) from e
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                got = array.array("i")
                got.frombytes(payload[: len(payload) - len(payload) % got.itemsize])
                self._fds.extend(got)
        if flags & socket.MSG_CTRUNC:
            raise WireError("descriptors were cut off (too many open files?)")
        if not data:
            raise Closed("end of file")
        self._in += data
        found: list[tuple[Message, list[int]]] = []
        try:
            self._split(found)
            if len(self._fds) > MAX_FDS:
                # The kernel ends a read after one message's descriptors: no more than those can wait for theirs.
                raise WireError(f"{len(self._fds)} descriptors that no message names")
        except WireError:
            for _, fds in found:
                self._fds.extend(fds)  # for close(): the caller never sees them
            raise
        return found

    def close(self) -> None:
        """Close the connection and every descriptor nobody took."""
        self._drop()
        self.sock.close()

    def detach(self) -> int:
        """Give up the connection without closing it: what waits to be sent or taken is dropped. Returns its number."""
        self._drop()
        return self.sock.detach()

    def _drop(self) -> None:
        self._drop_unsent()
        while self._fds:
            os.close(self._fds.popleft())

    def _drop_unsent(self) -> None:
        self._out.clear()
        self._out_size = 0
        while self._own:
            os.close(self._own.popleft())

    def _copies(self, fds: Sequence[int]) -> tuple[int, ...]:
        """Of the descriptors of the last message, which waits until the peer reads."""
        try:
            self._own.extend(os.dup(fd) for fd in fds)
        except OSError as e:
            raise WireError(f"descriptors cannot wait until the peer reads: {e.strerror}") from e
        return tuple(self._own)[-len(fds) :]

    def _split(self, found: list[tuple[Message, list[int]]]) -> None:
        while (end := self._in.find(b"\0", self._scanned)) >= 0:
            raw = bytes(self._in[:end])
            del self._in[: end + 1]
            self._scanned = 0
            found.append(self._decode(raw))
        self._scanned = len(self._in)
        if self._scanned > self.limit:
            raise WireError(f"message of more than {self.limit} bytes")

    def _decode(self, raw: bytes) -> tuple[Message, list[int]]:
        if len(raw) > self.limit:
            raise WireError(f"message of {len(raw)} bytes, at most {self.limit}")
        try:
            message = json.loads(raw)
        except (ValueError, RecursionError) as e:
            raise WireError(f"not JSON: {raw[:80]!r}") from e
        if not isinstance(message, dict):
            raise WireError(f"not a JSON object: {raw[:80]!r}")
        count = message.pop("fds", 0)
        if type(count) is not int or not 0 <= count <= len(self._fds):
            raise WireError(f"message with {count!r} descriptors, {len(self._fds)} arrived")
        return message, [self._fds.popleft() for _ in range(count)]
