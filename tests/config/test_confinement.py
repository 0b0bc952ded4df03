"""[sandbox], [limits] and [credentials]: what may stand there, what is refused, and what of it the machine lacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.config import confinement, granted
from clusterd.config.load import Invalid, from_run, surroundings
from clusterd.config.places import Place
from clusterd.config.reader import read
from clusterd.config.settings import Limits, Sandbox, Settings

BASE = {"app": "a:b", "listen": "8000"}


def problems(place: Place | None = None, **tables: object) -> list[str]:
    with pytest.raises(Invalid) as e:
        read("hello", "hello.toml", {**BASE, **tables}, *([place] if place else []))
    return [str(p).removeprefix("hello.toml: ") for p in e.value.problems]


def test_everything() -> None:
    """Each key is read as it is meant, and a file without the tables has the unit as it is."""
    made = read(
        "hello",
        None,
        {
            **BASE,
            "sandbox": {"write": ["/srv/hello/up/"], "network": ["10.0.0.0/8"], "jit": False, "groups": ["redis"]},
            "limits": {"memory": "50%", "cpu": "150%", "tasks": 100, "nofile": 2048},
            "credentials": {"db.password": "/etc/x"},
        },
    )
    assert made.sandbox == Sandbox(write=("/srv/hello/up",), network=("10.0.0.0/8",), jit=False, groups=("redis",))
    assert made.limits == Limits("50%", 100, "150%", 2048)
    assert made.credentials == {"db.password": "/etc/x"}
    plain = read("hello", None, BASE)
    assert (plain.sandbox, plain.limits, plain.credentials) == (Sandbox(), Limits(), {})


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"sandbox": {"write": "/srv"}}, 'sandbox.write: found "/srv", expected a list of absolute paths'),
        ({"sandbox": {"write": ["uploads"]}}, "it begins with '/'"),
        ({"sandbox": {"write": ["/"]}}, "that is the whole machine"),
        ({"sandbox": {"write": ["/tmp/x"]}}, "/tmp is of its own"),
        ({"sandbox": {"write": ["/srv/a b"]}}, "no spaces"),
        ({"sandbox": {"home": "yes"}}, 'expected "auto", "hidden", "read-only" or "writable"'),
        ({"sandbox": {"jit": "false"}}, "without quotes"),
        ({"sandbox": {"devices": ["/srv/x"]}}, 'a device is "/dev/dri/renderD128"'),
        ({"sandbox": {"network": "none"}}, '"full", "local" or a list of addresses'),
        ({"sandbox": {"network": ["example.org"]}}, "names are not looked up"),
        ({"sandbox": {"network": ["10.0.0.0/33"]}}, "its prefix at most 32"),
        ({"sandbox": {"groups": ["A B"]}}, "a group is a name"),
        ({"sandbox": {"groups": ["4294967296"]}}, "a number is at most 4294967294, and not 65535"),
        ({"sandbox": {"wirte": ["/x"]}}, "did you mean 'sandbox.write'?"),
        ({"limits": {"memory": 512}}, 'write "512M"'),
        ({"limits": {"memory": "512MB"}}, 'K, M, G or T, such as "512M"'),
        ({"limits": {"memory": "1M"}}, "at least 32M"),
        ({"limits": {"memory": "0%"}}, 'a share from "1%" to "100%"'),
        ({"limits": {"cpu": 2}}, 'write "200%", which is two cores'),
        ({"limits": {"tasks": 2}}, "a whole number from 16 to"),
        ({"limits": {"nofile": "4096"}}, "a number stands without quotes"),
        ({"credentials": {"a:b": "/etc/x"}}, "a name is of letters"),
        ({"credentials": {"a": "x"}}, "a path is absolute"),
        ({"credentials": ["/etc/x"]}, "credentials: found"),
        ({"sandbox": {"jit": False}, "python": "/opt/pypy/bin/pypy3"}, "'/opt/pypy/bin/pypy3', which makes code"),
        ({"sandbox": {"home": "hidden"}, "directory": "/home/u1/x"}, "\"hidden\", and directory is '/home/u1/x'"),
        ({"sandbox": {"home": "hidden", "write": ["/home/u1/x"]}}, "\"hidden\", and write has '/home/u1/x'"),
    ],
)
def test_refused(table: dict[str, object], says: str) -> None:
    """What no directive can be made of, or what the application is known to die of, is refused in words."""
    assert says in "\n".join(problems(**table))


def test_a_program_that_makes_code() -> None:
    """jit = false is refused for a program known to make code, unless it is told not to."""
    closed = {"listen": "8000", "sandbox": {"jit": False}}
    with pytest.raises(Invalid, match="'/usr/bin/node', which makes code at run time"):
        read("x", None, {**closed, "command": ["/usr/bin/node", "server.js"]})
    read("x", None, {**closed, "command": ["node", "--jitless", "server.js"]})
    read("x", None, {**closed, "command": ["/usr/bin/perl"]})


def test_of_a_user() -> None:
    """A user's systemd makes no mount namespace: [sandbox] is refused there, [limits] and [credentials] are not."""
    place = Place(user=True, home="/home/u")
    said = problems(place, sandbox={"write": ["/srv/x"]})
    assert said[0].startswith('sandbox.write: found ["/srv/x"], expected no [sandbox] here; hint: a user\'s systemd')
    read("hello", None, {**BASE, "limits": {"memory": "1G"}, "credentials": {"a": "/home/u1/secret"}}, place)


def test_workers_by_the_quota() -> None:
    """workers = "auto" is at most the cores of limits.cpu, rounded up, and never none; a number stays."""
    for cpu, most in (("50%", 1), ("100%", 1), ("150%", 2)):
        workers = read("x", None, {**BASE, "limits": {"cpu": cpu}}).workers
        assert 1 <= workers <= most
    assert read("x", None, {**BASE, "limits": {"cpu": "50%"}, "workers": 3}).workers == 3


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text("/0123456789.:%KMG-ax \n\"'", max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SANDBOX = ("write", "home", "groups", "devices", "network", "jit", "namespaces")
LIMITS = ("memory", "tasks", "cpu", "nofile")


def table(keys: tuple[str, ...]) -> st.SearchStrategy[object]:
    return values | st.fixed_dictionaries({}, optional=dict.fromkeys(keys, values))


tables = st.fixed_dictionaries({}, optional={"sandbox": table(SANDBOX), "limits": table(LIMITS), "credentials": values})


@given(tables, st.booleans())
def test_no_value_makes_a_line_of_its_own(file: dict[str, object], user: bool) -> None:
    """Whatever the file holds, each directive is one line, of those that are known, and nothing is raised."""
    lines, wrong = confinement.directives(file, [], [], user)
    known = {
        "ProtectHome", "ReadWritePaths", "MemoryDenyWriteExecute", "RestrictNamespaces", "SystemCallFilter",
        "PrivateDevices", "DeviceAllow", "IPAddressDeny", "IPAddressAllow", "SupplementaryGroups", "MemoryMax",
        "TasksMax", "CPUQuota", "LimitNOFILE", "LoadCredential", "LoadCredentialEncrypted",
    }  # fmt: skip
    assert all("\n" not in line and line.partition("=")[0] in known for line in lines)
    assert all(isinstance(text, str) for text in wrong)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of an application that the machine has, for who is root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    made = from_run(app="a:b", directory=str(tmp_path), name="hello")
    assert surroundings(made) == []
    yield made


def lacks(settings: Settings, **sandbox: object) -> list[str]:
    return [str(p) for p in granted.lacking(replace(settings, sandbox=replace(settings.sandbox, **sandbox)))]


def test_a_directory_to_write(service: Settings, tmp_path: Path) -> None:
    """For root, check says of a directory that is not there, or not the user's, who owns it and what to do; a dynamic
    user is told of its state directory."""
    (missing,) = lacks(service, write=(f"{tmp_path}/no",))
    assert "which is not there" in missing and f"hint: install -d {tmp_path}/no" in missing
    own = tmp_path / "up"
    own.mkdir(mode=0o755)
    (found,) = lacks(service, write=(str(own),))
    assert "which cluster-hello may not write (" in found and "mode 0755" in found
    assert "keep them in STATE_DIRECTORY (/var/lib/clusterd/hello)" in found
    (found,) = lacks(replace(service, user="nobody"), write=(str(own),))
    assert found.endswith(f"hint: chown nobody {own}")
    own.chmod(0o777)
    assert lacks(service, write=(str(own),)) == []
    own.chmod(0o770)
    assert len(lacks(service, write=(str(own),))) == 1
    assert lacks(service, write=(str(own),), groups=(str(own.stat().st_gid),)) == []
    assert lacks(replace(service, group=str(own.stat().st_gid)), write=(str(own),)) == []


def test_other_things_it_names(service: Settings, tmp_path: Path) -> None:
    """A device, a group or a credential that is not there is a problem; in the foreground nothing of them is asked."""
    (device,) = lacks(service, devices=("/dev/nothing", "char-drm"))
    assert "'/dev/nothing', expected a device of this machine" in device
    (group,) = lacks(service, groups=("nogroup-x",))
    assert "addgroup --system nogroup-x" in group
    secret = replace(service, credentials={"db": f"{tmp_path}/no"})
    (credential,) = surroundings(secret)
    assert credential.key == "credentials.db" and "243/CREDENTIALS" in credential.hint
    assert surroundings(secret, unit=False) == []
