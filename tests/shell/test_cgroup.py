"""Sub-cgroups, in a real cgroup of version 2 made for the test."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.shell import pidfd
from clusterd.shell.cgroup import Cgroups
from tests.lacking import lacking
from tests.shell.waiting import Spawn, line, readable, until

WAIT = "import os, signal; os.write(1, b'up\\n'); signal.pause()"


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    """A cgroup as systemd would delegate it, removed with all in it at the end."""
    mounts = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
    root = next((mount for mount in mounts if (mount / "cgroup.procs").exists()), None)
    if root is None:
        lacking("no cgroup version 2 is mounted here")
        raise AssertionError
    directory = root / f"clusterd-test-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError as e:
        lacking(f"no cgroup can be made in '{root}': {e.strerror}")
    made = Cgroups(directory)
    yield made
    for name in made.names():
        made.kill(name)
        until(lambda name=name: made.remove(name))
    directory.rmdir()


def test_kill_takes_everything(cgroups: Cgroups, python: Spawn) -> None:
    """A killed sub-cgroup is empty, whatever sessions and children its processes made; then it can be removed."""
    text = "import os\nif os.fork() == 0: os.setsid()\n" + WAIT
    child = python(text)
    assert [line(child.stdout), line(child.stdout)] == ["up", "up"]
    path = cgroups.path("worker-1")
    assert path is not None and cgroups.path("worker-1") == path
    members = [child.pid, *(int(n) for n in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split())]
    for pid in members:
        Path(path, "cgroup.procs").write_text(str(pid))
    assert sorted(cgroups.pids("worker-1")) == sorted(members)
    assert not cgroups.remove("worker-1")
    assert cgroups.kill("worker-1")
    child.wait()
    until(lambda: cgroups.pids("worker-1") == [])
    until(lambda: cgroups.remove("worker-1"))
    assert cgroups.names() == [] and not cgroups.kill("worker-1")


def test_sweep_takes_what_was_not_dead_yet(cgroups: Cgroups, python: Spawn) -> None:
    """Killed and removed at once, as one that is killed dies a moment later; but one in use again is left."""
    for name in ("zygote-1", "zygote-2"):
        path = cgroups.path(name)
        assert path is not None
        child = python("import signal; print(flush=True); signal.pause()")
        line(child.stdout)
        Path(path, "cgroup.procs").write_text(str(child.pid))
        cgroups.kill(name)
        if not cgroups.remove(name):
            child.wait()
        cgroups.path(name) if name == "zygote-2" else None
    cgroups.sweep()
    assert cgroups.names() == ["zygote-2"]
    assert cgroups.remove("zygote-2")


def test_enter(cgroups: Cgroups, python: Spawn) -> None:
    """Entering moves this very process; names lists what there is."""
    child = python(
        "import sys; from pathlib import Path; from clusterd.shell.cgroup import Cgroups\n"
        "c = Cgroups(Path(sys.argv[1])); print(c.enter('keeper'), c.why, flush=True); input()",
        str(cgroups.directory),
        stdin=-1,
    )
    assert line(child.stdout) == "True "
    assert cgroups.pids("keeper") == [child.pid] and cgroups.names() == ["keeper"]
    fd = pidfd.open(child.pid)
    child.kill()
    assert readable(fd)
    os.close(fd)
    child.wait()
    assert cgroups.remove("keeper")


def test_remove_takes_the_applications_own(cgroups: Cgroups) -> None:
    """Empty cgroups an application made in its own go with it."""
    path = cgroups.path("worker-2")
    assert path is not None
    Path(path, "its/own").mkdir(parents=True)
    assert cgroups.remove("worker-2") and cgroups.names() == []


def test_controllers_are_best_effort(cgroups: Cgroups) -> None:
    """Enabling says what is enabled, and a controller that is missing prevents nothing."""
    available = Path(cgroups.directory or "", "cgroup.controllers").read_text().split()
    assert cgroups.enable() == {"memory", "pids", "cpu"} & set(available)
    assert cgroups.path("worker-3") is not None
    oom = cgroups.oom_kills("worker-3")
    assert oom == (0 if "memory" in available else None)


def test_without_any() -> None:
    """Where there is no cgroup of our own nothing works, nothing raises, and the reason is known."""
    none = Cgroups(None, "because")
    assert not none.delegated and none.why == "because"
    assert none.path("worker-1") is None and not none.enter("master") and not none.kill("worker-1")
    assert none.remove("worker-1") and none.names() == [] and none.pids("worker-1") == []
    assert none.enable() == frozenset() and none.oom_kills("worker-1") is None


def test_find_tells_why() -> None:
    """What is found is either usable or explained."""
    found = Cgroups.find()
    assert found.delegated is (found.why == "")


@pytest.mark.parametrize("name", ["", "..", "a/b", "Worker", ".control", "a" * 64])
def test_names_are_ours(cgroups: Cgroups, name: str) -> None:
    """No name leads out of the directory."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(ValueError, match="no sub-cgroup of ours"))
        cgroups.path(name)
