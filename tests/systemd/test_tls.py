"""HTTPS on the installed package: a key that is root's alone, renewed by `systemctl reload` under load."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import HANG
from tests.systemd import load
from tests.systemd.apps import GRANIAN, NEWEST, UVICORN, App
from tests.systemd.harness.instance import Instance
from tests.worker.certificates import Pair, make

TLS = """\
[tls]
certificate = "/etc/ssl/private/@NAME@/site.crt"
key = "/etc/ssl/private/@NAME@/site.key"
[reload]
soak = "300ms"
linger = "30s"
"""


@dataclasses.dataclass
class Site:
    """An application with a certificate, and how it is renewed."""

    instance: Instance
    scratch: Path

    @property
    def directory(self) -> str:
        return f"/etc/ssl/private/{self.instance.name}"

    def renew(self, serial: int, **options: str) -> Pair:
        """As certbot leaves it: readable by root alone, the directory too."""
        pair = make(self.scratch, f"site{serial}", serial, **options)
        self.put("site.crt", pair.certificate.read_text())
        self.put("site.key", pair.key.read_text())
        return pair

    def put(self, name: str, text: str) -> None:
        machine = self.instance.machine
        machine.run(["install", "-d", "-m", "0700", self.directory])
        machine.write(f"{self.directory}/{name}", text, mode="0600")

    def serial(self) -> str:
        """Of the certificate that is served, and that a request is answered."""
        argv = ["curl", "-sk", "-m", "60", "-w", "%{certs}", f"https://127.0.0.1:{self.instance.port}/"]
        said = self.instance.machine.run(argv, check=False).stdout
        assert " from " in said or "hello" in said, said
        (line,) = [line for line in said.splitlines() if line.startswith("Serial Number:")]
        return line.split(":", 1)[1].replace(":", "").strip().lstrip("0").upper()


@pytest.fixture
def site(instance: Instance, tmp_path: Path) -> Iterator[Site]:
    made = Site(instance, tmp_path)
    yield made
    instance.machine.run(["rm", "-rf", made.directory])


def environment(instance: Instance) -> dict[str, str]:
    """What tells the workers whose they are."""
    pid = next(iter(instance.workers().values()))
    variables = instance.machine.read(f"/proc/{pid}/environ").split("\0")
    found = dict(each.split("=", 1) for each in variables if "=" in each)
    return {name: found.get(name, "") for name in ("USER", "LOGNAME", "HOME", "SHELL", "STATE_DIRECTORY")}


@pytest.mark.parametrize(
    "app",
    [UVICORN, *(pytest.param(app, marks=pytest.mark.proof) for app in (NEWEST, GRANIAN))],
    ids=lambda app: app.name,
)
def test_renewed_by_reload(site: Site, app: App) -> None:
    """Three renewals under wrk's kept TLS connections: none lost, each new certificate served; the workers never see
    root's file, and nobody sees the key in status, journal or on a disk."""
    instance = site.instance
    pair = site.renew(0x11)
    app.deploy(instance, extra=TLS)
    instance.start()
    assert site.serial() == "11"
    account = environment(instance)
    with load.wrk(instance.machine, instance.port, scheme="https", connections=32) as asked:
        for serial in (0x12, 0x13, 0x14):
            pair = site.renew(serial)
            before = instance.workers()
            instance.reload()
            assert set(instance.workers().values()).isdisjoint(before.values())
            for _ in range(4):
                assert site.serial() == f"{serial:X}"
    # the client of the reload runs as root, the application does not
    assert environment(instance) == account and account["USER"] != "root"
    assert asked.requests and not asked.failed, (asked.failures, asked.text)
    secret = pair.key.read_text().splitlines()[1]
    machine = instance.machine
    seen = instance.clusterd("status", "--json").stdout + machine.run(["journalctl", "-a", "-o", "cat"]).stdout
    assert secret not in seen
    for place in (f"/run/clusterd/{instance.name}", f"/var/lib/clusterd/{instance.name}", "/etc/systemd", "/tmp"):
        assert machine.run(["grep", "-rlF", secret, place], check=False).stdout == ""
    for pid in instance.workers().values():
        assert secret not in machine.run(["cat", f"/proc/{pid}/environ"]).stdout
    # the next master has it from the last one, not from the file
    machine.run(["rm", "-r", site.directory])
    machine.run(["kill", "-KILL", str(instance.status()["master"]["pid"])])
    machine.wait_for("the next master", lambda: instance.status()["master"]["starts"] > 1)
    killed = next(iter(instance.workers().values()))
    machine.run(["kill", "-KILL", str(killed)])
    whole = instance.status()["wanted"]
    successor = lambda: len(w := instance.workers()) == whole and killed not in w.values()  # noqa: E731
    machine.wait_for("the worker's successor", successor)
    assert site.serial() == "14"


@pytest.mark.once
def test_refused(site: Site) -> None:
    """A key that is not the certificate's, what is no PEM, a file that is gone: the reload is refused, with key and
    reason, and the old certificate is served by the old workers. An expired one is served, and told of."""
    instance = site.instance
    old = site.renew(0x21)
    UVICORN.deploy(instance, extra=TLS)
    instance.start()
    workers = instance.workers()
    other = make(site.scratch, "other", 0x22)
    cases = {
        "do not belong together": {"site.crt": other.certificate.read_text()},
        "no certificate in PEM": {"site.crt": "nothing\n"},
    }
    for reason, files in cases.items():
        for name, text in files.items():
            site.put(name, text)
        refused = instance.reload(check=False)
        assert refused.returncode != 0
        assert reason in instance.show("StatusText")
        assert instance.workers() == workers and site.serial() == "21"
        site.put("site.crt", old.certificate.read_text())
    instance.machine.run(["rm", f"{site.directory}/site.key"])
    cursor = instance.machine.cursor()
    assert instance.reload(check=False).returncode != 0
    assert any("site.key': No such file" in text for text in instance.messages(cursor))
    assert instance.workers() == workers and site.serial() == "21"
    site.renew(0x23, ends="20200101000000Z")
    cursor = instance.machine.cursor()
    instance.reload()
    assert site.serial() == "23"
    messages = [str(record.get("MESSAGE")) for record in instance.machine.journal(after=cursor)]
    assert any("expired on Jan  1 00:00:00 2020" in text for text in messages)


def test_a_file_that_is_missing_at_the_start(site: Site) -> None:
    """The start fails with the key and the path, not with systemd's words; repaired, it heals."""
    instance = site.instance
    site.renew(0x31)
    instance.machine.run(["rm", f"{site.directory}/site.key"])
    UVICORN.deploy(instance, extra=TLS)
    assert instance.start(check=False).returncode != 0
    instance.machine.wait_for("the reason", lambda: "tls.key: found" in instance.show("StatusText"))
    # a TLS client gets no plain text for an answer
    said = instance.machine.sh(f"curl -sk -m {HANG} https://127.0.0.1:{instance.port}/ || echo $?").stdout
    assert "503" not in said and said.strip() in ("35", "56", "52"), said
    site.renew(0x32)
    instance.reload()
    assert site.serial() == "32"


@pytest.mark.once
def test_an_environment_that_others_write_is_not_roots(site: Site) -> None:
    """What another user puts into environment-file does nothing as root: with it, `systemctl reload` leaves root's
    certificate unread, and the journal says so at the daemon-reload; `clusterd reload` as root reads it. In a file of
    root's own the same does what it says, as root, and the certificate is read."""
    instance, machine = site.instance, site.instance.machine
    theirs, roots = f"{instance.directory}/env", f"/etc/clusterd/{instance.name}.env"
    for file in (theirs, roots):  # the linker writes a file as whoever the program runs as: no library is needed
        machine.write(file, f"LD_DEBUG=statistics\nLD_DEBUG_OUTPUT=/etc/{instance.name}.written\n", mode="0600")
    machine.run(["chown", "nobody", theirs])

    def written() -> str:
        return machine.sh(f"rm -fv /etc/{instance.name}.written*").stdout

    site.renew(0x51)
    cursor = machine.cursor()
    UVICORN.deploy(instance, extra=f'environment-file = "{theirs}"\n{TLS}')
    told = [str(record.get("MESSAGE")) for record in machine.journal(after=cursor)]
    reason = (
        f"[tls] is not read as root by 'systemctl reload': '{theirs}' (owner 65534, mode 0600), which others than root"
    )
    assert any(f"{reason} may change, ignoring" in text for text in told)
    instance.start()
    site.renew(0x52)
    instance.reload()
    assert (site.serial(), written()) == ("51", "")
    instance.clusterd("reload")
    assert (site.serial(), written()) == ("52", "")
    UVICORN.deploy(instance, extra=f'environment-file = "{roots}"\n{TLS}')
    site.renew(0x53)
    instance.reload()
    assert site.serial() == "53" and written() != ""
    machine.run(["rm", roots])


@pytest.mark.proof
def test_credentials_by_name(site: Site) -> None:
    """A unit's own LoadCredential= names them; `systemctl reload` reads what it points to anew."""
    instance = site.instance
    site.renew(0x41)
    instance.machine.write(
        f"/etc/systemd/system/{instance.service}.d/credentials.conf",
        f"[Service]\nLoadCredential=web.crt:{site.directory}/site.crt\nLoadCredential=web.key:{site.directory}/site.key\n",
    )
    UVICORN.deploy(instance, extra='[tls]\ncertificate = "web.crt"\nkey = "web.key"\n[reload]\nsoak = "100ms"\n')
    instance.start()
    assert site.serial() == "41"
    site.renew(0x42)
    instance.reload()
    assert site.serial() == "42"
