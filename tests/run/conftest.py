from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import network


@pytest.fixture(scope="module", autouse=True)
def _network() -> Iterator[None]:
    """The tests of a file have a network of their own."""
    with network.own():
        yield
