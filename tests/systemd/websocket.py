"""websocket.py PORT PATH: open a WebSocket and say "open"; then obey standard input until the end of it.

echo TEXT    send TEXT, say what comes back
wait         say the code of the close frame and the time it came at, of the wall clock
"""

from __future__ import annotations

import sys
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

with connect(f"ws://127.0.0.1:{sys.argv[1]}{sys.argv[2]}", proxy=None) as connection:
    print("open", flush=True)
    for line in sys.stdin:
        word, _, text = line.rstrip("\n").partition(" ")
        try:
            if word == "echo":
                connection.send(text)
            print(connection.recv(timeout=60), flush=True)
        except ConnectionClosed as closed:
            print(closed.rcvd.code if closed.rcvd else 1006, time.time(), flush=True)
