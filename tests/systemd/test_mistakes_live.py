"""The likeliest mistakes about systemd, each made on a machine; docs/mistakes.md has their messages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import mistakes
from tests.systemd.apps import UVICORN
from tests.systemd.harness.container import Done
from tests.systemd.harness.instance import Instance

SECTION = "systemd"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]

pytestmark = pytest.mark.proof


def start(instance: Instance) -> Done:
    return instance.clusterd("start", check=False)


def masked(instance: Instance) -> Done:
    instance.systemctl("mask", "--quiet", instance.service)
    try:
        return start(instance)
    finally:
        instance.systemctl("unmask", "--quiet", instance.service)


def socket_masked(instance: Instance) -> Done:
    instance.systemctl("mask", "--quiet", instance.socket)
    try:
        return start(instance)
    finally:
        instance.systemctl("unmask", "--quiet", instance.socket)


def socket_stopped(instance: Instance) -> Done:
    instance.start()
    instance.systemctl("stop", instance.socket)
    return start(instance)


def dropped_in(instance: Instance) -> Done:
    instance.machine.write(
        f"/etc/systemd/system/{instance.service}.d/override.conf", "[Service]\nExecStart=/bin/sleep 1\n"
    )
    return start(instance)


def not_read(instance: Instance) -> Done:
    instance.machine.run(["rm", instance.file])
    instance.systemctl("daemon-reload")
    UVICORN.deploy(instance, reload=False)
    instance.start(check=False)
    text = instance.show("StatusText")
    instance.systemctl("daemon-reload")  # what it says to do
    instance.start()
    return Done([], 1, "", text + "\n")


def misspelt(instance: Instance) -> Done:
    name = instance.name + "x"
    unit = f"cluster@{name}.service"
    try:
        instance.systemctl("start", unit, check=False)
        text = instance.systemctl("show", "-P", "StatusText", unit).stdout
    finally:
        instance.systemctl("stop", unit, f"cluster@{name}.socket", check=False)
        instance.systemctl("reset-failed", unit, f"cluster@{name}.socket", check=False)
    return Done([], 1, "", text)


def undelegated(instance: Instance) -> Done:
    instance.machine.write(f"/etc/systemd/system/{instance.service}.d/override.conf", "[Service]\nDelegate=no\n")
    instance.systemctl("daemon-reload")
    instance.start()
    assert instance.get()[0] == 200  # it serves all the same
    (text,) = [line for line in instance.messages() if "no cgroup" in line]
    return Done([], 1, "", f"{text}\n")


def outsider(instance: Instance) -> Done:
    instance.start()
    return instance.machine.run([*NOBODY, "clusterd", "status", instance.name], check=False)


def not_root(instance: Instance) -> Done:
    instance.start()
    return instance.machine.run([*NOBODY, "clusterd", "reload", instance.name], check=False)


MISTAKES: dict[str, Callable[[Instance], Done]] = {
    "A service that is masked": masked,
    "A socket that is masked": socket_masked,
    "A socket that was stopped alone": socket_stopped,
    "A drop-in with a second ExecStart=": dropped_in,
    "A daemon-reload that was forgotten": not_read,
    "A name that no file has": misspelt,
    "A drop-in without Delegate=": undelegated,
    "A look by somebody who is not in the group": outsider,
    "A reload by somebody who is not root": not_root,
}


@pytest.mark.parametrize("title", MISTAKES)
def test_message(instance: Instance, title: str) -> None:
    """Each is told with exactly what the page has, and exit status 1 or 5."""
    UVICORN.deploy(instance)
    done = MISTAKES[title](instance)
    assert done.returncode in (1, 5)
    said = done.stderr.replace(instance.name, "hello")
    assert said == mistakes.sections()[SECTION].get(title)


def test_page_is_whole() -> None:
    """The page has these, in this order, and no other."""
    assert list(mistakes.sections()[SECTION]) == list(MISTAKES)
