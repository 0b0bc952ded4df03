"""Two machines: Debian 12 and 13, a cable between them, sshd, HAProxy and keepalived on both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lacking import lacking
from tests.systemd import load
from tests.systemd.accounting import at_rest
from tests.systemd.apps import UVICORN
from tests.systemd.harness import container, images
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/scale-out"
TOOLS = images.Addition("hosts", packages=("openssh-server", "openssh-client", "haproxy", "keepalived", "iproute2"))
ADDRESSES = ("192.0.2.11", "192.0.2.12")
FILE = """\
listen = ["{address}:8000"]
workers = 2
slots = 4
[health]
path = "/healthz"
[reload]
soak = "100ms"
linger = "30s"
"""


@dataclass
class Hosts:
    machines: list[Container]
    instances: list[Instance]

    def clusterd(self, *arguments: str, check: bool = True) -> container.Done:
        """On the first machine."""
        return self.machines[0].run(["clusterd", *arguments], check=check, timeout=300)


@pytest.fixture(scope="module")
def hosts(deb: Path) -> Iterator[Hosts]:
    """cluster@shop on both, known as a and b to ssh on the first one."""
    lacking(container.unavailable())
    with ExitStack() as stack:
        releases = (images.DEBIAN13, images.DEBIAN12)
        machines = [stack.enter_context(container.boot(release, [deb], TOOLS)) for release in releases]
        first, second = machines
        # From inside the first: the cable is gone with its network.
        cable = ["ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(second.leader)]
        first.host_exec(cable)
        first.sh("ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/of_root")
        key = first.read("/etc/ssh/of_root.pub")
        for machine, address in zip(machines, ADDRESSES, strict=True):
            machine.sh(f"ip address add {address}/24 dev cable; ip link set cable up")
            machine.write("/etc/ssh/known", key)
            machine.write("/etc/ssh/sshd_config.d/known.conf", "AuthorizedKeysFile /etc/ssh/known\n")
            machine.systemctl("start", "ssh")
        names = "".join(f"Host {n}\nHostName {a}\n" for n, a in zip("ab", ADDRESSES, strict=True))
        others = "Host *\nIdentityFile /etc/ssh/of_root\nStrictHostKeyChecking accept-new\n"
        first.write("/etc/ssh/ssh_config.d/hosts.conf", names + others)
        instances = []
        for machine, address in zip(machines, ADDRESSES, strict=True):
            made = stack.enter_context(Instance(machine, "shop", 8000))
            made.write("hello.py", UVICORN.source())
            made.configure(f'{UVICORN.toml}\ndirectory = "@DIRECTORY@"\n' + FILE.format(address=address))
            made.start()
            instances.append(made)
            machine.write("/etc/haproxy/haproxy.cfg", (EXAMPLES / "haproxy.cfg").read_text())
            machine.systemctl("restart", "haproxy")
        yield Hosts(machines, instances)


@pytest.mark.proof
def test_two_machines(hosts: Hosts) -> None:
    """Behind HAProxy with the example's file a reload over both machines loses nothing, and the stop of one neither; a
    reload that is refused on the first leaves the second alone."""
    first, second = hosts.instances
    with load.wrk(hosts.machines[0], 80, connections=16) as asked:
        done = hosts.clusterd("reload", "shop", "--host", "a", "--host", "b")
        assert [line.split(": ")[1] for line in done.stdout.splitlines()] == ["a", "b"]
        assert done.stdout.count("2/2 workers, generation 2") == 2

        for instance in hosts.instances:
            instance.write("hello.py", "raise RuntimeError('broken')\n")
        refused = hosts.clusterd("reload", "shop", "--host", "a", "--host", "b", check=False)
        assert refused.returncode == 1, refused
        assert "broken" in refused.stderr and "done before: none; not begun: b" in refused.stderr
        assert [at_rest(instance)["generation"] for instance in hosts.instances] == [2, 2]
        assert second.status()["receipt"]["outcome"] == "done"

        for instance in hosts.instances:
            instance.write("hello.py", UVICORN.source("again"))
        first.stop()
        gone = hosts.clusterd("reload", "shop", "--host", "b", "--host", "a", check=False)
        assert gone.returncode == 4 and "a: cluster@shop.service is inactive; nothing was reloaded" in gone.stderr
        first.start()
        hosts.machines[0].wait_for("HAProxy to use the first again", lambda: through(hosts).endswith("generation 1\n"))
        second.stop()
        assert through(hosts).startswith("again ")
    second.start()
    assert asked.requests and not asked.failed, (asked.failures, asked.text)


@pytest.mark.proof
def test_the_file_for_keepalived(hosts: Hosts) -> None:
    """The address is on the first machine, and moves to the second when HAProxy on the first has stopped."""
    text = (EXAMPLES / "keepalived.conf").read_text().replace("eth0", "cable")
    for machine in hosts.machines:
        machine.write("/etc/keepalived/keepalived.conf", text)
    first, second = hosts.machines
    first.systemctl("start", "keepalived")
    first.wait_for("the shared address", lambda: "192.0.2.10/" in first.sh("ip address show dev cable").stdout)
    second.write("/etc/keepalived/keepalived.conf", text.replace("MASTER", "BACKUP").replace("110", "100"))
    second.systemctl("start", "keepalived")
    assert second.run(["curl", "-s", "http://192.0.2.10/"]).stdout
    first.systemctl("stop", "haproxy")
    second.wait_for("a takeover", lambda: "192.0.2.10/" in second.sh("ip address show dev cable").stdout)
    for machine in hosts.machines:
        machine.systemctl("stop", "keepalived")
    first.systemctl("start", "haproxy")


def through(hosts: Hosts) -> str:
    """What HAProxy answers."""
    return hosts.machines[0].run(["curl", "-s", "http://127.0.0.1/"]).stdout
