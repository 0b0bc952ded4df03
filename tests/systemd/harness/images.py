"""The kept Debian roots that machines are overlays of.

A root is built once by mmdebstrap and kept under a name that has a hash of its recipe, so that a changed recipe builds
another one. Debian's own interpreter and servers are in it, and a venv with the newest of PyPI's, because an
application under clusterd brings either. Mirrors come from the apt configuration of the machine that builds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]

VENV = "/srv/venv-newest"
"""Where a machine has the newest servers from PyPI; `VENV/bin/python` runs an application with them."""

PACKAGES = (
    "systemd", "systemd-sysv", "libpam-systemd", "dbus", "dbus-user-session",
    "python3", "python3-venv", "python3-click", "python3-rich", "python3-systemd", "python3-sdnotify",
    # What uvicorn recommends in Debian, because `apt install python3-uvicorn` brings it to everybody.
    "python3-uvicorn", "python3-uvloop", "python3-httptools", "python3-websockets", "python3-waitress",
    "nodejs", "iproute2", "curl", "procps", "man-db", "less",
)  # fmt: skip

WHEELS = ("uvicorn[standard]", "websockets", "numpy", "waitress", "granian")

HOOKS = (
    # Nothing in a test waits for these, and they cost a boot or a dpkg run seconds.
    'rm -f "$1/var/lib/man-db/auto-update"',
    "for u in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer man-db.timer"
    " console-getty.service getty.target systemd-firstboot.service;"
    ' do ln -sf /dev/null "$1/etc/systemd/system/$u"; done',
    'chroot "$1" python3 -m venv ' + VENV,
    f'chroot "$1" {VENV}/bin/pip install -q --no-index --find-links=/wheels $WHEELS',
    'rm -rf "$1/wheels"',
    'echo machine > "$1/etc/hostname"; : > "$1/etc/machine-id"; rm -rf "$1"/var/cache/apt/archives/*.deb',
)

ADD = Path(__file__).with_name("add.sh")

REVISION = 1
"""Raise it to have every root built anew although nothing above changed."""


class ImageError(Exception):
    """A root cannot be built here. The text says which step, and what it said."""


@dataclass(frozen=True)
class Release:
    """One Debian release to test on."""

    name: str
    codename: str
    python: str
    """Version of its /usr/bin/python3, for which the wheels are chosen."""

    def key(self) -> str:
        """The recipe's hash: what is in the root, and nothing of where it was downloaded from."""
        recipe = [self.codename, self.python, platform.machine(), PACKAGES, WHEELS, HOOKS, REVISION]
        return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Addition:
    """What some tests need in a machine besides. Kept as a layer over a release's root: the others boot without it."""

    name: str
    """[a-z-]+: what the layer is called in the cache."""
    packages: tuple[str, ...] = ()
    """Debian's. Their services are not started, and not enabled either."""
    venvs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(directory, requirements from PyPI) each; wheels only, for the release's /usr/bin/python3."""
    script: str = ""
    """Run at last by the root's own /bin/sh -eu, chrooted."""

    def key(self, release: Release) -> str:
        recipe = [release.key(), self.name, self.packages, self.venvs, self.script]
        return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


DEBIAN12 = Release("debian12", "bookworm", "3.11")
DEBIAN13 = Release("debian13", "trixie", "3.13")
RELEASES = {release.name: release for release in (DEBIAN12, DEBIAN13)}


def cache() -> Path:
    """Where the roots are kept: CLUSTERD_TEST_CACHE, or build/images."""
    return Path(os.environ.get("CLUSTERD_TEST_CACHE") or PROJECT / "build" / "images").resolve()


def root(release: Release) -> Path:
    """The kept root of `release`, built now if there is none. Others wait while one builds. Raises ImageError."""
    kept = cache() / f"{release.name}-{release.key()}"
    if kept.is_dir():
        return kept
    cache().mkdir(parents=True, exist_ok=True)
    with _lock(cache() / f"{release.name}.lock"):
        if not kept.is_dir():
            building = Path(tempfile.mkdtemp(prefix=f".{release.name}-", dir=cache()))
            try:
                _build(release, building)
                os.rename(building / "root", kept)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return kept


def layers(release: Release, addition: Addition | None = None) -> str:
    """What a machine is an overlay of, as overlayfs's lowerdir=; built now where it is not kept. Raises ImageError."""
    base = root(release)
    if addition is None:
        return str(base)
    kept = cache() / f"{release.name}-{addition.name}-{addition.key(release)}"
    if not kept.is_dir():
        with _lock(cache() / f"{release.name}-{addition.name}.lock"):
            if not kept.is_dir():
                _add(release, addition, base, kept)
    return f"{kept}:{base}"


def _add(release: Release, addition: Addition, base: Path, kept: Path) -> None:
    building = Path(tempfile.mkdtemp(prefix=f".{release.name}-{addition.name}-", dir=cache()))
    try:
        for name in ("upper", "work", "root", "wheels"):
            (building / name).mkdir()
        for number, (_, requirements) in enumerate(addition.venvs):
            _download(release, requirements, building / "wheels" / str(number))
        (building / "apt.conf").write_text(_apt_options())
        argv = ["unshare", "--mount", "--propagation", "slave", str(ADD), str(base), str(building)]
        env = {
            **os.environ,
            "LC_ALL": "C.UTF-8",
            "PACKAGES": " ".join(addition.packages),
            "VENVS": "\n".join(f"{directory} {' '.join(wanted)}" for directory, wanted in addition.venvs),
            "SCRIPT": addition.script,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        _run(argv, f"building {release.name} with {addition.name}", {k: v for k, v in env.items() if k != "PIP_CERT"})
        os.rename(building / "upper", kept)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _download(release: Release, requirements: Sequence[str], into: Path) -> None:
    # Downloaded out here, where pip is set up, for the Python in there: the chroot needs no network or certificate.
    options = ["-q", "--only-binary=:all:", f"--python-version={release.python}", "-d", str(into)]
    _run([*_pip(), "download", *options, *requirements], "downloading wheels")


def _build(release: Release, directory: Path) -> None:
    wheels = directory / "wheels"
    _download(release, WHEELS, wheels)
    options = directory / "apt.conf"
    options.write_text(_apt_options())
    hooks = [f'cp -r {wheels} "$1/wheels"', *HOOKS]
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", f"--aptopt={options}"]
    argv += [f"--customize-hook={hook}" for hook in hooks]
    argv += [release.codename, str(directory / "root"), *_sources(release)]
    # No HOME or locale of ours in the maintainer scripts' environment; what apt needs (proxies) passes.
    env = {**os.environ, "LC_ALL": "C.UTF-8", "WHEELS": " ".join(WHEELS), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    _run(argv, f"building {release.name}", {k: v for k, v in env.items() if k != "PIP_CERT"})


def _pip() -> list[str]:
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
            return [python, "-m", "pip"]
    raise ImageError("no pip to download wheels with: hint: run the tests by `make test`")


def _sources(release: Release) -> list[str]:
    """sources.list lines for `release`: this machine's own mirrors of its own release, with the suite replaced."""
    ours = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    listed = _run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"], "asking apt"
    )
    lines = []
    for line in listed.splitlines():
        site, suite, component = line.split()
        base, _, pocket = suite.partition("-")
        if base == ours and component == "main" and pocket in ("", "updates", "security"):
            lines.append(f"deb {site} {release.codename}{'-' + pocket if pocket else ''} main")
    if not lines:
        raise ImageError(
            f"apt knows no Debian mirror of '{ours}', main (apt-get indextargets): hint: run apt-get update"
        )
    return sorted(set(lines), key=len)


def _apt_options() -> str:
    """What this machine's apt needs to reach its mirrors (a proxy, say): mmdebstrap reads none of it."""
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv")
    dump = _run(["apt-config", "dump", "--no-empty"], "asking apt")
    return "".join(f"{line}\n" for line in dump.splitlines() if line.startswith(wanted))


def _run(argv: list[str], doing: str, env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    except OSError as e:
        raise ImageError(f"{doing}: {e}") from e
    if done.returncode:
        raise ImageError(f"{doing}: '{argv[0]}' exited {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    for each in RELEASES.values():
        print(root(each))
