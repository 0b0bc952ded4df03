"""Programs in other languages on the bus, by examples/messages; and from outside, by `clusterd send` and `listen`."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.shell import client
from tests import output
from tests.lacking import lacking
from tests.patience import HANG
from tests.run.foreground import CLUSTERD, Foreground, gone

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Program(Foreground):
    """`command` as the workers, in the directory of an example."""

    command: list[str]
    example: str

    def configure(self) -> Path:
        file = super().configure()
        lines = file.read_text().splitlines(keepends=True)
        command = f"command = {json.dumps(self.command)}\ndirectory = {json.dumps(str(EXAMPLES / self.example))}\n"
        kept = [line for line in lines if not line.startswith(("app ", "directory ", "python "))]
        file.write_text(command + "".join(kept))
        return file

    def workers_pids(self) -> dict[int, int]:
        return {w["worker"]: w["pid"] for w in self.status()["workers"] if w["state"] == "serving"}

    def get(self, path: str, worker: int | None = None) -> Any:
        """What that worker says; without one, whichever is asked."""
        found: dict[str, Any] = {}

        def ask() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG)
            try:
                connection.request("GET", path)
                found.update(json.loads(connection.getresponse().read()))
            finally:
                connection.close()
            return worker in (None, found["worker"])

        self.wait_for(f"worker {worker} to be asked", ask)
        return found["found"]


@pytest.fixture
def node() -> Iterator[Program]:
    lacking(None if shutil.which("node") else "missing: node")
    with Program() as made:
        made.command, made.example = ["node", "server.js"], "messages"
        yield made.start()  # type: ignore[misc]


def test_node(node: Program) -> None:
    """examples/messages: broadcasts, requests and retained values, over a reload and another master."""
    first, second = pids = node.workers_pids()
    node.get("/shout?text=one", first)
    node.wait_for("it to be heard", lambda: node.get("/heard", second) == [{"text": "one", "sender": first}])
    assert node.get(f"/ask?worker={second}", first) == pids[second]
    assert node.get("/ask?worker=99", first) == "there is no worker 99 with messages"
    node.get("/flags?name=dark&value=yes", first)
    node.wait_for("the value", lambda: node.get("/flags", second) == {"dark": "yes"})

    done = node.clusterd("reload")
    assert done.returncode == 0, done.stderr
    third, fourth = node.workers_pids()
    assert {third, fourth}.isdisjoint(pids)
    for worker in (third, fourth):
        assert node.get("/flags", worker) == {"dark": "yes"}  # before it was ready

    node.kill_master()
    node.wait_for("both workers", lambda: set(node.workers_pids()) == {third, fourth})
    node.wait_for("those of before to be gone", lambda: len(node.status()["workers"]) == 2)
    said = node.wait_for("the workers to be heard again", lambda: send(node, "shout", '"two"') == "heard by 2 workers")
    assert said
    heard = {"text": "two", "sender": None}
    for worker in (third, fourth):
        node.wait_for("it to be heard", lambda w=worker: node.get("/heard", w)[-1:] == [heard])
    assert node.get("/flags", third) == {"dark": "yes"}


def send(run: Foreground, topic: str, data: str, *more: str) -> str:
    """What `clusterd send` says, without the name."""
    argv = [*CLUSTERD, "send", run.control, topic, data, *more]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=HANG)
    said = done.stdout if done.returncode == 0 else done.stderr.splitlines()[0]
    return said.strip().removeprefix("clusterd: ").removeprefix("runtime: ")


def test_shell(tmp_path: Path) -> None:
    """examples/messages/on-message.sh: a hook runs for each message, with the worker's pid; both end."""
    hook, heard = tmp_path / "hook", tmp_path / "heard"
    hook.write_text(f"#!/bin/sh\necho $MAINPID >>{heard}\ncat >>{heard}\n")
    hook.chmod(0o755)
    script = str(EXAMPLES / "messages/on-message.sh")
    with Program(workers=1) as run:
        run.command = [script, "certificates", str(hook), sys.executable, "-B", "server.py"]
        run.example = "socketserver"
        run.start()
        run.wait_for("the shell to listen", lambda: send(run, "certificates", '{"new": 1}') == "heard by 1 worker")
        (pid,) = run.workers_pids().values()
        run.wait_for("the hook", lambda: heard.exists() and heard.read_text().count("\n") == 2)
        number, message = heard.read_text().splitlines()
        assert int(number) == pid
        assert json.loads(message) == {"from": None, "op": "broadcast", "topic": "certificates", "data": {"new": 1}}
        everything = run.everything()
        assert run.process is not None
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0
        assert gone(everything) == []


def test_from_outside(node: Program) -> None:
    """`send` reaches one worker or all; `listen` shows it all, also what workers say, and through another master."""
    first, second = node.workers_pids()
    with output.kept() as shown, output.kept() as told:
        argv = [*CLUSTERD, "listen", node.control, "shout"]
        listening = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=shown, stderr=told)
        try:
            lines = lambda: [json.loads(line) for line in output.read(shown).splitlines()]  # noqa: E731
            node.wait_for("it to listen", lambda: send(node, "shout", "0", "--worker", str(first)) and lines())
            send(node, "shout", '"from here"')
            node.wait_for("what was asked until then", lambda: lines()[-1]["data"] == "from here")
            before = len(lines())
            assert send(node, "shout", '"é"') == "heard by 2 workers"
            node.get("/shout?text=b")
            node.wait_for("both", lambda: len(lines()) >= before + 2)
            assert send(node, "nothing", "1") == "heard by no worker"
            unheard = send(node, "shout", "1", "--worker", "99")
            assert unheard == "worker 99 does not listen to 'shout', or there is none"
            far = {"topic": "shout", "data": "1", "worker": "9" * 5000}  # more digits than Python reads
            with pytest.raises(client.VarlinkError, match="InvalidParameter"):
                list(client.call(node.control, "Send", far, connect_timeout=HANG, timeout=HANG))
            node.wait_for("all of it", lambda: len(lines()) >= before + 3)
            assert lines()[0] == {"topic": "shout", "from": None, "to": first, "data": 0}
            sayer = lines()[before + 1]["from"]
            assert sayer in (first, second)
            assert lines()[before:] == [
                {"topic": "shout", "from": None, "data": "é"},
                {"topic": "shout", "from": sayer, "data": "b"},
                {"topic": "shout", "from": None, "to": 99, "data": 1},
            ]
            node.kill_master()
            node.wait_for("it to listen again", lambda: "to another master" in output.read(told))
            node.wait_for("the workers", lambda: send(node, "shout", "2") == "heard by 2 workers")
            node.wait_for("what was said then", lambda: lines()[-1] == {"topic": "shout", "from": None, "data": 2})
            assert listening.poll() is None
        finally:
            listening.send_signal(signal.SIGINT)
            assert listening.wait(HANG) == 130, output.read(told)
