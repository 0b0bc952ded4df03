"""An HTTP/2 client that a test can hold where it wants: one connection, streams asked for and awaited one by one."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from harness import DEADLINE

GOAWAY = 7
"""The type of that frame (RFC 9113, 6.8)."""


def insecure(*protocols: str) -> ssl.SSLContext:
    """A client's context that takes any certificate, and offers `protocols` (ALPN)."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    return context


class Http2:
    """Over TLS when given a context, else with prior knowledge."""

    def __init__(self, address: Any, context: ssl.SSLContext | None = None) -> None:
        self.sock: socket.socket = socket.create_connection(address, timeout=DEADLINE)
        if context is not None:
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
            assert self.sock.selected_alpn_protocol() == "h2"  # type: ignore[attr-defined]
        self._connection = H2Connection(H2Configuration(client_side=True))
        self._connection.initiate_connection()
        self._received = b""
        self._bodies: dict[int, bytes] = {}
        self._statuses: dict[int, int] = {}
        self.ended: set[int] = set()
        self.headers: dict[int, dict[str, str]] = {}
        self.going_away: int | None = None
        """The last stream that the server will answer, of the newest GOAWAY."""
        self.closed = False
        self._flush()

    def ask(self, path: str) -> int:
        """The stream of the request."""
        stream: int = self._connection.get_next_available_stream_id()
        headers = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "localhost")]
        self._connection.send_headers(stream, headers, end_stream=True)
        self._flush()
        return stream

    def read(self, stream: int) -> tuple[int, str]:
        """Status and body, once they are whole."""
        while stream not in self.ended:
            assert self.turn(), f"closed before the answer to stream {stream}"
        return self._statuses[stream], self._bodies.get(stream, b"").decode()

    def get(self, path: str) -> tuple[int, str]:
        return self.read(self.ask(path))

    def turn(self) -> bool:
        """Read what has come; False at the end of the connection."""
        data = self.sock.recv(1 << 16)
        if not data:
            self.closed = True
            return False
        for event in self._connection.receive_data(self._without_goaway(data)):
            if isinstance(event, ResponseReceived):
                found = {bytes(k).decode(): bytes(v).decode() for k, v in event.headers}
                self.headers[event.stream_id] = found
                self._statuses[event.stream_id] = int(found[":status"])
            elif isinstance(event, DataReceived):
                self._bodies[event.stream_id] = self._bodies.get(event.stream_id, b"") + event.data
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                self.ended.add(event.stream_id)
            assert not isinstance(event, StreamReset), event
        self._flush()
        return True

    def _without_goaway(self, data: bytes) -> bytes:
        """Whole frames. h2 takes a GOAWAY for the end of everything, though streams under way go on after it."""
        self._received += data
        frames = []
        while len(self._received) >= 9:
            size = 9 + int.from_bytes(self._received[:3], "big")
            frame, rest = self._received[:size], self._received[size:]
            if len(frame) < size:
                break
            self._received = rest
            if frame[3] == GOAWAY:
                last, error = struct.unpack_from(">II", frame, 9)
                assert error == 0, f"GOAWAY with error {error}"
                self.going_away = last & 0x7FFFFFFF
            else:
                frames.append(frame)
        return b"".join(frames)

    def close(self) -> None:
        self.sock.close()

    def _flush(self) -> None:
        data = self._connection.data_to_send()
        if data:
            self.sock.sendall(data)
