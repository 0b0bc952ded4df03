"""A profile is chosen once and holds: for reloads, restarts, a master that dies, and the next boot."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.systemd import load
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance

APP = """\
import os


def app(environ, start_response):
    body = os.environ["MOOD"].encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""

FILE = """\
app = "mood:app"
directory = "@DIRECTORY@"
listen = "127.0.0.1:@PORT@"
workers = 1
[reload]
soak = "100ms"
[env]
MOOD = "plain"
[profile.production]
workers = 2
[profile.production.env]
MOOD = "production"
[profile.production.stop]
drain-timeout = "20s"
[profile.other]
user = "www-data"
[profile.broken]
app = "mood:nothing"
"""


def deploy(instance: Instance) -> None:
    instance.write("mood.py", APP)
    instance.configure(FILE)


def mood(instance: Instance) -> tuple[str, int, str | None]:
    """What is answered, by how many workers, and the profile that status names."""
    status = instance.status()
    return instance.get()[1], len(instance.workers()), status["profile"]


PLAIN, PRODUCTION = ("plain", 1, None), ("production", 2, "production")


def test_chosen_and_kept(instance: Instance) -> None:
    """A reload brings a profile without losing a request; systemctl, a dead master and a restart keep to it."""
    deploy(instance)
    instance.start()
    assert mood(instance) == PLAIN
    with load.probe(instance.machine, instance.port) as asked:
        instance.clusterd("reload", "--profile", "production")
        assert mood(instance) == PRODUCTION
        instance.reload()
        assert mood(instance) == PRODUCTION
        before = instance.status()["master"]["pid"]
        instance.machine.run(["kill", "-KILL", str(before)])
        instance.machine.wait_for(
            "another master",
            lambda: (
                instance.clusterd("status", check=False).returncode == 0
                and instance.status()["master"]["pid"] != before
            ),
        )
        assert mood(instance) == PRODUCTION
    assert asked.requests and not asked.failures
    assert instance.show("TimeoutStopUSec") == "30s"  # the drop-in is made with the profile: 20 s and a margin
    instance.machine.systemctl("restart", instance.service)
    assert mood(instance) == PRODUCTION
    instance.clusterd("reload", "--profile", "none")
    assert mood(instance) == PLAIN and not instance.machine.exists(instance.profile)
    assert instance.show("TimeoutStopUSec") == "15s"


@pytest.mark.once
def test_refused(instance: Instance) -> None:
    """A profile that does not come up, or takes a restart, changes neither what runs nor what is remembered."""
    deploy(instance)
    instance.clusterd("start", "--profile", "production")
    assert mood(instance) == PRODUCTION
    workers = instance.workers()
    refused = instance.clusterd("reload", "--profile", "broken", check=False)
    assert refused.returncode == 1 and "'mood' has no attribute 'nothing'" in refused.stderr
    needs = instance.clusterd("reload", "--profile", "other", check=False)
    assert needs.returncode == 1 and "at restart: user: none -> www-data" in needs.stderr
    assert f"hint: clusterd stop {instance.name} && clusterd start {instance.name} --profile other" in needs.stderr
    assert instance.machine.read(instance.profile) == "production\n" and instance.workers() == workers
    assert instance.clusterd("try", "--profile", "none").returncode == 0
    shown = instance.clusterd("check", "--profile", "none").stdout
    assert "at reload: workers: 2 -> 1" in shown
    instance.clusterd("stop")
    instance.clusterd("start", "--profile", "other")
    assert instance.show("User") == "www-data" and mood(instance) == ("plain", 1, "other")


@pytest.mark.proof
def test_profile_that_is_gone(instance: Instance) -> None:
    """A chosen profile that is taken out of the file refuses the reload in words, and the workers serve on."""
    deploy(instance)
    instance.clusterd("start", "--profile", "production")
    instance.configure(FILE.replace("profile.production", "profile.productive"))
    refused = instance.clusterd("reload", check=False)
    assert refused.returncode == 2 and "did you mean 'productive'?" in refused.stderr
    assert mood(instance) == PRODUCTION
    instance.clusterd("reload", "--profile", "productive")
    assert mood(instance) == ("production", 2, "productive")


@pytest.mark.proof
def test_boot(fresh_machine: Container, instances: Callable[[Container], Instance]) -> None:
    """After a reboot an enabled application serves with the profile that was chosen before."""
    instance = instances(fresh_machine)
    deploy(instance)
    instance.clusterd("start", "--profile", "production")
    fresh_machine.systemctl("enable", "--quiet", instance.service)
    fresh_machine.reboot()
    fresh_machine.wait_for("it to serve", lambda: instance.get()[1] == "production")
    assert mood(instance) == PRODUCTION and instance.show("TimeoutStopUSec") == "30s"
