"""A machine with others' software on it, and an application of each test's own there."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frameworks.layers import COMMANDS, FRAMEWORKS
from tests.lacking import lacking
from tests.systemd.harness import container, images
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance

_ports = itertools.count(8600)


@pytest.fixture(scope="session", params=list(images.RELEASES))
def frameworks(request: pytest.FixtureRequest, deb: Path) -> Iterator[Container]:
    """Each Debian release in turn with the frameworks and products from PyPI, and the package installed."""
    lacking(container.unavailable())
    with container.boot(images.RELEASES[request.param], [deb], addition=FRAMEWORKS) as booted:
        yield booted


@pytest.fixture(scope="session")
def commands(deb: Path) -> Iterator[Container]:
    """Debian 13 with servers that are run as a `command`, and the package installed."""
    lacking(container.unavailable())
    with container.boot(images.DEBIAN13, [deb], addition=COMMANDS) as booted:
        yield booted


def _made(machine: Container, request: pytest.FixtureRequest) -> Iterator[Instance]:
    port = next(_ports)
    words = re.sub("[^a-z0-9]+", "-", re.sub(r"test_|debian\d+", "", request.node.name.lower()))
    with Instance(machine, f"t{port}-{words}"[:23].rstrip("-"), port) as made:
        yield made
    machine.run(["rm", "-rf", f"/var/lib/clusterd/{made.name}"])


@pytest.fixture
def site(frameworks: Container, request: pytest.FixtureRequest) -> Iterator[Instance]:
    yield from _made(frameworks, request)


@pytest.fixture
def program(commands: Container, request: pytest.FixtureRequest) -> Iterator[Instance]:
    yield from _made(commands, request)
