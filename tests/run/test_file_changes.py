"""The file as it was when it was read: what it becomes later is no matter of what is under way."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.patience import HANG
from tests.run.foreground import CLUSTERD, Foreground

GATED = "\nimport pathlib, time\nwhile pathlib.Path('gate').exists():\n    time.sleep(0.02)\n"


@pytest.fixture
def run() -> Iterator[Foreground]:
    with Foreground(workers=2) as made:
        made.start()
        yield made


def test_changed_between_check_and_use(run: Foreground) -> None:
    """Checked, then changed: the reload goes by what it reads itself. Changed once it has been read: the reload is done
    as it was read, and so is what it starts later; the next one finds what is there then."""
    file = run.directory / "app.toml"
    good = file.read_text()
    assert subprocess.run([*CLUSTERD, "check", str(file)], timeout=HANG).returncode == 0
    file.write_text("workers = \n")
    refused = run.clusterd("reload")
    assert refused.returncode == 2 and "app.toml: line 1: " in refused.stderr

    file.write_text(good.replace("workers = 2", "workers = 3"))
    run.workers = 3
    (run.directory / "gate").touch()
    run.deploy("new", GATED)
    with subprocess.Popen([*CLUSTERD, "reload", run.control], stderr=subprocess.DEVNULL) as reloading:
        run.wait_for("the import", lambda: (run.status()["rollout"] or {}).get("phase") == "preparing")
        file.write_text("workers = \n")
        (run.directory / "gate").unlink()
        assert reloading.wait(HANG) == 0
    run.wait_for("three workers of it", run.at_rest)

    generation = next(g for g in run.status()["generations"] if g["generation"] == 2)
    old = run.pids()[0]
    for pid in (generation["twin"], generation["zygote"], old):
        if pid:
            os.kill(pid, signal.SIGKILL)
    run.wait_for("a successor by the settings that were read", lambda: run.at_rest(gone=old))
    assert run.clusterd("reload").returncode == 2
    assert run.at_rest()


def removed(file: Path) -> None:
    file.unlink()


def replaced_by_a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def replaced_by_a_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def grown_to_a_megabyte(file: Path) -> None:
    file.write_text(file.read_text() + "#" * 1_000_000 + "\n")


@pytest.mark.parametrize(
    ("become", "told"),
    [
        (removed, "No such file or directory"),
        (replaced_by_a_directory, "something that is no file"),
        (replaced_by_a_fifo, "something that is no file"),
        (grown_to_a_megabyte, "more than"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_becomes_of_the_file(run: Foreground, become: Callable[[Path], None], told: str) -> None:
    """A reload refuses it and says what it is. Whoever serves serves; a worker and a master that die are followed, by
    the settings that were read; the file as it was is enough for the next reload."""
    file, kept = run.directory / "app.toml", run.directory / "kept"
    kept.write_bytes(file.read_bytes())
    workers = run.pids()
    become(file)
    refused = run.clusterd("reload")
    assert refused.returncode == 2 and str(file) in refused.stderr and told in refused.stderr, refused
    assert run.pids() == workers
    master = run.status()["master"]["pid"]
    os.kill(master, signal.SIGKILL)
    run.wait_for("another master", lambda: (run.status().get("master") or {}).get("pid") not in (None, 0, master))
    os.kill(workers[0], signal.SIGKILL)
    run.wait_for("a successor", lambda: run.at_rest(gone=workers[0]))
    if file.is_dir():
        file.rmdir()
    kept.replace(file)
    done = run.clusterd("reload")
    assert done.returncode == 0, done.stderr
    run.wait_for("it to be at rest", run.at_rest)
    assert set(run.pids().values()).isdisjoint(workers.values())
