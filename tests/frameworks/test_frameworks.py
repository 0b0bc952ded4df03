"""Applications nobody here wrote, deployed as documented: reloads and upgrades under load lose nothing."""

from __future__ import annotations

import subprocess

import pytest

from tests.frameworks.layers import USER
from tests.frameworks.sites import DJANGO_WSGI, SITES, WITH_SOCKETS, Site
from tests.patience import HANG
from tests.systemd import load
from tests.systemd.clients import Client, WebSocket
from tests.systemd.harness.images import RELEASES
from tests.systemd.harness.instance import Instance

pytestmark = pytest.mark.proof

RELOAD = '[reload]\nsoak = "300ms"\ndrain-timeout = "{}"\nlinger = "{}"\n'


def deploy(
    site: Instance,
    kind: Site,
    user: str = "www-data",
    venvs: str = "/srv/venv",
    *,
    times: tuple[str, str] = ("60s", "30s"),
) -> None:
    """Two releases on disk, `current` leads to the first, and the file."""
    machine, python = site.machine, f"{venvs}/{kind.venv}/bin/python"
    state = f"/var/lib/clusterd/{site.name}"
    machine.run(["install", "-d", "-o", user, "-g", user, state, site.directory])
    for release in ("release1", "release2"):
        for file, text in kind.files.items():
            name = f"releases/{release}/{file.replace('@RELEASE@', release)}"
            site.write(name, text.replace("@RELEASE@", release))
        machine.sh(f"chown -R {user}: {site.directory}")
        if kind.prepare:
            environment = f"export PYTHON={python} STATE_DIRECTORY={state}"
            step = f"cd {site.directory}/releases/{release}\n{environment}\n{kind.prepare}"
            machine.run(["runuser", "-u", user, "--", "/bin/sh", "-euc", step])
    machine.sh(f"ln -s releases/release1 {site.directory}/current")
    site.configure(
        f'{kind.toml}\ndirectory = "@DIRECTORY@/current"\npython = "{python}"\nuser = "{user}"\n'
        f'listen = "127.0.0.1:@PORT@"\nworkers = 2\n{RELOAD.format(*times)}',
        reload=False,
    )


def start(site: Instance) -> None:
    """As README.md has it."""
    assert f"{site.file}: valid" in site.clusterd("check").stdout
    site.clusterd("start")


def flip(site: Instance) -> None:
    here = site.directory
    site.machine.sh(f"ln -s releases/release2 {here}/new && mv -T {here}/new {here}/current")


def reload_and_upgrade(site: Instance, kind: Site) -> None:
    """Start, a reload of the same release and one to the next, under every load there is."""
    start(site)
    assert "release1" in site.get(kind.path)[1]
    with load.everything(site.machine, site.port, kind.path) as asked:
        site.reload()
        assert "release1" in site.get(kind.path)[1]
        flip(site)
        site.reload()
        for _ in range(4):
            assert "release2" in site.get(kind.path)[1]
    asked.assert_nothing_lost()
    for path, status in kind.more.items():
        assert site.get(path)[0] == status, path


@pytest.mark.parametrize("kind", SITES, ids=lambda kind: kind.name)
def test_as_documented(site: Instance, kind: Site) -> None:
    """Venv and releases below /srv on one Debian; below a home that is closed to all but `user` on the other.

    In turns: every application is at both places and on both releases, and every place on both releases.
    """
    if (SITES.index(kind) + list(RELEASES).index(site.machine.release.name)) % 2:
        home = f"/home/{USER}"
        site.directory = f"{home}/{site.name}"
        deploy(site, kind, USER, f"{home}/venv")
    else:
        deploy(site, kind)
    reload_and_upgrade(site, kind)


def test_a_login_outlives_an_upgrade(site: Instance) -> None:
    """Django's admin: the session of a login before the upgrade is a login after it; static files are on disk."""
    deploy(site, DJANGO_WSGI)
    settings = f"{site.directory}/releases/release%d/mysite/settings.py"
    # A deployment has one secret for all its releases; startproject makes one each.
    site.machine.sh(f"for n in 1 2; do echo 'SECRET_KEY = \"kept\"' >>{settings.replace('%d', '$n')}; done")
    start(site)
    url = f"http://127.0.0.1:{site.port}/admin/"
    jar = f"-b {site.directory}/jar -c {site.directory}/jar"
    said = site.machine.sh(
        f"curl -sf -o /dev/null {jar} {url}login/\n"
        f"token=$(awk '$6 == \"csrftoken\" {{ print $7 }}' {site.directory}/jar)\n"
        f"curl -s -o /dev/null -w '%{{http_code}} ' {jar} -d username=admin -d password=secret"
        f" -d csrfmiddlewaretoken=$token -d next=/admin/ {url}login/\n"
        f"curl -s -o /dev/null -w '%{{http_code}}' {jar} {url}"
    ).stdout
    assert said == "302 200"
    flip(site)
    site.reload()
    assert site.get()[1].startswith("release2 has 1 user")
    assert site.machine.sh(f"curl -s -o /dev/null -w '%{{http_code}}' {jar} {url}auth/user/").stdout == "200"
    assert site.machine.exists(f"{site.directory}/current/static/admin/css/base.css")


class Stream(Client):
    """Server-sent events, as they come."""

    def __init__(self, site: Instance) -> None:
        argv = site.machine.host_argv(["curl", "-sN", "-m", "60", f"http://127.0.0.1:{site.port}/events"])
        super().__init__(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True))

    def event(self) -> str:
        """The data of the next; "" when the stream is at its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("data: "):
                return line.removeprefix("data: ").strip()
        return ""


def test_streams_across_a_reload(site: Instance) -> None:
    """A WebSocket is closed with 1012 at the commit; a stream of events goes on until drain-timeout and is cut."""
    deploy(site, WITH_SOCKETS, times=("6s", "500ms"))
    start(site)
    with WebSocket(site) as socket, Stream(site) as stream:
        assert socket.echoes("before") and stream.event() == "release1 0"
        flip(site)
        site.reload()
        assert socket.closed()[0] == 1012
        with Stream(site) as successor:  # as EventSource in a browser connects again by itself
            assert successor.event() == "release2 0"
        rest = list(iter(stream.event, ""))
        assert len(rest) > 5 and all(event.startswith("release1 ") for event in rest)
        assert stream.process.wait(HANG) == 18
    with WebSocket(site) as socket:
        assert socket.echoes("after")
