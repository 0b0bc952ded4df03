from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.cli import lifecycle

from .conftest import Site

Tools = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_start(site: Site, tools: Tools) -> None:
    """start reloads systemd, starts the socket and the service, and says where it serves."""
    log = tools("systemctl", "exit 0")
    site.write("hello")
    site.master("hello")
    status, out, err = site.run("start", "hello")
    assert (status, out, err) == (0, "hello: 2/2 workers, generation 3, on 0.0.0.0:8000\n", "")
    assert log.read_text().splitlines() == [
        "systemctl daemon-reload",
        "systemctl start cluster@hello.socket cluster@hello.service",
    ]


def test_start_fails(site: Site, tools: Tools) -> None:
    """A start that fails is exit status 1, with STATUS= as the reason and the last of the journal."""
    tools(
        "systemctl",
        'case "$1" in start) echo "Job failed."; exit 1;; show) echo "StatusText=no module named helo";; esac',
    )
    tools("journalctl", "echo 'ModuleNotFoundError: helo'")
    site.write("hello")
    status, out, err = site.run("start", "hello")
    assert (status, out) == (1, "")
    assert "  ModuleNotFoundError: helo\n" in err
    assert "hello did not start: no module named helo\n" in err
    assert "journalctl -u cluster@hello" in err


def test_start_fails_without_a_word(site: Site, tools: Tools) -> None:
    """Where systemd knows no reason, its own words are printed."""
    tools("systemctl", 'case "$1" in start) echo "Job failed."; exit 1;; esac')
    tools("journalctl", "exit 1")
    site.write("hello")
    assert "hello did not start: Job failed.\n" in site.run("start", "hello")[2]


SHOWN = (
    """case "$1" in start) echo "Job failed."; exit 1;; show) case "$4" in *.{kind}) printf '{shown}';; esac;; esac"""
)


@pytest.mark.parametrize(
    ("kind", "shown", "told"),
    [
        ("service", "LoadState=masked", ["{0}.service is masked", "hint: systemctl unmask {0}.service"]),
        ("socket", "LoadState=masked", ["{0}.socket is masked", "hint: systemctl unmask {0}.socket"]),
        (
            "service",
            r'LoadState=bad-setting\nLoadError=org.x "has two"\nDropInPaths=/etc/x.conf',
            ["systemd cannot use {0}.service: has two", "hint: look at /etc/x.conf; systemd-analyze verify"],
        ),
        ("service", "ActiveState=active", ["{0}.socket was stopped and {0}.service was not"]),
    ],
    ids=["masked", "socket masked", "broken drop-in", "socket stopped"],
)
def test_start_that_systemd_cannot_make(site: Site, tools: Tools, kind: str, shown: str, told: list[str]) -> None:
    """What is wrong with the units themselves is the reason, not an old status or the journal of another start."""
    tools("systemctl", SHOWN.format(kind=kind, shown=shown))
    tools("journalctl", "echo 'of long ago'")
    site.write("hello")
    status, _, err = site.run("start", "hello")
    assert status == 1 and "of long ago" not in err
    assert all(text.format("cluster@hello") in err for text in told), err


def test_start_by_an_old_systemd(site: Site, tools: Tools) -> None:
    """The version is the reason where the units cannot be understood."""
    tools(
        "systemctl", 'case "$1 $2" in start*) exit 1;; "show --property=Version") echo "Version=247 (247.3-7)";; esac'
    )
    site.write("hello")
    status, _, err = site.run("start", "hello")
    assert status == 1 and "hello did not start: systemd 247 is too old, 252 or newer is needed\n" in err


def test_start_shows_its_own_journal(site: Site, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what was said since this start is shown."""
    tools("systemctl", 'case "$1" in start) exit 1;; esac')
    log = tools("journalctl", "exit 0")
    site.write("hello")
    monkeypatch.setattr(lifecycle.time, "time", lambda: 1234567890.5)
    site.run("start", "hello")
    assert re.findall(r"--since=@([0-9.]+)", log.read_text()) == ["1234567890.500"]


def test_start_of_what_stays_up_failed(site: Site, tools: Tools) -> None:
    """An instance that runs and serves nothing was not started, whatever systemctl says."""
    tools("systemctl", "exit 0")
    tools("journalctl", "exit 0")
    site.write("hello")
    site.master("hello").status |= {"problem": "lifespan failed", "slots": {"total": 16, "live": []}}
    status, _, err = site.run("start", "hello")
    assert status == 1
    assert "hello did not start: lifespan failed" in err


def test_start_of_an_invalid_file(site: Site, tools: Tools) -> None:
    """An invalid file is told with all its problems, and systemd is not touched."""
    log = tools("systemctl", "exit 0")
    site.write("hello", 'workers = "x"\n')
    status, _, err = site.run("start", "hello")
    assert status == 2
    assert "workers: found" in err and "listen: found" in err
    assert not log.exists()


def test_stop(site: Site, tools: Tools) -> None:
    """stop takes the socket with it, and works when the file is gone."""
    log = tools("systemctl", "exit 0")
    assert site.run("stop", "hello") == (0, "hello: stopped\n", "")
    assert log.read_text() == "systemctl stop cluster@hello.socket cluster@hello.service\n"


def test_stop_fails(site: Site, tools: Tools) -> None:
    """A stop that fails is exit status 1, in systemctl's words."""
    tools("systemctl", "echo 'Interactive authentication required.'; exit 1")
    status, _, err = site.run("stop", "hello")
    assert status == 1
    assert "Interactive authentication required." in err


@pytest.mark.parametrize("verb", ["start", "stop"])
def test_needs_root(site: Site, tools: Tools, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """Without root, start and stop say so, with the command that works: exit status 5."""
    log = tools("systemctl", "exit 0")
    site.write("hello")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert site.run(verb, "hello") == (5, "", f"clusterd: {verb} hello: needs root\nhint: sudo clusterd {verb} hello\n")
    assert not log.exists()


@pytest.mark.parametrize("verb", ["start", "stop"])
def test_no_unit(site: Site, verb: str) -> None:
    """A control socket's path is no unit: `clusterd run` is not systemd's to start or stop."""
    status, _, err = site.run(verb, str(site.root / "x/control"))
    assert status == 2
    assert "Ctrl-C" in err


def test_no_systemd(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no systemctl, that is what is said."""
    monkeypatch.setenv("PATH", "/nonexistent")
    status, _, err = site.run("stop", "hello")
    assert status == 1
    assert "systemctl: not found" in err


def test_status_tells_what_systemd_knows(site: Site, tools: Tools) -> None:
    """status of an instance that does not answer has systemd's view with it."""
    tools("systemctl", "printf 'ActiveState=failed\\nSubState=failed\\nResult=exit-code\\nStatusText=no module\\n'")
    site.write("hello")
    status, _, err = site.run("status", "hello")
    assert status == 4
    assert "hello is not running (systemd: failed (failed), exit-code, no module)" in err
