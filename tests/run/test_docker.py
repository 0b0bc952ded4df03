"""examples/docker: what the files say, and what they make, followed by hand where no engine is."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd.config.load import load
from clusterd.config.values import duration
from tests import network
from tests.conftest import PROJECT
from tests.lacking import lacking
from tests.patience import HANG
from tests.run import dockerfile
from tests.run.dockerfile import Image, Running
from tests.systemd.harness import images

EXAMPLE = PROJECT / "examples" / "docker"


def test_dockerfile() -> None:
    """PID 1 is clusterd itself, not root, told to stop by SIGTERM, and asked for its health where it runs."""
    steps = dict(dockerfile.parse((EXAMPLE / "Dockerfile").read_text()))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", steps["USER"])
    command = steps["CMD"]
    assert command.startswith('["clusterd", "run", "/etc/clusterd/hello.toml"')
    runtime = re.search(r'"--runtime", "(.*?)"', command)
    assert runtime and f'"{runtime[1]}/control"' in steps["HEALTHCHECK"]
    assert steps["STOPSIGNAL"] == "SIGTERM"


def test_compose() -> None:
    """The engine waits longer than the drain may take, and the only place to write is where the control socket goes."""
    text = (EXAMPLE / "compose.yaml").read_text()
    grace = re.search(r"stop_grace_period: (\S+)", text)
    assert grace and duration(grace[1]) > load(EXAMPLE / "hello.toml").stop.drain_timeout + 5
    assert "read_only: true" in text and 'tmpfs: ["/tmp"]' in text


@pytest.fixture(scope="module")
def image(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image of the example, made as its README says."""
    lacking(dockerfile.lacks())
    context = tmp_path_factory.mktemp("docker")
    for file in (*EXAMPLE.iterdir(), PROJECT / "examples" / "hello" / "hello.py", deb):
        shutil.copy(file, context)
    wheels = context / "wheels"
    with network.outside():
        images._download(images.DEBIAN13, (context / "requirements.txt").read_text().split(), wheels)
        with dockerfile.build(images.DEBIAN13, context, wheels) as made:
            yield made


def wait_for(run: Running, what: str, probe: Callable[[], object], timeout: float = HANG) -> None:
    end = time.monotonic() + timeout
    while not probe():
        assert run.process is not None and run.process.poll() is None, f"it ended instead of {what}:\n{run.said()}"
        assert time.monotonic() < end, f"waited in vain for {what}:\n{run.said()}"
        time.sleep(0.05)  # a container has no event for "healthy": its engine polls too


@pytest.mark.proof
def test_container(image: Image) -> None:
    """As built it serves: read-only, no capability, no account, no /dev/shm, no cgroup of its own; healthy, reloaded,
    and stopped with what is in flight answered."""
    with Running(image) as run:
        wait_for(run, "healthy", lambda: run.init and run.exec(image.health).returncode == 0)
        assert run.get("/").startswith("hello from worker")
        status = Path(f"/proc/{run.init}/status").read_text()
        assert (
            re.search(r"NSpid:\t\d+\t1\n", status)
            and "Uid:\t10001\t" in status
            and "CapEff:\t0000000000000000" in status
        )
        assert run.exec(["touch", "/srv/hello/x"]).returncode != 0
        assert run.exec(["ls", "/dev"]).stdout.split() == ["null", "random", "urandom", "zero"]
        assert run.exec(["find", "/run", "/var", "-newer", "/proc/1/stat", "-type", "f"]).stdout == ""

        source = (PROJECT / "examples" / "hello" / "hello.py").read_text().replace('"hello"', '"second"', 1)
        file = f"{image.root}/srv/hello/hello.py"
        image.inside(["sh", "-euc", 'printf %s "$1" >"$2"', "sh", source, file])
        reloaded = run.exec(["clusterd", "reload", "/tmp/clusterd/control"])
        assert reloaded.returncode == 0, reloaded.stderr
        assert run.get("/").startswith("second from worker")
        image.inside(["sh", "-euc", 'echo "def" >>"$1"', "sh", file])
        os.kill(run.init, signal.SIGHUP)
        wait_for(run, "the refusal", lambda: "SyntaxError" in run.said())
        assert run.get("/").startswith("second from worker")

        assert run.process is not None
        with run.ask("/sleep?seconds=8") as asked:
            wait_for(run, "the request to be read", lambda: run.established() == 1)
            os.kill(run.init, image.stop)
            assert run.process.wait(HANG) == 0, run.said()
            assert asked.communicate()[0] == "slept 8 s\n"
        assert "clusterd: " in run.said()


@pytest.mark.proof
def test_nowhere_to_write(image: Image) -> None:
    """A container without one directory that can be written exits with 1, and says what to mount."""
    command, image.command = image.command, image.command[:3]
    try:
        with Running(image, tmp=False) as run:
            assert run.process is not None and run.process.wait(HANG) == 1
            assert "mount a tmpfs at /tmp, or name one with --runtime" in run.said() and "Traceback" not in run.said()
    finally:
        image.command = command


@pytest.mark.proof
def test_cores_of_a_container(image: Image) -> None:
    """workers = "auto" is one per CPU that the container may use: one, of a machine with more."""
    image.inside(["sh", "-euc", 'sed -i "/^def$/d" "$1"', "sh", f"{image.root}/srv/hello/hello.py"])
    with Running(image, cpus="0") as run:
        wait_for(run, "healthy", lambda: run.init and run.exec(image.health).returncode == 0)
        assert "1/1 workers" in run.exec(image.health).stdout
