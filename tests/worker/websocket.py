"""A WebSocket client of the fewest lines: text frames, and the code of the close frame."""

from __future__ import annotations

import struct
from typing import Any

from harness import Client


class WebSocket:
    def __init__(self, address: Any, path: str = "/ws", client: Client | None = None) -> None:
        self.client = client or Client(address)
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        self.client.ask(path, f"Connection: Upgrade\r\nUpgrade: websocket\r\n{key}")
        self.status, self.headers = self.client.read_head()
        assert self.status == 101, self.status
        self.pings = 0
        """Those that came, which nobody answers."""

    def send(self, text: str) -> None:
        data = text.encode()
        assert len(data) < 126
        mask = b"\0\0\0\0"  # a mask of zeros leaves the data as it is
        self.client.sock.sendall(bytes([0x81, 0x80 | len(data)]) + mask + data)

    def receive(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame that is not a ping."""
        while True:
            opcode, data = self.frame()
            if opcode != 9:
                return opcode, data

    def frame(self) -> tuple[int, bytes]:
        """The next one, whichever it is."""
        opcode, length = self._exactly(2)
        assert length < 126
        self.pings += opcode & 0x0F == 9
        return opcode & 0x0F, self._exactly(length)

    def text(self) -> str:
        opcode, data = self.receive()
        assert opcode == 1, (opcode, data)
        return data.decode()

    def close_code(self) -> int:
        opcode, data = self.receive()
        assert opcode == 8, (opcode, data)
        code: int = struct.unpack("!H", data[:2])[0]
        return code

    def _exactly(self, count: int) -> bytes:
        client = self.client
        while len(client._data) < count:
            part = client.sock.recv(1 << 16)
            assert part, "connection closed within a frame"
            client._data += part
        found, client._data = client._data[:count], client._data[count:]
        return found

    def close(self) -> None:
        self.client.close()
