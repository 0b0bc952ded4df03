from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from clusterd.config.difference import difference, how
from clusterd.config.load import load
from tests.worker.certificates import make

from .conftest import Site, error


@pytest.fixture
def directory(site: Site, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("clusterd.config.reach.in_tmp", lambda _: False)  # where the test's own is
    made = site.root / "srv"
    made.mkdir()
    return str(made)


def hello(directory: str, more: str = "") -> str:
    return f'app = "hello:app"\ndirectory = "{directory}"\nlisten = "8000"\n{more}\n'


def test_valid(site: Site, directory: str) -> None:
    """A valid file that does not run is said to be valid: exit status 0."""
    path = site.write("hello", hello(directory))
    assert site.run("check", "hello") == (0, f"{path}: valid\n", "")


def test_all_problems_at_once(site: Site) -> None:
    """Every problem is told in one go, each with file, key, found, expected and hint: exit status 2."""
    path = site.write("hello", 'app = "hello:app"\nworkrs = 2\nlisten = "80000"\n[reload]\nsoak = 2\n')
    status, out, err = site.run("check", "hello")
    assert (status, out) == (2, "")
    for key in ("workrs", "listen", "reload.soak"):
        assert f"error: {path}: {key}: found " in err
    assert "hint: did you mean 'workers'?" in err
    assert err.endswith(f"{path}: 3 problems\n")


def test_json(site: Site, directory: str) -> None:
    """--json has an object for each file, problems with all their parts, and the same exit status."""
    site.write("bad", "app = 3\n")
    site.write("hello", hello(directory))
    status, out, err = site.run("check", "--json")
    bad, good = json.loads(out)
    assert (status, err) == (2, "")
    assert (bad["name"], bad["valid"], good["name"], good["valid"]) == ("bad", False, "hello", True)
    assert set(bad["problems"][0]) == {"file", "key", "found", "expected", "hint"}
    assert good["changes"] is None


def test_overlap(site: Site, directory: str) -> None:
    """Two files whose addresses overlap: the loser has a problem that names the other."""
    site.write("alpha", hello(directory))
    site.write("beta", hello(directory).replace('"8000"', '"127.0.0.1:8000"'))
    assert site.run("check", "alpha")[0] == 0
    status, _, err = site.run("check", "beta")
    assert status == 2
    assert "beta.toml: listen: found '127.0.0.1:8000'" in err and "'alpha' listens on" in err


def test_file_elsewhere(site: Site) -> None:
    """A file elsewhere may be meant for another machine: what this one lacks is a warning."""
    path = site.root / "hello.toml"
    path.write_text(hello("/nonexistent"))
    status, out, err = site.run("check", str(path))
    assert (status, out) == (0, f"{path}: valid\n")
    assert f"warning: {path}: directory: found '/nonexistent'" in err


def test_missing_directory(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """For root, who sees what the service sees, a missing directory is a problem of an installed file."""
    site.write("hello", hello("/nonexistent"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert site.run("check", "hello")[0] == 2
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert site.run("check", "hello")[0] == 0


def test_a_bus_without_its_package(site: Site, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a warning that says what to install: the application serves, and talks on its own machine only."""
    site.write("hello", 'bus = "redis://127.0.0.1/0"\n' + hello(directory))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, err = site.run("check", "hello")
    assert status == 0
    assert "bus: found none, expected the daemon's Python to have the package redis" in err
    assert "apt install python3-redis" in err


def test_a_key_below_env(site: Site, directory: str) -> None:
    """A line below [env] is a variable, whatever it is called: the name of a key is a warning, of none other."""
    path = site.write("hello", hello(directory, '[env]\nuser = "www-data"\nUSER = "x"\nsoak = "2s"\nhttp = "x"\n'))
    status, out, err = site.run("check", "hello")
    assert (status, out) == (0, f"{path}: valid\n")
    assert err.splitlines() == [
        f"warning: {path}: env.user: found a variable with the name of a key, expected 'user' above all tables",
        "  hint: below [env] it is a variable, and nothing to clusterd: a key belongs above all tables",
    ]


def test_missing_file(site: Site) -> None:
    """A FILE that is not there is a problem like others."""
    status, _, err = site.run("check", str(site.root / "no.toml"))
    assert status == 2
    assert "No such file or directory" in err


def test_nothing_to_check(site: Site) -> None:
    """check without any file says where it looked."""
    status, _, err = site.run("check")
    assert status == 2
    assert f"no *.toml in {site.config}" in err


def test_changes(site: Site, directory: str) -> None:
    """Where the instance runs, check says what a reload changes, what needs more, and the command for it all."""
    path = site.write("hello", hello(directory, "workers = 2"))
    before = load(path)
    master = site.master("hello")

    def changes(_: Any) -> Any:
        found = difference(before, load(path))
        listed = [{**asdict(change), "text": change.text} for change in found]
        return iter([{"parameters": {"changes": listed, "how": how("hello", found)}}])

    master.scripts["Changes"] = changes
    assert "as it runs: nothing would change but the code" in site.run("check", "hello")[1]
    path.write_text(hello(directory, "workers = 4"))
    assert site.run("check", "hello")[1].splitlines()[1:] == [
        "  at reload: workers: 2 -> 4",
        "  to apply: systemctl reload cluster@hello",
    ]
    path.write_text(hello(directory, "workers = 4").replace("8000", "9000"))
    out = site.run("check", "hello")[1]
    assert "  at reload: workers: 2 -> 4\n" in out and "  at socket restart: listen: " in out
    assert "  to apply: clusterd stop hello && clusterd start hello\n" in out
    (report,) = json.loads(site.run("check", "--json", "hello")[1])
    assert [(change["key"], change["applies"]) for change in report["changes"]] == [
        ("listen", "socket restart"),
        ("workers", "reload"),
    ]


def test_sandbox(site: Site, directory: str) -> None:
    """What the file opens or closes beyond the unit, and why, is told, and how to see the rest."""
    table = '[sandbox]\nhome = "read-only"\nnetwork = ["10.0.0.0/8"]\njit = false\n'
    site.write("hello", hello(directory, table))
    status, out, _ = site.run("check", "hello")
    assert status == 0 and out.splitlines()[1:] == [
        '  sandbox: homes are read-only: [sandbox] home = "read-only"',
        "  sandbox: it may not make code at run time: [sandbox] jit = false",
        "  sandbox: it reaches this machine, 10.0.0.0/8 and nothing else: [sandbox] network",
        "  sandbox: all of it: systemd-analyze security cluster@hello.service",
    ]
    (report,) = json.loads(site.run("check", "--json", "hello")[1])
    assert len(report["sandbox"]) == 3


def test_a_copy_is_not_compared(site: Site, directory: str) -> None:
    """Only the installed file is what a reload would read: a copy elsewhere is not compared with what runs."""
    site.write("hello", hello(directory))
    master = site.master("hello")
    path = site.root / "hello.toml"
    path.write_text(hello(directory).replace("8000", "9000"))
    assert site.run("check", str(path))[0] == 0
    assert not master.calls


def test_cannot_compare(site: Site, directory: str) -> None:
    """A file is valid also when the running instance may not be asked: that is told, not an error."""
    site.write("hello", hello(directory))
    site.master("hello").answers("Changes", error("NotAllowed", text="only root may"))
    status, out, _ = site.run("check", "hello")
    assert status == 0
    assert "cannot be compared with what runs: hello: only root may" in out


def test_reload_without_root(site: Site, directory: str, tmp_path: Path) -> None:
    """Where others than root may write the environment of ExecReload=, that does not read [tls] as root: a warning
    says so, and what to do; without [tls] there is nothing to say."""
    pair, file = make(tmp_path, "site", 1), site.root / "env"
    file.touch()
    file.chmod(0o666)
    path = site.write("hello", hello(directory, f'environment-file = "{file}"'))
    assert "environment-file" not in site.run("check", "hello")[2]
    tls = f'environment-file = "{file}"\n[tls]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"'
    site.write("hello", hello(directory, tls))
    status, out, err = site.run("check", "hello")
    assert status == 0 and out.startswith(f"{path}: valid\n")
    assert f"warning: {path}: environment-file: found '" in err and "which others than root may change, expected" in err
    assert "'clusterd reload hello' as root" in err
    site.write("hello", hello(directory, tls.replace(str(file), "/etc/os-release")))
    assert "root may change" not in site.run("check", "hello")[2]


def test_certificates(site: Site, directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of [tls], as far as who asks may read them: a pair that is none is a problem, an old one a warning."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    old, other = make(tmp_path, "old", 1, ends="20200101000000Z"), make(tmp_path, "other", 2)
    text = f'[tls]\ncertificate = "{old.certificate}"\nkey = "{{}}"'
    path = site.write("hello", hello(directory, text.format(old.key)))
    status, out, err = site.run("check", "hello")
    assert (status, out) == (0, f"{path}: valid\n")
    assert f"warning: {path}: tls.certificate: found it expired on Jan  1 00:00:00 2020 GMT" in err
    site.write("hello", hello(directory, text.format(other.key)))
    status, _, err = site.run("check", "hello")
    assert status == 2 and f"error: {path}: tls: found certificate and key do not belong together" in err
    site.write("hello", hello(directory, text.format("/gone")))
    status, _, err = site.run("check", "hello")
    assert status == 2 and "tls.key: found '/gone': No such file or directory" in err
