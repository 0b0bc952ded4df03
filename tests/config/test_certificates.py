"""Where the contents of [tls] come from: files, credentials, or what was known before; always a pair of one time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.config.certificates import CREDENTIAL, MAX_PEM, PARTS, read
from clusterd.config.load import Invalid, from_run
from clusterd.config.settings import Settings
from tests.lacking import lacking


def made(directory: Path, text: str, certificate: str = "", key: str = "") -> Settings:
    """Settings of two files with `text` in them, or of what is named instead."""
    for part in PARTS:
        (directory / part).write_text(f"{part} {text}")
    tls = {"certificate": certificate or f"{directory}/certificate", "key": key or f"{directory}/key"}
    return from_run(app="a:b", tls=tls)


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    return directory


@pytest.fixture
def nobody() -> Iterator[None]:
    """As a user who may not read what root alone may."""
    lacking(None if os.geteuid() == 0 else "root, to become another user for a moment")
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_plain() -> None:
    """Without [tls] there is nothing."""
    assert read(from_run(app="a:b")) == {}


def test_files(tmp_path: Path) -> None:
    """Files that can be read are, anew each time."""
    settings = made(tmp_path, "1")
    assert read(settings) == {"certificate": "certificate 1", "key": "key 1"}
    made(tmp_path, "2")
    assert read(settings, (settings, {"certificate": "old", "key": "old"}))["key"] == "key 2"


def test_credentials_by_name(tmp_path: Path, credentials: Path) -> None:
    """A name without a slash is a credential of the unit."""
    (credentials / "site.crt").write_text("c")
    (credentials / "site.key").write_text("k")
    assert read(made(tmp_path, "1", "site.crt", "site.key")) == {"certificate": "c", "key": "k"}
    with pytest.raises(Invalid, match=r"tls\.key: found 'gone', expected a credential that the service has"):
        read(made(tmp_path, "1", "site.crt", "gone"))


def test_root_only(tmp_path: Path, credentials: Path, nobody: None) -> None:
    """A key that is root's: as systemd has read it at the start; later as it was handed over, certificate and all."""
    os.seteuid(0)
    settings = made(tmp_path, "1")
    (tmp_path / "key").chmod(0o600)
    os.chmod(tmp_path, 0o755)
    for parent in list(tmp_path.parents)[:3]:
        os.chmod(parent, 0o755)
    for part in PARTS:
        (credentials / CREDENTIAL.format(part)).write_text(f"-----BEGIN {part}")
    os.seteuid(65534)
    assert read(settings) == {part: f"-----BEGIN {part}" for part in PARTS}
    newer = {"certificate": "newer c", "key": "newer k"}
    assert read(settings, (settings, newer)) == newer
    other = from_run(app="a:b", tls={"certificate": f"{tmp_path}/certificate", "key": "/gone"})
    assert read(settings, (other, newer)) != newer
    os.seteuid(0)
    (credentials / CREDENTIAL.format("key")).write_text("-")
    os.seteuid(65534)
    with pytest.raises(Invalid, match="key': Permission denied, expected a readable file"):
        read(settings)


def test_wrong_files(tmp_path: Path) -> None:
    """What is not there, no file, or endless is told with key and path; nothing else takes its place."""
    before = (made(tmp_path, "1"), {"certificate": "old", "key": "old"})
    (tmp_path / "key").unlink()
    with pytest.raises(Invalid, match=r"tls\.key: found '.*/key': No such file or directory, expected a readable file"):
        read(before[0], before)
    with pytest.raises(Invalid, match="something that is no file, expected a file in PEM"):
        read(made(tmp_path, "1", certificate=str(tmp_path)))
    (tmp_path / "long").write_text("x" * (MAX_PEM + 1))
    with pytest.raises(Invalid, match=f"more than {MAX_PEM} bytes"):
        read(made(tmp_path, "1", key=f"{tmp_path}/long"))
