"""How many users there are, on every page: one query every ten seconds, not one a worker, and none in a request."""

import contextlib
import os
import sqlite3

from clusterd import worker

DATABASE = os.environ.get("USERS_DATABASE", "users.sqlite")


def total():
    """Called by clusterd, in a process of its own. What it returns is published to all workers."""
    with contextlib.closing(sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True)) as database:
        (users,) = database.execute("SELECT count(*) FROM user").fetchone()
    print(f"counted {users} users in process {os.getpid()}")
    return users


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] != "http":
        return
    users = worker.value("users", "no")  # until the first run has ended, that is
    body = f"{users} users, says worker {worker.id}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
