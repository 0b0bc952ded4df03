"""probe.py PORT PATH RATE SECONDS: ask at a steady rate until SIGINT, then print requests, failures, longest as JSON.

"flows" is said when the first has been answered, or has failed.

At a rate, and never waiting for the answer before, because a client that waits sees one slow answer where a service
that stood still had a hundred clients waiting. A request without an answer after a minute is a failure.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time

TIMEOUT = 60.0


class Probe:
    def __init__(self, port: int, path: str) -> None:
        self.port = port
        self.request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
        self.requests = 0
        self.failures: dict[str, int] = {}
        self.longest = 0.0

    async def ask(self) -> None:
        start = time.monotonic()
        try:
            status = await asyncio.wait_for(self.answer(), TIMEOUT)
            kind = "" if status.startswith("2") else f"status {status}"
        except TimeoutError:
            kind = "timeout"
        except (OSError, IndexError) as e:
            kind = type(e).__name__
        if not self.requests:
            print("flows", flush=True)
        self.requests += 1
        self.longest = max(self.longest, time.monotonic() - start)
        if kind:
            self.failures[kind] = self.failures.get(kind, 0) + 1

    async def answer(self) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(self.request)
            answer = await reader.read(-1)
            return answer.split(b" ", 2)[1].decode()
        finally:
            writer.close()


async def main(port: str, path: str, rate: str, seconds: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    probe = Probe(int(port), path)
    asking: set[asyncio.Task[None]] = set()
    end = time.monotonic() + float(seconds)
    due = time.monotonic()
    while not stop.is_set() and due < end:
        asking.add(task := asyncio.create_task(probe.ask()))
        task.add_done_callback(asking.discard)
        due += 1 / float(rate)
        try:
            await asyncio.wait_for(stop.wait(), max(0.0, due - time.monotonic()))
        except TimeoutError:
            pass
    await asyncio.gather(*asking)
    print(json.dumps({"requests": probe.requests, "failures": probe.failures, "longest": probe.longest}))


asyncio.run(main(*sys.argv[1:]))
