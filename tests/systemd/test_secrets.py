"""A secret reaches the workers, and nothing that anybody else can read."""

from __future__ import annotations

import pytest

from tests.systemd.apps import UVICORN
from tests.systemd.harness.instance import Instance

SECRETS = {"credential": "s3cret-of-a-file", "variable": "s3cret-of-a-variable", "url": "s3cret-of-a-url"}
APP = """
import os, pathlib, time

PASSWORD = pathlib.Path(os.environ["CREDENTIALS_DIRECTORY"], "password").read_text()
TOKEN = os.environ["TOKEN"]
greet = app


def connects(token, password):
    time.sleep(3600)


def fails(token, password):
    raise ValueError("no such database")


async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/hang":
        connects(TOKEN, PASSWORD)
    if scope["type"] == "http" and scope["path"] == "/fail":
        fails(TOKEN, PASSWORD)
    if scope["type"] == "http" and scope["path"] == "/known":
        body = b" ".join([PASSWORD.encode(), TOKEN.encode()])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        return await send({"type": "http.response.body", "body": body})
    await greet(scope, receive, send)


if pathlib.Path(__file__).with_name("broken").exists():
    fails(TOKEN, PASSWORD)
"""
FILE = """\
app = "hello:app"
directory = "@DIRECTORY@"
listen = ["127.0.0.1:@PORT@"]
workers = 2
environment-file = "/etc/clusterd/@NAME@.env"
bus = "$REDIS_URL"
[credentials]
password = "/etc/clusterd/@NAME@.password"
[health]
watchdog = "2s"
"""


@pytest.mark.once
def test_secrets_stay_secret(instance: Instance) -> None:
    """By credential, environment file and URL: the workers have them. Through a request that fails, a worker that hangs
    and is looked at, one that dies, a reload that is refused, and a change of the file, they are in no status,
    journal, command line, unit, output of `clusterd`, or file of the instance that others may read."""
    machine, name = instance.machine, instance.name
    private = {f"/etc/clusterd/{name}.password": SECRETS["credential"]}
    environment, url = f"/etc/clusterd/{name}.env", f"redis://:{SECRETS['url']}@127.0.0.1:9/0"
    private[environment] = f"TOKEN={SECRETS['variable']}\nREDIS_URL={url}\n"
    try:
        for path, text in private.items():
            machine.write(path, text, mode="0600")
        instance.write("hello.py", UVICORN.source() + APP)
        instance.configure(FILE)
        said = [instance.clusterd("check").stdout]
        instance.start()
        assert instance.get("/known")[1] == f"{SECRETS['credential']} {SECRETS['variable']}"

        assert instance.get("/fail")[0] == 500
        with machine.popen(["curl", "-s", "-m", "60", f"http://127.0.0.1:{instance.port}/hang"]) as hanging:
            machine.wait_for("its stack", lambda: any("in connects" in text for text in instance.messages()))
            machine.wait_for(
                "it to be replaced", lambda: len(instance.status()["workers"]) == 2 == len(instance.workers())
            )
            hanging.wait()
        instance.write("broken", "")
        refused = instance.clusterd("reload", check=False)
        assert refused.returncode == 1 and "no such database" in refused.stderr
        machine.run(["rm", f"{instance.directory}/broken"])
        machine.write(environment, private[environment] + "MORE=s3cret-more\n", mode="0600")
        said += [refused.stdout, refused.stderr]
        said.append(machine.run(["clusterd", "reload", "--dry-run", name], check=False).stdout)

        for command in ("status", "check"):
            done = [instance.clusterd(command, check=False), instance.clusterd(command, "--json", check=False)]
            said += [each.stdout + each.stderr for each in done]
        said.append(machine.run(["clusterd", "list"]).stdout)
        for words in (["status", "--lines=200"], ["show"], ["cat"]):
            said.append(machine.run(["systemctl", "--no-pager", *words, instance.service], check=False).stdout)
        said.append(machine.run(["journalctl", "--no-pager", "-a", "-o", "export"], timeout=120).stdout)
        said.append(machine.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout)
        everything = "\n".join(said)
        assert all(words in everything for words in ("no such database", "in connects", "bus"))
        assert {kind for kind, secret in SECRETS.items() if secret in everything} == set()

        places = f"/run/clusterd /run/systemd /var/lib/private/clusterd/{name} /etc/clusterd /etc/systemd /tmp"
        found = machine.sh(f"grep -rlsI s3cret {places} --exclude-dir=journal", check=False).stdout.split()
        loose = [p for p in found if int(machine.sh(f"stat -c %a '{p}'").stdout, 8) & 0o007]
        assert loose == []
    finally:
        machine.run(["rm", "-f", *private])
