"""The tests' own ground: what boots, is clean, counts right, and is gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.run.foreground import gone
from tests.shell.waiting import readable
from tests.systemd import load
from tests.systemd.harness import cgroups, container
from tests.systemd.harness.container import Container, ContainerError
from tests.systemd.harness.images import VENV, Release

SERVER = """\
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
"""


def serve(machine: Container, python: str, port: int) -> str:
    """Serve SERVER on `port` by a plain uvicorn, as a stand-in that loses requests when it is restarted; its unit."""
    unit = f"plain-{port}.service"
    machine.write("/srv/plain/plain.py", SERVER)
    command = f"{python} -m uvicorn plain:app --port {port} --log-level warning"
    machine.write(f"/run/systemd/system/{unit}", f"[Service]\nWorkingDirectory=/srv/plain\nExecStart={command}\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", unit)
    machine.wait_for("its socket", lambda: machine.listeners(port))
    return unit


def test_boots_clean(bare_machine: Container) -> None:
    """Each release boots under its own systemd with nothing failed and cgroup v2 alone, as a real machine has it."""
    assert bare_machine.systemctl("is-system-running", check=False).stdout == "running\n"
    assert bare_machine.run(["stat", "-fc", "%T", "/sys/fs/cgroup"]).stdout == "cgroup2fs\n"
    assert bare_machine.processes("dbus.service")


def test_interpreters(bare_machine: Container, release: Release) -> None:
    """Debian's Python has Debian's servers and the venv PyPI's newest: both ends of the supported range."""
    versions = "import sys, uvicorn, waitress, websockets; print(*sys.version_info[:2], uvicorn.__version__, sep='.')"
    ours = bare_machine.run(["/usr/bin/python3", "-c", versions]).stdout
    newest = bare_machine.run([f"{VENV}/bin/python", "-c", f"import numpy; {versions}"]).stdout
    assert ours.startswith({"debian12": "3.11.0.17.6", "debian13": "3.13.0.32"}[release.name])
    assert newest.startswith(release.python) and newest != ours


def test_commands(bare_machine: Container) -> None:
    """A command's exit status, output and time are the caller's to judge, and a hung one is ended inside too."""
    assert bare_machine.run(["false"], check=False).returncode == 1
    with pytest.raises(ContainerError, match="exited 1"):
        bare_machine.run(["false"])
    with pytest.raises(ContainerError, match="was not done"):
        bare_machine.run(["sleep", "4711"], timeout=0.3)
    bare_machine.wait_for("its end", lambda: bare_machine.run(["pgrep", "-fx", "sleep 4711"], check=False).returncode)


@pytest.mark.once
def test_files(bare_machine: Container, tmp_path: Path) -> None:
    """Files come and go whole, and an absolute link in a path stays inside the machine."""
    bare_machine.run(["ln", "-s", "/etc", "/srv/link"])
    bare_machine.write("/srv/link/clusterd-test/file", "ä\n", mode="0600")
    assert bare_machine.read("/etc/clusterd-test/file") == "ä\n"
    assert not Path("/etc/clusterd-test").exists()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file").write_text("copied")
    bare_machine.copy(tmp_path, "/srv/copy")
    assert bare_machine.read("/srv/copy/sub/file") == "copied"


def test_journal(bare_machine: Container) -> None:
    """The journal is read from a point on, with every record that was logged before the question."""
    cursor = bare_machine.cursor()
    bare_machine.run(["logger", "-t", "harness", "hello"])
    assert [record["MESSAGE"] for record in bare_machine.journal("SYSLOG_IDENTIFIER=harness", after=cursor)] == [
        "hello"
    ]


@pytest.mark.once
def test_load_counts_nothing_when_nothing_is_lost(bare_machine: Container) -> None:
    """A server left alone answers everything, and every generator says so."""
    serve(bare_machine, "/usr/bin/python3", 8000)
    begun = time.monotonic()
    with load.everything(bare_machine, 8000) as counted:
        segments, opened = load.segments(bare_machine), load.opened(bare_machine)
        bare_machine.wait_for("some requests", lambda: load.segments(bare_machine) - segments > 10_000)
        bare_machine.wait_for("some of ab's", lambda: load.opened(bare_machine) - opened > 1000)
    took = time.monotonic() - begun
    counted.assert_nothing_lost()
    assert min(counted.wrk.requests, counted.ab.requests) > 100
    assert 0 < counted.wrk.longest < took and 0 < counted.probe.longest < took


@pytest.mark.once
def test_load_counts_what_is_lost(bare_machine: Container) -> None:
    """A server restarted under load loses requests, and every generator notices: else their 0 would mean nothing."""
    unit = serve(bare_machine, f"{VENV}/bin/python", 8000)
    inodes = bare_machine.listeners(8000)
    counted = load.Load()
    for name, generator in (("wrk", load.wrk), ("ab", load.ab), ("probe", load.probe)):
        with generator(bare_machine, 8000) as result:
            before = load.refused(bare_machine)
            bare_machine.systemctl("stop", unit)
            bare_machine.wait_for(f"{name} to be refused", lambda before=before: load.refused(bare_machine) > before)
            bare_machine.systemctl("start", unit)
            bare_machine.wait_for("its socket", lambda: bare_machine.listeners(8000))
        assert result.failed, name
        setattr(counted, name, result)
    assert bare_machine.listeners(8000) != inodes
    with pytest.raises(AssertionError, match="read"):
        counted.assert_nothing_lost()


@pytest.mark.once
def test_load_that_ends_early_proves_nothing(bare_machine: Container) -> None:
    """A generator that is gone before its block ends raises, whatever it had counted."""
    serve(bare_machine, "/usr/bin/python3", 8000)
    with pytest.raises(load.LoadError, match="ended before"), load.probe(bare_machine, 8000):
        found = subprocess.run(["pgrep", "-f", f"^/usr/bin/python3 -I {load.PROBE} 8000"], capture_output=True)
        probe = os.pidfd_open(int(found.stdout))
        signal.pidfd_send_signal(probe, signal.SIGKILL)
        # Not by what ps tells: a process that ends has lost its name before it can be waited for.
        assert readable(probe)
        os.close(probe)


@pytest.mark.once
def test_lasts(bare_machine: Container) -> None:
    """A machine bears as many daemon-reloads as a session of tests makes: nothing it tells of them piles up unread."""
    bare_machine.sh("for i in $(seq 30); do systemctl daemon-reload; done", timeout=120)


def test_poweroff(bare_machine: Container) -> None:
    """A machine shuts down in order when asked."""
    bare_machine.poweroff()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_leaves_nothing_behind(release: Release, project: Path, signal_number: int) -> None:
    """Tests that are killed leave no process, no mount and no cgroup of their machine."""
    script = f"""
import os
from tests.systemd.harness import container, images
with container.boot(images.RELEASES["{release.name}"]) as machine:
    print(machine.name, machine.leader, flush=True)
    os.kill(os.getpid(), {signal_number})
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=project, capture_output=True, text=True)
    assert done.returncode == -signal_number, done.stderr
    name, leader = done.stdout.split()
    for place in cgroups.places(name):
        _wait_gone(place)
    assert gone([int(leader)]) == []
    assert "/machine/root" not in Path("/proc/self/mountinfo").read_text()


def _wait_gone(path: Path) -> None:
    stop = container.BOOT_SECONDS
    subprocess.run(["timeout", str(stop), "sh", "-c", f"while [ -e {path} ]; do sleep 0.05; done"], check=True)
