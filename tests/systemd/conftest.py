"""Machines to test on: both Debian releases, booted in containers, with the package installed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lacking import lacking
from tests.systemd.harness import container, images
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance

_ports = itertools.count(8100)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What has the mark `once` is no matter of systemd's or Debian's version: `make proof` repeats it on the other."""
    for item in items:
        if item.get_closest_marker("once") and images.DEBIAN13.name not in item.name:
            item.add_marker(pytest.mark.proof)


@pytest.fixture(scope="session", params=list(images.RELEASES))
def release(request: pytest.FixtureRequest) -> images.Release:
    """Each Debian release in turn."""
    lacking(container.unavailable())
    return images.RELEASES[request.param]


@pytest.fixture(scope="session")
def machine(release: images.Release, deb: Path) -> Iterator[Container]:
    """One machine per release for all tests that leave it as they found it, with the package installed."""
    with container.boot(release, [deb]) as booted:
        yield booted


@pytest.fixture
def fresh_machine(release: images.Release, deb: Path) -> Iterator[Container]:
    """A machine of the test's own, with the package installed, to break."""
    with container.boot(release, [deb]) as booted:
        yield booted


@pytest.fixture
def bare_machine(release: images.Release) -> Iterator[Container]:
    """A machine of the test's own, without the package."""
    with container.boot(release) as booted:
        yield booted


def _name(request: pytest.FixtureRequest, number: int) -> str:
    words = re.sub("[^a-z0-9]+", "-", request.node.originalname.removeprefix("test_").lower())
    return f"t{number}-{words}"[:23].rstrip("-")


@pytest.fixture
def instance(machine: Container, request: pytest.FixtureRequest) -> Iterator[Instance]:
    """An application of the test's own on the shared machine; removed afterwards with everything it has."""
    port = next(_ports)
    with Instance(machine, _name(request, port), port) as made:
        yield made


@pytest.fixture
def instances(request: pytest.FixtureRequest) -> Iterator[Callable[[Container], Instance]]:
    """Makes any number of applications on any machine: `instances(fresh_machine)`."""
    with ExitStack() as stack:

        def make(on: Container) -> Instance:
            port = next(_ports)
            return stack.enter_context(Instance(on, _name(request, port), port))

        yield make
