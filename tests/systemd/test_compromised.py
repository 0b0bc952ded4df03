"""A worker that somebody has taken over: it owns its own instance at most, and not all of that."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.speaking import SPEAKER
from tests.systemd.accounting import at_rest
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance
from tests.systemd.test_sandbox import SOURCE, TABLES, TOML

ATTACKS = (Path(__file__).parent / "attacks.py").read_text()
REFUSED = {"EPERM", "EACCES", "EROFS", "ENOENT", "ESRCH", "EADDRINUSE", "NotAllowed", "exit 1"}


def deploy(instance: Instance, workers: int = 1) -> Instance:
    instance.write("confined.py", SOURCE)
    instance.write("attacks.py", ATTACKS)
    instance.machine.write(f"/etc/clusterd/{instance.name}.env", "TOKEN=hush\n")
    instance.machine.run(["chmod", "0600", f"/etc/clusterd/{instance.name}.env"])
    instance.configure(TOML.replace("workers = 1", f"workers = {workers}") + TABLES)
    instance.start()
    return instance


def try_all(instance: Instance, attacks: str) -> dict[str, str]:
    """What came of each of `attacks`, an expression, in a worker of `instance`."""
    program = f"import attacks; result = attacks.tried({attacks})"
    status, body = instance.get("/python?" + urllib.parse.urlencode({"0": program}), timeout=60)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    assert "did" in found, found
    did: dict[str, str] = found["did"]
    return did


@pytest.mark.once
def test_it_reaches_no_other_instance(instance: Instance, instances: Callable[[Container], Instance]) -> None:
    """Signals, memory, descriptors, files, credentials, cgroup, port and control socket of another instance, and what
    systemd believes of its own: each attack is refused, and the other has not noticed."""
    mine, other = deploy(instance), deploy(instances(instance.machine))
    try:
        before = at_rest(other)
        own = mine.show("MainPID")
        for pid in (before["master"]["pid"], *other.workers().values()):
            found = try_all(mine, f"attacks.on_another({other.name!r}, {pid}, {other.port})")
            assert found.pop("main process") == "sent"
            assert {name: how for name, how in found.items() if how not in REFUSED} == {}
            assert len(found) == 20
        assert mine.get("/nothing")[0] == 200 and mine.show("MainPID") == own
        after = at_rest(other)
        assert (after["workers"][0]["pid"], after["master"]["pid"]) == (
            before["workers"][0]["pid"],
            before["master"]["pid"],
        )
        assert after["generation"] == before["generation"]
    finally:
        instance.machine.run(["rm", "-f", *(f"/etc/clusterd/{each.name}.env" for each in (mine, other))])


@pytest.mark.once
def test_root_is_not_led_to_another(instance: Instance, instances: Callable[[Container], Instance]) -> None:
    """It puts a link to another's control socket in place of its own: who asks as root for this one is told, and the
    other has not been asked for anything."""
    mine, other = deploy(instance), deploy(instances(instance.machine))
    try:
        before = at_rest(other)
        assert try_all(mine, f"attacks.on_root({mine.name!r}, {other.name!r})") == {"a link to another": "did"}
        for command in ("reload", "status"):
            done = mine.machine.run(["clusterd", command, mine.name], check=False)
            assert done.returncode == 5 and "who listens there is user" in done.stderr, done
        after = at_rest(other)
        assert (after["generation"], after["receipt"]) == (before["generation"], before["receipt"])
    finally:
        instance.machine.run(["rm", "-f", *(f"/etc/clusterd/{each.name}.env" for each in (mine, other))])


@pytest.mark.once
def test_it_does_not_get_out(instance: Instance) -> None:
    """Root, mounts, namespaces, clock, kernel and the files of system and package: each attack is refused."""
    found = try_all(deploy(instance), "attacks.on_the_machine()")
    instance.machine.run(["rm", "-f", f"/etc/clusterd/{instance.name}.env"])
    assert {name: how for name, how in found.items() if how not in REFUSED} == {} and len(found) == 14


@pytest.mark.once
def test_it_does_not_become_its_sibling(instance: Instance) -> None:
    """It neither traces another worker of its instance, which is of the same user, nor takes a descriptor of it: what
    that says to the master it cannot say."""
    deploy(instance, workers=2)
    instance.machine.run(["rm", "-f", f"/etc/clusterd/{instance.name}.env"])
    for pid in instance.workers().values():
        assert set(try_all(instance, f"attacks.on_a_sibling({pid})").values()) == {"EPERM"}


def test_it_does_not_speak_for_its_sibling(instance: Instance) -> None:
    """The notify sockets of `command` workers are open to all of them: what one sends to another's is ignored and told,
    what a child of it sends to its own is heard."""
    machine = instance.machine
    instance.write("server.py", SPEAKER)
    listen = 'directory = "@DIRECTORY@"\nlisten = "127.0.0.1:@PORT@"\nworkers = 3\n'
    instance.configure('command = ["/usr/bin/python3", "server.py"]\n' + listen)
    instance.start()
    pids = instance.workers()

    def said() -> set[str]:
        return {w["status_text"] for w in instance.status()["workers"]}

    machine.sh(f"touch {instance.directory}/forge")
    machine.wait_for("each to have forged the others", lambda: said() == {"forged 2"})
    assert instance.workers() == pids and at_rest(instance)["state"] == "serving"
    assert len([text for text in instance.messages() if "what it says in its place is ignored" in text]) == 3
    machine.sh(f"touch {instance.directory}/child")
    machine.wait_for("their children", lambda: said() == {"a child's"})


@pytest.mark.once
def test_what_it_leaves_with_systemd_is_not_served(instance: Instance) -> None:
    """Every process of a unit may store descriptors for its next start (the keeper has to). Those that systemd has not
    opened itself are thrown away, as are names that contradict each other: after a restart all slots are served."""
    deploy(instance, workers=2)
    instance.machine.run(["rm", "-f", f"/etc/clusterd/{instance.name}.env"])
    at_rest(instance)
    sockets, stored = instance.inodes(), instance.show("NFileDescriptorStore")
    assert len(sockets) == 2
    assert set(try_all(instance, f"attacks.on_the_next_start({instance.port})").values()) == {"sent"}
    instance.machine.wait_for("a store that has it", lambda: int(instance.show("NFileDescriptorStore")) > int(stored))
    instance.systemctl("restart", instance.service)
    at_rest(instance)
    assert instance.inodes() == sockets
    assert {instance.get("/temporary")[0] for _ in range(20)} == {200}
    assert any("twice in the unit's fd store: " in text for text in instance.messages())
    instance.machine.wait_for("a store without it", lambda: instance.show("NFileDescriptorStore") == stored)
