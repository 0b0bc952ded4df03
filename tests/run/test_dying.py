"""A master SIGKILLed at every point of a start, of a reload and of a stop: the next one goes on from there."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.clients import asking
from tests.run.foreground import Foreground, gone

DYING = Path(__file__).with_name("dying.py")


def at_length(test: Callable[[], None]) -> Callable[[], None]:
    """For the proof, with time for a start or more at each of some hundred points."""
    return pytest.mark.proof(pytest.mark.timeout(3000)(test))


class Dying(Foreground):
    """A `clusterd run` whose master can be made to die."""

    def begin(self, point: int) -> None:
        self.runtime.mkdir()
        self.die_at(point)
        self.start([sys.executable, "-B", str(DYING), "run", str(self.configure()), str(self.runtime)])

    def die_at(self, point: int) -> None:
        (self.runtime / "new").write_text(str(point))
        (self.runtime / "new").rename(self.runtime / "die-at")

    def died(self) -> str:
        """What the master was doing when it died; '' when it never came to the point."""
        died = self.runtime / "died"
        try:
            (self.runtime / "die-at").unlink()
            return ""
        except FileNotFoundError:
            self.wait_for("its last words", died.exists)
        text = died.read_text()
        died.unlink()
        return text

    def assert_whole(self, died: str) -> None:
        """All workers of one generation serve, and every process is accounted for."""
        self.wait_for(f"it to be at rest, after {died}", self.at_rest)
        self.wait_for(f"whoever is not accounted for to leave, after {died}", self.accounted_for)


def start_and_stop(points: Iterable[int]) -> None:
    for point in points:
        with Dying() as run:
            run.begin(point)
            started = run.died()
            run.assert_whole(started)
            everything = run.everything()
            run.die_at(point)
            assert run.process is not None
            run.process.send_signal(signal.SIGTERM)
            assert run.wait() == 0, run.said()
            died = run.died()
            assert gone(everything) == [], died
        if not started and not died:
            return
    assert not isinstance(points, itertools.count)


def reloads(points: Iterable[int]) -> None:
    """All in one life, so that what a dead master leaves behind adds up."""
    with Dying() as run:
        run.begin(10**9)
        run.died()
        with asking(("127.0.0.1", run.port)) as asked:
            for point in points:
                before = run.status()["generation"]
                run.deploy(f"release {point}")
                run.die_at(point)
                done = run.clusterd("reload")
                died = run.died()
                run.assert_whole(died)
                status = run.status()
                if done.returncode == 0:
                    assert status["generation"] > before, died
                else:  # the order had been read and not been decided upon
                    assert (done.returncode, status["generation"]) == (4, before), f"{died}: {done}"
                assert not status["problem"]
                if not died:
                    break
        asked.assert_nothing_lost()


def test_start_and_stop() -> None:
    """Some of the points of a start and a stop: all workers serve, then none is left; the exit status is 0."""
    start_and_stop(range(0, 90, 37))


def test_reload() -> None:
    """Some of the points of a reload: it is done, nothing is lost, nobody is orphaned."""
    reloads(range(0, 120, 19))


TASK = '[task.note]\ncall = "hello:note"\npublish = "note"\n'
NOTE = """

def note():
    import os
    for text in ("begin", "end"):
        with open("runs", "a") as f:
            f.write(f"{text} {os.getpid()}\\n")
    return os.getpid()
"""


def runs(points: Iterable[int]) -> None:
    with Dying() as run:
        run.deploy("hello", NOTE)
        file = run.configure()
        run.configure = lambda: (file.write_text(file.read_text() + TASK), file)[1]  # type: ignore[method-assign]
        run.begin(10**9)
        run.died()
        written = run.directory / "runs"
        for point in points:
            written.unlink(missing_ok=True)
            run.die_at(point)
            done = run.clusterd_on("task", "run", "note", "--wait")
            # 4: the master died with the order, which had not been answered. It may have been decided upon.
            assert done.returncode in (0, 4), done
            run.wait_for("the run to be over", lambda: [t["run"] for t in run.status().get("tasks", ())] == [None])
            died = run.died()
            lines = [line.split() for line in written.read_text().splitlines()] if written.exists() else []
            if done.returncode == 0:
                assert lines and int(done.stdout) == int(lines[0][1]), died
            # All of one process, whole: once.
            assert [what for what, _ in lines] in ([], ["begin", "end"]), f"{died}: {lines}, {done}, {run.status()}"
            assert len({pid for _, pid in lines}) <= 1
            run.assert_whole(died)
            if not died:
                break


def test_runs_of_tasks() -> None:
    """Some of the points of a run of a task: it is made once, whole, and who waits is told its result."""
    runs(range(0, 120, 17))


@at_length
def test_runs_of_tasks_everywhere() -> None:
    """Every point of one."""
    runs(itertools.count())


@at_length
def test_start_and_stop_everywhere() -> None:
    """Every fifth point of a start and a stop."""
    start_and_stop(itertools.count(step=5))


@at_length
def test_reload_everywhere() -> None:
    """Every third point of a reload."""
    reloads(itertools.count(step=3))
