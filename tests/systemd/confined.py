"""Asked for /NAME, it does what applications do and a sandbox may forbid: the test reads what came of it."""

import json
import os
import subprocess
import tempfile
import urllib.parse


def write(path):
    with open(path, "a") as f:
        f.write("x")
    return os.stat(path).st_size


def read(path):
    with open(path) as f:
        return f.read()


def temporary():
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"x")
    return f.name


def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110)
    return [done.returncode, done.stdout + done.stderr]


def code():
    import mmap

    return len(mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC))


def callback():
    import ctypes

    return ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)()


def connect(host, port):
    import socket

    with socket.create_connection((host, int(port)), timeout=2):
        return "connected"


def credential(name):
    return read(os.path.join(os.environ["CREDENTIALS_DIRECTORY"], name))


def python(program):
    """`program` in this very process; what it leaves in `result`."""
    names = {}
    exec(program, names)
    return names["result"]


def nofile():
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)


DOES = {f.__name__: f for f in (write, read, temporary, run, code, callback, connect, credential, python, nofile)}


def app(environ, start_response):
    does = DOES.get(environ["PATH_INFO"].strip("/"))
    arguments = [value for _, value in urllib.parse.parse_qsl(environ["QUERY_STRING"])]
    try:
        body = {"did": does(*arguments) if does else "nothing"}
    except Exception as e:
        body = {"failed": f"{type(e).__name__}: {e}"}
    data = json.dumps(body).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]
