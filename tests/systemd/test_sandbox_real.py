"""What applications have around them, tried in the sandbox: databases, TLS, mail, a browser, compilers at run time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.shell import messages
from tests.systemd.harness import container, images
from tests.systemd.harness.container import Container
from tests.systemd.harness.instance import Instance
from tests.systemd.test_sandbox import ask, deploy

pytestmark = pytest.mark.proof

NUMBA = "/srv/numba"
ADDITION = images.Addition(
    "sandbox",
    packages=(
        "postgresql", "python3-psycopg2", "libnss-systemd", "redis-server", "python3-redis",
        "openssl", "ca-certificates", "dma", "chromium", "pypy3",
    ),
    venvs=((NUMBA, ("numba", "waitress", "cffi")),),
)  # fmt: skip

AUTHORITY = """\
mkdir -p /srv/tls; cd /srv/tls
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=authority \
    -addext keyUsage=critical,keyCertSign
openssl req -newkey rsa:2048 -nodes -keyout key.pem -out csr.pem -subj /CN=far.example \
    -addext subjectAltName=DNS:far.example
openssl x509 -req -in csr.pem -CA ca.crt -CAkey ca.key -out cert.pem -days 2 -copy_extensions copy
cp ca.crt /usr/local/share/ca-certificates/authority.crt
update-ca-certificates
echo 127.0.0.1 far.example >>/etc/hosts
systemd-run -q --unit=t-tls openssl s_server -accept 4433 -cert /srv/tls/cert.pem -key /srv/tls/key.pem -www
"""
ADD = "import numba\nresult = numba.njit(lambda x: x + 1)(1)"
CALLBACK = "import cffi\nresult = cffi.FFI().callback('int(int)', lambda x: x + 1)(1)"
HOT = "print(sum([i * i for i in range(10**6)]))"
"""Long enough for PyPy to compile."""
BROWSE = (
    "HOME=$STATE_DIRECTORY exec timeout 100 chromium --headless --user-data-dir=/tmp/c %s"
    " --dump-dom 'data:text/html,<p>is <script>document.write(6 * 7)</script>' 2>&1"
)


@pytest.fixture(scope="module")
def furnished(release: images.Release, deb: Path) -> Iterator[Container]:
    """A machine with servers and programs that applications use."""
    with container.boot(release, [deb], addition=ADDITION) as booted:
        yield booted


@pytest.fixture
def app(furnished: Container, instances: Callable[[Container], Instance]) -> Instance:
    return instances(furnished)


def test_what_it_asks(app: Instance) -> None:
    """PostgreSQL by its UNIX socket, where a dynamic user is known by its name; Redis by one that is a group's; TLS to
    a name, by the machine's authorities: all with `groups` alone. A sendmail that is setgid cannot become its group."""
    machine, role = app.machine, f"cluster-{app.name}"
    machine.sh(AUTHORITY)
    machine.sh(f"systemctl start postgresql; cd /; for c in 'createuser {role}' 'createdb -O {role} app'; do"
               " runuser -u postgres -- $c; done")  # fmt: skip
    redis = "systemd-run -q --unit=t-redis -p User=redis -p RuntimeDirectory=t-redis redis-server --port 0"
    machine.sh(f"{redis} --unixsocket /run/t-redis/s --unixsocketperm 770")
    machine.wait_for("redis", lambda: machine.exists("/run/t-redis/s"))
    deploy(app, '[sandbox]\ngroups = ["redis"]\n')
    app.start()
    query = "c = psycopg2.connect(dbname='app', host='/run/postgresql').cursor()\nc.execute('select current_user')\n"
    assert ask(app, "python", f"import psycopg2\n{query}result = c.fetchone()[0]") == role
    keep = "r = redis.Redis(unix_socket_path='/run/t-redis/s')\nr.set('a', 'b')\nresult = r.get('a').decode()"
    assert ask(app, "python", f"import redis\n{keep}") == "b"
    ask_far = "import urllib.request as u\nresult = u.urlopen('https://far.example:4433/', timeout=10).status"
    assert ask(app, "python", ask_far) == 200
    status, said = ask(app, "run", "/bin/sh", "-c", "printf 'To: root\\n\\nx\\n' | /usr/sbin/sendmail root")
    assert status != 0 and "Permission denied" in said


def test_cache_in_redis(app: Instance) -> None:
    """worker.cache in Debian's own Redis: by its socket in /run/redis with `groups`, and over loopback with a password,
    which is in environment-file or a credential and in no status, log or check. A wrong one is told without it."""
    machine, name = app.machine, app.name
    count = "from clusterd import worker\nresult = worker.cache.incr('n')"
    secrets = (f"/etc/clusterd/{name}.env", f"/etc/clusterd/{name}.url")

    def counted() -> Any:
        """Once it has been answered at all: a Redis that stands still for a second is an error."""
        look = "from clusterd import worker\nresult = worker.cache.get('n', 0)"
        machine.wait_for("the Redis", lambda: isinstance(ask(app, "python", look), int))
        return ask(app, "python", count)

    machine.sh("printf 'unixsocket /run/redis/redis-server.sock\nunixsocketperm 770\n' >>/etc/redis/redis.conf")
    machine.systemctl("restart", "redis-server")
    try:
        unix = 'cache = "unix:///run/redis/redis-server.sock?db=0"\n'
        deploy(app, "", unix)
        app.start()
        assert "Permission denied" in (said := ask(app, "python", count)) and "[sandbox] groups" in said
        deploy(app, '[sandbox]\ngroups = ["redis"]\n', unix)
        machine.systemctl("restart", app.service)
        assert counted() == 1
        machine.run(["redis-cli", "config", "set", "requirepass", "s3cret"])
        url = "redis://:s3cret@127.0.0.1:6379/0"
        machine.write(secrets[0], f"REDIS_URL={url}\n", mode="0600")
        deploy(app, "", f'cache = "$REDIS_URL"\nenvironment-file = "{secrets[0]}"\n')
        machine.systemctl("restart", app.service)
        assert counted() == 2
        machine.write(secrets[1], f"{url}\n", mode="0600")
        deploy(app, f'[credentials]\nREDIS_URL = "{secrets[1]}"\n', 'cache = "$REDIS_URL"\n')
        machine.systemctl("restart", app.service)
        app.reload()
        assert counted() == 3
        machine.write(secrets[1], f"{url.replace('s3cret', 'wrong-s3cret')}\n", mode="0600")
        machine.systemctl("restart", app.service)
        said = ask(app, "python", count)
        assert "the cache 'redis://127.0.0.1:6379/0'" in said and "s3cret" not in said
        shown = json.dumps(app.status()) + app.clusterd("check").stdout + "\n".join(app.messages())
        assert "s3cret" not in shown
        machine.write(secrets[1], "redis://:s3c/ret@127.0.0.1\n", mode="0600")
        refused = machine.systemctl("restart", app.service, check=False)
        assert refused.returncode != 0
        machine.wait_for("the reason", lambda: "in its password / is %2F" in app.show("StatusText"))
        assert "s3c" not in app.show("StatusText")
    finally:
        machine.run(["rm", "-f", *secrets])
        machine.systemctl("stop", "redis-server")


def test_bus_in_redis(app: Instance) -> None:
    """The bridge by Debian's own python3-redis, with a password from a credential: values go to the Redis and come from
    it, a stop of the Redis is told once, and so is its return."""
    machine, name = app.machine, app.name
    secret, key = f"/etc/clusterd/{name}.url", f"clusterd:{{{name}}}:bus"

    def redis(*words: str) -> str:
        return machine.run(["redis-cli", "--no-auth-warning", "-a", "s3cret", *words]).stdout.strip()

    machine.sh("echo 'requirepass s3cret' >>/etc/redis/redis.conf")
    machine.systemctl("restart", "redis-server")
    try:
        machine.write(secret, "redis://:s3cret@127.0.0.1:6379/0\n", mode="0600")
        deploy(app, f'[credentials]\nREDIS_URL = "{secret}"\n', 'bus = "$REDIS_URL"\n')
        app.start()
        machine.wait_for("the bridge", lambda: app.status()["bus"] == {"bus": "$REDIS_URL", "problem": None})
        assert ask(app, "python", "from clusterd import worker\nresult = worker.sync.publish('k', [1])") is None
        machine.wait_for("the value", lambda: redis("hget", key, "k") == "[1]")
        redis("hset", key, "k", "2")
        redis("publish", key, '{"by":"another","key":"k","value":2}')
        look = "from clusterd import worker\nresult = worker.value('k')"
        machine.wait_for("the other's", lambda: ask(app, "python", look) == 2)
        machine.systemctl("stop", "redis-server")
        machine.wait_for("it to be missed", lambda: app.status()["bus"]["problem"])
        machine.systemctl("start", "redis-server")
        machine.wait_for("it to be back", lambda: app.status()["bus"]["problem"] is None)
        machine.wait_for("the value", lambda: redis("hget", key, "k") == "2")
        told = [record.get("MESSAGE_ID") for record in machine.journal(unit=app.service)]
        assert told.count(messages.BUS_AWAY.id) == told.count(messages.BUS_BACK.id) == 1
        assert messages.BRIDGE_FAILED.id not in told
        shown = json.dumps(app.status()) + app.clusterd("check").stdout + "\n".join(app.messages())
        assert "s3cret" not in shown
    finally:
        machine.run(["rm", "-f", secret])
        machine.sh("sed -i /^requirepass/d /etc/redis/redis.conf")
        machine.systemctl("stop", "redis-server")


def test_browser(app: Instance) -> None:
    """Chromium without a window runs with its own sandbox by namespaces = true alone, and without the key when it is
    told to do without sandbox and zygote."""
    deploy(app)
    app.start()
    status, said = ask(app, "run", "/bin/sh", "-c", BROWSE % "")
    assert status != 0 and "No usable sandbox" in said
    status, said = ask(app, "run", "/bin/sh", "-c", BROWSE % "--no-sandbox --no-zygote")
    assert status == 0 and "</script>42" in said
    deploy(app, "[sandbox]\nnamespaces = true\n")
    app.systemctl("restart", app.service)
    status, said = ask(app, "run", "/bin/sh", "-c", BROWSE % "")
    assert status == 0 and "</script>42" in said
    assert app.show("CapabilityBoundingSet") == ""


def test_code_made_at_run_time(app: Instance) -> None:
    """numba, PyPy and callbacks of cffi work; with jit = false they do not, and a failed start says that it is that."""
    python = f'python = "{NUMBA}/bin/python"\n'
    deploy(app, "", python)
    app.start()
    assert (ask(app, "python", ADD), ask(app, "python", CALLBACK)) == (2, 2)
    assert ask(app, "run", "pypy3", "-c", HOT)[0] == 0
    deploy(app, "[sandbox]\njit = false\n", python)
    app.systemctl("restart", app.service)
    assert "executable memory" in ask(app, "python", ADD) and "MemoryError" in ask(app, "python", CALLBACK)
    assert ask(app, "run", "pypy3", "-c", HOT)[0] != 0
    app.write("confined.py", f"{ADD}\n")
    refused = app.clusterd("reload", check=False)
    assert refused.returncode == 1 and "[sandbox] jit = false may be what stops it" in refused.stderr
