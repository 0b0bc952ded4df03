"""What every tier shares: the project's directory, the built package, and no environment that leaks into a test."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests import network
from tests.lacking import lacking

PROJECT = Path(__file__).resolve().parent.parent

# The same examples in every run: what fails here fails there. `make proof` looks for new ones.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the source tree."""
    return PROJECT


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a systemd of its own, or a CLUSTERD_ setting of the person's, a test would not be the same test."""
    for name in list(os.environ):
        if name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_", "CLUSTERD_")) and name != "CLUSTERD_TEST_CACHE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="module", autouse=True)
def _network(request: pytest.FixtureRequest) -> Iterator[None]:
    """The tests of a file have a network of their own, in the directories where they do."""
    with network.own() if network.directory_of(request.node.nodeid) else contextlib.nullcontext():
        yield


# A person's own may be 002, and files that a group may write are refused.
os.umask(0o022)

# Whoever started the tests may ignore these (nohup, a shell's &), and what starts here would too: as usual from now on.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


class Shares(LoadScopeScheduling):
    """How `-n 4` shares the tests out.

    What runs in a machine is alone there: a file and a release at a time go to whoever is free. What runs on this host
    takes free ports that the load of another process could take in between: what has a network of its own stays
    together, and all the rest does. Who is free goes on with the release it has a machine of, if it can: a process has
    one at a time, and each change is a boot.
    """

    LONG = "tests/systemd/test_many.py"
    """One test of minutes: as the last it would be waited for alone, so it comes first."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if not file.startswith(("tests/systemd/", "tests/frameworks/")):
            return network.directory_of(file) or "host"
        release = re.search(r"\[(debian\d+)", test)
        return f"{file} {release[1] if release else ''}"

    def _assign_work_unit(self, node: Any) -> None:
        last = {each: _release(next(reversed(units), "")) for each, units in self.assigned_work.items()}
        ours, others = last.pop(node, ""), set(last.values())
        # Most tests first, as they are sorted: the first of the best.
        scope = min(
            self.workqueue,
            key=lambda scope: (self.LONG not in scope, _release(scope) != ours, _release(scope) in others),
        )
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)


def _release(scope: str) -> str:
    return scope.partition(" ")[2]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Shares:
    return Shares(config, log)


def build_deb(version: str | None = None) -> Path:
    """The package of the sources as they are now; as `version`, for an upgrade. Built only when they have changed."""
    argv = [str(PROJECT / "packaging/build-deb"), *(["--version", version] if version else [])]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 3:
        lacking(done.stderr.strip())
    if done.returncode:
        pytest.fail(
            f"{' '.join(argv)} exited {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}", pytrace=False
        )
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def deb() -> Path:
    """clusterd_VERSION_all.deb of the sources as they are."""
    return build_deb()


@pytest.fixture(scope="session")
def newer_deb() -> Path:
    """The same sources as a package with a higher version, which is also what its `clusterd version` says."""
    return build_deb("9.9.9")
