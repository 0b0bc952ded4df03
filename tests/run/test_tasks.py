"""Tasks, as their application sees them: `clusterd run` and what it starts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import HANG
from tests.run.foreground import CLUSTERD, Foreground, gone
from tests.run.test_upgrade import Installed

APP = """
import asyncio
import json
import os
import time

from clusterd import worker

VERSION = 1
heard = []


def note(what):
    with open("runs", "a") as f:
        f.write(json.dumps([what, VERSION, os.getpid(), time.monotonic()]) + "\\n")


def hold(name):
    '''Until the test removes the file.'''
    while os.path.exists(name):
        time.sleep(0.01)


def count():
    note("begin")
    try:
        hold("hold-count")
        if os.path.exists("fail"):
            raise KeyError("no such table")
        return {"users": 42, "version": VERSION, "task": worker.task}
    finally:
        note("end")


async def purge():
    note("purge")
    await asyncio.sleep(0)
    await worker.broadcast("purged", worker.id)
    worker.cache.set("purged", True)
    return "purged"


async def patient():
    try:
        note("patient")
        await asyncio.sleep(60)
    finally:
        note("cleaned")


def deaf():
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("deaf")
    hold("hold-deaf")


def vanish():
    os._exit(0)


@worker.on("purged")
def on_purged(message):
    heard.append(message.data)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = json.dumps([worker.value("users"), heard, worker.task, worker.cache.get("purged")]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


class Tasked(Foreground):
    def __init__(self, workers: int = 2) -> None:
        self.tasks = ""
        self.answers: Counter[str] = Counter()
        self.started: list[subprocess.Popen[str]] = []
        super().__init__(workers)

    def deploy(self, greeting: str, extra: str = "") -> None:
        (self.directory / "hello.py").write_text(APP + extra)

    def configure(self) -> Path:
        file = super().configure()
        file.write_text(file.read_text() + self.tasks)
        return file

    def change(self, tasks: str) -> None:
        self.tasks = tasks
        self.configure()

    def ask(self) -> Any:
        """What one worker answers: the value, what it has heard, its task, what is in the cache."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=HANG) as answer:
            return json.load(answer)

    def runs(self, *what: str) -> list[list[Any]]:
        path = self.directory / "runs"
        lines = path.read_text().splitlines() if path.exists() else []
        return [each for each in map(json.loads, lines) if each[0] in what]

    def task(self, name: str) -> dict[str, Any]:
        return next((t for t in self.status().get("tasks", []) if t["task"] == name), {})

    def resting(self, name: str, seconds: float) -> float | None:
        """In how many seconds its next run is due, where that is later than in `seconds` and none goes on."""
        due: float | None = self.task(name).get("next")
        return due if due is not None and due > seconds else None

    def run_task(self, name: str, *options: str) -> tuple[int, str, str]:
        """Of `clusterd task CONTROL run NAME`."""
        done = self.clusterd_on("task", "run", name, *options)
        return done.returncode, done.stdout.strip(), done.stderr

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        made = subprocess.Popen([*CLUSTERD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(made)
        return made

    def __exit__(self, *rest: object) -> None:
        super().__exit__(*rest)
        for one in self.started:
            one.kill()
            one.communicate()

    def joined(self, task: str) -> subprocess.Popen[str]:
        """`clusterd task NAME run TASK --wait`, which has been told that it waits for the run that goes on."""
        made = self.popen("task", self.control, "run", task, "--wait")
        assert made.stderr is not None and "runs already: waiting for that run" in made.stderr.readline()
        return made

    def zygotes(self) -> list[tuple[int, int]]:
        """Zygote and twin of each generation."""
        return [(g["zygote"], g["twin"]) for g in self.status()["generations"]]

    def file(self, name: str) -> Path:
        return self.directory / name

    def never_two(self) -> None:
        """Each run of `count` ended before the next began."""
        kinds = [each[0] for each in self.runs("begin", "end")]
        assert kinds == ["begin", "end"] * (len(kinds) // 2) + ["begin"] * (len(kinds) % 2), kinds


COUNT = '[task.count]\ncall = "hello:count"\nevery = "{every}"\npublish = "users"\n'
DEMAND = '[task.{name}]\ncall = "hello:{name}"\n'


@pytest.fixture
def run() -> Iterator[Tasked]:
    with Tasked(workers=2) as made:
        yield made


def test_on_demand(run: Tasked) -> None:
    """`clusterd task NAME run` waits, prints the result, and its exit status tells; what a run does others see. One
    that takes too long gets SIGTERM, with time for `finally`."""
    run.change(
        "".join(DEMAND.format(name=name) for name in ("purge", "vanish", "count", "patient")) + 'timeout = "300ms"\n'
    )
    run.start()
    assert run.run_task("purge")[:2] == (0, '"purged"')
    run.wait_for("it to be heard", lambda: run.ask()[1] and run.ask()[3] is True)
    code, out, said = run.run_task("vanish")
    assert (code, out) == (1, "") and "task vanish failed: exited with status 0, without a result" in said
    code, out, said = run.run_task("cuont")
    assert (code, out) == (2, "") and "did you mean 'count'?" in said
    run.file("fail").touch()
    code, _, said = run.run_task("count")
    assert code == 1 and "task count failed: KeyError: 'no such table' (hello.py:" in said
    code, _, said = run.run_task("patient")
    assert code == 1 and "it did not end within 0.3 s (timeout)" in said
    # None, where it was over before it had begun; and who was just about to say that it has may have cleaned only.
    assert len(run.runs("cleaned")) >= len(run.runs("patient"))
    listed = run.clusterd("task").stdout
    assert "on demand" in listed and "failed" in listed and "no such table" in listed


def test_running_already(run: Tasked) -> None:
    """A second run is refused, and told for how long the first goes on; with --wait it is joined."""
    run.change(DEMAND.format(name="count"))
    run.file("hold-count").touch()
    run.start()
    first = run.popen("task", run.control, "run", "count")
    run.wait_for("it to begin", lambda: run.runs("begin"))
    code, _, said = run.run_task("count")
    assert code == 1 and "task count runs already, for " in said and "--wait" in said
    second = run.joined("count")
    run.file("hold-count").unlink()
    for one in (first, second):
        assert json.loads(one.communicate(timeout=HANG)[0])["users"] == 42 and one.returncode == 0
    assert len(run.runs("begin")) == 1


def test_failure_is_told_once(run: Tasked) -> None:
    """A failing task is told with its traceback once, waits, and is told once more when it has recovered."""
    run.file("fail").touch()
    run.change(COUNT.format(every="100ms"))
    run.start()
    run.wait_for("failures", lambda: run.task("count").get("failures", 0) >= 3)
    run.file("fail").unlink()
    run.wait_for("it to recover", lambda: "task count has recovered" in run.said())
    assert run.said().count("task count failed: KeyError: 'no such table'") == 1
    assert run.said().count('raise KeyError("no such table")') == 1
    run.never_two()


def test_reload_waits_for_the_old_run(run: Tasked) -> None:
    """The run of the old generation ends before one of the new begins; a refused reload changes nothing."""
    run.change(COUNT.format(every="100ms"))
    run.file("hold-count").touch()
    run.start()
    run.wait_for("it to begin", lambda: run.runs("begin"))
    run.deploy("", "\nVERSION = 2\n")
    for _ in range(2):  # the second ends the zygote that forked it
        done = run.clusterd("reload")
        assert done.returncode == 0, done.stderr
    assert len(run.runs("begin")) == 1 and not run.runs("end")
    run.file("hold-count").unlink()
    run.wait_for("the new one's", lambda: any(each[1] == 2 for each in run.runs("end")))
    run.never_two()
    assert [each[1] for each in run.runs("begin")][:2] == [1, 2]
    run.deploy("", "\ndel count\n")
    done = run.clusterd("reload")
    assert done.returncode == 1
    file = run.directory / "app.toml"
    assert f"{file}: task.count.call = \"hello:count\": 'hello' has no attribute 'count'" in done.stderr
    before = len(run.runs("end"))
    run.wait_for("it to go on", lambda: len(run.runs("end")) > before + 1)
    assert run.runs("end")[-1][1] == 2


def test_reload_changes_tasks(run: Tasked) -> None:
    """A reload brings other tasks and other times; one that is gone runs no more."""
    run.change(COUNT.format(every="1h"))
    run.start()
    run.wait_for("the first", lambda: len(run.runs("end")) == 1)
    run.change(COUNT.format(every="100ms") + DEMAND.format(name="purge"))
    done = run.clusterd("reload")
    assert done.returncode == 0, done.stderr
    run.wait_for("more", lambda: len(run.runs("end")) >= 3)
    assert run.run_task("purge")[0] == 0
    run.change("")
    assert run.clusterd("reload").returncode == 0
    run.wait_for("it to be forgotten", lambda: run.status().get("tasks") == [])
    assert run.run_task("count")[0] == 2


def test_another_master(run: Tasked) -> None:
    """A master that dies while a task runs loses no result, makes no second run, and who waits is told."""
    run.change(COUNT.format(every="1h") + DEMAND.format(name="purge"))
    run.file("hold-count").touch()
    run.start()
    run.wait_for("it to begin", lambda: run.runs("begin"))
    waiting = run.joined("count")
    run.kill_master()
    run.file("hold-count").unlink()
    run.wait_for("the value", lambda: run.ask()[0] == {"users": 42, "version": 1, "task": "count"})
    assert json.loads(waiting.communicate(timeout=HANG)[0])["users"] == 42
    run.kill_master()
    assert run.run_task("purge")[0] == 0
    assert len(run.runs("begin")) == 1
    run.wait_for("the next to be an hour away", lambda: (run.task("count").get("next") or 0) > 3000)


def test_zygote_dies(run: Tasked) -> None:
    """A run outlives its zygote; the next is the twin's."""
    run.change(DEMAND.format(name="count"))
    run.file("hold-count").touch()
    run.start()
    waiting = run.popen("task", run.control, "run", "count")
    run.wait_for("it to begin", lambda: run.runs("begin"))
    zygote, _ = run.wait_for("a twin", lambda: next((z for z in run.zygotes() if all(z)), None))
    os.kill(zygote, signal.SIGKILL)
    run.wait_for("the twin to take over", lambda: [z for z, _ in run.zygotes() if z not in (None, zygote)])
    run.file("hold-count").unlink()
    assert waiting.wait(30) == 0
    assert run.run_task("count")[0] == 0


class Hurried(Tasked, Installed):
    """Of a copy of the program whose bounds can be made shorter."""


def test_a_zygote_that_hangs() -> None:
    """It does not fork a run in its time: it is killed, and the next run is the twin's."""
    with Hurried() as run:
        run.spoil("tasks/machine.py", "FORK = 60.0", "FORK = 10.0")
        run.change(DEMAND.format(name="purge"))
        run.start()
        zygote, twin = run.wait_for("a twin", lambda: next((z for z in run.zygotes() if all(z)), None))
        pids = run.pids()
        os.kill(zygote, signal.SIGSTOP)
        code, _, said = run.run_task("purge")
        assert code != 0 and "it did not begin within 10 s" in said, said
        run.wait_for("the twin to take over", lambda: [z for z, _ in run.zygotes()] == [twin])
        assert run.run_task("purge")[0] == 0
        assert run.pids() == pids and "the zygote did not fork when it was told to: killed" in run.said()


def test_a_run_waits_for_the_import(run: Tasked) -> None:
    """With --wait, while zygote and twin are dead and the application is being imported anew: over a new master too."""
    run.change(DEMAND.format(name="purge"))
    run.deploy("", '\nhold("hold-import")\n')
    run.start()
    both = run.wait_for("a twin", lambda: next((z for z in run.zygotes() if all(z)), None))
    run.file("hold-import").touch()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in both:
            os.kill(pid, number)
    run.wait_for("both to be missed", lambda: run.status()["generations"][-1]["state"] != "up")
    why = "there is no process to fork it from: the application is being imported"
    code, _, said = run.run_task("purge")
    assert code == 1 and why in said
    waiting = run.popen("task", run.control, "run", "purge", "--wait")
    assert waiting.stderr is not None and f"{why}: waiting until that is certain" in waiting.stderr.readline()
    run.kill_master()
    assert f"{why}: waiting until that is certain" in waiting.stderr.readline()
    run.file("hold-import").unlink()
    assert waiting.communicate(timeout=HANG)[0].strip() == '"purged"' and waiting.returncode == 0
    assert len(run.runs("purge")) == 1


def test_master_and_zygote_die(run: Tasked) -> None:
    """The next master orders what came due of a zygote whose death it has not heard of yet: it hears of it, and the
    twin makes the run."""
    run.change(COUNT.format(every="1s"))
    run.start()
    zygote, _ = run.wait_for("a twin", lambda: next((z for z in run.zygotes() if all(z)), None))
    master = run.status()["master"]
    due = time.monotonic() + run.wait_for("it to rest", lambda: run.resting("count", 0.5))
    os.kill(master["pid"], signal.SIGSTOP)  # it hears of nothing any more
    before = len(run.runs("end"))
    os.kill(zygote, signal.SIGKILL)
    assert gone([zygote]) == []
    while time.monotonic() < due:
        time.sleep(0.01)
    os.kill(master["pid"], signal.SIGKILL)
    run.wait_for("more runs", lambda: len(run.runs("end")) > before + 1)
    assert run.status()["master"]["starts"] == master["starts"] + 1, run.said()
    run.never_two()


@pytest.mark.parametrize(("name", "stop"), [("patient", "60s"), ("deaf", "1s")])
def test_stop(run: Tasked, name: str, stop: str) -> None:
    """A run gets SIGTERM and the stop's time; who waits for it is told; nothing is left."""
    run.change(DEMAND.format(name=name))
    run.file("hold-deaf").touch()
    run.stop = stop
    run.start()
    waiting = run.popen("task", run.control, "run", name)
    run.wait_for("it to begin", lambda: run.runs(name))
    everything = run.everything()
    assert run.process is not None
    run.process.terminate()
    assert run.wait() == 0
    assert bool(run.runs("cleaned")) == (name == "patient")
    assert waiting.wait(30) == 7
    assert gone(everything) == []


EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "users"


def test_users(run: Tasked) -> None:
    """examples/users: four workers answer with one number, from as many queries as the time has had, and no more."""
    shutil.copy(EXAMPLE / "users.py", run.directory)
    with contextlib.closing(sqlite3.connect(run.file("users.sqlite"))) as database:
        database.executescript("CREATE TABLE user (name); INSERT INTO user VALUES ('ada'), ('grace');")
        text = (EXAMPLE / "users.toml").read_text()
        every = 0.5
        for old, new in (
            ('"/srv/users"', f'"{run.directory}"\npython = "{sys.executable}"'),
            ("127.0.0.1:8000", f"127.0.0.1:{run.port}"),
            ('every = "10s"', f'every = "{every}s"'),
            ("/srv/users/users.sqlite", str(run.file("users.sqlite"))),
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        file = run.file("app.toml")
        file.write_text(text)
        began = time.monotonic()
        run.start([*CLUSTERD, "run", str(file), "--runtime", str(run.runtime)])
        for users in (2, 3):
            run.wait_for("all to know", lambda n=users: everybody_says(run, f"{n} users"))
            database.execute("INSERT INTO user VALUES ('barbara')")
            database.commit()
        task = run.wait_for("the status", lambda: run.task("count"))
        assert task["schedule"] == "every 500ms" and int(task["last"]["result"]) >= 3 and not task["failures"]
        asked = sum(run.answers.values())
        said = run.said()
        queries = said.count("counted ")
        assert 2 <= queries <= (time.monotonic() - began) / every + 1 and asked >= 8
        assert len(set(re.findall("in process ([0-9]+)", said))) == queries


def everybody_says(run: Tasked, text: str) -> bool:
    """Whether all four workers answer so. Who answers is chance: asked until each has."""
    seen: dict[str, str] = {}
    while len(seen) < 4:
        with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/", timeout=HANG) as answer:
            said, _, worker = answer.read().decode().strip().partition(", says ")
        run.answers[said] += 1
        seen[worker] = said
    return set(seen.values()) == {text}
