"""[sandbox], [limits] and [credentials] on machines: what an application may do, may not, and is told."""

from __future__ import annotations

import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tests.patience import HANG
from tests.systemd.harness.instance import Instance

TOML = """\
app = "confined:app"
directory = "@DIRECTORY@"
listen = ["127.0.0.1:@PORT@"]
workers = 1
slots = 2
"""
TABLES = '[reload]\nsoak = "100ms"\n[restart]\ndelay = "50ms"\n'
SOURCE = (Path(__file__).parent / "confined.py").read_text()


def deploy(instance: Instance, tables: str = "", top: str = "") -> None:
    instance.write("confined.py", SOURCE)
    instance.configure(TOML + top + TABLES + tables)


def ask(instance: Instance, what: str, *arguments: str) -> Any:
    """What came of it: the result, or the failure as text."""
    query = urllib.parse.urlencode([(str(i), a) for i, a in enumerate(arguments)])
    status, body = instance.get(f"/{what}?{query}")
    assert status == 200, (status, body)
    found: dict[str, Any] = json.loads(body)
    return found["did"] if "did" in found else f"failed: {found['failed']}"


def told(instance: Instance, text: str) -> None:
    """`systemctl status` has it, if not at once: a failed start is tried again, and the next one says why it was."""
    instance.machine.wait_for(text, lambda: text in instance.show("StatusText"))


def test_as_it_is(instance: Instance) -> None:
    """Without a key: temporary files, subprocesses, its state directory and callbacks work; all else is read-only,
    homes are hidden, no namespaces are made."""
    deploy(instance)
    instance.start()
    assert ask(instance, "temporary").startswith("/tmp/")
    assert ask(instance, "run", "/bin/sh", "-c", "echo $(id -un); exit 3")[0] == 3
    assert ask(instance, "write", f"/var/lib/clusterd/{instance.name}/x") == 1
    assert "Read-only file system" in ask(instance, "write", f"{instance.directory}/x")
    assert "Permission denied" in ask(instance, "run", "ls", "/home")[1]
    assert ask(instance, "callback") == 7 and ask(instance, "code") == 4096
    assert ask(instance, "run", "unshare", "--user", "true")[0] != 0


def test_uploads(instance: Instance) -> None:
    """A folder to write: what fails at the start names the key; with the key, check and the start say who may not write
    it and what to do, and with its owner right it is written, and nothing beside it."""
    uploads = f"{instance.directory}/uploads"
    machine = instance.machine
    deploy(instance)
    instance.write("confined.py", f"open('{uploads}/log', 'a')\n{SOURCE}")
    machine.run(["install", "-d", "-o", "www-data", uploads])
    refused = instance.clusterd("start", check=False)
    assert refused.returncode == 1 and f'[sandbox] write = ["{uploads}"]' in refused.stderr
    told(instance, f'[sandbox] write = ["{uploads}"]')
    instance.stop()

    instance.configure(TOML + TABLES + f'[sandbox]\nwrite = ["{uploads}"]\n')
    said = instance.clusterd("check", check=False)
    assert (
        said.returncode == 2 and f"'{uploads}', which cluster-{instance.name} may not write (www-data:" in said.stderr
    )
    assert "STATE_DIRECTORY" in said.stderr
    assert instance.start(check=False).returncode != 0
    told(instance, f"cluster-{instance.name} may not write")
    instance.stop()

    instance.configure(TOML + 'user = "www-data"\n' + TABLES + f'[sandbox]\nwrite = ["{uploads}"]\n')
    said = instance.clusterd("check")
    assert f"  sandbox: '{uploads}' is writable: [sandbox] write\n" in said.stdout
    assert f"systemd-analyze security cluster@{instance.name}.service" in said.stdout
    instance.start()
    assert ask(instance, "write", f"{uploads}/x") == 1
    assert "Read-only file system" in ask(instance, "write", f"{instance.directory}/x")
    assert machine.run(["stat", "-c", "%U", f"{uploads}/x"]).stdout == "www-data\n"


def test_uploads_of_a_group(instance: Instance) -> None:
    """A dynamic user writes a folder of a group it is a member of."""
    uploads = f"{instance.directory}/uploads"
    deploy(instance, f'[sandbox]\nwrite = ["{uploads}"]\ngroups = ["staff"]\n')
    instance.machine.run(["install", "-d", "-g", "staff", "-m", "2770", uploads])
    assert instance.clusterd("check").returncode == 0
    instance.start()
    assert ask(instance, "write", f"{uploads}/x") == 1
    assert instance.machine.run(["stat", "-c", "%G", f"{uploads}/x"]).stdout == "staff\n"


def test_closed_further(instance: Instance) -> None:
    """jit, network: code is not made, and nothing but this machine reached; callbacks work, and everybody is served, by
    the usher too. A further address is reached after a restart."""
    machine = instance.machine
    address = "198.51.100.7"
    machine.sh(f"ip addr add {address}/32 dev lo || true")
    try:
        deploy(instance, '[sandbox]\njit = false\nnetwork = "local"\n')
        text = machine.read(instance.file).replace('listen = ["127.0.0.1:', 'listen = ["0.0.0.0:')
        instance.configure(text)
        said = instance.clusterd("check").stdout
        assert "may not make code at run time" in said and "reaches this machine and nothing else" in said
        instance.start()
        assert "failed" in ask(instance, "code") and ask(instance, "callback") == 7
        assert ask(instance, "connect", "127.0.0.1", str(instance.port)) == "connected"
        assert "timed out" in ask(instance, "connect", address, str(instance.port))
        asked = machine.run(["curl", "-s", "-m", "10", f"http://{address}:{instance.port}/"])
        assert json.loads(asked.stdout) == {"did": "nothing"}
        # at a cold start clients wait in slots that no worker will serve: the usher passes them on, confined as it is
        instance.stop()
        machine.systemctl("start", instance.socket)
        one = f"curl -s -m {HANG} http://{address}:{instance.port}/ &"
        assert machine.sh(f"{one * 16} wait").stdout == '{"did": "nothing"}' * 16
        assert "usher started (relay)" in "\n".join(instance.messages())
        instance.configure(text.replace('"local"', f'["{address}/32"]'))
        assert "at restart: sandbox.network: local -> 198.51.100.7/32" in instance.clusterd("check").stdout
        machine.systemctl("restart", instance.service)
        assert ask(instance, "connect", address, str(instance.port)) == "connected"
    finally:
        machine.sh(f"ip addr del {address}/32 dev lo")


def test_credentials(instance: Instance) -> None:
    """A secret that only root can read is in the workers' credentials directory, also after a reload and with another
    master; a restart renews it. It is in no log or status, and where there is none the start says so, once."""
    machine, secret = instance.machine, f"/etc/clusterd/{instance.name}.secret"
    deploy(instance, f'[credentials]\n"db.password" = "{secret}"\n')
    try:
        said = instance.clusterd("check", check=False)
        assert said.returncode == 2 and f"credentials.db.password: found '{secret}'" in said.stderr
        assert instance.start(check=False).returncode != 0
        machine.wait_for("the end of it", lambda: instance.show("ActiveState") == "failed")
        assert instance.show("ExecMainStatus") == "243"
        instance.stop()

        machine.write(secret, "first-s3cret", mode="0600")
        instance.start()
        assert ask(instance, "credential", "db.password") == "first-s3cret"
        instance.reload()
        machine.write(secret, "second-s3cret", mode="0600")
        assert ask(instance, "credential", "db.password") == "first-s3cret"
        machine.run(["kill", "-KILL", instance.show("MainPID")])
        machine.wait_for("another master", lambda: instance.status()["master"]["starts"] == 2)
        instance.reload()
        assert ask(instance, "credential", "db.password") == "first-s3cret"
        machine.systemctl("restart", instance.service)
        assert ask(instance, "credential", "db.password") == "second-s3cret"
        shown = json.dumps(instance.status()) + instance.clusterd("check").stdout + "\n".join(instance.messages())
        assert "s3cret" not in shown
    finally:
        machine.run(["rm", "-f", secret])


COUNT = "import os\nfrom clusterd import worker\nresult = [os.getpid(), worker.cache.incr('n')]"


@pytest.mark.once
def test_cache(instance: Instance) -> None:
    """A dynamic user's workers share the embedded cache, which nobody else can read, through a reload and the death of
    the master; a restart empties it."""
    machine, cache = instance.machine, f"/run/clusterd/{instance.name}/cache"
    deploy(instance)
    instance.configure(machine.read(instance.file).replace("workers = 1", "workers = 2"))
    instance.start()
    told = [ask(instance, "python", COUNT)]
    machine.wait_for(
        "both workers", lambda: told.append(ask(instance, "python", COUNT)) or len({pid for pid, _ in told}) == 2
    )
    assert [number for _, number in told] == list(range(1, len(told) + 1))
    assert machine.run(["stat", "-c", "%a", cache]).stdout == "700\n"
    machine.run(["kill", "-KILL", instance.show("MainPID")])
    machine.wait_for("another master", lambda: instance.status()["master"]["starts"] == 2)
    instance.reload()
    pid, number = ask(instance, "python", COUNT)
    assert number == len(told) + 1 and pid not in {pid for pid, _ in told}
    machine.systemctl("restart", instance.service)
    assert ask(instance, "python", COUNT)[1] == 1


def test_limits(instance: Instance) -> None:
    """systemd has the limits, nofile is the workers', and a quota of one core makes one worker. check says that memory,
    tasks and CPU change at daemon-reload, and there they do, without a restart; nofile takes one."""
    limits = '[limits]\nmemory = "300M"\ntasks = 100\ncpu = "80%"\nnofile = 4096\n'
    deploy(instance, limits)
    text = instance.machine.read(instance.file).replace("workers = 1\n", "")
    instance.configure(text)
    instance.start()
    assert len(instance.workers()) == 1 and ask(instance, "nofile") == [4096, 4096]
    has = {p: instance.show(p) for p in ("MemoryMax", "TasksMax", "CPUQuotaPerSecUSec")}
    assert has == {"MemoryMax": str(300 << 20), "TasksMax": "100", "CPUQuotaPerSecUSec": "800ms"}
    pid = instance.show("MainPID")
    instance.machine.write(instance.file, text.replace("300M", "400M").replace("4096", "8192"))
    said = instance.clusterd("check").stdout
    assert "  at daemon-reload: limits.memory: 300M -> 400M\n" in said
    assert "  at restart: limits.nofile: 4096 -> 8192\n" in said and "systemctl restart" in said
    instance.systemctl("daemon-reload")
    assert instance.show("MemoryMax") == str(400 << 20) and instance.show("MainPID") == pid
    refused = instance.clusterd("reload", check=False)
    assert refused.returncode == 1 and "limits.nofile" in refused.stderr
    instance.configure(text.replace("300M", "400M"))
    instance.reload()
    assert "nothing would change but the code" in instance.clusterd("check").stdout


def test_what_cannot_be_is_told(instance: Instance) -> None:
    """A value that no directive can be made of costs no socket: it serves on, the journal names the key at the
    daemon-reload, a reload and the next start are refused for it."""
    machine = instance.machine
    deploy(instance)
    instance.start()
    inodes, cursor = instance.inodes(), machine.cursor()
    deploy(instance, '[limits]\nmemory = "lots"\n')
    assert instance.inodes() == inodes and instance.get()[0] == 200
    records = machine.journal("SYSLOG_IDENTIFIER=clusterd-generator", after=cursor)
    assert any(re.search("'limits.memory' has no effect on the unit", str(r["MESSAGE"])) for r in records)
    assert instance.reload(check=False).returncode != 0 and instance.get()[0] == 200
    machine.systemctl("restart", instance.service, check=False)
    told(instance, "limits.memory")
