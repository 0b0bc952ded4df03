"""How long messages take, a broadcast to eight workers, a request and its answer, a publish; and the cache beside them.

    build/venv/bin/python tests/bench/messages.py

Medians and the 99th percentile as multiples of what a byte takes to and fro over a bare socketpair between two Python
processes, beside Node.js's cluster module (where there is node), whose primary passes on what its workers say. Rounds
in turn, about half a minute. Absolute figures are this machine's and not worth keeping.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

WORKERS = 8
COUNT = 500
ROUNDS = 5

APP = """
import asyncio, json, time
from clusterd import worker

heard = None

@worker.on("tick")
async def tick(message):
    await worker.send(message.data["to"], "tock", time.monotonic())

@worker.on("tock")
async def tock(message):
    heard.put_nowait(message.data)

@worker.on("echo")
async def echo(message):
    return message.data

async def measure(others):
    global heard
    heard = asyncio.Queue()
    broadcasts, requests, publishes, gets, sets = [], [], [], [], []
    for number in range(COUNT):
        begun = time.monotonic()
        await worker.broadcast("tick", {"to": worker.id})
        broadcasts.append(max([await heard.get() for _ in range(others)]) - begun)
    target = 1 if worker.id != 1 else 2
    for number in range(COUNT):
        begun = time.monotonic()
        await worker.request(target, "echo", number)
        requests.append(time.monotonic() - begun)
        begun = time.monotonic()
        await worker.publish("n", number)
        publishes.append(time.monotonic() - begun)
    for number in range(COUNT):
        begun = time.monotonic()
        worker.cache.set("n", number)
        sets.append(time.monotonic() - begun)
        begun = time.monotonic()
        worker.cache.get("n")
        gets.append(time.monotonic() - begun)
    return {"broadcast": broadcasts, "request": requests, "publish": publishes, "cache get": gets, "cache set": sets}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = json.dumps(await measure(WORKERS - 1)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""

NODE = """
const cluster = require("node:cluster");
const now = () => Number(process.hrtime.bigint()) / 1e9;
if (cluster.isPrimary) {
  const workers = [];
  for (let i = 0; i < WORKERS; i++) workers.push(cluster.fork());
  for (const worker of workers)
    worker.on("message", (message) => {
      if (message.ready) {
        if ((worker.ready = true) && workers.every((w) => w.ready)) workers[0].send({ measure: true });
      } else if (message.found) {
        console.log(JSON.stringify(message.found));
        for (const w of workers) w.process.kill();
      } else if (message.to === undefined) {
        for (const other of workers) if (other !== worker) other.send(message);
      } else workers[message.to].send({ ...message, from: workers.indexOf(worker) });
    });
} else {
  let tocks, answered;
  process.on("message", async (message) => {
    if (message.tick) process.send({ to: 0, tock: now() });
    else if (message.tock) tocks(message.tock);
    else if (message.echo !== undefined) process.send({ to: message.from, answer: message.echo });
    else if (message.answer !== undefined) answered();
    else if (message.measure) {
      const found = { broadcast: [], request: [] };
      for (let i = 0; i < COUNT; i++) {
        const begun = now();
        const all = [];
        const done = new Promise((resolve) => (tocks = (t) => all.push(t) === WORKERS - 1 && resolve()));
        process.send({ tick: true });
        await done;
        found.broadcast.push(Math.max(...all) - begun);
      }
      for (let i = 0; i < COUNT; i++) {
        const begun = now();
        const done = new Promise((resolve) => (answered = resolve));
        process.send({ to: 1, echo: i });
        await done;
        found.request.push(now() - begun);
      }
      process.send({ found });
    }
  });
  process.send({ ready: true });
}
"""


def pair() -> list[float]:
    """Seconds of each round trip of a byte."""
    ours, theirs = socket.socketpair()
    if (child := os.fork()) == 0:
        ours.close()
        while data := theirs.recv(1):
            theirs.send(data)
        os._exit(0)
    theirs.close()
    found = []
    for _ in range(COUNT):
        begun = time.monotonic()
        ours.send(b"x")
        ours.recv(1)
        found.append(time.monotonic() - begun)
    ours.close()
    os.waitpid(child, 0)
    return found


def node() -> dict[str, list[float]]:
    file = Path("cluster.js")
    file.write_text(NODE.replace("WORKERS", str(WORKERS)).replace("COUNT", str(COUNT)))
    done = subprocess.run(["node", file], capture_output=True, text=True, timeout=120, check=True)
    found: dict[str, list[float]] = json.loads(done.stdout)
    file.unlink()
    return found


def main() -> None:
    from tests.run.foreground import Foreground

    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as directory, Foreground(workers=WORKERS) as run:
        os.chdir(directory)
        run.deploy("")
        (run.directory / "hello.py").write_text(APP.replace("WORKERS", str(WORKERS)).replace("COUNT", str(COUNT)))
        run.start()
        for _ in range(ROUNDS):
            found.setdefault(("pair", ""), []).extend(pair())
            with socket.create_connection(("127.0.0.1", run.port), timeout=120) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
            for what, times in json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1]).items():
                found.setdefault(("clusterd", what), []).extend(times)
            for what, times in node().items() if shutil.which("node") else ():
                found.setdefault(("node", what), []).extend(times)
    unit = statistics.median(found.pop(("pair", "")))
    for (who, what), times in sorted(found.items(), key=lambda item: item[0][::-1]):
        last = statistics.quantiles(times, n=100)[98]
        print(f"{what:9} {who:8} median {statistics.median(times) / unit:5.1f}, 99 % within {last / unit:5.1f}")


if __name__ == "__main__":
    main()
