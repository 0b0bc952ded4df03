"""The package on a running machine: installed, upgraded, removed and purged as an administrator does it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.systemd import load
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance


def test_installs(bare_machine: Container, deb: Path) -> None:
    """Installing starts nothing, makes the group, and leaves the machine as healthy as it was."""
    bare_machine.install_deb(deb)
    assert re.match(r"clusterd:x:\d+:$", bare_machine.run(["getent", "group", "clusterd"]).stdout)
    assert bare_machine.run(["stat", "-c", "%U %a", "/etc/clusterd"]).stdout == "root 755\n"
    assert bare_machine.systemctl("list-units", "--plain", "--no-legend", "cluster@*").stdout == ""
    assert bare_machine.systemctl("is-system-running", check=False).stdout == "running\n"


def test_version(machine: Container, deb: Path) -> None:
    """`clusterd version` says the package's version, on both releases' Python."""
    version = machine.run(["dpkg-query", "-W", "-f", "${Version}", "clusterd"]).stdout
    assert version in machine.run(["clusterd", "version"]).stdout.split()


def test_compiled(machine: Container) -> None:
    """The modules are compiled at installation: a start as anybody pays for no compilation, and writes nothing."""
    script = 'find /usr/share/clusterd -name "*.py" ! -empty | wc -l; find /usr/share/clusterd -name "*.pyc" | wc -l'
    sources, compiled = map(int, machine.sh(script).stdout.split())
    assert compiled >= sources > 50


def test_units_verify(machine: Container) -> None:
    """The release's own systemd finds nothing to complain of in the units, each complaint an error."""
    units = ["cluster.target", "cluster@verify.service", "cluster@verify.socket"]
    machine.write("/etc/clusterd/verify.toml", 'app = "hello:app"\nlisten = ["127.0.0.1:8099"]\ndirectory = "/srv"\n')
    try:
        machine.systemctl("daemon-reload")
        said = machine.run(["systemd-analyze", "verify", "--generators=yes", "--recursive-errors=yes", *units])
        assert "cluster" not in said.stderr
    finally:
        machine.run(["rm", "/etc/clusterd/verify.toml"])
        machine.systemctl("daemon-reload")


def test_enabled_at_boot(machine: Container) -> None:
    """cluster.target is enabled by the package, because every `systemctl enable cluster@NAME` hangs on it."""
    assert machine.systemctl("is-enabled", "cluster.target").stdout == "enabled\n"


def test_manual(machine: Container) -> None:
    """Both manual pages are there and without a fault in their source."""
    for page in ("clusterd(8)", "cluster.toml(5)"):
        name, section = page.rstrip(")").split("(")
        shown = machine.run(["man", "--warnings", section, name], env={"MANWIDTH": "80", "MAN_KEEP_STDERR": "1"})
        assert page.upper() in shown.stdout.upper() and shown.stderr == ""


def test_catalog(machine: Container) -> None:
    """The journal's catalog explains clusterd's messages, without any command after the installation."""
    assert "clusterd" in machine.sh("journalctl --list-catalog 2>/dev/null | grep -i clusterd || :").stdout


def test_again(fresh_machine: Container, deb: Path) -> None:
    """Installing the same package again changes nothing."""
    before = fresh_machine.sh("dpkg -L clusterd; getent group clusterd").stdout
    fresh_machine.install_deb(deb)
    assert fresh_machine.sh("dpkg -L clusterd; getent group clusterd").stdout == before


def test_upgrade_changes_the_program(fresh_machine: Container, newer_deb: Path) -> None:
    """After an upgrade the program is the new one, and nothing of the old one's modules is left."""
    fresh_machine.install_deb(newer_deb)
    assert "9.9.9" in fresh_machine.run(["clusterd", "version"]).stdout
    stale = "find /usr/share/clusterd -name '*.pyc' ! -newer /usr/share/clusterd/clusterd/__init__.py"
    assert fresh_machine.sh(stale).stdout == ""


def test_purge(fresh_machine: Container) -> None:
    """Remove keeps the administrator's files, purge keeps only them."""
    fresh_machine.write("/etc/clusterd/mine.toml", 'app = "mine:app"\nlisten = ["8000"]\n')
    fresh_machine.systemctl("daemon-reload")
    fresh_machine.systemctl("enable", "cluster@mine.service")
    fresh_machine.run(["dpkg", "--purge", "clusterd"])
    assert fresh_machine.run(["ls", "/etc/clusterd"]).stdout == "mine.toml\n"
    places = "/etc /usr /var/lib /run"
    left = fresh_machine.sh(
        f"find {places} -xdev \\( -name '*clusterd*' -o -name 'cluster@*' -o -name 'cluster.target*' \\)"
    )
    assert set(left.stdout.splitlines()) <= {"/etc/clusterd"}, left.stdout
    assert fresh_machine.systemctl("list-units", "--all", "--plain", "--no-legend", "cluster*").stdout == ""
    assert fresh_machine.systemctl("is-system-running", check=False).stdout == "running\n"


HELLO = """\
app = "hello:app"
directory = "@DIRECTORY@"
listen = ["@PORT@"]
"""


def serving(instance: Instance, project: Path) -> Instance:
    """The example, started."""
    instance.machine.copy(project / "examples/hello", instance.directory)
    instance.configure(HELLO)
    instance.start()
    return instance


def test_upgrade_under_load(
    fresh_machine: Container, newer_deb: Path, project: Path, instances: Callable[[Container], Instance]
) -> None:
    """A newer package over the running one: a master of the new version, the same workers and sockets, nothing lost."""
    instance = serving(instances(fresh_machine), project)
    before, workers, inodes = instance.status(), instance.workers(), instance.inodes()
    with load.everything(fresh_machine, instance.port) as counted:
        fresh_machine.install_deb(newer_deb)
        status = fresh_machine.wait_for(
            "a master of the new version", lambda: (now := instance.status())["version"] == "9.9.9" and now
        )
        fresh_machine.wait_for("it to serve", lambda: instance.status()["state"] == "serving")
    counted.assert_nothing_lost()
    assert status["master"]["pid"] != before["master"]["pid"]
    assert (instance.workers(), instance.inodes()) == (workers, inodes)
    assert instance.show("ActiveState") == "active" and instance.show("NRestarts") == "0"
    instance.reload()
    assert instance.get()[0] == 200 and not set(instance.workers().values()) & set(workers.values())


@pytest.mark.proof
def test_half_installed(fresh_machine: Container, project: Path, instances: Callable[[Container], Instance]) -> None:
    """A file of the package is missing, and the master dies: for longer than systemd's watchdog waits the workers serve
    on and nothing is lost. Put back, it is enough; where it is not, a stop leaves no process."""
    machine, instance = fresh_machine, serving(instances(fresh_machine), project)
    workers, file = instance.workers(), "/usr/share/clusterd/clusterd/master/loop.py"
    assert instance.show("WatchdogUSec") == "30s"

    def breaks() -> None:
        machine.run(["mv", file, f"{file}.away"])
        machine.run(["kill", "-KILL", str(instance.status()["master"]["pid"])])

    def told() -> bool:
        return any("starting another in 5 s" in text for text in instance.messages(cursor))

    with load.everything(machine, instance.port) as counted:
        breaks()
        since, cursor = time.monotonic(), machine.cursor()
        machine.wait_for("ten tries", lambda: told() and time.monotonic() > since + 40, interval=1)
        machine.run(["mv", f"{file}.away", file])
        machine.wait_for("a master", lambda: instance.clusterd("status", check=False).returncode == 0)
        assert instance.workers() == workers
    counted.assert_nothing_lost()
    assert instance.show("NRestarts") == "0"
    breaks()
    cursor = machine.cursor()
    machine.wait_for("a few tries", lambda: any("starting another in" in text for text in instance.messages(cursor)))
    instance.stop(check=False)
    assert machine.processes(instance.service) == []
    machine.run(["mv", f"{file}.away", file])


def test_remove_stops_the_instances(
    fresh_machine: Container, project: Path, instances: Callable[[Container], Instance]
) -> None:
    """Removing the package stops every instance and closes its port, also while clients ask for it."""
    instance = serving(instances(fresh_machine), project)
    with load.probe(fresh_machine, instance.port):
        fresh_machine.run(["dpkg", "--remove", "clusterd"])
        assert instance.inodes() == []
        assert fresh_machine.run(["pgrep", "-af", "clus[t]erd"], check=False).stdout == ""
    assert fresh_machine.exists(instance.file)
    assert fresh_machine.systemctl("is-system-running", check=False).stdout == "running\n"
