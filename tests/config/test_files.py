"""Who may say what is in a file: every part of the way to it counts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from clusterd.config.files import exposed


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is as if it and all in and above it were root's and nobody else's to write, but for what is
    called 'deploy...', which another user owns, and what a test opens by its mode."""
    real = os.lstat

    def lstat(path: bytes) -> os.stat_result:
        found = list(real(path))
        if not path.startswith(os.fsencode(tmp_path) + b"/"):
            found[stat.ST_MODE] = stat.S_IFDIR | 0o755
        found[stat.ST_UID] = 1000 if os.path.basename(path).startswith(b"deploy") else 0
        return os.stat_result(found)

    for path in ("etc/env", "etc/deploy.env", "deployed/env", "open/env", "etc/żaba", "etc/group"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).parent.chmod(0o755)
        (tmp_path / path).touch()
        (tmp_path / path).chmod(0o664 if "group" in path else 0o644)
    (tmp_path / "open").chmod(0o1777)
    for link, target in {
        "etc/good": "env", "etc/far": f"{tmp_path}/etc/../etc/./good", "etc/bad": "../deployed/env", "etc/loop": "loop",
        "etc/deploy-link": "env", "to-deployed": "deployed", "etc/gone": "none",
    }.items():  # fmt: skip
        (tmp_path / link).symlink_to(target)
    monkeypatch.setattr("clusterd.config.files.os.lstat", lstat)
    return tmp_path


@pytest.mark.parametrize("path", ["etc/env", "etc//env", "etc/good", "etc/far", "etc/żaba"])
def test_of_root_alone(tree: Path, path: str) -> None:
    """A file of root's in directories of root's, also by links of root's."""
    assert exposed(f"{tree}/{path}") == ""


@pytest.mark.parametrize(
    ("path", "culprit", "how"),
    [
        ("etc/deploy.env", "etc/deploy.env", "owner 1000, mode 0644"),
        ("etc/group", "etc/group", "owner 0, mode 0664"),
        ("deployed/env", "deployed", "owner 1000, mode 0755"),
        ("deployed/none", "deployed", "owner 1000, mode 0755"),
        ("open/env", "open", "owner 0, mode 1777"),
        ("etc/bad", "deployed", "owner 1000, mode 0755"),
        ("to-deployed/env", "deployed", "owner 1000, mode 0755"),
        ("etc/deploy-link", "etc/deploy-link", "owner 1000, mode 0777"),
    ],
)
def test_of_others(tree: Path, path: str, culprit: str, how: str) -> None:
    """The first part that another owns, or may write, is named, wherever a link leads."""
    assert exposed(f"{tree}/{path}") == f"'{tree}/{culprit}' ({how}), which others than root may change"


@pytest.mark.parametrize("path", ["etc/none", "etc/gone", "etc/loop", "etc/env/x"])
def test_not_there(tree: Path, path: str) -> None:
    """What is not there cannot be judged: a file system that is not mounted yet may bring it, and whose it is."""
    with pytest.raises(OSError):
        exposed(f"{tree}/{path}")
