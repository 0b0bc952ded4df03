from __future__ import annotations

from pathlib import Path

import pytest

from clusterd.config.load import Invalid, load, surroundings
from clusterd.config.places import SYSTEM, Place, of_user
from clusterd.config.ports import first_unprivileged


@pytest.mark.parametrize(
    ("environment", "configuration", "runtime"),
    [
        ({"HOME": "/home/X"}, "/home/X/.config/clusterd", "/run/user/7/clusterd"),
        ({"HOME": "/home/X/", "XDG_CONFIG_HOME": ""}, "/home/X/.config/clusterd", "/run/user/7/clusterd"),
        ({"HOME": "/home/X", "XDG_CONFIG_HOME": "rel"}, "/home/X/.config/clusterd", "/run/user/7/clusterd"),
        ({"XDG_CONFIG_HOME": "/c/", "XDG_RUNTIME_DIR": "/r"}, "/c/clusterd", "/r/clusterd"),
        ({}, "/.config/clusterd", "/run/user/7/clusterd"),
    ],
)
def test_of_user(environment: dict[str, str], configuration: str, runtime: str) -> None:
    """The directories of a user are those of the XDG specification; without a login, where a login has them."""
    found = of_user(environment, 7)
    assert (found.configuration, found.runtime, found.user) == (configuration, runtime, True)
    assert found.file("hello") == f"{configuration}/hello.toml"


def test_tool() -> None:
    """Commands in messages are those of the systemd that runs the application."""
    assert SYSTEM.tool("systemctl") == "systemctl"
    assert Place(user=True).tool("journalctl") == "journalctl --user"


def test_default_directory(tmp_path: Path) -> None:
    """A user's application is looked for in the home, unless its file says otherwise."""
    file = tmp_path / "hello.toml"
    file.write_text('app = "hello:app"\nlisten = "8000"\n')
    assert load(file, Place(user=True, home="/home/X")).directory == "/home/X/hello"
    assert load(file).directory == "/srv/hello"


def test_accounts_and_ports_of_a_user(tmp_path: Path) -> None:
    """Accounts and privileged ports are refused in a user's file, all at once, and are fine in the system's."""
    file = tmp_path / "hello.toml"
    unix = '{ path = "/tmp/x", group = "www-data" }'
    file.write_text(f'app = "a:b"\nuser = "x"\ngroup = "y"\nlisten = ["[::1]:443", {unix}]\n')
    with pytest.raises(Invalid) as caught:
        load(file, Place(user=True))
    assert [(p.key, p.found) for p in caught.value.problems] == [
        ("user", '"x"'),
        ("group", '"y"'),
        ("listen", "an owner for the socket"),
        ("listen", "port 443"),
    ]
    assert all("/etc/clusterd" in p.hint for p in caught.value.problems)
    load(file)


@pytest.mark.parametrize(
    ("place", "path", "instead"),
    [
        (SYSTEM, "/run/clusterd/hello/http.sock", "/run/hello.sock"),
        (SYSTEM, "/var/run/clusterd/other/x", "/run/hello.sock"),
        (SYSTEM, "/run/clusterd", "/run/hello.sock"),
        (SYSTEM, "/run/clusterd/other", "/run/hello.sock"),
        (of_user({"HOME": "/home/X"}, 7), "/run/user/7/clusterd/hello/http.sock", "/run/user/7/hello.sock"),
    ],
)
def test_socket_in_a_runtime_directory(tmp_path: Path, place: Place, path: str, instead: str) -> None:
    """No socket is below the runtime directory of an application: it would be gone at the first stop, and the
    application's to replace. Beside these is fine, and so is another place."""
    file = tmp_path / "hello.toml"
    file.write_text(f'app = "a:b"\nlisten = [{{ path = "{path}" }}]\n')
    with pytest.raises(Invalid) as caught:
        load(file, place)
    (problem,) = caught.value.problems
    assert problem.key == "listen" and path.removeprefix("/var") in problem.found and instead in problem.hint
    load(file, Place(runtime="/elsewhere"))
    for fine in (instead, f"{place.runtime}/hello.sock"):
        file.write_text(f'app = "a:b"\nlisten = "{fine}"\n')
        load(file, place)


def test_first_unprivileged(tmp_path: Path) -> None:
    """The machine's own limit counts; where it cannot be read, the usual one."""
    sysctl = tmp_path / "sysctl"
    assert first_unprivileged(str(sysctl)) == 1024
    sysctl.write_text("80\n")
    assert first_unprivileged(str(sysctl)) == 80


def test_environment_file_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment file that only root may read is right for a service of the system, and wrong for a user's."""

    def refuse(path: str) -> dict[str, str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("clusterd.config.load.read_environment", refuse)
    file = tmp_path / "hello.toml"
    file.write_text(f'command = ["x"]\ndirectory = "{tmp_path}"\nlisten = "8000"\nenvironment-file = "/etc/secret"\n')
    assert surroundings(load(file)) == []
    (problem,) = surroundings(load(file), Place(user=True))
    assert problem.key == "environment-file" and "you may not read" in problem.found
