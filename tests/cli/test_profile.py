"""--profile: what is remembered when, and what is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Site, done, error

FILE = 'app = "hello:app"\nlisten = "8000"\n[profile.production]\nworkers = 4\n[profile.staging]\nworkers = 2\n'
Tools = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def log(site: Site, tools: Tools) -> Path:
    site.write("hello", FILE)
    tools("journalctl", "exit 0")
    return tools("systemctl", "exit 0")


def choice(site: Site) -> str:
    path = site.config / "hello.profile"
    return path.read_text().strip() if path.exists() else ""


def test_start(site: Site, log: Path) -> None:
    """start remembers the profile before systemd reads the files, even if it then fails: it is tried again so."""
    assert site.run("start", "hello", "--profile", "production")[0] == 4  # nobody is started here
    assert choice(site) == "production"
    assert log.read_text().startswith("systemctl daemon-reload\nsystemctl start")
    site.run("start", "hello")
    assert choice(site) == "production"
    site.run("start", "hello", "--profile", "none")
    assert choice(site) == ""


def test_start_of_what_runs(site: Site, log: Path) -> None:
    """A start leaves alone what runs: with another profile it is refused, and says what does it."""
    master = site.master("hello")
    status, _, err = site.run("start", "hello", "--profile", "production")
    assert (status, choice(site)) == (1, "")
    assert "hello runs already, without a profile\nhint: clusterd reload hello --profile production\n" in err
    master.status["profile"] = "production"
    assert site.run("start", "hello", "--profile", "production")[0] == 0
    status, _, err = site.run("start", "hello", "--profile", "none")
    assert "runs already, with profile 'production'\nhint: clusterd reload hello --profile none\n" in err


def test_reload(site: Site, log: Path) -> None:
    """reload remembers the profile where the master reads it, and afterwards systemd makes its drop-ins anew."""
    master = site.master("hello")
    seen = []
    master.scripts["Reload"] = lambda _: seen.append(choice(site)) or iter([done()])  # type: ignore[func-returns-value]
    assert site.run("reload", "hello", "--profile", "production")[0] == 0
    assert (seen, choice(site), log.read_text()) == (["production"], "production", "systemctl daemon-reload\n")
    assert site.run("reload", "hello")[0] == 0
    assert site.run("reload", "hello", "--profile", "")[0] == 0
    assert (seen, choice(site)) == (["production", "production", ""], "")


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (error("Refused", reason="no"), False),
        (error("Returned", reason="no"), False),
        (error("Stopping"), False),
        (error("Superseded", number=14), True),
    ],
)
def test_refused_reload_changes_nothing(site: Site, log: Path, reply: dict[str, object], kept: bool) -> None:
    """What was refused or undone is not remembered; a later reload that supersedes goes on with the choice."""
    site.run("start", "hello", "--profile", "staging")
    site.master("hello").answers("Reload", reply)
    assert site.run("reload", "hello", "--profile", "production")[0] != 0
    assert choice(site) == ("production" if kept else "staging")


def test_reload_of_nothing(site: Site, log: Path) -> None:
    """Where nothing runs, nothing is remembered: that is what start is for."""
    assert site.run("reload", "hello", "--profile", "production")[0] == 4
    assert choice(site) == ""


def test_restart_needed(site: Site, log: Path) -> None:
    """A profile whose keys a reload cannot bring is refused with the command that can."""
    keys = [{"key": "user", "applies": "restart", "text": "user: none -> www-data"}]
    site.master("hello").answers("Reload", error("RestartNeeded", keys=keys))
    status, _, err = site.run("reload", "hello", "--profile", "production")
    assert (status, choice(site)) == (1, "")
    assert "at restart: user: none -> www-data" in err
    assert err.endswith("hint: clusterd stop hello && clusterd start hello --profile production\n")


@pytest.mark.parametrize("command", ["start", "reload", "try", "check"])
def test_unknown_profile(site: Site, log: Path, command: str) -> None:
    """A profile the file does not have is refused with the nearest one, before anything is touched."""
    master = site.master("hello")
    status, _, err = site.run(command, "hello", "--profile", "prodction")
    assert (status, choice(site)) == (2, "")
    assert "profile: found 'prodction' chosen, which the file does not have" in err
    assert "hint: did you mean 'production'?" in err
    assert not log.exists() and not master.asked("Reload") and not master.asked("Try")


def test_try_and_check_only_ask(site: Site, log: Path) -> None:
    """try and check look at a profile without choosing it; the master is told which."""
    master = site.master("hello")
    master.answers("Try", done())
    master.answers("Changes", {"parameters": {"changes": [], "how": ""}})
    assert site.run("try", "hello", "--profile", "production")[0] == 0
    site.run("check", "hello", "--profile", "none")
    assert (master.asked("Try"), master.asked("Changes")) == ([{"profile": "production"}], [{"profile": ""}])
    assert choice(site) == ""


def test_check_tells_of_all_profiles(site: Site) -> None:
    """check tells the mistakes of every profile, chosen or not."""
    site.write("hello", FILE + "[profile.a]\nworkers = 0\n[profile.b]\nlisten = 8001\n")
    err = site.run("check", "hello")[2]
    assert "profile.a.workers: found 0" in err and "profile.b.listen: found a key that no profile has" in err


def test_status(site: Site) -> None:
    """status says with which profile an instance runs, and nothing when there is none."""
    master = site.master("hello")
    site.write("hello")
    assert "profile" not in site.run("status", "hello")[1]
    master.status["profile"] = "production"
    assert "  profile      production\n" in site.run("status", "hello")[1]


def test_socket_has_no_profile(site: Site) -> None:
    """An instance known by its socket alone has no file, so no profiles."""
    master = site.master("x")
    status, _, err = site.run("reload", str(master.path), "--profile", "production")
    assert status == 2 and "has no profiles" in err


def test_needs_root(site: Site, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not write the choice down is told so first."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    site.master("hello")
    assert site.run("reload", "hello", "--profile", "production")[0] == 5
    assert choice(site) == ""
