"""What the package brings to both releases, without a machine being booted: versions, contents, places."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def contents(deb: Path) -> dict[str, str]:
    """Path -> mode of everything in the package."""
    listed = subprocess.run(["dpkg-deb", "-c", deb], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 5) for line in listed.splitlines())
    return {row[5].split(" -> ")[0].lstrip("."): row[0] for row in rows}


def field(deb: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "-f", deb, name], capture_output=True, text=True, check=True).stdout.strip()


def test_one_version(deb: Path) -> None:
    """The package, its changelog and the program agree on the version."""
    source = (PROJECT / "service/clusterd/__init__.py").read_text()
    version = re.search(r'__version__ = "(.+)"', source)
    assert version and field(deb, "Version") == version[1]


def test_contents(deb: Path) -> None:
    """Everything is where Debian expects it, root's and not writable by others."""
    modes = contents(deb)
    for path in (
        "/usr/bin/clusterd",
        "/usr/lib/systemd/system-generators/clusterd-generator",
        "/lib/systemd/system/cluster@.service",
        "/lib/systemd/system/cluster@.socket",
        "/lib/systemd/system/cluster.target",
        "/usr/lib/systemd/user-generators/clusterd-generator",
        "/usr/lib/systemd/user/cluster@.service",
        "/usr/lib/systemd/user/cluster@.socket",
        "/usr/lib/systemd/user/cluster.target",
        "/usr/lib/systemd/catalog/clusterd.catalog",
        "/usr/lib/sysusers.d/clusterd.conf",
        "/usr/share/clusterd/clusterd/worker/wire.py",
        "/usr/share/clusterd/clusterd_zygote.py",
        "/usr/share/clusterd/cluster.schema.json",
        "/usr/share/bash-completion/completions/clusterd",
        "/usr/share/zsh/vendor-completions/_clusterd",
        "/usr/share/fish/vendor_completions.d/clusterd.fish",
        "/usr/share/man/man8/clusterd.8.gz",
        "/usr/share/man/man5/cluster.toml.5.gz",
        "/usr/share/doc/clusterd/examples/hello/",
        "/etc/clusterd/",
    ):
        assert path in modes, path
    assert not [path for path, mode in modes.items() if mode[5] == "w" or mode[8] == "w"]
    assert not [path for path in modes if "__pycache__" in path or "/tests/" in path or path.endswith((".pyc", "~"))]


def test_private(deb: Path) -> None:
    """The modules are private: nothing gets onto the path of the machine's other Python programs."""
    assert not [path for path in contents(deb) if "dist-packages" in path or "site-packages" in path]


def test_nothing_in_etc(deb: Path) -> None:
    """/etc/clusterd is the administrator's alone: the package has no file in it, so none can be in the way."""
    assert [path for path in contents(deb) if path.startswith("/etc/") and path != "/etc/"] == ["/etc/clusterd/"]


def test_newer_package(deb: Path, newer_deb: Path) -> None:
    """The package to upgrade to differs from the first in its version only."""
    assert field(newer_deb, "Version") == "9.9.9"
    assert contents(newer_deb).keys() == contents(deb).keys()
