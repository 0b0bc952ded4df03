from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Site

Tools = Callable[[str, str], Path]


@pytest.fixture
def own(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site as that of an ordinary user whose systemd runs; given as the environment, not as options."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(site.root / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(site.root / "xdg"))
    site.options = ["--user"]
    site.config.rmdir()
    (site.root / "home" / "clusterd").mkdir(parents=True)
    site.config.symlink_to(site.root / "home" / "clusterd")
    (site.root / "xdg" / "systemd").mkdir(parents=True)
    (site.root / "xdg" / "systemd" / "private").touch()
    site.runtime.rmdir()
    (site.root / "xdg" / "clusterd").mkdir()
    site.runtime.symlink_to(site.root / "xdg" / "clusterd")
    return site


def test_start_and_stop(own: Site, tools: Tools) -> None:
    """With --user, start and stop need no root, and speak to the user's own systemd."""
    log = tools("systemctl", "exit 0")
    own.write("hello")
    own.master("hello")
    assert own.run("start", "hello") == (0, "hello: 2/2 workers, generation 3, on 0.0.0.0:8000\n", "")
    assert own.run("stop", "hello") == (0, "hello: stopped\n", "")
    assert log.read_text().splitlines() == [
        "systemctl --user daemon-reload",
        "systemctl --user start cluster@hello.socket cluster@hello.service",
        "systemctl --user stop cluster@hello.socket cluster@hello.service",
    ]


def test_anywhere(own: Site) -> None:
    """--user may stand after the command, as for systemctl; with run it is no option."""
    own.write("hello")
    own.master("hello")
    own.options = ["--config-dir", str(own.config), "--runtime-dir", str(own.runtime)]
    assert own.run("status", "--check", "--user", "hello") == (0, "hello: serving, 2/2 workers, generation 3\n", "")
    own.options = ["--config-dir", "/nonexistent"]
    assert "No such option: --user" in own.run("run", "hello:app", "--user", "www-data")[2]


def test_systemd_is_found_without_a_login(own: Site, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sudo or cron has left XDG_RUNTIME_DIR unset, systemctl gets the directory a login would have set."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "getuid", lambda: 4000000)
    status, _, err = own.run("stop", "hello")
    assert status == 4
    assert "no systemd of yours runs: nothing in '/run/user/4000000'" in err
    assert "loginctl enable-linger" in err


def test_hints_are_for_this_user(own: Site, tools: Tools) -> None:
    """Whatever a message tells to type, it tells with --user."""
    tools("systemctl", 'case "$2" in start) echo "Job failed."; exit 1;; esac')
    tools("journalctl", "exit 0")
    own.write("hello")
    assert "hint: journalctl --user -u cluster@hello; clusterd --user check hello\n" in own.run("start", "hello")[2]
    assert "hint: clusterd --user start hello\n" in own.run("reload", "hello")[2]
    own.master("hello").answers(
        "Reload",
        {"error": "io.clusterd.RestartNeeded", "parameters": {"keys": [{"key": "slots", "applies": "restart"}]}},
    )
    assert "systemctl --user daemon-reload && systemctl --user restart cluster@hello" in own.run("reload", "hello")[2]


def test_privileged_port(own: Site, tools: Tools) -> None:
    """A privileged port is refused before systemd is touched."""
    log = tools("systemctl", "exit 0")
    own.write("hello", 'app = "a:b"\nlisten = "443"\n')
    status, _, err = own.run("start", "hello")
    assert status == 2 and "listen: found port 443, expected a port from" in err
    assert not log.exists()


def test_forgotten_option(own: Site) -> None:
    """Who leaves --user out for an application of their own is told so."""
    own.write("hello")
    own.options = ["--config-dir", "/nonexistent", "--runtime-dir", "/nonexistent"]
    status, _, err = own.run("status", "hello")
    assert status == 2
    assert "is an application of your own: clusterd --user" in err


def test_root(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """root has no applications of its own: they would run as root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    site.options = ["--user"]
    status, _, err = site.run("list")
    assert status == 2 and "never runs as root" in err
