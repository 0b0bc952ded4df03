"""How long the tests wait for what must come."""

HANG = 120.0
"""Seconds after which something is taken never to come. It only ends a test that fails: no promise is a time, and a
machine that has other things to do may stand still for many seconds."""
