"""What a test does where its tools are not there: it skips for a person, and fails where everything must run."""

from __future__ import annotations

import os

import pytest


def lacking(reason: str | None) -> None:
    """Skip the test for `reason`, or fail it with that where CI=true; None: nothing is lacking."""
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"must run here, but: {reason}", pytrace=False)
    pytest.skip(reason)
