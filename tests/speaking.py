"""A `command` that speaks for itself, through a child, or, which it must not, for another worker."""

from __future__ import annotations

SPEAKER = '''
import os, pathlib, signal, socket, time

own = pathlib.Path(os.environ["NOTIFY_SOCKET"])
mouth = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def say(text, path=own):
    mouth.sendto(text.encode(), str(path))


def forge():
    """Every other worker's socket is open to us: we are the same user."""
    others = [path for path in own.parent.iterdir() if path != own]
    for path in others:
        say("STOPPING=1\\nSTATUS=forged", path)
    return f"forged {len(others)}"


def child():
    if os.fork() == 0:
        os.setsid()
        signal.alarm(30)  # without a cgroup of its worker's nobody ends it
        say("STATUS=a child's")
        signal.pause()
    return None


def flood():
    """As fast as it is taken, for as long as the file is there."""
    while os.path.exists("flood"):
        say("STATUS=" + "x" * 4000)
    return "flooded"


say("READY=1")
done = set()
while True:
    for order in (forge, child, flood):
        if os.path.exists(order.__name__) and order.__name__ not in done:
            done.add(order.__name__)
            answer = order()
            if answer:
                say("STATUS=" + answer)
    time.sleep(0.05)
'''
