"""Applications of an ordinary user, by that user's own systemd: what works as for root's; what is refused, and why."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd import load
from tests.systemd.accounting import status
from tests.systemd.apps import UVICORN
from tests.systemd.harness import container, images
from tests.systemd.harness.container import Container
from tests.systemd.harness.rootless import Own, User

QUICK = 'workers = 2\n[reload]\nsoak = "100ms"\nlinger = "30s"\n'
_ports = itertools.count(9100)


@pytest.fixture(scope="module")
def alice(machine: Container) -> Iterator[User]:
    """A user of the shared machine, whose systemd runs."""
    with User(machine, "alice") as user:
        yield user


@pytest.fixture
def own(alice: User) -> Iterator[Own]:
    """An application of hers, deployed and not started."""
    port = next(_ports)
    with Own(alice, f"t{port}", port) as made:
        UVICORN.deploy(made, extra=QUICK)
        yield made


def test_life_of_an_application(own: Own) -> None:
    """Start, reload, a refused reload, a killed master and a stop are for a user what they are for root."""
    assert own.clusterd("check").stdout == f"{own.file}: valid\n"
    assert f"2/2 workers, generation 1, on 127.0.0.1:{own.port}" in own.clusterd("start", session=False).stdout
    assert own.get()[0] == 200
    assert own.machine.run(["stat", "-c", "%U", f"/proc/{own.show('MainPID')}"]).stdout == "alice\n"
    assert "/worker-" in own.machine.read(f"/proc/{own.workers()[0]}/cgroup")

    zygote = own.status()["generations"][0]["zygote"]
    pids = (own.show("MainPID"), zygote, own.workers()[0])
    assert [own.machine.read(f"/proc/{pid}/oom_score_adj") for pid in pids] == ["100\n", "150\n", "200\n"]

    own.write(UVICORN.module, UVICORN.source("second"))
    own.reload()
    assert own.get()[1].startswith("second ")

    own.write(UVICORN.module, "raise RuntimeError('no such table')\n")
    assert own.reload(check=False).returncode == 1
    assert "no such table" in own.show("StatusText") and own.get()[1].startswith("second ")
    assert any("no such table" in line for line in own.messages())
    refused = own.clusterd("reload", check=False)
    assert refused.returncode == 1 and "RuntimeError: no such table (hello.py:1)" in refused.stderr

    workers, sockets = own.workers(), own.inodes()
    own.machine.run(["kill", "-KILL", own.show("MainPID")])
    own.machine.wait_for("another master", lambda: own.status()["master"]["starts"] == 2)
    assert (own.workers(), own.inodes()) == (workers, sockets)

    own.write(UVICORN.module, UVICORN.source("third"))
    own.systemctl("restart", own.service)
    assert own.inodes() == sockets and own.get()[1].startswith("third ")

    left = own.processes()
    assert own.clusterd("stop", session=False).stdout == f"{own.name}: stopped\n"
    assert own.inodes() == [] and own.processes() == []
    assert not [pid for pid in left if own.machine.exists(f"/proc/{pid}")]


def test_nothing_is_lost(own: Own) -> None:
    """A reload and a SIGKILL of the master under load lose no request."""
    own.start()
    with load.everything(own.machine, own.port) as asked:
        before = own.workers()
        own.reload()
        assert set(own.workers().values()).isdisjoint(before.values())
        own.machine.run(["kill", "-KILL", own.show("MainPID")])
        own.machine.wait_for("another master", lambda: own.status()["master"]["starts"] == 2)
    asked.assert_nothing_lost()


def test_stop_after_the_keeper_died(own: Own) -> None:
    """The master is the manager's child then, and its keeper a child of its own: a stop ends these, and not the user's
    whole session."""
    own.start()
    machine, manager = own.machine, own.manager()
    master = own.show("MainPID")
    machine.run(["kill", "-KILL", machine.run(["ps", "-o", "ppid=", "-p", master]).stdout.strip()])
    machine.wait_for("another keeper", lambda: any("took its place" in line for line in own.messages()))
    assert machine.run(["ps", "-o", "ppid=", "-p", master]).stdout.strip() == manager
    assert own.clusterd("stop", session=False).stdout == f"{own.name}: stopped\n"
    assert own.processes() == [] and own.manager() == manager


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('listen = "80"', "listen: found port 80, expected a port from 1024 up"),
        ('listen = "8000"\nuser = "www-data"', 'user: found "www-data", expected your own account'),
        ('listen = "8000"\ngroup = "www-data"', 'group: found "www-data", expected your own account'),
    ],
)
def test_what_a_user_cannot_do(own: Own, toml: str, words: str) -> None:
    """A privileged port and another account are refused in words, by check, by start and in systemctl status."""
    own.configure(f'app = "hello:app"\n{toml}\n')
    for verb in ("check", "start"):
        done = own.clusterd(verb, check=False)
        assert done.returncode == 2 and words in done.stderr and "/etc/clusterd" in done.stderr
    assert own.start(check=False).returncode == 1
    # not at once: with its sockets open it is started again, to heal by itself, and the status begins anew
    own.machine.wait_for("the reason", lambda: words in own.show("StatusText"))


def test_port_of_the_system(own: Own, machine: Container) -> None:
    """A port that somebody else listens on is not shared with them: the start fails, and names it."""
    program = "import socket, sys; s = socket.socket(); s.setsockopt(1, 15, 1); s.bind(('127.0.0.1', int(sys.argv[1])))"
    listener = machine.popen(["python3", "-c", f"{program}; s.listen(); sys.stdin.read()", str(own.port)], stdin=-1)
    try:
        machine.wait_for("the listener", own.inodes)
        failed = own.clusterd("start", check=False)
    finally:
        listener.communicate()
    assert failed.returncode == 1 and f"127.0.0.1:{own.port} is in use" in failed.stderr


def test_two_files_of_one_user(own: Own, alice: User, machine: Container) -> None:
    """Two files of a user whose addresses overlap: the one that runs keeps them, the other is refused by name."""
    own.start()
    with Own(alice, "a-first", own.port) as other:
        UVICORN.deploy(other)
        done = other.clusterd("start", check=False)
        assert done.returncode == 2 and f"'{own.name}' listens on '127.0.0.1:{own.port}'" in done.stderr
        machine.run(["journalctl", "--sync"])
        assert "a-first" in alice.run(["journalctl", "--user", "-qt", "clusterd-generator"]).stdout
    assert own.get()[0] == 200


def test_who_may_say_user(own: Own, alice: User, machine: Container) -> None:
    """root is told to leave --user out; a user without a systemd how to get one; and who forgot --user of it."""
    root = machine.run(["clusterd", "--user", "status", own.name], check=False)
    assert root.returncode == 2 and "never runs as root" in root.stderr and "leave --user out" in root.stderr
    machine.run(["useradd", "--create-home", "bob"])
    try:
        bob = ["setpriv", "--reuid=bob", "--regid=bob", "--init-groups", "env", "HOME=/home/bob"]
        script = 'mkdir -p ~/.config/clusterd; echo "app = \\"a:b\\"\nlisten = \\"9999\\"" >~/.config/clusterd/x.toml'
        machine.run([*bob, "sh", "-euc", f"{script}; clusterd --user check x"], check=False)
        lonely = machine.run([*bob, "clusterd", "--user", "start", "x"], check=False)
    finally:
        machine.run(["userdel", "--remove", "bob"])
    assert lonely.returncode == 4 and "loginctl enable-linger" in lonely.stderr
    forgot = alice.run(["clusterd", "status", own.name], check=False)
    assert forgot.returncode == 2 and "application of your own: clusterd --user" in forgot.stderr


@pytest.mark.proof
def test_boot(release: images.Release, deb: Path) -> None:
    """With lingering and `enable` it serves after a reboot, before the user has logged in."""
    with container.boot(release, [deb]) as machine, User(machine, "carol") as carol:
        own = Own(carol, "hello", 9000).__enter__()
        UVICORN.deploy(own, extra=QUICK)
        own.systemctl("enable", own.service)
        machine.reboot()
        machine.wait_for("the application", lambda: own.get()[0] == 200)
        machine.wait_for("its start to be over", lambda: own.show("ActiveState") == "active")


@pytest.mark.proof
def test_upgrade_and_removal(release: images.Release, deb: Path, newer_deb: Path) -> None:
    """An upgrade replaces the masters of users too, under load, and the workers serve on; a removal stops them."""
    with container.boot(release, [deb]) as machine, User(machine, "dave") as dave:
        own = Own(dave, "hello", 9000).__enter__()
        UVICORN.deploy(own, extra=QUICK)
        own.start()
        with load.everything(machine, own.port) as asked:
            before = own.workers()
            machine.install_deb(newer_deb)
            machine.wait_for("the new version", lambda: status(own).get("version") == "9.9.9")
            assert own.workers() == before
        asked.assert_nothing_lost()
        machine.run(["dpkg", "--purge", "clusterd"])
        assert own.inodes() == [] and own.processes() == []


@pytest.mark.proof
def test_ten_reloads_lose_nothing(own: Own) -> None:
    """Ten reloads under load, each to new code, lose no request."""
    own.start()
    with load.everything(own.machine, own.port) as asked:
        for number in range(10):
            own.write(UVICORN.module, UVICORN.source(f"release{number}"))
            own.reload()
            assert re.match(f"release{number} ", own.get()[1])
    asked.assert_nothing_lost()


def test_limits_and_credentials(own: Own) -> None:
    """A user's own files are credentials too, after a reload as before it, and systemd has the limits."""
    secret = f"{own.directory}/secret"
    own.write("secret", "s3cret")
    source = own.machine.read(f"{own.directory}/{UVICORN.module}")
    own.write(
        UVICORN.module, f"{source}\nimport os\nGREETING = open(os.environ['CREDENTIALS_DIRECTORY'] + '/a').read()\n"
    )
    text = own.machine.read(own.file)
    own.configure(f'{text}\n[limits]\ntasks = 200\nnofile = 2048\n[credentials]\na = "{secret}"\n')
    own.start()
    assert own.get()[1].startswith("s3cret ")
    own.reload()
    assert own.get()[1].startswith("s3cret ")
    assert (own.show("TasksMax"), own.show("LimitNOFILE")) == ("200", "2048")
